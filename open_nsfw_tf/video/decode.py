"""The child process: from a video as standard input to RGB frames in a pipe.

Only `process` starts this. Animations and pictures are decoded by Pillow, so that the
first frame has the pixels of the still picture; everything else by FFmpeg in PyAV.
"""

import json
import os
import signal
import sys
import time
from fractions import Fraction
from typing import IO, Any

from open_nsfw_tf.errors import ImageError, NotReadError, PixelLimitError
from open_nsfw_tf.files import HEAD, type_by_content
from open_nsfw_tf.video.animation import Animation
from open_nsfw_tf.video.container import Video, reason_of
from open_nsfw_tf.video.sampling import Limits, Sampling

REPORT_EVERY = 0.5  # seconds after which the parent hears how far decoding is


class Answer:
    """What goes to the parent: messages, each a line of JSON, some with pixels behind.

    Args:
        file: the pipe.
        limits: of which `wait` ends this process if nothing is sent for so long.
    """

    def __init__(self, file: "PipeWriter", limits: Limits) -> None:
        self._file, self._wait = file, limits.wait
        self._last_sent = time.monotonic()
        self._alarm(self._wait)

    def _alarm(self, seconds: int) -> None:
        # The default action ends the process even while a decoder is in a loop.
        if hasattr(signal, "alarm"):
            signal.alarm(seconds)

    def send(self, data: bytes | memoryview = b"", **message: Any) -> None:
        """Send a message; while the parent does not read it, no time counts."""
        self._alarm(0)
        self._file.write(json.dumps(message).encode() + b"\n")
        if data:
            self._file.write(data)
        self._last_sent = time.monotonic()
        self._alarm(self._wait)

    def at(self, seconds: Fraction) -> None:
        """Tell how far decoding is, now and then; it also finds out a dead parent."""
        if time.monotonic() - self._last_sent > REPORT_EVERY:
            self.send(at=float(seconds))


# -- the process


def main(arguments: str) -> None:
    """Decode standard input to standard output.

    Args:
        arguments: JSON with `sampling` and `limits`, the fields of the two classes.
    """
    asked = json.loads(arguments)
    limits, sampling = Limits(**asked["limits"]), Sampling(**asked["sampling"])
    pipe = os.fdopen(os.dup(1), "wb", buffering=0)
    os.dup2(2, 1)  # libraries may print
    file = os.fdopen(0, "rb", buffering=0, closefd=False)
    if hasattr(signal, "SIGALRM"):
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
    answer = Answer(PipeWriter(pipe), limits)
    try:
        head = file.read(HEAD)
        picture = type_by_content(head) is not None
        decoder = Animation if picture else Video
        decoder.prepare(head)
        restrict(limits)
        reader = decoder(Source(file), limits, sampling)
        answer.send(info=reader.info)
        for number, seconds, ((width, height), rgb) in reader.frames(answer.at):
            answer.send(
                rgb,
                frame=number,
                seconds=float(seconds),
                width=width,
                height=height,
            )
        answer.send(end=reader.end())
    except BrokenPipeError:
        os._exit(0)  # the parent wants no more, or is dead
    except Exception as error:  # noqa: BLE001 - any library, any broken file
        answer.send(error=reason_of(error), kind=_kind(error))
    os._exit(0)  # not freeing what a decoder may have broken


def _kind(error: Exception) -> str:
    kinds = (PixelLimitError, NotReadError)
    if isinstance(error, MemoryError):
        return NotReadError.__name__
    name = ImageError.__name__
    return next((k.__name__ for k in kinds if isinstance(error, k)), name)


class PipeWriter:
    """A pipe to which all bytes are written, in however many pieces it takes them."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file

    def write(self, data: Any) -> None:
        """Write all."""
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) :]


class Source:
    """The open file without its name: FFmpeg and Pillow get nothing else."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.seek, self.tell = file.seek, file.tell
        self.seek(0)

    def read(self, size: int = -1) -> bytes:
        """Some bytes, as many as there are up to `size`."""
        return self._file.read(size)


def restrict(limits: Limits) -> None:
    """Limit this process: memory, time, and no file or socket beside the open ones."""
    try:
        import resource
    except ImportError:  # Windows: only the parent's limits hold
        return
    # More descriptors than there are: nothing can be opened, connected or started.
    highest = max(n for n in range(64) if _is_open(n))
    wanted = {
        "RLIMIT_NOFILE": (highest + 1, highest + 1),
        "RLIMIT_CORE": (0, 0),
        "RLIMIT_FSIZE": (0, 0),
        "RLIMIT_CPU": (limits.work, limits.work + 1),
    }
    if sys.platform == "linux":
        pages = int(_size_in_pages())
        size = pages * resource.getpagesize() + limits.memory
        wanted["RLIMIT_AS"] = (size, size)
    for name, pair in wanted.items():
        try:
            resource.setrlimit(getattr(resource, name), pair)
        except (OSError, ValueError, AttributeError):
            continue  # a lower limit of the system's stays


def _size_in_pages() -> str:
    with open("/proc/self/statm", encoding="ascii") as file:
        return file.read().split()[0]


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True
