"""Random augmentation of pictures, as TensorFlow ops.

Everything that moves pixels is one affine transform, from positions of the output to
positions of the input, so that a picture is interpolated at most once; a flip and a
crop alone copy pixels. The random numbers depend on a seed alone: a picture is
augmented in the same way in any order, thread, process or run.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_nsfw_tf.image import Preprocessing
from open_nsfw_tf.libraries import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

DRAWN = 11  # random numbers a picture, in the order in which `augment` takes them


@dataclass(frozen=True)
class Augmentation:
    """How pictures are augmented.

    Attributes:
        flip: half of the pictures are mirrored, left for right.
        crop: the crop is at a random position, not in the middle.
        scale: range of a factor by which the resized picture is made larger or smaller
            before the crop; (1, 1): not at all.
        rotation: degrees to either side, 0 to 180.
        shift: share of the height, and of the width, to either side.
        shear: radians to either side.
        zoom: each axis is scaled by a factor of its own, 1 - zoom to 1 + zoom.
        channel_shift: of 0..255, added to all channels, and clipped to the lowest and
            the highest value of the picture.

    Yahoo names "scale augmentation" without a range. He et al. (arXiv 1512.03385) make
    the short side 256 to 480 pixels. `YAHOO_SCALE` is narrower: from the whole picture
    to a scale that is not too blurred, as it enlarges the 256 pixels of the exact
    loader.

    Rotation, shift, shear, zoom and channel shift are those of Keras'
    ImageDataGenerator, with its fill mode "nearest". Shear is in radians, as it was
    when the tutorials that ask for .2 were written; since keras-team/keras pull request
    8868 (2017) it is in degrees there, of which .2 is next to nothing.

    Raises:
        ValueError: a value makes no sense.
    """

    flip: bool = True
    crop: bool = True
    scale: tuple[float, float] = (1.0, 1.0)
    rotation: float = 0.0
    shift: float = 0.0
    shear: float = 0.0
    zoom: float = 0.0
    channel_shift: float = 0.0

    def __post_init__(self) -> None:
        for name, highest in _HIGHEST.items():
            value = getattr(self, name)
            if not 0 <= value <= highest:
                raise ValueError(f"expected a {name} of 0 to {highest:g}, got {value}")
        low, high = self.scale
        if not 0.1 <= low <= high <= 10:
            raise ValueError(
                f"expected a scale from .1 or more to 10 or less, got {low} to {high}"
            )

    @property
    def moves(self) -> bool:
        """Whether pixels are interpolated, not only copied."""
        bent = self.rotation or self.shift or self.shear or self.zoom
        return bool(bent) or self.scale != (1.0, 1.0)


_HIGHEST = {
    "rotation": 180.0,
    "shift": 1.0,
    "shear": 1.5,
    "zoom": 0.9,
    "channel_shift": 255.0,
}
YAHOO_SCALE = (0.875, 1.25)  # of 256 pixels: sides of 224 to 320


def augment(
    pixels: tf.Tensor,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    seed: tf.Tensor,
) -> tf.Tensor:
    """Vary a picture and crop it.

    Args:
        pixels: uint8 or float32 (resize, resize, 3), RGB, 0..255, as `preprocessing`
            makes them.
        augmentation: what is varied, and how far.
        preprocessing: whose `resize` and `crop` are taken.
        seed: int64 (2,); the same one gives the same picture.

    Returns:
        float32 (crop, crop, 3), RGB, 0..255.
    """
    tf = import_tensorflow()
    drawn = tf.unstack(tf.random.stateless_uniform([DRAWN], seed))
    cut = _moved if augmentation.moves else _copied
    picture = cut(pixels, augmentation, preprocessing, drawn)
    if augmentation.channel_shift:
        picture = _channel_shifted(
            picture, _around(drawn[10]) * augmentation.channel_shift
        )
    if augmentation.flip:
        picture = tf.where(drawn[0] < 0.5, picture[:, ::-1], picture)
    return tf.ensure_shape(picture, (preprocessing.crop, preprocessing.crop, 3))


def _around(drawn: tf.Tensor) -> tf.Tensor:
    """From 0..1 to -1..1."""
    return 2.0 * drawn - 1.0


def _copied(
    pixels: tf.Tensor,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    drawn: list[tf.Tensor],
) -> tf.Tensor:
    tf = import_tensorflow()
    crop, room = preprocessing.crop, preprocessing.resize - preprocessing.crop
    top = left = tf.constant(room // 2)
    if augmentation.crop:
        # Uniform in 0..1, below 1: each of the room + 1 positions is as likely.
        top, left = (
            tf.minimum(tf.cast(number * (room + 1), tf.int32), room)
            for number in drawn[2:4]
        )
    return tf.cast(tf.slice(pixels, [top, left, 0], [crop, crop, 3]), tf.float32)


def _moved(
    pixels: tf.Tensor,
    augmentation: Augmentation,
    preprocessing: Preprocessing,
    drawn: list[tf.Tensor],
) -> tf.Tensor:
    tf = import_tensorflow()
    crop = preprocessing.crop
    matrix = transform(augmentation, preprocessing, drawn)
    return tf.raw_ops.ImageProjectiveTransformV3(
        images=tf.cast(pixels, tf.float32)[tf.newaxis],
        transforms=matrix[tf.newaxis],
        output_shape=[crop, crop],
        fill_value=0.0,
        interpolation="BILINEAR",
        fill_mode="NEAREST",
    )[0]


def transform(
    augmentation: Augmentation, preprocessing: Preprocessing, drawn: list[tf.Tensor]
) -> tf.Tensor:
    """Where the pixels of the crop come from.

    Args:
        augmentation: what is varied, and how far.
        preprocessing: whose `resize` and `crop` are taken.
        drawn: `DRAWN` numbers of 0..1.

    Returns:
        float32 (8,), a row of ImageProjectiveTransformV3: a0 a1 a2 b0 b1 b2 c0 c1,
        which take a position (x, y) in the crop to one in the resized picture.
    """
    tf = import_tensorflow()
    _, scaled, down, right, turn, *shifts, shear, high, wide, _ = drawn
    side, middle = preprocessing.resize, (preprocessing.resize - 1) / 2
    # Keras' order, in rows and columns about the middle of the picture: rotation @
    # shift @ shear @ zoom.
    angle = _around(turn) * math.radians(augmentation.rotation)
    slant = _around(shear) * augmentation.shear
    rows, columns = (_around(number) * augmentation.shift * side for number in shifts)
    zooms = [1.0 + _around(number) * augmentation.zoom for number in (high, wide)]
    cos, sin = tf.cos(angle), tf.sin(angle)
    bent = [[1.0, -tf.sin(slant)], [0.0, tf.cos(slant)]]
    turned = tf.stack([tf.stack([cos, -sin]), tf.stack([sin, cos])])
    linear = turned @ tf.convert_to_tensor(bent) * tf.stack(zooms)
    # The crop's position in the scaled picture, then in the resized one.
    low, highest = augmentation.scale
    factor = low + (highest - low) * scaled
    room = tf.maximum(side * factor - preprocessing.crop, 0.0)
    if not augmentation.crop:
        origin = tf.stack([tf.floor(room / 2)] * 2)
    elif low == highest == 1:  # whole pixels
        origin = tf.minimum(tf.floor(tf.stack([down, right]) * (room + 1)), room)
    else:
        origin = tf.stack([down, right]) * room
    start = (origin + 0.5) / factor - 0.5 - middle
    offset = middle + tf.linalg.matvec(turned, tf.stack([rows, columns]))
    offset += tf.linalg.matvec(linear, start)
    (yy, yx), (xy, xx) = (tf.unstack(row) for row in tf.unstack(linear / factor))
    y, x = tf.unstack(offset)
    return tf.stack([xx, xy, x, yx, yy, y, 0.0, 0.0])


def _channel_shifted(picture: tf.Tensor, by: tf.Tensor) -> tf.Tensor:
    tf = import_tensorflow()
    low, high = tf.reduce_min(picture), tf.reduce_max(picture)
    return tf.clip_by_value(picture + by, low, high)
