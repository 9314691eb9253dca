"""The header of a PNG, refused where Pillow refuses its metadata; its pixels."""

from __future__ import annotations

from typing import Any

import numpy as np
import tensorflow as tf

from open_nsfw_tf.tf_image.header import (
    BYTES,
    MAX_BLOCKS,
    PADDING,
    Header,
    as_numbers,
    attempt,
    code_of,
    read_number,
    refuse,
    until,
    walk_chunks,
)

# Chunks of metadata that Pillow reads, and fails at if they are too short: the name,
# and the bytes that it must have. TensorFlow skips all of them.
PNG_CHUNKS = {
    b"IHDR": 13,
    b"gAMA": 4,
    b"cHRM": 32,
    b"sRGB": 1,
    b"pHYs": 9,
    b"acTL": 8,
    b"fcTL": 26,
    b"fdAT": 4,
}
PNG_TRANSPARENCY = {0: 2, 2: 6}  # bytes of tRNS, by the kind of colour
PNG_KEYWORD = 80  # bytes of the longest keyword and the zero behind it
PNG_TEXT = 1 << 26  # bytes of text that Pillow reads at most
GZIP = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # the header of a gzip file
STORED = 65_535  # bytes at most in a block that deflate stores without compression


def png_header(data: tf.Tensor, raw: tf.Tensor) -> Header:
    """Refuse broken chunks of metadata, which TensorFlow skips and Pillow does not."""
    width, height = (read_number(raw, at, 4, "big") for at in (16, 20))
    end = tf.cast(tf.size(raw) - PADDING, tf.int64)

    def after(at: Any) -> tf.Tensor:
        last = tf.reduce_all(tf.equal(raw[at + 4 : at + 8], list(b"IEND")))
        return tf.where(last, end, at + 12 + read_number(raw, at, 4, "big"))

    chunks, _ = walk_chunks(end, 8, after)
    heads = tf.ensure_shape(tf.gather(raw, chunks[:, None] + np.arange(8)), (None, 8))
    sizes, names = as_numbers(heads[:, :4], "big"), as_numbers(heads[:, 4:], "big")
    header = until(tf.equal(names, code_of(b"IDAT")))
    contents = tf.gather(
        raw, tf.minimum(chunks[:, None] + 8 + np.arange(PNG_KEYWORD + 2), end)
    )
    broken = chunks + 8 + sizes > end
    for name, least in PNG_CHUNKS.items():
        broken |= tf.equal(names, code_of(name)) & (sizes < least)
    for colour, least in PNG_TRANSPARENCY.items():
        broken |= tf.equal(names, code_of(b"tRNS")) & (
            tf.equal(raw[25], colour) & (sizes < least)
        )
    broken |= _is_broken_text(names, sizes, contents)
    frames = names, contents, header
    refusal = refuse(
        (tf.size(chunks) >= MAX_BLOCKS, f"a PNG of more than {MAX_BLOCKS} chunks"),
        (tf.reduce_any(broken), "truncated or damaged PNG: a broken chunk"),
        (_has_broken_frames(*frames, width, height), "damaged PNG: broken animation"),
        (
            ~_has_checksums(data, raw, chunks, sizes, header),
            "damaged PNG: a wrong checksum of metadata",
        ),
    )
    return Header(width, height, refusal, data)


def _is_broken_text(
    names: tf.Tensor, sizes: tf.Tensor, contents: tf.Tensor
) -> tf.Tensor:
    """Which chunks have an unknown compression method; all, if there is too much text.

    Such a chunk has a keyword, a zero byte, the method, which must be 0, and the data.
    """
    inside = np.arange(PNG_KEYWORD) < sizes[:, None]
    zeros = tf.equal(contents[:, :PNG_KEYWORD], 0) & inside
    ended, zero = tf.reduce_any(zeros, axis=1), tf.argmax(zeros, axis=1)
    method = tf.gather(contents, zero + 1, axis=1, batch_dims=1)
    more = zero + 1 < sizes
    wrong = tf.equal(names, code_of(b"iCCP")) & ~(ended & more & tf.equal(method, 0))
    wrong |= tf.equal(names, code_of(b"zTXt")) & (
        (ended & more & tf.not_equal(method, 0)) | (~ended & (sizes >= PNG_KEYWORD))
    )
    text = tf.where(tf.equal(names, code_of(b"tEXt")), sizes, 0)
    return wrong | (tf.reduce_sum(text) > PNG_TEXT)


def _has_broken_frames(
    names: tf.Tensor,
    contents: tf.Tensor,
    header: tf.Tensor,
    width: tf.Tensor,
    height: tf.Tensor,
) -> tf.Tensor:
    """Whether frames of an animation are out of order, or not within the picture.

    The frame that is declared before the picture's data is the picture itself, so it
    must have its size.
    """
    control = tf.equal(names, code_of(b"fcTL"))
    frames = control | tf.equal(names, code_of(b"fdAT"))
    numbers = as_numbers(tf.boolean_mask(contents, frames)[:, :4], "big")
    expected = tf.range(tf.size(numbers, out_type=tf.int64))
    broken = tf.reduce_any(tf.not_equal(numbers, expected))
    broken |= tf.reduce_any(tf.boolean_mask(~control, frames)[:1])
    broken |= tf.reduce_any(frames & ~control & header)
    wide, high, left, top = (
        as_numbers(contents[:, at : at + 4], "big") for at in (4, 8, 12, 16)
    )
    fills = tf.equal(left + top, 0) & tf.equal(wide, width) & tf.equal(high, height)
    inside = (left + wide <= width) & (top + high <= height)
    return broken | tf.reduce_any(control & ~tf.where(header, fills, inside))


def _has_checksums(
    data: tf.Tensor,
    raw: tf.Tensor,
    chunks: tf.Tensor,
    sizes: tf.Tensor,
    header: tf.Tensor,
) -> tf.Tensor:
    """Whether the checksums of the chunks before the picture's data are right.

    TensorFlow has no op for this checksum, but gzip uses the same one: each chunk is
    made into a gzip file without compression, which TensorFlow can check.
    """
    end = tf.cast(tf.size(raw) - PADDING, tf.int64)
    whole = header & (chunks + 12 + sizes <= end)
    chunks, sizes = tf.boolean_mask(chunks, whole), tf.boolean_mask(sizes, whole) + 4
    counts = tf.cast((sizes + STORED - 1) // STORED, tf.int32)
    rows = tf.repeat(tf.range(tf.size(counts)), counts)
    numbers = tf.cast(tf.ragged.range(counts).values, tf.int64)
    lengths = tf.minimum(tf.gather(sizes, rows) - numbers * STORED, STORED)
    last = tf.cast(
        tf.equal(numbers + 1, tf.gather(tf.cast(counts, tf.int64), rows)), tf.int64
    )
    low, high = lengths % 256, lengths // 256
    starts = tf.gather(chunks, rows) + 4 + numbers * STORED
    # One by one: with many offsets, the op would copy the whole file for each.
    texts = tf.map_fn(
        lambda block: tf.strings.substr(data, block[0], block[1]),
        tf.stack([starts, lengths], axis=1),
        fn_output_signature=tf.string,
    )
    head = [tf.gather(BYTES, byte) for byte in (last, low, high, 255 - low, 255 - high)]
    blocks = tf.strings.join([*head, texts])
    stored = tf.strings.unsorted_segment_join(blocks, rows, tf.size(counts))
    sums = tf.gather(raw, (chunks + 4 + sizes)[:, None] + np.arange(3, -1, -1))
    steps = tf.constant([256**step for step in range(4)], tf.int64)
    ends = tf.concat([tf.cast(sums, tf.int64), sizes[:, None] // steps % 256], axis=1)
    ends = tf.strings.reduce_join(tf.gather(BYTES, ends), axis=1)
    files = tf.strings.join([GZIP, stored, ends])

    def unpack(files: tf.Tensor) -> tf.Tensor:
        lengths = tf.strings.length(tf.io.decode_compressed(files, "GZIP"))
        return tf.reduce_all(tf.equal(tf.cast(lengths, tf.int64), sizes))

    return attempt(unpack, files, tf.constant(False))


def decode_png(data: tf.Tensor) -> tf.Tensor:
    """Decode; clip 16-bit gray as Pillow does, where TensorFlow takes the high byte."""

    def clipped() -> tf.Tensor:
        gray = tf.io.decode_png(data, channels=1, dtype=tf.uint16)
        return tf.tile(tf.cast(tf.minimum(gray, 255), tf.uint8), (1, 1, 3))

    depth_and_colour = tf.strings.substr(data, 24, 2)
    return tf.cond(
        tf.equal(depth_and_colour, b"\x10\x00"),
        clipped,
        lambda: tf.io.decode_png(data, channels=3),
    )
