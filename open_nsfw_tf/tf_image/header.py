"""Reading the headers of picture files by TensorFlow ops: what all formats share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

MAX_BLOCKS = 16_384  # JPEG segments or GIF blocks that are read, about 40 us each
PADDING = 1024  # zero bytes appended to the file, so that no header is cut
BYTES = [bytes([byte]) for byte in range(256)]


class Header(NamedTuple):
    """A picture's header: sizes are int64 scalars, `refusal` is "" for a good one."""

    width: tf.Tensor
    height: tf.Tensor
    refusal: tf.Tensor
    data: tf.Tensor  # the bytes to decode


def refuse(*rules: tuple[Any, Any]) -> tf.Tensor:
    """Return the text of the first rule whose condition holds, else ""."""
    text = tf.constant("")
    for condition, reason in reversed(rules):
        text = tf.where(condition, reason, text)
    return text


def starts_with(magic: bytes, at: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a test whether these bytes stand at the offset."""

    return lambda raw: tf.reduce_all(tf.equal(raw[at : at + len(magic)], list(magic)))


def read_number(raw: tf.Tensor, at: Any, size: int, order: str = "little") -> tf.Tensor:
    """Return the unsigned integer of `size` bytes at an offset, as int64."""
    return as_numbers(tf.ensure_shape(raw[at : at + size], (size,)), order)


def as_numbers(digits: tf.Tensor, order: str = "little") -> tf.Tensor:
    """Return the unsigned integers of bytes in the last axis, as int64."""
    steps = range(digits.shape[-1])
    weights = [256**step for step in (steps if order == "little" else reversed(steps))]
    return tf.reduce_sum(
        tf.cast(digits, tf.int64) * tf.constant(weights, tf.int64), axis=-1
    )


def code_of(name: bytes) -> int:
    """The number that `as_numbers` makes of a chunk's name, big end first."""
    return int.from_bytes(name, "big")


def is_one_of(values: tf.Tensor, codes: tuple[int, ...]) -> tf.Tensor:
    """Which of these bytes are among the codes."""
    values = tf.minimum(tf.cast(values, tf.int32), 255)
    return tf.gather([code in codes for code in range(256)], values)


def until(found: tf.Tensor) -> tf.Tensor:
    """Which elements come before the first true one."""
    return tf.equal(tf.cumsum(tf.cast(found, tf.int32)), 0)


def walk_chunks(
    end: tf.Tensor, start: int, after: Callable[[Any], tf.Tensor]
) -> tuple[tf.Tensor, tf.Tensor]:
    """Go through the chunks of a PNG or WebP, as long as there is a whole header.

    Args:
        end: of the file, int64.
        start: the offset of the first chunk.
        after: gives the offset behind the chunk at an offset.

    Returns:
        The chunks' offsets, int64 (n,), and the offset behind the last one.
    """
    walked = tf.TensorArray(tf.int64, 16, dynamic_size=True, element_shape=())
    at, walked, count = tf.while_loop(
        lambda at, *_: at + 8 <= end,
        lambda at, walked, count: (after(at), walked.write(count, at), count + 1),
        (tf.constant(start, tf.int64), walked, tf.constant(0)),
        maximum_iterations=MAX_BLOCKS,
    )
    return walked.stack()[:count], at


def attempt(
    function: Callable[[tf.Tensor], tf.Tensor], data: tf.Tensor, otherwise: tf.Tensor
) -> tf.Tensor:
    """Return function(data), or `otherwise` where its op fails.

    A graph has no `try`; a dataset of one element that ignores errors takes its place.
    """
    tried = tf.data.Dataset.from_tensors(data).map(function).ignore_errors()
    fallback = tf.data.Dataset.from_tensors(otherwise)
    return tried.concatenate(fallback).take(1).get_single_element()
