"""Short clips whose frames carry their number, made by PyAV."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np

WIDTH, HEIGHT, BITS = 128, 96, 12
BASE = Fraction(1, 12800)  # of times: fine, and exact in all containers used but MKV


def numbered(number: int, width: int = WIDTH, height: int = HEIGHT) -> np.ndarray:
    """A picture of 4 x 3 large squares, white where a bit of the number is 1."""
    bits = np.array([number >> bit & 1 for bit in range(BITS)], np.uint8).reshape(3, 4)
    big = np.kron(bits, np.ones((height // 3, width // 4), np.uint8))
    return np.repeat(32 + 192 * big[..., np.newaxis], 3, axis=2)


def number_of(rgb: np.ndarray) -> int:
    """The number that a picture carries, whatever it was compressed by."""
    height, width, _ = rgb.shape
    centres = rgb[height // 6 :: height // 3, width // 8 :: width // 4, 1]
    return int(sum(1 << i for i, bit in enumerate(centres.ravel() > 128) if bit))


def write_clip(
    path: Path,
    times: Sequence[float],
    codec: str = "libx264",
    picture: Callable[[int], np.ndarray] = numbered,
    pix_fmt: str = "yuv420p",
    base: Fraction = BASE,
    set_up: Callable[[Any], None] = lambda stream: None,
    sound: str | None = None,
    heard: float | None = None,
    **options: str,
) -> Path:
    """Write a clip.

    Args:
        path: whose suffix is the container's.
        times: presentation times of the frames, in seconds.
        codec: an encoder of FFmpeg.
        picture: the RGB picture of a frame.
        pix_fmt: of the stream.
        base: unit of the times.
        set_up: called with the stream before the first frame.
        sound: "before" or "after": where a stream of it is among the streams.
        heard: seconds of the sound; None: as long as the pictures.
        options: of the encoder.
    """
    with _usual_priority(), av.open(str(path), "w") as container:
        silent = [_sound_stream(container)] if sound == "before" else []
        stream = container.add_stream(codec, rate=25, options=options)
        silent += [_sound_stream(container)] if sound == "after" else []
        first = picture(0)
        stream.height, stream.width = first.shape[:2]
        stream.pix_fmt = pix_fmt
        stream.time_base = stream.codec_context.time_base = base
        set_up(stream)
        for number, time in enumerate(times):
            frame = av.VideoFrame.from_ndarray(picture(number), format="rgb24")
            frame.pts, frame.time_base = round(time / base), base
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        for one in silent:
            _write_silence(container, one, times[-1] if heard is None else heard)
    return path


@contextmanager
def _usual_priority() -> Iterator[None]:
    """Take back what SVT-AV1 does where it is run by root.

    It makes the thread that opens it a real-time one, and so all processes that are
    started later: everything else on the machine would wait for them.
    """
    if not hasattr(os, "sched_setscheduler"):
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        os.sched_setscheduler(0, policy, parameters)


def write_sound(path: Path) -> None:
    """Write a file without pictures: a second of silence."""
    with av.open(str(path), "w") as container:
        _write_silence(container, _sound_stream(container), 1.0)


def _sound_stream(container: Any) -> Any:
    return container.add_stream(container.default_audio_codec, rate=48000)


def _write_silence(container: Any, stream: Any, seconds: float) -> None:
    for number in range(int(seconds * 10) + 1):
        none = np.zeros((1, 2 * 4800), np.int16)
        frame = av.AudioFrame.from_ndarray(none, format="s16", layout="stereo")
        frame.sample_rate, frame.pts = 48000, number * 4800
        frame.time_base = Fraction(1, 48000)
        container.mux(stream.encode(frame))
    container.mux(stream.encode())
