"""Decoding a video in a child process, from which frames come one by one as RGB.

A crash of the decoder ends the child and not this process; what came before it stays.
The child gets the open file and a pipe, and can open nothing else; see `decode`. Its
pipe holds less than a frame, so it waits where frames are not taken, and memory does
not grow with the length of the video.
"""

import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from io import BytesIO
from typing import IO, Any

import numpy as np

from open_nsfw_tf.errors import (
    LONGEST_REASON,
    ImageError,
    NotReadError,
    PixelLimitError,
    sanitize,
)
from open_nsfw_tf.files import open_regular
from open_nsfw_tf.image import describe, naming
from open_nsfw_tf.libraries import need
from open_nsfw_tf.video.sampling import Limits, Sampling, duration_or_none

LONGEST = 1 << 16  # bytes of a message
PIPE = 1 << 20  # bytes that the pipe holds, where that can be set
CHUNK = 1 << 20  # bytes of a file that are copied at once
ENDING = 10.0  # seconds that a child may live on after it has closed its pipe
# What comes of reading an answer that a decoder under attack may have written.
UNUSABLE = (KeyError, TypeError, ValueError, OverflowError, RecursionError)
UNUSABLE_ANSWER = "the decoder gave no usable answer: the file may be damaged"
# More threads are not faster here, and each reserves memory.
ENVIRONMENT = {
    "MALLOC_ARENA_MAX": "2",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
}

Source = str | os.PathLike[str] | bytes | bytearray | IO[bytes]
_ERRORS = {kind.__name__: kind for kind in (ImageError, NotReadError, PixelLimitError)}


@dataclass(frozen=True)
class RawFrame:
    """A decoded frame.

    Attributes:
        frame: its number in the video, from 0.
        seconds: its presentation time.
        rgb: uint8 (height, width, 3), 0..255.
    """

    frame: int
    seconds: float
    rgb: np.ndarray


class Decoder:
    """The chosen frames of a video, decoded by a child process.

    Args:
        source: a path, the bytes of a video, or a binary file, read from its current
            position.
        sampling: which frames are wanted.
        limits: of pixels, memory and time.

    Attributes:
        name: of the video, for messages.
        info: what the file says: `format`, `codec`, `width`, `height`, and `frames` and
            `seconds` or None.
        at: how many seconds of the video are decoded.
        seconds: that were decoded in the end; None before.
        reason: why frames are missing; None if none is, or before the end.

    Raises:
        ImageError: it is no video that can be read here. It is a `NotReadError` where
            the system, memory or a missing library is at fault.
        ImportError: the extra `video` is not installed; the message says how to.
    """

    def __init__(self, source: Source, sampling: Sampling, limits: Limits) -> None:
        need("video", "av")
        self.name = describe(source)
        self.at = 0.0
        self.seconds: float | None = None
        self.reason: str | None = None
        self._limits = limits
        with naming(source), _opened(source, limits.copied) as file:
            self._process = _started(file, sampling, limits)
        self._output: Any = self._process.stdout
        self._buffer = bytearray()
        self._close = weakref.finalize(self, _end, self._process)
        try:
            with naming(source):
                self.info: dict[str, Any] = self._first()
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the child. Also done when this object is lost."""
        self._close()

    def _first(self) -> dict[str, Any]:
        try:
            message = self._message()
            if message is not None and "info" in message:
                return _info(message["info"])
        except UNUSABLE as error:
            raise ImageError(UNUSABLE_ANSWER) from error
        if message is None:
            raise ImageError(self._died())
        kind = _ERRORS.get(str(message.get("kind")), ImageError)
        raise kind(_words(message.get("error", UNUSABLE_ANSWER)))

    def __iter__(self) -> Iterator[RawFrame]:
        """The frames; where they end, `reason` says whether some are missing."""
        try:
            yield from self._frames()
        except UNUSABLE:
            self.reason = UNUSABLE_ANSWER
        finally:
            self.close()

    def _frames(self) -> Iterator[RawFrame]:
        while (message := self._message()) is not None:
            if "at" in message:
                self.at = _finite(message["at"])
            elif "frame" in message:
                frame = self._frame(message)
                if frame is None:
                    break
                self.at = frame.seconds
                yield frame
                del frame  # or two would be in memory
            elif "end" in message:
                self.seconds = _finite(message["end"]["seconds"])
                reason = message["end"]["reason"]
                self.reason = None if reason is None else _words(reason)
                return
            else:
                self.reason = _words(message["error"])
                return
        self.reason = self._died()

    def _frame(self, message: dict[str, Any]) -> RawFrame | None:
        """A frame, whose pixels follow its message; None if the child ended in them."""
        width, height = int(message["width"]), int(message["height"])
        if min(width, height) < 1 or width * height > self._limits.pixels:
            raise ValueError(f"a frame of {width} x {height} pixels")
        rgb = np.empty((height, width, 3), np.uint8)
        if not self._fill(rgb.data.cast("B")):
            return None
        return RawFrame(int(message["frame"]), _finite(message["seconds"]), rgb)

    def _message(self) -> dict[str, Any] | None:
        """The next message; None if the child has ended.

        Raises:
            UNUSABLE: what it wrote is none.
        """
        while b"\n" not in self._buffer:
            data = self._output.read(LONGEST)
            if not data:
                return None
            self._buffer += data
            if len(self._buffer) > 2 * LONGEST:
                raise ValueError("a message without an end")
        line, _, rest = bytes(self._buffer).partition(b"\n")
        self._buffer = bytearray(rest)
        found = json.loads(line)
        if not isinstance(found, dict):
            raise TypeError("a message that is no object")
        return found

    def _fill(self, wanted: memoryview) -> bool:
        """Read so many bytes; whether there were so many."""
        have = min(len(self._buffer), len(wanted))
        wanted[:have] = self._buffer[:have]
        del self._buffer[:have]
        while have < len(wanted):
            read = self._output.readinto(wanted[have:])
            if not read:
                return False
            have += read
        return True

    def _died(self) -> str:
        """Why the child has ended before its time, or at least closed its pipe."""
        try:
            code = self._process.wait(ENDING)
        except subprocess.TimeoutExpired:
            self.close()
            return "the decoder stopped answering"
        if code == -getattr(signal, "SIGALRM", 0):
            return f"the decoder did nothing for {self._limits.wait} seconds"
        if code == -getattr(signal, "SIGXCPU", 0):
            return f"the decoder worked for {self._limits.work} seconds"
        if code == -getattr(signal, "SIGKILL", 0):
            return "the decoder was killed, as the system does when memory is short"
        return "the decoder crashed"


def _finite(number: Any) -> float:
    """A number that the child says."""
    found = float(number)
    if not math.isfinite(found):
        raise ValueError(f"expected a finite number, got {found}")
    return found


def _info(said: dict[str, Any]) -> dict[str, Any]:
    """What the child says of the file, of the types of `Decoder.info`."""
    frames, seconds = said["frames"], said["seconds"]
    return {
        "format": _words(said["format"]),
        "codec": _words(said["codec"]),
        "width": int(said["width"]),
        "height": int(said["height"]),
        "frames": None if frames is None else int(frames),
        "seconds": None if seconds is None else duration_or_none(seconds),
    }


def _words(text: object) -> str:
    """What the child says, in one printable line."""
    return sanitize(text, LONGEST_REASON)


def _opened(source: Source, most: int) -> IO[bytes]:
    """The source as a file with a number of its own, which the child can read.

    Args:
        source: of which everything but a path is copied to a temporary file.
        most: bytes that are copied.
    """
    if isinstance(source, str | os.PathLike):
        file = open_regular(os.fsdecode(source))
        if not os.fstat(file.fileno()).st_size:
            file.close()
            raise ImageError("empty: expected a video, got 0 bytes")
        return file
    copy = tempfile.TemporaryFile()  # noqa: SIM115 - the caller closes it
    try:
        if isinstance(source, bytes | bytearray):
            source = BytesIO(source)
        while data := source.read(CHUNK):
            if copy.tell() + len(data) > most:
                raise ImageError(
                    f"more than {most:,} bytes that would be copied to the disk: give "
                    "the path of a file, or raise Limits.copied"
                )
            copy.write(data)
        if not copy.tell():
            raise ImageError("empty: expected a video, got 0 bytes")
        copy.seek(0)
    except BaseException:
        copy.close()
        raise
    return copy


def _started(
    file: IO[bytes], sampling: Sampling, limits: Limits
) -> "subprocess.Popen[bytes]":
    arguments = json.dumps({"sampling": asdict(sampling), "limits": asdict(limits)})
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from open_nsfw_tf.video.decode import main; main({arguments!r})"
    )
    options: dict[str, Any] = {}
    if os.name == "posix":
        options["process_group"] = 0  # or Ctrl-C would end it, too
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        bufsize=0,
        env={**os.environ, **ENVIRONMENT},
        **options,
    )
    _enlarge(process.stdout)
    return process


def _enlarge(pipe: Any) -> None:
    """Let the pipe hold more than 64 kB, where the system can: fewer turns."""
    try:
        import fcntl

        fcntl.fcntl(pipe, fcntl.F_SETPIPE_SZ, PIPE)
    except (ImportError, AttributeError, OSError):
        return


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    if process.stdout is not None:
        process.stdout.close()
    process.wait()
