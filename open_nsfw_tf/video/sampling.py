"""Which frames of a video are scored, and the limits of what is decoded.

A frame is on the screen from its presentation time to that of the next one. Frames are
chosen by the moments at which they are on the screen, and not by counting: a picture
that stays for a while is found even where the frame rate varies. The first and the last
frame are always among them.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from math import ceil, isfinite
from typing import TypeVar

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image import MAX_PIXELS

Thing = TypeVar("Thing")
Chosen = tuple[int, Fraction, Thing]  # number of the frame, its seconds, the frame

Pixels = tuple[tuple[int, int], bytes | memoryview]  # width and height; rows of RGB

FORMS = "every:SECONDS, frames:NUMBER or all"
MOST_FRAMES = 1_000_000  # that can be asked for
LONGEST = 1e9  # seconds, 31 years: what claims to be longer has no known duration
TOO_MANY_PIXELS = "more pixels in all than the limit"


@dataclass(frozen=True)
class Sampling:
    """Which frames are scored: without arguments every frame.

    Attributes:
        every: the frame that is on the screen each so many seconds, from the first on.
        frames: so many moments, evenly spread from the first frame to the last.

    Raises:
        ValueError: both are given, or one is out of range.
    """

    every: float | None = None
    frames: int | None = None

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.every is not None and self.frames is not None:
            raise ValueError("expected every or frames, got both")
        if self.every is not None and not (isfinite(self.every) and self.every > 0):
            raise ValueError(
                f"expected every of more than 0 seconds, got {self.every:g}"
            )
        if self.frames is not None and not 2 <= self.frames <= MOST_FRAMES:
            raise ValueError(
                f"expected 2 to {MOST_FRAMES} frames, the first and the last among "
                f"them, got {self.frames}"
            )

    @classmethod
    def parse(cls, text: str) -> "Sampling":
        """The sampling that a text such as ``every:1`` means: one of `FORMS`.

        Raises:
            ValueError: it has none of these forms.
        """
        kind, _, value = text.partition(":")
        try:
            if kind == "every" and value:
                return cls(every=float(value))
            if kind == "frames" and value:
                return cls(frames=int(value))
        except ValueError as error:
            if "expected" in str(error):
                raise
        if text == "all":
            return cls()
        raise ValueError(f"expected {FORMS}, got {sanitize(text, 40)!r}")

    def __str__(self) -> str:
        """The text that `parse` takes."""
        if self.every is not None:
            return f"every:{self.every:g}"
        return "all" if self.frames is None else f"frames:{self.frames}"

    def step(self, span: Fraction) -> Fraction:
        """Seconds between the moments; 0 for every frame.

        Args:
            span: from the first frame to the last, in seconds.
        """
        if self.every is not None:
            return Fraction(self.every).limit_denominator(1_000_000_000)
        return Fraction(0) if self.frames is None else span / (self.frames - 1)


EVERY_SECOND = Sampling(every=1.0)


def choose(
    frames: Iterable[tuple[Fraction, Thing]], step: Fraction
) -> Iterator[Chosen[Thing]]:
    """The frames on the screen at 0, `step`, 2 `step`, ... after the first; the last.

    Args:
        frames: presentation time in seconds, never falling, and the frame; read one
            ahead of what is yielded.
        step: seconds; 0 for every frame.
    """
    held: Chosen[Thing] | None = None  # the latest, unless it was yielded
    first = due = None
    for index, (time, frame) in enumerate(frames):
        if first is None or due is None or not step:
            first, due = time, time + step
            yield index, time, frame
            continue
        if due < time:
            if held is not None:
                yield held
            due = first + step * ceil((time - first) / step)
        held = index, time, frame
    if held is not None:
        yield held


def steady(
    frames: Iterable[tuple[Fraction, Thing]],
) -> Iterator[tuple[Fraction, Thing]]:
    """Frames whose times never fall: where a stream's clock begins anew, it goes on.

    Joined transport streams do that. The first frame behind such a place follows the
    last one before by as much as that one followed its own.
    """
    offset = interval = Fraction(0)
    last = None
    for time, frame in frames:
        time += offset
        if last is not None:
            if time < last:
                offset += last + interval - time
                time = last + interval
            interval = time - last
        last = time
        yield time, frame


def duration_or_none(seconds: float | Fraction) -> float | None:
    """A duration that a file claims, in seconds; None if it makes no sense."""
    found = float(seconds)
    return found if 0 <= found <= LONGEST else None


@dataclass(frozen=True)
class Limits:
    """What one video may cost. What is beyond a limit is left out, and named.

    Attributes:
        pixels: of one frame.
        all_pixels: of all decoded frames together; 10^13 are 44 hours of 1080p at 30 a
            second.
        seconds: of the video.
        streams: in the file; more are refused.
        memory: bytes that the decoding process may take (on Linux).
        wait: seconds in which the decoder must have done something.
        work: seconds of processor time that decoding may take.
        copied: bytes of a video that comes from standard input, an open file or memory
            and is copied to the folder for temporary files; longer ones are refused.
    """

    pixels: int = MAX_PIXELS
    all_pixels: int = 10**13
    seconds: float = 24 * 3600.0
    streams: int = 64
    memory: int = 3 << 30
    wait: int = 60
    work: int = 12 * 3600
    copied: int = 8 << 30


LIMITS = Limits()
