"""The bilinear resizes of `open_nsfw_tf.image` as TensorFlow ops, bit for bit.

Source of `resize`: the Resample.c of Pillow, which computes in fixed point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.libraries import import_tensorflow

if TYPE_CHECKING:
    import tensorflow as tf

PRECISION_BITS = 22  # of a resampling weight: Pillow's 32 - 8 - 2
LOW_BITS = 7  # the low bits of a weight, which go into the second matmul
COLUMNS = 8  # adjacent outputs that share one slice of the input


def max_side(side: int) -> int:
    """The longest input side, in pixels, up to which the sums of `resize` are exact."""
    return 512 * side


def resize(picture: tf.Tensor, side: int) -> tf.Tensor:
    """Resize to (side, side, 3), first the width, then the height, as Pillow does.

    Pillow sums integers. Here two float32 matmuls do that, with the high and the low
    bits of the weights; no partial sum needs more than 24 bits, so the sums are exact
    in any order. Adjacent outputs share a slice of the input, because each needs few
    taps.

    Args:
        picture: uint8 (H, W, 3).
        side: of the result, pixels; the sides of `picture` are at most
            `max_side(side)`.

    Returns:
        uint8 (side, side, 3).
    """
    tf = import_tensorflow()

    groups = -(-side // COLUMNS)
    height, width = tf.unstack(tf.shape(picture)[:2])
    rows = tf.reshape(picture, (height, 3 * width))
    starts, weights = _weights(width, side)
    # The channels are interleaved, so the weights are spread over pairs of channels.
    weights = tf.einsum("got,cd->gtcod", weights, tf.eye(3))
    weights = tf.reshape(weights, (groups, -1, 2 * COLUMNS * 3))
    slices = _slices(rows, 3 * starts, tf.shape(weights)[1], axis=1)
    sums = map(tf.matmul, slices, tf.unstack(weights))
    narrow = tf.stack([_round(part, axis=1) for part in sums], axis=1)

    rows = tf.reshape(narrow, (height, groups * COLUMNS * 3))[:, : 3 * side]
    starts, weights = _weights(height, side)
    slices = _slices(rows, starts, tf.shape(weights)[2], axis=0)
    sums = map(tf.matmul, tf.unstack(weights), slices)
    small = tf.stack([_round(part, axis=0) for part in sums])
    return tf.reshape(small, (groups * COLUMNS, side, 3))[:side]


def resize_aligned(picture: tf.Tensor, side: int) -> tf.Tensor:
    """Resize with aligned corners, as `open_nsfw_tf.image.pixels` does, bit for bit.

    Args:
        picture: uint8 (H, W, 3).
        side: of the result, pixels.

    Returns:
        float32 (side, side, 3), 0..255, not rounded.
    """
    tf = import_tensorflow()

    height, width = tf.unstack(tf.shape(picture)[:2])
    top, bottom, down = _neighbours(height, side)
    left, right, along = _neighbours(width, side)

    def row(rows: Any) -> Any:
        pixels = tf.gather(picture, rows)
        start, end = (
            tf.cast(tf.gather(pixels, columns, axis=1), tf.float64)
            for columns in (left, right)
        )
        return start + (end - start) * along[:, tf.newaxis]

    upper, lower = row(top), row(bottom)
    mixed = upper + (lower - upper) * down[:, tf.newaxis, tf.newaxis]
    return tf.cast(mixed, tf.float32)


def _neighbours(size: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """The pixels before and after each new one, and the share of the one after."""
    tf = import_tensorflow()

    steps = max(side - 1, 1)
    at = tf.range(side) * (size - 1)
    before, rest = at // steps, tf.cast(at % steps, tf.float64)
    return before, tf.minimum(before + 1, size - 1), rest * (1 / steps)


def _slices(
    rows: tf.Tensor, starts: tf.Tensor, size: tf.Tensor, axis: int
) -> list[tf.Tensor]:
    """Return the float32 slices of a matrix that begin at each of the starts."""
    tf = import_tensorflow()

    along = [axis == 0, axis == 1]
    begins = tf.unstack(tf.where(along, starts[:, None], 0))
    shape = tf.where(along, size, tf.shape(rows))
    return [tf.cast(tf.slice(rows, begin, shape), tf.float32) for begin in begins]


def _round(sums: tf.Tensor, axis: int) -> tf.Tensor:
    """Join the high and the low sums, the two halves of an axis, to rounded uint8."""
    tf = import_tensorflow()

    high, low = tf.split(sums, 2, axis=axis)
    high_bits = PRECISION_BITS - LOW_BITS
    half = 2.0 ** (high_bits - 1)
    return tf.cast((high + tf.floor(low) + half) * 2.0**-high_bits, tf.uint8)


def _weights(size: tf.Tensor, side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Return Pillow's bilinear weights from `size` to `side` pixels.

    Returns:
        int32 (groups,), the first input pixel of each group of outputs; and float32
        (groups, 2 * COLUMNS, taps), for each group the high parts of its outputs'
        weights, then the low ones, both in units of the lowest high bit. The last group
        is filled by repeating the last output.
    """
    tf = import_tensorflow()

    scale = tf.cast(size, tf.float64) / side
    support = tf.maximum(scale, 1.0)
    groups = -(-side // COLUMNS)
    outputs = np.minimum(np.arange(groups * COLUMNS), side - 1)
    centers = tf.constant(outputs + 0.5, tf.float64) * scale
    lows = tf.maximum(tf.cast(centers - support + 0.5, tf.int32), 0)
    highs = tf.minimum(tf.cast(centers + support + 0.5, tf.int32), size)
    taps = tf.reduce_max(highs[COLUMNS - 1 :: COLUMNS] - lows[::COLUMNS])
    starts = tf.minimum(lows[::COLUMNS], size - taps)

    inputs = tf.repeat(starts, COLUMNS)[:, None] + tf.range(taps)
    offsets = tf.cast(inputs, tf.float64) - centers[:, None] + 0.5
    triangle = tf.maximum(1.0 - tf.abs(offsets * (1.0 / support)), 0.0)
    used = (inputs >= lows[:, None]) & (inputs < highs[:, None])
    triangle = tf.where(used, triangle, 0.0)
    # Not reduce_sum: the last bit of the sum depends on Pillow's order, one by one.
    total = tf.cumsum(triangle, axis=1)[:, -1:]
    whole = tf.floor(triangle / total * 2.0**PRECISION_BITS + 0.5) * 2.0**-LOW_BITS
    parts = tf.stack([tf.round(whole), whole - tf.round(whole)], axis=1)
    parts = tf.reshape(parts, (groups, COLUMNS, 2, taps))
    parts = tf.reshape(tf.transpose(parts, (0, 2, 1, 3)), (groups, 2 * COLUMNS, taps))
    return starts, tf.cast(parts, tf.float32)
