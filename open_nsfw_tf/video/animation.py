"""The chosen frames of an animation, by Pillow, in the child process."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from typing import Any

from PIL import Image

from open_nsfw_tf.errors import ImageError, one_line
from open_nsfw_tf.image import (
    MAX_PIXELS,
    decoding,
    identify,
    is_heif,
    load_rgb,
    naming,
    read_file,
)
from open_nsfw_tf.video.sampling import (
    TOO_MANY_PIXELS,
    Chosen,
    Limits,
    Pixels,
    Sampling,
    choose,
)

SHORTEST = Fraction(11, 1000)  # of an animation; browsers show a shorter frame for
INSTEAD = Fraction(1, 10)  # seconds

OnProgress = Callable[[Fraction], None]  # called with the seconds that are decoded


def is_animation(picture: str | bytes) -> bool:
    """Whether a picture file has more than one frame; False if it cannot be read.

    Args:
        picture: its path, or its bytes.
    """
    try:
        with naming(picture), BytesIO(read_file(picture)) as file, decoding():
            return bool(getattr(identify(file, MAX_PIXELS), "is_animated", False))
    except ImageError:
        return False


class Animation:
    """A picture file by Pillow, whose frames are composited as a viewer shows them.

    Args:
        file: of the picture.
        limits: of pixels and time.
        sampling: which frames are wanted.

    Raises:
        ImageError: it cannot be opened.
    """

    def __init__(self, file: Any, limits: Limits, sampling: Sampling) -> None:
        self._limits, self._sampling = limits, sampling
        self._problem: str | None = None
        self._end = Fraction(0)
        self._pixels = 0
        with decoding():
            self._image = identify(file, limits.pixels)
            self._count = int(getattr(self._image, "n_frames", 1))
        width, height = self._image.size
        if width * height > limits.pixels:
            load_rgb(self._image, limits.pixels)  # says so
        name = self._image.format
        self.info = {
            "format": name.lower(),
            "codec": name.lower(),
            "width": width,
            "height": height,
            "frames": self._count,
            "seconds": None,
        }

    @staticmethod
    def prepare(head: bytes) -> None:
        """Import what opens files, while that is possible."""
        with decoding():
            Image.init()
        if is_heif(head):
            with suppress(ImportError):
                import pillow_heif  # noqa: F401

    def frames(self, on_progress: OnProgress) -> Iterator[Chosen[Pixels]]:
        """The chosen frames."""
        step = self._sampling.step(Fraction(0))
        if self._sampling.frames is not None:
            last = Fraction(0)
            for at, _ in self._timed(on_progress):
                last = at
            step = self._sampling.step(last)
            self._image.seek(0)
        for number, seconds, rgb in choose(self._timed(on_progress), step):
            yield number, seconds, (rgb.size, rgb.tobytes())

    def _timed(self, on_progress: OnProgress) -> Iterator[tuple[Fraction, Image.Image]]:
        at = Fraction(0)
        for index in range(self._count):
            self._pixels += self._image.width * self._image.height
            if self._pixels > self._limits.all_pixels:
                self._problem = TOO_MANY_PIXELS
                return
            try:
                with decoding():
                    self._image.seek(index)
                    rgb = load_rgb(self._image, self._limits.pixels)
            except (ImageError, EOFError, OSError) as error:
                if not index:
                    raise
                self._problem = f"damaged from frame {index} on ({one_line(error)})"
                return
            yield at, rgb.copy() if rgb is self._image else rgb
            at += self._shown()
            self._end = at
            on_progress(at)
            if at > self._limits.seconds:
                self._problem = f"longer than the limit of {self._limits.seconds:g} s"
                return

    def _shown(self) -> Fraction:
        """How long the current frame is shown, in seconds."""
        shown = Fraction(self._image.info.get("duration") or 0) / 1000
        return shown if shown >= SHORTEST or self._count == 1 else INSTEAD

    def end(self) -> dict[str, Any]:
        """What came of it."""
        return {"seconds": float(self._end), "reason": self._problem}
