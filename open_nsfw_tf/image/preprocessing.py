"""From RGB to a network's exact input: preprocessing as data, and its application."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache
from io import BytesIO
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image.decode import MAX_PIXELS, Picture, check_max_pixels, load_rgb
from open_nsfw_tf.parallel import in_order

# -- preprocessing, as data that is stored with a model

ORDERS = ("BGR", "RGB")
# Both are bilinear. "antialiased" is Pillow's, which covers the source when it shrinks,
# and rounds to whole values. "aligned" is that of TensorFlow 1 and TensorFlow.js with
# aligned corners: it takes four pixels of the source, and does not round.
RESIZES = ("antialiased", "aligned")
LARGEST = 1024  # pixels a side: larger inputs are a mistake, or an attack on memory
_MAX = 3.4e38  # the largest float32, the type of the network's input
_FIELDS = (
    "expected the preprocessing's resize, crop, jpeg, order, mean, scale and filter"
)


@dataclass(frozen=True)
class Preprocessing:
    """The steps from a picture to a network's input.

    Attributes:
        resize: pixels, both sides, before the crop.
        crop: pixels, both sides, from the middle: the network's input.
        jpeg: whether the resized picture is saved as JPEG (quality 75, 4:2:0) and read
            again, as Yahoo's pipeline did.
        order: of the channels, "BGR" or "RGB".
        mean: of 0..255, subtracted from the channels, in their `order`.
        scale: the difference is multiplied by this.
        filter: how pictures are resized, of `RESIZES`.

    Raises:
        ValueError: a value is of another type or out of range.
    """

    resize: int
    crop: int
    jpeg: bool
    order: str
    mean: tuple[float, float, float]
    scale: float
    filter: str = RESIZES[0]

    def __post_init__(self) -> None:
        sides = (self.resize, self.crop)
        if not all(type(side) is int and 1 <= side <= LARGEST for side in sides):
            raise ValueError(
                f"expected a resize and a crop of 1 to {LARGEST} pixels, got "
                f"{sanitize(self.resize, 40)} and {sanitize(self.crop, 40)}"
            )
        if self.crop > self.resize:
            raise ValueError(
                f"expected a crop of at most {self.resize} pixels, the size after "
                f"resizing, got {self.crop}"
            )
        if self.order not in ORDERS or type(self.jpeg) is not bool:
            raise ValueError(f"{_FIELDS}; the order is BGR or RGB, jpeg a truth value")
        numbers = (*self.mean, self.scale)
        if len(self.mean) != 3 or not all(map(_is_number, numbers)):
            raise ValueError(f"{_FIELDS}; the mean has three numbers, the scale is one")
        if self.filter not in RESIZES or (self.aligned and self.jpeg):
            raise ValueError(
                f"{_FIELDS}; the filter is {' or '.join(RESIZES)}, and jpeg false with "
                f"{RESIZES[1]}"
            )

    @property
    def aligned(self) -> bool:
        """Whether pictures are resized with aligned corners, which does not round."""
        return self.filter == RESIZES[1]

    @property
    def words(self) -> str:
        """The steps in words, for users of an exported network without this package."""
        how = " with aligned corners, no antialiasing" * self.aligned
        order = [f"RGB; bilinear resize to {self.resize}x{self.resize}{how}"]
        if self.jpeg:
            order.append("JPEG, quality 75, and back")
        if self.crop != self.resize:
            order.append(f"centre crop {self.crop}x{self.crop}")
        order += [self.order] if self.order != "RGB" else []
        return "; ".join([*order, self.values])

    @property
    def values(self) -> str:
        """The arithmetic on the values 0..255, in words."""
        return "minus mean" if self.scale == 1 else f"minus mean, times {self.scale:g}"

    def record(self) -> dict[str, Any]:
        """The fields as JSON values, for `from_record`."""
        return {**asdict(self), "mean": list(self.mean)}

    @classmethod
    def from_record(cls, record: object) -> "Preprocessing":
        """The preprocessing from the result of `record`.

        Raises:
            ValueError: fields are missing, surplus or out of range.
        """
        if isinstance(record, dict):  # older ones do not say it
            record = {"filter": RESIZES[0], **record}
        if not isinstance(record, dict) or set(record) != set(cls.__annotations__):
            raise ValueError(_FIELDS)
        mean = record["mean"]
        return cls(**{**record, "mean": tuple(mean) if isinstance(mean, list) else ()})


def _is_number(value: object) -> bool:
    # Compared and not converted: an integer in JSON may be too large for a float.
    return type(value) in (int, float) and abs(value) <= _MAX  # type: ignore[arg-type]


# yahoo/open_nsfw, classify_nsfw.py; its training mean.
YAHOO = Preprocessing(256, 224, True, "BGR", (104.0, 117.0, 123.0), 1.0)
CROP = YAHOO.crop  # pixels, both sides; the network's input
MEAN_BGR = YAHOO.mean  # of 0..255


# -- how files are decoded

EXACT = "exact"
DECODES = (EXACT, "scaled")
# "scaled" decodes a JPEG to a half, a quarter or an eighth, of which both sides are
# still so many times the size that it is resized to. With 1 instead of 2 the scores of
# photographs change twice as much, and it is hardly faster: see benchmarks/decode.py.
SCALED = 2


def check_decode(decode: str, preprocessing: Preprocessing) -> None:
    """Refuse a way to decode that is unknown, or that does not suit a network.

    Raises:
        ValueError: it is not of `DECODES`, or it is "scaled" and pictures are resized
            with aligned corners: of four pixels that the scaled picture lacks.
    """
    if decode not in DECODES:
        raise ValueError(
            f"expected decode {' or '.join(DECODES)}, got {sanitize(decode, 40)!r}"
        )
    if decode != EXACT and preprocessing.aligned:
        raise ValueError(
            "decode scaled is not for this model, which takes single pixels of the "
            "whole picture: use exact"
        )


# -- from RGB to a network's input


STRIP = 1 << 20  # pixels, at least, for a thread of its own


def pixels(
    image: Image.Image, preprocessing: Preprocessing, threads: int = 1
) -> np.ndarray:
    """The pixels for a network: resized, sent through JPEG if it says so, and cropped.

    Args:
        image: of mode RGB, any size.
        preprocessing: of the network.
        threads: that share the work on a large picture; the pixels are the same.

    Returns:
        (crop, crop, 3), RGB, 0..255: uint8; resized with aligned corners: float32.
    """
    side, crop = preprocessing.resize, preprocessing.crop
    edge = (side - crop) // 2
    if preprocessing.aligned:
        return _aligned(np.asarray(image), side)[edge : edge + crop, edge : edge + crop]
    # Two calls, one for each axis, horizontal first: Pillow did that in one call until
    # version 13, which begins with the vertical axis for some tall pictures.
    resized = _narrowed(image, side, threads)
    resized = resized.resize((side, side), Image.Resampling.BILINEAR)
    rgb = _through_jpeg(resized) if preprocessing.jpeg else np.asarray(resized)
    return rgb[edge : edge + crop, edge : edge + crop]


def _narrowed(image: Image.Image, width: int, threads: int) -> Image.Image:
    """Resize horizontally, of large pictures some rows in each thread.

    A box of whole rows that keeps its height leaves them as they are.
    """
    height = image.height
    count = min(threads, height, image.width * height // STRIP)
    if count < 2:
        return image.resize((width, height), Image.Resampling.BILINEAR)
    edges = [height * strip // count for strip in range(count + 1)]

    def strip(rows: tuple[int, int]) -> Image.Image:
        top, bottom = rows
        box = (0, top, image.width, bottom)
        return image.resize((width, bottom - top), Image.Resampling.BILINEAR, box)

    narrow = Image.new("RGB", (width, height))
    for top, part in zip(edges, in_order(strip, pairwise(edges), count), strict=False):
        narrow.paste(part, (0, top))
    return narrow


def _aligned(picture: np.ndarray, side: int) -> np.ndarray:
    """Resize to float32 (side, side, 3) as TensorFlow.js does with aligned corners.

    The centres of the corner pixels stay where they are. As in its CPU backend, sums
    are float64. Only the pixels that are needed are converted.
    """
    height, width = picture.shape[:2]
    top, bottom, down = _neighbours(height, side)
    left, right, along = _neighbours(width, side)
    down, along = down[:, np.newaxis, np.newaxis], along[:, np.newaxis]

    def row(rows: np.ndarray) -> np.ndarray:
        start, end = (
            picture[rows[:, np.newaxis], columns].astype(np.float64)
            for columns in (left, right)
        )
        mixed: np.ndarray = start + (end - start) * along
        return mixed

    upper, lower = row(top), row(bottom)
    resized: np.ndarray = (upper + (lower - upper) * down).astype(np.float32)
    return resized


def _neighbours(size: int, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The pixels before and after each new one, and the share of the one after."""
    # In whole numbers, so that the same in TensorFlow gives the same bits.
    steps = max(side - 1, 1)
    before, rest = np.divmod(np.arange(side) * (size - 1), steps)
    return before, np.minimum(before + 1, size - 1), rest * (1 / steps)


def _through_jpeg(image: Image.Image) -> np.ndarray:
    image.info.clear()  # otherwise Pillow writes the source's comment into the JPEG
    file = BytesIO()
    image.save(file, format="JPEG")  # quality 75, 4:2:0: Pillow's defaults
    with Image.open(file, formats=("JPEG",)) as jpeg:
        return np.asarray(jpeg)


def tensor(
    picture: Picture,
    preprocessing: Preprocessing = YAHOO,
    max_pixels: int = MAX_PIXELS,
    decode: str = EXACT,
    threads: int = 1,
) -> np.ndarray:
    """A network's input for one picture; of Yahoo's, Caffe's bit for bit.

    Args:
        picture: as for `load_rgb`.
        preprocessing: of the network.
        max_pixels: as for `load_rgb`.
        decode: of `DECODES`. "scaled", for files of large JPEGs, is approximate.
        threads: as for `pixels`.

    Returns:
        float32 (crop, crop, 3), its channels in the preprocessing's order, 0..255 minus
        the mean, times the scale; of Yahoo's (224, 224, 3), BGR, minus (104, 117, 123).

    Raises:
        ImageError: as `load_rgb`.
        ValueError: as `check_decode`.
    """
    check_decode(decode, preprocessing)
    least = None if decode == EXACT else SCALED * preprocessing.resize
    channels = pixels(load_rgb(picture, max_pixels, least), preprocessing, threads)
    if preprocessing.order == "BGR":
        channels = channels[..., ::-1]
    crop = preprocessing.crop
    # Subtracting a whole row of means takes a third of the time of three values each.
    rows = np.ascontiguousarray(channels).reshape(crop, -1) - _mean_row(preprocessing)
    if preprocessing.scale != 1:
        rows *= np.float32(preprocessing.scale)
    values: np.ndarray = rows.reshape(crop, crop, len(preprocessing.mean))
    return values


@cache
def _mean_row(preprocessing: Preprocessing) -> np.ndarray:
    """The mean, repeated for a row of pixels."""
    return np.tile(np.array(preprocessing.mean, np.float32), preprocessing.crop)


IMAGE_LOADERS = ("yahoo", "tensorflow")  # the first port's names of its loaders


def create_yahoo_image_loader(
    expand_dims: bool = True, max_pixels: int = MAX_PIXELS
) -> Callable[[Picture], np.ndarray]:
    """Make the loader of the original's ``image_utils.py``.

    Args:
        expand_dims: whether the loader adds a first axis of one.
        max_pixels: as for `load_rgb`.

    Returns:
        A function from a picture (see `load_rgb`) to float32 (1, 224, 224, 3), or
        (224, 224, 3) without `expand_dims`; BGR, 0..255 minus (104, 117, 123). It
        raises `ImageError`.

    Raises:
        ValueError: `max_pixels` is not a whole number of at least 1.
    """
    check_max_pixels(max_pixels)

    def load_image(picture: Picture) -> np.ndarray:
        loaded = tensor(picture, YAHOO, max_pixels)
        return loaded[np.newaxis] if expand_dims else loaded

    return load_image


def check_batch(batch: object, size: int = CROP) -> np.ndarray:
    """Check a batch before it goes into a network.

    Args:
        batch: an array (N, 224, 224, 3) of floats, BGR, 0..255 minus (104, 117, 123),
            or the input of another network.
        size: pixels, both sides, of the network's input.

    Returns:
        The batch as contiguous float32.

    Raises:
        TypeError: it is not an array.
        ValueError: another dtype or shape, or values that are not finite.
    """
    expected = f"expected a float32 batch (N, {size}, {size}, 3)"
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"{expected}, got {type(batch).__name__}")
    if not np.issubdtype(batch.dtype, np.floating):
        raise ValueError(
            f"{expected} from create_yahoo_image_loader, got dtype {batch.dtype}; "
            "pictures go into classify()"
        )
    if batch.ndim != 4 or batch.shape[1:] != (size, size, 3):
        raise ValueError(f"{expected}, got shape {batch.shape}")
    with np.errstate(over="ignore", invalid="ignore"):
        # A value that overflows is found as infinite below.
        batch = np.ascontiguousarray(batch, dtype=np.float32)
        # A finite sum shows that all values are finite, and takes a tenth of the time.
        total = batch.sum()
    if not np.isfinite(total) and not np.isfinite(batch).all():
        raise ValueError(f"{expected}, got values that are NaN or infinite")
    return batch
