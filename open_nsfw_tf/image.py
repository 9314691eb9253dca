"""The exact Yahoo loader: any picture to the tensor that Caffe saw, bit for bit.

Yahoo's ``classify_nsfw.py`` (yahoo/open_nsfw) converts to RGB, resizes to 256 x 256
with Pillow's bilinear filter, saves as JPEG, decodes that, crops 224 x 224 from the
middle, swaps to BGR and takes off the mean. Every step changes scores; none is left
out here. Alpha is dropped, EXIF orientation ignored, the first frame of an animation
taken - as in the original.
"""

from collections.abc import Callable
from io import BytesIO

import numpy as np
from PIL import Image

from open_nsfw_tf.picture import (
    MAX_PIXELS,
    ImageError,
    Picture,
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
    "read_file",
    "yahoo_pixels",
    "yahoo_tensor",
]

RESIZE = 256  # pixels, both sides; Yahoo's resize before the crop
CROP = 224  # pixels, both sides; the network's input
OFFSET = (RESIZE - CROP) // 2  # pixels
MEAN_BGR = (104.0, 117.0, 123.0)  # of 0..255, Yahoo's training mean
MEAN_ROW = np.tile(np.array(MEAN_BGR, np.float32), CROP)  # of one row of pixels


def yahoo_pixels(image: Image.Image) -> np.ndarray:
    """Yahoo's resize, JPEG round trip and crop.

    Args:
        image: of mode RGB, any size.

    Returns:
        uint8 (224, 224, 3), RGB, 0..255.
    """
    # Two calls, one axis each, horizontal first: what Pillow did in one call until
    # version 13, which starts with the vertical axis for some tall pictures.
    resized = image.resize((RESIZE, image.height), Image.Resampling.BILINEAR)
    resized = resized.resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
    resized.info.clear()  # or a comment of the source would be written into the JPEG
    file = BytesIO()
    resized.save(file, format="JPEG")  # quality 75, 4:2:0: Pillow's defaults
    with Image.open(file, formats=("JPEG",)) as jpeg:
        pixels = np.asarray(jpeg)
    return pixels[OFFSET : OFFSET + CROP, OFFSET : OFFSET + CROP]


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
    pixels = yahoo_pixels(load_rgb(picture, max_pixels))
    # Row by row, which takes a third of the time of three values at a time.
    rows = np.ascontiguousarray(pixels[..., ::-1]).reshape(CROP, -1)
    tensor: np.ndarray = rows - MEAN_ROW
    return tensor.reshape(CROP, CROP, len(MEAN_BGR))


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
        tensor = yahoo_tensor(picture, max_pixels)
        return tensor[np.newaxis] if expand_dims else tensor

    return load_image


def check_batch(batch: object) -> np.ndarray:
    """Hold a batch against the network's input.

    Args:
        batch: an array (N, 224, 224, 3) of floats, BGR, 0..255 minus (104, 117, 123).

    Returns:
        The same as contiguous float32.

    Raises:
        TypeError: it is no array.
        ValueError: another dtype or shape, or values that are not finite.
    """
    expected = f"expected a float32 batch (N, {CROP}, {CROP}, 3)"
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"{expected}, got {type(batch).__name__}")
    if not np.issubdtype(batch.dtype, np.floating):
        raise ValueError(
            f"{expected} from create_yahoo_image_loader, got dtype {batch.dtype}; "
            "pictures go into classify()"
        )
    if batch.ndim != 4 or batch.shape[1:] != (CROP, CROP, 3):
        raise ValueError(f"{expected}, got shape {batch.shape}")
    with np.errstate(over="ignore"):  # what overflows is caught as infinite
        batch = np.ascontiguousarray(batch, dtype=np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        total = batch.sum()  # finite only if all values are, and ten times as fast
    if not np.isfinite(total) and not np.isfinite(batch).all():
        raise ValueError(f"{expected}, got values that are NaN or infinite")
    return batch
