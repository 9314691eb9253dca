"""Yahoo's preprocessing as TensorFlow ops, with the same results as Pillow.

`loader` has the loaders. `decode` decodes files to Pillow's pixels, and has the rules
for GIF and BMP; those for other formats are in `jpeg`, `png` and `webp`, and `header`
has what all of them share. `resize` is Pillow's bilinear filter. TensorFlow is imported
when a loader runs, not with this package.
"""

from open_nsfw_tf.tf_image.loader import (
    create_tensorflow_image_loader,
    error_reason,
    load_base64_tensor,
    load_bytes_tensor,
    require_finite,
)

__all__ = [
    "create_tensorflow_image_loader",
    "error_reason",
    "load_base64_tensor",
    "load_bytes_tensor",
    "require_finite",
]
