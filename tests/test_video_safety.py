"""Hostile and damaged videos: one error, no other file, what could be read."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from http.server import BaseHTTPRequestHandler, HTTPServer
from io import BytesIO
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from PIL import Image
from video_clips import HEIGHT, WIDTH, number_of, write_clip

from open_nsfw_tf import ImageError
from open_nsfw_tf.errors import PixelLimitError
from open_nsfw_tf.video import Limits, Sampling, process, score_video
from open_nsfw_tf.video.container import Video
from open_nsfw_tf.video.process import Decoder

ALL = Sampling()
LIMITS = Limits(wait=300)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("clips")
    times = [i / 25 for i in range(100)]
    return write_clip(folder / "clip.mkv", times, bf="2", g="20")


@pytest.fixture
def trap() -> Iterator[tuple[str, list[str]]]:
    """The address of a server, and what it was asked for."""
    asked: list[str] = []

    class Trap(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        def log_message(self, *arguments: Any) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Trap) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", asked
        server.shutdown()
        thread.join()


M3U8 = "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{}\n#EXT-X-ENDLIST\n"
CONCAT = "ffconcat version 1.0\nfile '{}'\n"
DASH = """<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"
 type="static" mediaPresentationDuration="PT4S" minBufferTime="PT1S"><Period>
<AdaptationSet mimeType="video/mp4"><Representation id="1" bandwidth="1"
 codecs="avc1.64000a"><BaseURL>{}</BaseURL></Representation></AdaptationSet>
</Period></MPD>"""
PLAYLISTS = {"m3u8": M3U8, "concat": CONCAT, "dash": DASH}


@pytest.mark.parametrize("kind", PLAYLISTS)
def test_a_playlist_opens_nothing(
    tmp_path: Path,
    clip: Path,
    trap: tuple[str, list[str]],
    kind: str,
) -> None:
    address, asked = trap
    (tmp_path / "trap.mkv").write_bytes(clip.read_bytes())
    own = ".m3u8" if kind == "m3u8" else ".mpd"
    for target, suffix in (("trap.mkv", ".mp4"), (f"{address}/trap.ts", own)):
        path = tmp_path / f"list{suffix}"
        path.write_text(PLAYLISTS[kind].format(target))
        with pytest.raises(ImageError, match="not a video"):
            Decoder(path, ALL, LIMITS)
    assert asked == []


def test_the_attack_is_real(tmp_path: Path, clip: Path) -> None:
    """Opened by its path, a list named .mp4 gives the frames of another file."""
    (tmp_path / "trap.mkv").write_bytes(clip.read_bytes())
    (tmp_path / "list.mp4").write_text(CONCAT.format("trap.mkv"))
    with av.open(str(tmp_path / "list.mp4")) as container:
        assert next(container.decode(video=0)).width == WIDTH


def test_the_child_can_open_and_start_nothing() -> None:
    code = """
import os, socket
from open_nsfw_tf.video.decode import restrict
from open_nsfw_tf.video.sampling import Limits
restrict(Limits(memory=1 << 28))
def refused(call, *arguments):
    try:
        call(*arguments)
    except (OSError, MemoryError) as error:
        return error.errno if isinstance(error, OSError) else "memory"
print([refused(open, "/etc/passwd"), refused(socket.socket), refused(os.pipe),
       refused(bytearray, 1 << 30)])
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout == "[24, 24, 24, 'memory']\n"


def test_limits(clip: Path, classifier: Any) -> None:
    with pytest.raises(PixelLimitError, match=r"128 x 96 pixels.*limit of 1,000"):
        score_video(classifier, clip, limits=Limits(pixels=1000))
    decoder = Decoder(clip, ALL, Limits(seconds=1.0))
    assert 0.8 < [frame.seconds for frame in decoder][-1] <= 1.0
    assert decoder.reason == "longer than the limit of 1 seconds"
    decoder = Decoder(clip, ALL, Limits(all_pixels=WIDTH * HEIGHT * 5))
    assert len(list(decoder)) == 5
    assert decoder.reason == "more pixels in all than the limit"
    assert decoder.seconds == pytest.approx(0.16)  # not the whole clip's


@pytest.mark.parametrize("name", ["a.mp4", "a.webm"])  # by a plan, and without
def test_no_memory_to_decode_is_not_the_end(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    codec = "libvpx" if name.endswith("webm") else "libx264"
    path = write_clip(tmp_path / name, [i / 25 for i in range(20)], codec)
    honest, decoded = Video._decode, []

    def decode(video: Video, packet: Any) -> Any:
        decoded.append(packet)
        if len(decoded) == 6:
            raise av.error.MemoryError(errno.ENOMEM, "Cannot allocate memory")
        return honest(video, packet)

    monkeypatch.setattr(Video, "_decode", decode)
    with path.open("rb") as file:
        video = Video(file, LIMITS, ALL)
        assert len(list(video.frames(lambda seconds: None))) < 20
        assert video.end()["reason"] == "decoding needs more memory than the limit"


def test_the_limits_of_animations(tmp_path: Path) -> None:
    path = tmp_path / "a.gif"
    first, *others = (Image.new("RGB", (64, 48), (40 * i, 0, 0)) for i in range(6))
    first.save(path, save_all=True, append_images=others, duration=100)
    decoder = Decoder(path, ALL, Limits(all_pixels=64 * 48 * 3))
    assert len(list(decoder)) == 3
    assert decoder.reason == "more pixels in all than the limit"


def test_what_is_copied_has_a_limit(clip: Path) -> None:
    size = clip.stat().st_size
    assert len(list(Decoder(clip.read_bytes(), ALL, Limits(copied=size)))) == 100
    for source in (clip.read_bytes(), BytesIO(clip.read_bytes())):
        with pytest.raises(ImageError, match=f"more than {size - 1:,} bytes that"):
            Decoder(source, ALL, Limits(copied=size - 1))
    assert Decoder(clip, ALL, Limits(copied=1)).info["codec"] == "h264"


@pytest.mark.parametrize("claim", ["inf:0:0", "nan:0:0", "-9:0:0", "1e300:0:0", "x"])
def test_a_duration_that_makes_no_sense_is_unknown(clip: Path, claim: str) -> None:
    """Players and FFmpeg take the duration of a stream from a tag of any text."""
    data = clip.read_bytes()
    start = data.index(b"00:00:0", data.index(b"DURATION"))
    padded = claim.encode().ljust(18, b"\0")
    decoder = Decoder(data[:start] + padded + data[start + 18 :], ALL, LIMITS)
    assert len(list(decoder)) == 100
    assert decoder.reason is None
    expected = pytest.approx(4.0, abs=0.1) if claim == "x" else None
    assert decoder.info["seconds"] == expected


INFO = '{"info": {"format": "a", "codec": "b", "width": 8, "height": 8, "frames": 1, '
INFO += '"seconds": NaN}}\n'
FRAME = '{"frame": 0, "seconds": %s, "width": 8, "height": 8}\n'


@pytest.mark.parametrize(
    "written",
    [
        "no message\n" + 9_000_000 * "x",
        9_000_000 * "x",
        "[1]\n",
        '{"info": 1}\n',
        INFO.replace("NaN", '"x"'),
        INFO + "no message\n" + 9_000_000 * "x",
        INFO + FRAME % "1e999" + 192 * "x",
        INFO + '{"at": NaN}\n',
        INFO + '{"end": {"seconds": Infinity, "reason": null}}\n',
        INFO + "[" * 60_000 + "\n",
    ],
)
def test_a_decoder_that_answers_anything(
    clip: Path, monkeypatch: pytest.MonkeyPatch, written: str
) -> None:
    """As a decoder may that a file has taken over: it ends, in one line."""
    monkeypatch.setattr(process, "_started", partial(writing, written))
    reason = None
    try:
        decoder = Decoder(clip, ALL, LIMITS)
    except ImageError as error:
        reason = str(error).removeprefix(f"{clip}: ")
    else:
        assert decoder.info["seconds"] is None
        assert not list(decoder)
        reason = decoder.reason
    assert reason == process.UNUSABLE_ANSWER


def writing(text: str, *arguments: Any) -> "subprocess.Popen[bytes]":
    """A process that writes a text, and then does not end."""
    process = subprocess.Popen(
        ["sh", "-c", "cat; exec sleep 600"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    )

    def feed() -> None:
        assert process.stdin is not None
        with suppress(BrokenPipeError), process.stdin:
            process.stdin.write(text.encode())

    threading.Thread(target=feed, daemon=True).start()
    return process


def test_many_streams_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.mkv"
    with av.open(str(path), "w") as container:
        for _ in range(4):
            container.add_stream("mpeg4", rate=25, width=64, height=64)
        for stream in container.streams.video:
            frame = av.VideoFrame.from_ndarray(np.zeros((64, 64, 3), np.uint8))
            container.mux([*stream.encode(frame), *stream.encode()])
    assert len(list(Decoder(path, ALL, Limits(streams=4)))) == 1
    with pytest.raises(ImageError, match="4 streams are more than the limit of 3"):
        Decoder(path, ALL, Limits(streams=3))


@pytest.mark.skipif(os.name != "posix", reason="signals of POSIX")
def test_a_decoder_that_does_nothing_is_ended() -> None:
    code = (
        "from open_nsfw_tf.video.decode import Answer\n"
        "from open_nsfw_tf.video.sampling import Limits\n"
        "answer = Answer(None, Limits(wait=1))\n"
        "while True: pass"
    )
    done = subprocess.run([sys.executable, "-c", code], timeout=300, check=False)
    assert done.returncode == -signal.SIGALRM


def test_a_decoder_that_is_killed_leaves_what_came_before(
    clip: Path, classifier: Any
) -> None:
    video = score_video(classifier, clip, sampling="all")
    found = [next(video) for _ in range(3)]
    os.kill(video._decoder._process.pid, signal.SIGKILL)
    found += list(video)
    assert [frame.frame for frame in found] == list(range(len(found)))
    assert 3 <= len(found) < 100
    assert video.verdict.state == "partial"
    assert "killed" in str(video.verdict.reason)
    assert video.verdict.decision == "review"  # it was not read to its end


def test_the_decoder_ends_with_a_parent_that_is_killed(clip: Path) -> None:
    code = (
        "from open_nsfw_tf.video.process import Decoder\n"
        "from open_nsfw_tf.video import Limits, Sampling\n"
        f"frames = iter(decoder := Decoder({str(clip)!r}, Sampling(), Limits()))\n"
        "next(frames); print(decoder._process.pid, flush=True); input()"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    parent.kill()
    parent.communicate()
    until = time.monotonic() + 300
    while _runs(child) and time.monotonic() < until:
        time.sleep(0.05)
    assert not _runs(child)


def _runs(pid: int) -> bool:
    """Whether a process is there and has not ended."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"


def test_a_cut_file_gives_what_is_there(
    tmp_path: Path, clip: Path, classifier: Any
) -> None:
    data = clip.read_bytes()
    cut = tmp_path / "cut.mkv"
    cut.write_bytes(data[: len(data) // 2])
    decoder = Decoder(cut, ALL, LIMITS)
    found = list(decoder)
    numbers = [number_of(frame.rgb) for frame in found]
    assert numbers == [frame.frame for frame in found] == list(range(len(found)))
    assert 20 < len(found) < 80
    assert "ends after" in str(decoder.reason)
    verdict = _verdict(classifier, cut)
    assert (verdict.state, verdict.decision) == ("partial", "review")
    assert verdict.seconds == pytest.approx(len(found) / 25, abs=0.2)


def _verdict(classifier: Any, path: Path) -> Any:
    video = score_video(classifier, path, sampling="frames:2")
    assert len(list(video)) == 2
    return video.verdict


def test_a_damaged_file_is_partial(tmp_path: Path) -> None:
    """Bytes in its middle are changed: frames before and behind are read."""
    path = write_clip(tmp_path / "a.ts", [i / 25 for i in range(100)], g="10")
    data = bytearray(path.read_bytes())
    start = len(data) // 2 // 188 * 188
    data[start + 100 : start + 1500] = bytes(1400)
    decoder = Decoder(bytes(data), ALL, LIMITS)
    found = list(decoder)
    assert len(found) > 70
    assert found[-1].seconds == pytest.approx(3.96)
    assert decoder.reason is not None


@pytest.mark.parametrize("suffix", [".mkv", ".mp4", ".ts", ".gif", ".webp"])
def test_no_damage_raises_anything_else(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    if suffix in (".gif", ".webp"):
        pictures = [Image.new("RGB", (64, 48), (80 * i, 9, 9)) for i in range(3)]
        pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=50)
    else:
        write_clip(path, [i / 10 for i in range(10)])
    data = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = set()
    for _ in range(4):
        broken = bytearray(data)
        for place in rng.integers(0, len(data), 12):
            broken[place] = rng.integers(256)
        try:
            decoder = Decoder(bytes(broken), ALL, LIMITS)
            frames = list(decoder)
        except ImageError as error:
            assert "\n" not in str(error)
            outcomes.add("refused")
        else:
            assert decoder.reason is None or decoder.reason.isprintable()
            assert all(frame.seconds < 1e6 for frame in frames)
            outcomes.add("read")
    assert outcomes
