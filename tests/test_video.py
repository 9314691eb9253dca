"""Frames of videos and animations by their times, with the exact scores."""

from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from video_clips import (
    BASE,
    HEIGHT,
    WIDTH,
    number_of,
    numbered,
    write_clip,
    write_sound,
)

from open_nsfw_tf import ImageError
from open_nsfw_tf.video import Limits, Sampling, score_video
from open_nsfw_tf.video.container import Video
from open_nsfw_tf.video.process import Decoder, RawFrame
from open_nsfw_tf.video.sampling import choose, steady

CONSTANT = [i / 25 for i in range(60)]
VARIABLE = [0.0, 0.04, 0.08, 0.5, 0.52, 0.6, 1.5, 1.54, 1.58, 2.0, 2.8, 2.84]
LIMITS = Limits(wait=300)
B_FRAMES = {"bf": "3", "g": "20"}
CODECS = {
    "h264.mp4": ("libx264", B_FRAMES),
    "h264.mkv": ("libx264", B_FRAMES),
    "h264.mov": ("libx264", {"bf": "3", "g": "250"}),
    "h264-open.mp4": ("libx264", {**B_FRAMES, "x264-params": "open-gop=1"}),
    "h264.ts": ("libx264", B_FRAMES),
    "h265.mp4": ("libx265", {"x265-params": "log-level=none:bframes=3:keyint=20"}),
    "vp9.webm": ("libvpx-vp9", {"g": "20", "deadline": "realtime"}),
    "vp8.webm": ("libvpx", {"g": "20", "auto-alt-ref": "1", "lag-in-frames": "10"}),
    "av1.mkv": ("libsvtav1", {"g": "20", "preset": "12"}),
    "av1.mp4": ("libsvtav1", {"g": "20", "preset": "12"}),
    "mpeg4.mp4": ("mpeg4", {"bf": "2", "g": "12"}),
    "mpeg4.mov": ("mpeg4", {"g": "12"}),
    "mpeg2.mpg": ("mpeg2video", {"bf": "2", "g": "12"}),
    "mjpeg.avi": ("mjpeg", {}),
}
# Containers, or encoders, of constant rates only.
CONSTANT_ONLY = ("mpeg2.mpg", "mjpeg.avi")


def frames(
    source: Any, sampling: str = "all", limits: Limits = LIMITS
) -> list[RawFrame]:
    decoder = Decoder(source, Sampling.parse(sampling), limits)
    found = list(decoder)
    assert decoder.reason is None
    return found


def decoded_here(path: Path, sampling: str = "all") -> list[RawFrame]:
    """As `frames`, without a child process, whose start takes longer than a clip."""
    found = []
    with path.open("rb") as file:
        video = Video(file, LIMITS, Sampling.parse(sampling))
        for number, seconds, (size, rgb) in video.frames(lambda seconds: None):
            pixels = np.frombuffer(rgb, np.uint8).reshape(size[1], size[0], 3)
            found.append(RawFrame(number, float(seconds), pixels.copy()))
        assert video.end()["reason"] is None
    return found


def clip(folder: Path, name: str, times: list[float], sound: str | None = None) -> Path:
    codec, options = CODECS[name]
    fine = not name.startswith(("mpeg", "mjpeg"))
    base = BASE if fine and name != "h265.mp4" else Fraction(1, 100)
    base = Fraction(1, 25) if times is CONSTANT and not fine else base
    pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
    given = {"pix_fmt": pix_fmt, "base": base, "sound": sound}
    return write_clip(folder / name, times, codec, **given, **options)


CASES = [
    *((name, CONSTANT) for name in CODECS),
    *((name, VARIABLE) for name in CODECS if name not in CONSTANT_ONLY),
]


@pytest.mark.parametrize(
    ("name", "times"),
    CASES,
    ids=[f"{n}-{'constant' if t is CONSTANT else 'variable'}" for n, t in CASES],
)
def test_frames_and_times_are_exact(
    tmp_path: Path, name: str, times: list[float]
) -> None:
    path = clip(tmp_path, name, times)
    every = decoded_here(path)
    assert [number_of(frame.rgb) for frame in every] == list(range(len(times)))
    assert [frame.frame for frame in every] == list(range(len(times)))
    # MKV has milliseconds.
    assert [frame.seconds for frame in every] == pytest.approx(times, abs=6e-4)
    for step in (0.1, 0.5, 1.0):
        wanted = on_screen(times, step)
        some = decoded_here(path, f"every:{step}")
        assert [number_of(frame.rgb) for frame in some] == wanted
        assert [frame.frame for frame in some] == wanted
        for frame in some:
            assert np.array_equal(frame.rgb, every[frame.frame].rgb)


@pytest.mark.parametrize("name", ["h264.mp4", "vp9.webm"])
def test_the_child_sends_these_frames(tmp_path: Path, name: str) -> None:
    path = clip(tmp_path, name, VARIABLE)
    expected = decoded_here(path, "every:0.5")
    found = frames(path, "every:0.5")
    assert [f.frame for f in found] == on_screen(VARIABLE, 0.5)
    assert [f.seconds for f in found] == [f.seconds for f in expected]
    for one, other in zip(found, expected, strict=True):
        assert np.array_equal(one.rgb, other.rgb)


def on_screen(times: list[float], step: float) -> list[int]:
    """The frames that are on the screen at each step; the first and the last."""
    moments = np.arange(0, times[-1] + step, step) + times[0] + 1e-6
    shown = np.searchsorted(times, moments, side="right") - 1
    return sorted({0, *shown.tolist(), len(times) - 1})


@pytest.mark.parametrize("sound", ["before", "after"])
@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "h264.mov", "h264.ts", "vp9.webm"]
)
def test_sound_is_passed_over(tmp_path: Path, name: str, sound: str) -> None:
    path = clip(tmp_path, name, CONSTANT, sound)
    found = decoded_here(path)
    assert [number_of(frame.rgb) for frame in found] == list(range(len(CONSTANT)))
    # Some encoders let sound begin a little earlier.
    assert [frame.seconds for frame in found] == pytest.approx(CONSTANT, abs=0.03)


@pytest.mark.parametrize("suffix", [".flv", ".mkv"])
def test_sound_may_last_longer(tmp_path: Path, suffix: str) -> None:
    """FLV has one duration, of the whole; so have recordings of browsers."""
    options = {"base": Fraction(1, 1000), "sound": "after", "heard": 5.0}
    path = write_clip(tmp_path / f"a{suffix}", CONSTANT, **options)
    data = path.read_bytes().replace(b"DURATION", b"duratiom")
    assert len(frames(data)) == len(CONSTANT)
    decoder = Decoder(data[: len(data) // 4], Sampling(), LIMITS)
    assert 0 < len(list(decoder)) < len(CONSTANT)
    assert decoder.reason is not None


def test_only_what_is_needed_is_decoded(tmp_path: Path) -> None:
    """In seven groups of 20 frames, of which half is referred to, four are wanted."""
    path = write_clip(tmp_path / "a.mp4", [i / 25 for i in range(140)], **B_FRAMES)
    found = frames(path, "every:2")
    assert [frame.frame for frame in found] == [0, 50, 100, 139]
    limit = WIDTH * HEIGHT * 40
    assert len(frames(path, "every:2", Limits(all_pixels=limit))) == 4
    decoder = Decoder(path, Sampling(), Limits(all_pixels=limit))
    assert len(list(decoder)) == 40
    assert decoder.reason == "more pixels in all than the limit"


def test_rotation_and_mirroring_are_applied(tmp_path: Path) -> None:
    """A phone held upright: the frames are stored on their side."""
    picture = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    picture[:48, :64] = 255  # the top left corner, and the others in shades of gray
    picture[:48, 64:] = 170
    picture[48:, :64] = 85
    shown = {}
    for degrees, flip in (
        (0, False),
        (90, False),
        (180, False),
        (270, False),
        (0, True),
    ):
        path = write_clip(
            tmp_path / f"{degrees}{flip}.mov",
            [0, 1],
            picture=[picture, picture].__getitem__,
            set_up=partial(turn, degrees=degrees, flip=flip),
        )
        rgb = frames(path)[0].rgb
        height, width, _ = rgb.shape
        corners = [
            rgb[y, x, 0] // 80
            for y in (height // 4, 3 * height // 4)
            for x in (width // 4, 3 * width // 4)
        ]
        shown[degrees, flip] = [int(c) for c in corners]
    assert shown == {
        (0, False): [3, 2, 1, 0],
        (90, False): [2, 0, 3, 1],  # counter-clockwise
        (180, False): [0, 1, 2, 3],
        (270, False): [1, 3, 0, 2],
        (0, True): [2, 3, 0, 1],
    }


def turn(stream: Any, degrees: int, flip: bool) -> None:
    stream.set_display_rotation(degrees, hflip=flip)


def test_an_edit_list_and_a_late_start(tmp_path: Path) -> None:
    """Times are those of the presentation: what is cut off at the start is no frame."""
    late = [2 + i / 25 for i in range(30)]
    path = write_clip(tmp_path / "late.mp4", late, **B_FRAMES)
    assert [f.seconds for f in frames(path)] == pytest.approx(late)
    path = write_clip(tmp_path / "late.mkv", late, **B_FRAMES)
    assert [f.seconds for f in frames(path)] == pytest.approx(late)
    # A transport stream has no zero: its earliest stream is the beginning.
    path = write_clip(tmp_path / "late.ts", late, **B_FRAMES)
    assert [f.seconds for f in frames(path)] == pytest.approx([t - 2 for t in late])
    cut = [(i - 10) / 25 for i in range(100)]
    for options in ({"bf": "0"}, {"bf": "0", "g": "20"}, {"bf": "2", "g": "20"}):
        path = write_clip(tmp_path / "cut.mp4", cut, **options)
        found = frames(path)
        assert [number_of(frame.rgb) for frame in found] == list(range(10, 100))
        assert [f.seconds for f in found] == pytest.approx([i / 25 for i in range(90)])


def test_a_lossless_frame_has_the_score_of_the_still(
    tmp_path: Path, classifier: Any
) -> None:
    rng = np.random.default_rng(0)
    pictures = [
        np.asarray(
            Image.fromarray(rng.integers(0, 255, (12, 16, 3), np.uint8)).resize(
                (160, 120)
            )
        )
        for _ in range(3)
    ]
    path = write_clip(
        tmp_path / "a.mkv",
        [0, 0.5, 1],
        "libx264rgb",
        pictures.__getitem__,
        "rgb24",
        qp="0",
    )
    found = list(score_video(classifier, path, sampling="all"))
    stills = list(classifier.classify_many(pictures))
    assert np.array([frame[2:] for frame in found]) == pytest.approx(np.array(stills))
    assert score_video(classifier, path.read_bytes()).info["codec"] == "h264"


@pytest.mark.parametrize("suffix", [".gif", ".webp", ".png"])
def test_animations_are_composited(
    tmp_path: Path, classifier: Any, suffix: str
) -> None:
    path = tmp_path / f"a{suffix}"
    first, *others = (Image.fromarray(numbered(i, 160, 120)) for i in range(5))
    options = {"lossless": True} if suffix == ".webp" else {}
    first.save(
        path,
        save_all=True,
        append_images=others,
        duration=[100, 300, 0, 200, 50],
        **options,
    )
    found = frames(path)
    assert [number_of(frame.rgb) for frame in found] == list(range(5))
    # Browsers show a frame of no duration for a tenth of a second, and so count we.
    times = [frame.seconds for frame in found]
    assert times == pytest.approx([0, 0.1, 0.4, 0.5, 0.7])
    assert [f.frame for f in frames(path, "every:0.3")] == [0, 1, 3, 4]
    assert [f.frame for f in frames(path, "frames:2")] == [0, 4]
    video = score_video(classifier, path, sampling="frames:2")
    assert next(video)[2:] == classifier.classify(path)
    assert list(video)[-1].frame == 4
    verdict = video.verdict
    assert (verdict.state, verdict.frames) == ("complete", 2)
    assert verdict.seconds == pytest.approx(0.75)


def test_moments_are_chosen_as_documented() -> None:
    def chosen(times: list[float], step: float) -> list[int]:
        pairs = [(Fraction(t).limit_denominator(1000), i) for i, t in enumerate(times)]
        fine = Fraction(step).limit_denominator(1000)
        return [number for number, _, _ in choose(steady(pairs), fine)]

    assert chosen([0], 1) == [0]
    assert chosen([0, 0.3, 0.6, 1.0, 1.1], 0.3) == [0, 1, 2, 4]
    # What is on the screen for long is found, though it began long before.
    assert chosen([0, 0.5, 5.5, 5.6, 9], 1) == [0, 1, 3, 4]
    # Where a clock begins anew, it goes on.
    assert chosen([0, 1, 2, 0, 1, 2], 1) == [0, 1, 2, 3, 4, 5]
    assert str(Sampling.parse("every:0.5")) == "every:0.5"
    for text in ("every", "every:0", "every:nan", "frames:1", "frames:x", "some"):
        with pytest.raises(ValueError, match="expected"):
            Sampling.parse(text)


def test_what_is_no_video_is_an_error_of_one_line(
    tmp_path: Path, classifier: Any
) -> None:
    (tmp_path / "text.mp4").write_text("no video" * 100)
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "sound.wav").write_bytes(b"RIFF\x24\0\0\0WAVEfmt " + bytes(100))
    write_sound(tmp_path / "sound.mp4")
    with pytest.raises(ImageError, match="got a file without a stream of one"):
        score_video(classifier, tmp_path / "sound.mp4")
    for name in ("text.mp4", "empty.mp4", "sound.wav", "missing.mp4", "."):
        with pytest.raises(ImageError, match=r"^\S+: [^\n]+$") as caught:
            score_video(classifier, tmp_path / name)
        assert str(caught.value).startswith(str(tmp_path / name))
