"""The exact Yahoo loader: any picture to the tensor that Caffe saw, bit for bit.

Yahoo's ``classify_nsfw.py`` (yahoo/open_nsfw) converts to RGB, resizes to 256 x 256
with Pillow's bilinear filter, saves as JPEG, decodes that, crops 224 x 224 from the
middle, swaps to BGR and takes off the mean. Every step changes scores; none is left
out here. Alpha is dropped, EXIF orientation ignored, the first frame of an animation
taken - as in the original. Networks of other preprocessing share the code.
"""

from collections.abc import Callable
from functools import cache
from io import BytesIO

import numpy as np
from PIL import Image

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import (
    MAX_PIXELS,
    YAHOO,
    Picture,
    Preprocessing,
    check_max_pixels,
    describe,
    load_rgb,
    read_file,
)

__all__ = [
    "CROP",
    "MAX_PIXELS",
    "MEAN_BGR",
    "RESIZE",
    "ImageError",
    "Picture",
    "check_batch",
    "create_yahoo_image_loader",
    "describe",
    "load_rgb",
    "pixels",
    "read_file",
    "tensor",
    "yahoo_pixels",
    "yahoo_tensor",
]

RESIZE = YAHOO.resize  # pixels, both sides; before the crop
CROP = YAHOO.crop  # pixels, both sides; the network's input
OFFSET = (RESIZE - CROP) // 2  # pixels
MEAN_BGR = YAHOO.mean  # of 0..255


def pixels(image: Image.Image, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels that a network sees: resize, perhaps a JPEG round trip, and crop.

    Args:
        image: of mode RGB, any size.
        preprocessing: of the network.

    Returns:
        uint8 (crop, crop, 3), RGB, 0..255.
    """
    side, crop = preprocessing.resize, preprocessing.crop
    # Two calls, one axis each, horizontal first: what Pillow did in one call until
    # version 13, which starts with the vertical axis for some tall pictures.
    resized = image.resize((side, image.height), Image.Resampling.BILINEAR)
    resized = resized.resize((side, side), Image.Resampling.BILINEAR)
    whole = _through_jpeg(resized) if preprocessing.jpeg else np.asarray(resized)
    edge = (side - crop) // 2
    return whole[edge : edge + crop, edge : edge + crop]


def _through_jpeg(image: Image.Image) -> np.ndarray:
    image.info.clear()  # or a comment of the source would be written into the JPEG
    file = BytesIO()
    image.save(file, format="JPEG")  # quality 75, 4:2:0: Pillow's defaults
    with Image.open(file, formats=("JPEG",)) as jpeg:
        return np.asarray(jpeg)


def tensor(
    picture: Picture, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A network's input for one picture.

    Args:
        picture: as for `load_rgb`.
        preprocessing: of the network.
        max_pixels: as for `load_rgb`.

    Returns:
        float32 (crop, crop, 3), its channels in the preprocessing's order, 0..255 minus
        the mean, times the scale.

    Raises:
        ImageError: as `load_rgb`.
    """
    seen = pixels(load_rgb(picture, max_pixels), preprocessing)
    if preprocessing.order == "BGR":
        seen = seen[..., ::-1]
    crop = preprocessing.crop
    # Row by row, which takes a third of the time of three values at a time.
    rows = np.ascontiguousarray(seen).reshape(crop, -1) - _mean_row(preprocessing)
    if preprocessing.scale != 1:
        rows *= np.float32(preprocessing.scale)
    made: np.ndarray = rows.reshape(crop, crop, len(preprocessing.mean))
    return made


@cache
def _mean_row(preprocessing: Preprocessing) -> np.ndarray:
    """The mean of one row of pixels."""
    return np.tile(np.array(preprocessing.mean, np.float32), preprocessing.crop)


def yahoo_pixels(image: Image.Image) -> np.ndarray:
    """Yahoo's resize, JPEG round trip and crop.

    Args:
        image: of mode RGB, any size.

    Returns:
        uint8 (224, 224, 3), RGB, 0..255.
    """
    return pixels(image, YAHOO)


def yahoo_tensor(picture: Picture, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The network's input for one picture, equal to Caffe's bit for bit.

    Args:
        picture: as for `load_rgb`.
        max_pixels: as for `load_rgb`.

    Returns:
        float32 (224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        ImageError: as `load_rgb`.
    """
    return tensor(picture, YAHOO, max_pixels)


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
        loaded = yahoo_tensor(picture, max_pixels)
        return loaded[np.newaxis] if expand_dims else loaded

    return load_image


def check_batch(batch: object, size: int = CROP) -> np.ndarray:
    """Hold a batch against a network's input.

    Args:
        batch: an array (N, 224, 224, 3) of floats, BGR, 0..255 minus (104, 117, 123), or
            what another network takes.
        size: pixels, both sides, that the network takes.

    Returns:
        The same as contiguous float32.

    Raises:
        TypeError: it is no array.
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
    with np.errstate(over="ignore"):  # what overflows is caught as infinite
        batch = np.ascontiguousarray(batch, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        total = batch.sum()  # finite only if all values are, and ten times as fast
    if not np.isfinite(total) and not np.isfinite(batch).all():
        raise ValueError(f"{expected}, got values that are NaN or infinite")
    return batch
