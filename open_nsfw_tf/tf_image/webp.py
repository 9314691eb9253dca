"""The header of a WebP, refused where its chunks do not fit together."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from open_nsfw_tf.tf_image.header import (
    BYTES,
    PADDING,
    Header,
    as_numbers,
    code_of,
    read_number,
    starts_with,
    walk_chunks,
)

WEBP_FLAGS = 0x3E  # of VP8X: the bits that are defined


def webp_header(data: tf.Tensor, raw: tf.Tensor) -> Header:
    """Read the size from the first chunk, which is one of three kinds."""
    packed = read_number(raw, 21, 4)  # lossless: 14 bits each, less one
    sizes = {
        b"VP8X": (read_number(raw, 24, 3) + 1, read_number(raw, 27, 3) + 1),
        b"VP8L": (packed % 2**14 + 1, packed // 2**14 % 2**14 + 1),
        b"VP8 ": (read_number(raw, 26, 2) % 2**14, read_number(raw, 28, 2) % 2**14),
    }
    found = [tf.cast(starts_with(chunk, at=12)(raw), tf.int64) for chunk in sizes]
    sides = tf.stack(found)[:, None] * tf.stack([tf.stack(x) for x in sizes.values()])
    width, height = tf.unstack(tf.reduce_sum(sides, axis=0))
    refusal, still = _still_webp(data, raw, width, height)
    # Flag bits of VP8X: 2 animation, 16 alpha. TensorFlow 2.21 writes animations as
    # RGBA into memory that it allocates for RGB: a heap overflow without the alpha bit.
    flags = tf.cast(raw[20], tf.int32)
    animated = (found[0] > 0) & tf.equal(flags & 2, 2)
    opaque_animation = animated & tf.equal(flags & 16, 0)
    patched = tf.strings.join(
        [
            tf.strings.substr(data, 0, 20),
            tf.gather(BYTES, flags | 16),
            tf.strings.substr(data, tf.minimum(21, tf.strings.length(data)), -1),
        ]
    )
    data = tf.where(opaque_animation, patched, tf.where(animated, data, still))
    return Header(width, height, tf.where(animated, "", refusal), data)


def _still_webp(
    data: tf.Tensor, raw: tf.Tensor, width: tf.Tensor, height: tf.Tensor
) -> tuple[tf.Tensor, tf.Tensor]:
    """Check a WebP without animation, chunk by chunk, as Pillow's decoder does.

    TensorFlow reads animations with the same decoder as Pillow; but of a still picture
    only the first chunks, and if they are damaged, it continues with those behind.

    Args:
        data: the file.
        raw: its bytes.
        width: of its canvas.
        height: of its canvas.

    Returns:
        A reason to refuse it, or "", and a WebP with only the picture's chunks.
    """
    size = tf.cast(tf.size(raw) - PADDING, tf.int64)
    end = 8 + read_number(raw, 4, 4)

    def length(at: Any) -> tf.Tensor:
        return read_number(raw, at + 4, 4)

    chunks, last = walk_chunks(
        tf.minimum(end, size), 12, lambda at: at + 8 + (length(at) + 1) // 2 * 2
    )
    heads = tf.ensure_shape(tf.gather(raw, chunks[:, None] + np.arange(18)), (None, 18))
    names, sizes = (
        as_numbers(heads[:, :4], "big"),
        (as_numbers(heads[:, 4:8]) + 1) // 2 * 2,
    )
    extended, alpha, lossy, lossless, frame, animation = (
        tf.equal(names, code_of(name))
        for name in (b"VP8X", b"ALPH", b"VP8 ", b"VP8L", b"ANMF", b"ANIM")
    )
    picture = lossy | lossless
    count = [
        tf.reduce_sum(tf.cast(kind, tf.int32)) for kind in (extended, alpha, picture)
    ]
    is_extended = tf.reduce_any(extended[:1])
    broken = tf.not_equal(last, end) | tf.not_equal(count[2], 1)
    broken |= end > size
    broken |= (count[0] > 1) | (tf.equal(count[0], 1) & ~is_extended) | (count[1] > 1)
    broken |= tf.reduce_any(frame | animation)
    # Alpha is followed by the lossy picture that it belongs to.
    broken |= tf.reduce_any(alpha[:-1] & ~lossy[1:]) | tf.reduce_any(alpha[-1:])
    flags = tf.cast(raw[20], tf.int32)
    broken |= is_extended & (
        tf.not_equal(tf.bitwise.bitwise_and(flags, 255 - WEBP_FLAGS), 0)
        | (length(tf.constant(12, tf.int64)) < 10)
        | tf.reduce_any(_webp_sides(heads, picture) != tf.stack([width, height]))
    )
    used = tf.boolean_mask(
        tf.stack([chunks, sizes + 8], axis=1), extended | alpha | picture
    )
    parts = tf.map_fn(
        lambda part: tf.strings.substr(data, part[0], part[1]),
        used,
        fn_output_signature=tf.string,
    )
    body = tf.strings.join([b"WEBP", tf.strings.reduce_join(parts)])
    steps = tf.constant([256**step for step in range(4)], tf.int64)
    total = tf.cast(tf.strings.length(body), tf.int64) // steps % 256
    total = tf.strings.reduce_join(tf.gather(BYTES, total))
    reason = tf.where(
        broken, "truncated or damaged WebP: its chunks do not fit together", ""
    )
    return reason, tf.strings.join([b"RIFF", total, body])


def _webp_sides(heads: tf.Tensor, picture: tf.Tensor) -> tf.Tensor:
    """Width and height in the picture's own chunk: int64 (2,)."""
    head = tf.concat([tf.boolean_mask(heads, picture), tf.zeros((1, 18), tf.uint8)], 0)[
        0
    ]
    packed = as_numbers(head[9:13])
    lossless = tf.stack([packed % 2**14 + 1, packed // 2**14 % 2**14 + 1])
    lossy = tf.stack([as_numbers(head[14:16]), as_numbers(head[16:18])]) % 2**14
    return tf.where(tf.equal(head[3], ord("L")), lossless, lossy)


def is_webp(raw: tf.Tensor) -> tf.Tensor:
    """Whether a file's bytes, a string (), begin as WebP's do: bool ()."""
    return starts_with(b"RIFF")(raw) & starts_with(b"WEBP", at=8)(raw)
