"""The header of a JPEG, refused where Pillow refuses it or reads it otherwise."""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from open_nsfw_tf.tf_image.header import (
    MAX_BLOCKS,
    PADDING,
    Header,
    as_numbers,
    is_one_of,
    read_number,
    refuse,
    until,
)

SMOOTHED = 10  # coefficients that libjpeg guesses when their scans are missing
# JPEG bytes after FF that begin no segment: stuffing, RST0..7 and fill bytes.
JPEG_NO_SEGMENT = (0x00, *range(0xD0, 0xD8), 0xFF)
JPEG_TEM = 0x01  # a marker without a segment, which Pillow refuses before a scan
# Segments of metadata that Pillow reads, and fails at if they are too short: the code,
# how the segment begins, and the bytes that it must have. TensorFlow skips all of them.
JPEG_SEGMENTS = (
    (0xE0, b"JFIF", 7),
    (0xE2, b"ICC_PROFILE\0", 14),
    (0xEE, b"Adobe", 7),
)
PHOTOSHOP, RESOURCE = b"Photoshop 3.0\0", b"8BIM"  # of APP13, and of a block in it
X_RESOLUTION = 0x011A  # of EXIF: a number, or a text or bytes of two items or more
JPEG_NO_FRAME = (0xC4, 0xC8, 0xCC)  # within C0..CF, but DHT, JPG and DAC
JPEG_PROGRESSIVE = (0xC2, 0xCA)


def jpeg_header(data: tf.Tensor, raw: tf.Tensor) -> Header:
    """Find the frame header; refuse CMYK and progressive files that lack scans."""
    frame, known, blocks, segments = _walk_jpeg(raw)
    components = read_number(raw, frame + 9, 1)
    guessed = tf.reduce_any(tf.not_equal(known[:components, :SMOOTHED], 0))
    progressive = is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
    refusal = refuse(
        (blocks >= MAX_BLOCKS, f"a JPEG of more than {MAX_BLOCKS} segments"),
        (tf.equal(frame, 0), "truncated or damaged JPEG: it has no frame header"),
        (_is_broken(raw, segments), "damaged JPEG: a broken segment of metadata"),
        (
            tf.not_equal(components, 1) & tf.not_equal(components, 3),
            tf.strings.format(
                "a JPEG of {} components (CMYK has 4), which TensorFlow converts "
                "otherwise than Pillow: expected gray or RGB",
                components,
            ),
        ),
        (
            progressive & guessed,
            "truncated JPEG: its last progressive scans are missing",
        ),
    )
    width, height = (read_number(raw, frame + at, 2, "big") for at in (7, 5))
    return Header(width, height, refusal, data)


def _walk_jpeg(raw: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Go from segment to segment.

    Returns:
        The offset of the frame header (0 if none); int32 (4, 64), how many low bits of
        each coefficient of each component the scans left unknown (-1: all); how many
        segments were read; and the offsets, int32 (n,), of those before the first
        scan. Only progressive files are read to their end.
    """
    offsets = tf.cast(tf.where(tf.equal(raw[:-1], 0xFF))[:, 0], tf.int32)
    segment = ~is_one_of(tf.gather(raw, offsets + 1), JPEG_NO_SEGMENT)
    # The last offset lies in the padding, where everything reads as zero.
    end = tf.size(raw) - PADDING
    offsets = tf.concat([tf.boolean_mask(offsets, segment), end[None]], 0)

    def step(at: Any, frame: Any, known: Any, blocks: Any, segments: Any) -> Any:
        code = raw[at + 1]
        segments = segments.write(blocks, at)
        is_frame = (code >= 0xC0) & (code <= 0xCF) & ~is_one_of(code, JPEG_NO_FRAME)
        frame = tf.where(is_frame & tf.equal(frame, 0), at, frame)
        scan = tf.equal(code, 0xDA)
        known = tf.cond(scan, lambda: _add_scan(raw, at, frame, known), lambda: known)
        last = scan & ~is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
        size = tf.cast(read_number(raw, at + 2, 2, "big"), tf.int32)
        after = at + 2 + tf.where(tf.equal(code, JPEG_TEM), 0, size)
        index = tf.searchsorted(offsets, tf.minimum(after, end)[None])[0]
        after = tf.where(last, end, offsets[index])
        return after, frame, known, blocks + 1, segments

    # The first offset is the start of the image (D8).
    walked = tf.TensorArray(tf.int32, 16, dynamic_size=True, element_shape=())
    state = (offsets[1], tf.constant(0), tf.fill((4, 64), -1), tf.constant(0), walked)
    # Stops at the end of the image (D9) or of the file.
    _, frame, known, blocks, walked = tf.while_loop(
        lambda at, *_: (at < end) & tf.not_equal(raw[at + 1], 0xD9),
        step,
        state,
        maximum_iterations=MAX_BLOCKS,
    )
    segments = walked.stack()[:blocks]
    header = until(tf.equal(tf.gather(raw, segments + 1), 0xDA))
    return frame, known, blocks, tf.boolean_mask(segments, header)


def _add_scan(
    raw: tf.Tensor, at: tf.Tensor, frame: tf.Tensor, known: tf.Tensor
) -> tf.Tensor:
    """Note which coefficients a progressive scan refines, and to which bit."""
    count = tf.cast(raw[at + 4], tf.int32)
    after = at + 5 + 2 * count
    in_scan = raw[at + 5 : after : 2]
    components = tf.gather(raw, frame + 10 + 3 * tf.range(4))
    row = tf.reduce_any(tf.equal(components[:, None], in_scan[None]), axis=1)
    first, last, bits = (tf.cast(raw[after + i], tf.int32) for i in range(3))
    column = (tf.range(64) >= first) & (tf.range(64) <= last)
    return tf.where(row[:, None] & column[None], bits % 16, known)


def _is_broken(raw: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    """Whether Pillow fails at the metadata of a JPEG."""
    heads = tf.gather(raw, segments[:, None] + tf.range(18))
    codes, sizes = heads[:, 1], as_numbers(heads[:, 2:4], "big") - 2

    def begins(code: int, name: bytes) -> tf.Tensor:
        same = tf.reduce_all(tf.equal(heads[:, 4 : 4 + len(name)], list(name)), axis=1)
        return tf.equal(codes, code) & same & (sizes >= len(name))

    broken = tf.equal(codes, JPEG_TEM)
    for code, name, least in JPEG_SEGMENTS:
        broken |= begins(code, name) & (sizes < least)
    # A block of Photoshop that ends after its number, before its name.
    last = tf.cast(segments, tf.int64) + 4 + sizes
    tails = tf.gather(
        raw, tf.maximum(last - 6, 0)[:, None] + tf.range(4, dtype="int64")
    )
    tails = tf.reduce_all(tf.equal(tails, list(RESOURCE)), axis=1)
    broken |= begins(0xED, PHOTOSHOP) & (sizes >= len(PHOTOSHOP) + 6) & tails
    exif = tf.boolean_mask(last - sizes + 6, begins(0xE1, b"Exif\0\0"))
    ends = tf.boolean_mask(last, begins(0xE1, b"Exif\0\0"))
    none = tf.constant(False)
    return tf.reduce_any(broken) | tf.cond(
        tf.size(exif) > 0, lambda: _has_broken_exif(raw, exif, ends), lambda: none
    )


def _has_broken_exif(raw: tf.Tensor, starts: tf.Tensor, ends: tf.Tensor) -> tf.Tensor:
    """Whether Pillow fails at a resolution of one item, of which it reads the second.

    Pillow joins the segments; a directory that continues in the second is refused.

    Args:
        raw: the file.
        starts: int64 (n,), the offsets of each segment's TIFF header.
        ends: int64 (n,), the offsets behind the segments.
    """
    start, end = starts[0], ends[0]
    little = tf.equal(raw[start], ord("I"))

    def number(digits: tf.Tensor) -> tf.Tensor:
        return tf.where(little, as_numbers(digits), as_numbers(digits, "big"))

    def read(at: Any, size: int) -> tf.Tensor:
        places = tf.minimum(at[..., None] + tf.range(size, dtype=tf.int64), end)
        return tf.gather(raw, places)

    directory = start + number(read(start + 4, 4))
    count = number(read(directory, 2))
    entries = directory + 2 + 12 * tf.range(tf.minimum(count, (end - start) // 12 + 1))
    fields = read(tf.boolean_mask(entries, entries + 12 <= end), 12)
    kinds, counts = number(fields[:, 2:4]), number(fields[:, 4:8])
    text = tf.equal(kinds, 2) & tf.equal(counts, 2) & tf.equal(fields[:, 9], 0)
    single = tf.equal(counts, 1) & is_one_of(kinds, (1, 2, 7))
    found = tf.equal(number(fields[:, :2]), X_RESOLUTION) & (text | single)
    split = (tf.size(starts) > 1) & (directory + 2 + 12 * count > end)
    return tf.reduce_any(found) | split


def decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Decode as Pillow does: TensorFlow's default is the fast, inexact transform."""
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
