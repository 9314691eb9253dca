"""Pictures varied by chance, as TensorFlow ops: what is seen twice differs.

All that moves pixels is one affine transform, from places of the output to places of the
input, so that a picture is interpolated at most once; where nothing but a flip and a crop
is asked for, pixels are copied. The chance comes from a seed alone, so that a picture is
varied the same way in whatever order, thread, process or run it is seen.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.image import Preprocessing

if TYPE_CHECKING:
    import tensorflow as tf

DRAWN = 11  # random numbers a picture, in the order in which `augment` takes them


@dataclass(frozen=True)
class Augmentation:
    """How pictures are varied.

    Attributes:
        flip: half of the pictures are mirrored, left for right.
        crop: the crop is taken anywhere, not from the middle.
        scale: range of a factor by which the resized picture is made larger or smaller
            before the crop; (1, 1): not at all.
        rotation: degrees to either side, 0 to 180.
        shift: share of the height, and of the width, to either side.
        shear: radians to either side.
        zoom: each axis is made larger or smaller by 1 - zoom to 1 + zoom, for itself.
        channel_shift: of 0..255, added to all channels, and clipped to the lowest and the
            highest value of the picture.

    Yahoo names "scale augmentation" without a range. He et al. (arXiv 1512.03385) make
    the short side 256 to 480 pixels. `YAHOO_SCALE` is narrower: the whole picture at one
    end, and at the other what is not too blurred yet, as the pixels that are enlarged
    here are those of the exact loader, which has 256 of them.

    Rotation, shift, shear, zoom and channel shift are those of Keras' ImageDataGenerator,
    with its fill mode "nearest". Shear is in radians, as it was when the tutorials that
    ask for .2 were written; since keras-team/keras pull request 8868 (2017) it is in
    degrees there, of which .2 is next to nothing.

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
        pixels: uint8 (resize, resize, 3), RGB, 0..255, as `preprocessing` makes them.
        augmentation: how.
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
    """A number of 0..1 as one of -1..1."""
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
        # Of 0..1, below 1: each of the room + 1 places is as likely.
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
        augmentation: how pictures are varied.
        preprocessing: whose `resize` and `crop` are taken.
        drawn: `DRAWN` numbers of 0..1.

    Returns:
        float32 (8,), a row of ImageProjectiveTransformV3: a0 a1 a2 b0 b1 b2 c0 c1, which
        take a place (x, y) of the crop to one of the resized picture.
    """
    tf = import_tensorflow()
    _, scaled, down, right, turn, *shifts, shear, high, wide, _ = drawn
    side, middle = preprocessing.resize, (preprocessing.resize - 1) / 2
    # Keras' order, in rows and columns about the middle of the picture: rotation @ shift
    # @ shear @ zoom.
    angle = _around(turn) * math.radians(augmentation.rotation)
    slant = _around(shear) * augmentation.shear
    rows, columns = (_around(number) * augmentation.shift * side for number in shifts)
    zooms = [1.0 + _around(number) * augmentation.zoom for number in (high, wide)]
    cos, sin = tf.cos(angle), tf.sin(angle)
    bent = [[1.0, -tf.sin(slant)], [0.0, tf.cos(slant)]]
    turned = tf.stack([tf.stack([cos, -sin]), tf.stack([sin, cos])])
    linear = turned @ tf.convert_to_tensor(bent) * tf.stack(zooms)
    # The crop lies in the scaled picture; its place there, and that in the resized one.
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
