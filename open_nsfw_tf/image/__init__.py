"""From a picture of any kind to the network's exact input: bytes -> RGB -> float32.

Yahoo's ``classify_nsfw.py`` (yahoo/open_nsfw) converts to RGB, resizes to 256 x 256
with Pillow's bilinear filter, saves as JPEG, decodes that, crops 224 x 224 from the
middle, swaps to BGR and subtracts the mean. Every step changes scores, so none is left
out. As in the original, alpha is dropped, EXIF orientation is ignored, and the first
frame of an animation is used. Networks with other preprocessing share the code.

`decode` opens pictures, and `preprocessing` makes the network's input of them.
"""

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image.decode import (
    MAX_PIXELS,
    PICTURE_FORMATS,
    Picture,
    check_max_pixels,
    decoding,
    describe,
    identify,
    is_heif,
    load_rgb,
    naming,
    read_file,
)
from open_nsfw_tf.image.preprocessing import (
    CROP,
    DECODES,
    EXACT,
    IMAGE_LOADERS,
    LARGEST,
    MEAN_BGR,
    YAHOO,
    Preprocessing,
    check_batch,
    check_decode,
    create_yahoo_image_loader,
    pixels,
    tensor,
)

__all__ = [
    "CROP",
    "DECODES",
    "EXACT",
    "IMAGE_LOADERS",
    "LARGEST",
    "MAX_PIXELS",
    "MEAN_BGR",
    "PICTURE_FORMATS",
    "YAHOO",
    "ImageError",
    "Picture",
    "Preprocessing",
    "check_batch",
    "check_decode",
    "check_max_pixels",
    "create_yahoo_image_loader",
    "decoding",
    "describe",
    "identify",
    "is_heif",
    "load_rgb",
    "naming",
    "pixels",
    "read_file",
    "tensor",
]
