"""Decoding inside a TensorFlow graph, to exactly the pixels that Pillow gives.

Each header is read with ops before anything large is allocated. A picture that
TensorFlow would read differently from Pillow is refused, never read approximately.
No error is raised: `decode` returns `(picture, reason)`, where an empty reason means
"good". Only in this way can the error of a batch name its bad elements. The rules were
found by comparing TensorFlow 2.21 with Pillow 13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from open_nsfw_tf.image import MAX_PIXELS

MAX_BLOCKS = 16_384  # JPEG segments or GIF blocks that are read, about 40 us each
PADDING = 1024  # zero bytes appended to the file, so that no header is cut
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
# The same for PNG: a chunk's name and the bytes that it must have.
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
WEBP_FLAGS = 0x3E  # of VP8X: the bits that are defined
GZIP = b"\x1f\x8b\x08" + bytes(6) + b"\xff"  # the header of a gzip file
STORED = 65_535  # bytes at most in a block that deflate stores without compression
BYTES = [bytes([byte]) for byte in range(256)]
JPEG_NO_FRAME = (0xC4, 0xC8, 0xCC)  # within C0..CF, but DHT, JPG and DAC
JPEG_PROGRESSIVE = (0xC2, 0xCA)
BMP_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes; the sizes that Pillow knows
BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)  # of the bit fields that TensorFlow assumes


class _Header(NamedTuple):
    """A picture's header: sizes are int64 scalars, `refusal` is "" for a good one."""

    width: tf.Tensor
    height: tf.Tensor
    refusal: tf.Tensor
    data: tf.Tensor  # the bytes to decode


def decode(data: tf.Tensor, max_side: int) -> tuple[tf.Tensor, tf.Tensor]:
    """Decode one file, a scalar string: a picture of at most `max_side` pixels a side.

    Returns:
        uint8 RGB (H, W, 3) and "", or an empty picture and the reason.
    """
    raw = tf.io.decode_raw(tf.strings.join([data, b"\0" * PADDING]), tf.uint8)
    names = list(DECODERS)
    starts = [DECODERS[name][0](raw) for name in names] + [tf.constant(True)]
    found = tf.argmax(tf.cast(tf.stack(starts), tf.int32), output_type=tf.int32)

    def unknown() -> tuple[tf.Tensor, tf.Tensor]:
        reason = _refuse(
            (tf.equal(tf.strings.length(data), 0), "empty: it has no bytes"),
            (
                _starts(b"ftyp", at=4)(raw),
                "a HEIC, HEIF or AVIF picture, which TensorFlow cannot decode: "
                + "use create_yahoo_image_loader",
            ),
            (True, f"not a {', '.join(names[:-1])} or {names[-1]} picture"),
        )
        return _no_picture(), reason

    branches = [
        functools.partial(_decode_as, name, data, raw, max_side) for name in names
    ]
    picture, reason = tf.switch_case(found, [*branches, unknown])
    return picture, reason


def _decode_as(
    name: str, data: tf.Tensor, raw: tf.Tensor, max_side: int
) -> tuple[tf.Tensor, tf.Tensor]:
    """Check the header first, then decode; nothing large is allocated before."""
    _, read_header, decode = DECODERS[name]
    header = read_header(data, raw)
    width, height = header.width, header.height
    too_large = tf.strings.format(
        f"too large: {{}} x {{}} pixels, expected at most {MAX_PIXELS} in all and "
        f"{max_side} a side",
        (width, height),
    )
    refusal = _refuse(
        (tf.not_equal(header.refusal, ""), header.refusal),
        ((width < 1) | (height < 1), f"damaged {name}: it has no pixels"),
        (width * height > MAX_PIXELS, too_large),
        (tf.maximum(width, height) > max_side, too_large),
    )
    picture = tf.cond(
        tf.equal(refusal, ""),
        lambda: _attempt(decode, header.data, _no_picture()),
        _no_picture,
    )
    broken = tf.equal(refusal, "") & tf.equal(tf.size(picture), 0)
    message = f"truncated or damaged {name}, or one that TensorFlow cannot decode"
    return picture, _refuse((broken, message), (True, refusal))


def _attempt(
    function: Callable[[tf.Tensor], tf.Tensor], data: tf.Tensor, otherwise: tf.Tensor
) -> tf.Tensor:
    """Return function(data), or `otherwise` where its op fails.

    A graph has no `try`; a dataset of one element that ignores errors takes its place.
    """
    attempt = tf.data.Dataset.from_tensors(data).map(function).ignore_errors()
    fallback = tf.data.Dataset.from_tensors(otherwise)
    return attempt.concatenate(fallback).take(1).get_single_element()


def _no_picture() -> tf.Tensor:
    return tf.zeros((0, 0, 3), tf.uint8)


def _refuse(*rules: tuple[Any, Any]) -> tf.Tensor:
    """Return the text of the first rule whose condition holds, else ""."""
    text = tf.constant("")
    for condition, reason in reversed(rules):
        text = tf.where(condition, reason, text)
    return text


def _number(raw: tf.Tensor, at: Any, size: int, order: str = "little") -> tf.Tensor:
    """Return the unsigned integer of `size` bytes at an offset, as int64."""
    return _numbers(tf.ensure_shape(raw[at : at + size], (size,)), order)


def _numbers(digits: tf.Tensor, order: str = "little") -> tf.Tensor:
    """Return the unsigned integers of bytes in the last axis, as int64."""
    steps = range(digits.shape[-1])
    weights = [256**step for step in (steps if order == "little" else reversed(steps))]
    return tf.reduce_sum(
        tf.cast(digits, tf.int64) * tf.constant(weights, tf.int64), axis=-1
    )


def _walk_chunks(
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


def _starts(magic: bytes, at: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a test whether these bytes stand at the offset."""

    return lambda raw: tf.reduce_all(tf.equal(raw[at : at + len(magic)], list(magic)))


def _jpeg_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Find the frame header; refuse CMYK and progressive files that lack scans."""
    frame, known, blocks, segments = _walk_jpeg(raw)
    components = _number(raw, frame + 9, 1)
    guessed = tf.reduce_any(tf.not_equal(known[:components, :SMOOTHED], 0))
    progressive = _is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
    refusal = _refuse(
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
    width, height = (_number(raw, frame + at, 2, "big") for at in (7, 5))
    return _Header(width, height, refusal, data)


def _walk_jpeg(raw: tf.Tensor) -> tuple[tf.Tensor, ...]:
    """Go from segment to segment.

    Returns:
        The offset of the frame header (0 if none); int32 (4, 64), how many low bits of
        each coefficient of each component the scans left unknown (-1: all); how many
        segments were read; and the offsets, int32 (n,), of those before the first
        scan. Only progressive files are read to their end.
    """
    offsets = tf.cast(tf.where(tf.equal(raw[:-1], 0xFF))[:, 0], tf.int32)
    segment = ~_is_one_of(tf.gather(raw, offsets + 1), JPEG_NO_SEGMENT)
    # The last offset lies in the padding, where everything reads as zero.
    end = tf.size(raw) - PADDING
    offsets = tf.concat([tf.boolean_mask(offsets, segment), end[None]], 0)

    def step(at: Any, frame: Any, known: Any, blocks: Any, segments: Any) -> Any:
        code = raw[at + 1]
        segments = segments.write(blocks, at)
        is_frame = (code >= 0xC0) & (code <= 0xCF) & ~_is_one_of(code, JPEG_NO_FRAME)
        frame = tf.where(is_frame & tf.equal(frame, 0), at, frame)
        scan = tf.equal(code, 0xDA)
        known = tf.cond(scan, lambda: _add_scan(raw, at, frame, known), lambda: known)
        last = scan & ~_is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
        size = tf.cast(_number(raw, at + 2, 2, "big"), tf.int32)
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
    header = _until(tf.equal(tf.gather(raw, segments + 1), 0xDA))
    return frame, known, blocks, tf.boolean_mask(segments, header)


def _until(found: tf.Tensor) -> tf.Tensor:
    """Which elements come before the first true one."""
    return tf.equal(tf.cumsum(tf.cast(found, tf.int32)), 0)


def _is_broken(raw: tf.Tensor, segments: tf.Tensor) -> tf.Tensor:
    """Whether Pillow fails at the metadata of a JPEG."""
    heads = tf.gather(raw, segments[:, None] + tf.range(18))
    codes, sizes = heads[:, 1], _numbers(heads[:, 2:4], "big") - 2

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
        return tf.where(little, _numbers(digits), _numbers(digits, "big"))

    def read(at: Any, size: int) -> tf.Tensor:
        places = tf.minimum(at[..., None] + tf.range(size, dtype=tf.int64), end)
        return tf.gather(raw, places)

    directory = start + number(read(start + 4, 4))
    count = number(read(directory, 2))
    entries = directory + 2 + 12 * tf.range(tf.minimum(count, (end - start) // 12 + 1))
    fields = read(tf.boolean_mask(entries, entries + 12 <= end), 12)
    kinds, counts = number(fields[:, 2:4]), number(fields[:, 4:8])
    text = tf.equal(kinds, 2) & tf.equal(counts, 2) & tf.equal(fields[:, 9], 0)
    single = tf.equal(counts, 1) & _is_one_of(kinds, (1, 2, 7))
    found = tf.equal(number(fields[:, :2]), X_RESOLUTION) & (text | single)
    split = (tf.size(starts) > 1) & (directory + 2 + 12 * count > end)
    return tf.reduce_any(found) | split


def _is_one_of(values: tf.Tensor, codes: tuple[int, ...]) -> tf.Tensor:
    values = tf.minimum(tf.cast(values, tf.int32), 255)
    return tf.gather([code in codes for code in range(256)], values)


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


def decode_jpeg(data: tf.Tensor) -> tf.Tensor:
    """Decode as Pillow does: TensorFlow's default is the fast, inexact transform."""
    return tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")


def _png_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Refuse broken chunks of metadata, which TensorFlow skips and Pillow does not."""
    width, height = (_number(raw, at, 4, "big") for at in (16, 20))
    end = tf.cast(tf.size(raw) - PADDING, tf.int64)

    def after(at: Any) -> tf.Tensor:
        last = tf.reduce_all(tf.equal(raw[at + 4 : at + 8], list(b"IEND")))
        return tf.where(last, end, at + 12 + _number(raw, at, 4, "big"))

    chunks, _ = _walk_chunks(end, 8, after)
    heads = tf.ensure_shape(tf.gather(raw, chunks[:, None] + np.arange(8)), (None, 8))
    sizes, names = _numbers(heads[:, :4], "big"), _numbers(heads[:, 4:], "big")
    header = _until(tf.equal(names, _code(b"IDAT")))
    contents = tf.gather(
        raw, tf.minimum(chunks[:, None] + 8 + np.arange(PNG_KEYWORD + 2), end)
    )
    broken = chunks + 8 + sizes > end
    for name, least in PNG_CHUNKS.items():
        broken |= tf.equal(names, _code(name)) & (sizes < least)
    for colour, least in PNG_TRANSPARENCY.items():
        broken |= tf.equal(names, _code(b"tRNS")) & (
            tf.equal(raw[25], colour) & (sizes < least)
        )
    broken |= _is_broken_text(names, sizes, contents)
    frames = names, contents, header
    refusal = _refuse(
        (tf.size(chunks) >= MAX_BLOCKS, f"a PNG of more than {MAX_BLOCKS} chunks"),
        (tf.reduce_any(broken), "truncated or damaged PNG: a broken chunk"),
        (_has_broken_frames(*frames, width, height), "damaged PNG: broken animation"),
        (
            ~_has_checksums(data, raw, chunks, sizes, header),
            "damaged PNG: a wrong checksum of metadata",
        ),
    )
    return _Header(width, height, refusal, data)


def _code(name: bytes) -> int:
    return int.from_bytes(name, "big")


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
    wrong = tf.equal(names, _code(b"iCCP")) & ~(ended & more & tf.equal(method, 0))
    wrong |= tf.equal(names, _code(b"zTXt")) & (
        (ended & more & tf.not_equal(method, 0)) | (~ended & (sizes >= PNG_KEYWORD))
    )
    text = tf.where(tf.equal(names, _code(b"tEXt")), sizes, 0)
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
    control = tf.equal(names, _code(b"fcTL"))
    frames = control | tf.equal(names, _code(b"fdAT"))
    numbers = _numbers(tf.boolean_mask(contents, frames)[:, :4], "big")
    expected = tf.range(tf.size(numbers, out_type=tf.int64))
    broken = tf.reduce_any(tf.not_equal(numbers, expected))
    broken |= tf.reduce_any(tf.boolean_mask(~control, frames)[:1])
    broken |= tf.reduce_any(frames & ~control & header)
    wide, high, left, top = (
        _numbers(contents[:, at : at + 4], "big") for at in (4, 8, 12, 16)
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

    return _attempt(unpack, files, tf.constant(False))


def _decode_png(data: tf.Tensor) -> tf.Tensor:
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


def _webp_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Read the size from the first chunk, which is one of three kinds."""
    packed = _number(raw, 21, 4)  # lossless: 14 bits each, less one
    sizes = {
        b"VP8X": (_number(raw, 24, 3) + 1, _number(raw, 27, 3) + 1),
        b"VP8L": (packed % 2**14 + 1, packed // 2**14 % 2**14 + 1),
        b"VP8 ": (_number(raw, 26, 2) % 2**14, _number(raw, 28, 2) % 2**14),
    }
    found = [tf.cast(_starts(chunk, at=12)(raw), tf.int64) for chunk in sizes]
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
            tf.gather([bytes([byte]) for byte in range(256)], flags | 16),
            tf.strings.substr(data, tf.minimum(21, tf.strings.length(data)), -1),
        ]
    )
    data = tf.where(opaque_animation, patched, tf.where(animated, data, still))
    return _Header(width, height, tf.where(animated, "", refusal), data)


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
    end = 8 + _number(raw, 4, 4)

    def length(at: Any) -> tf.Tensor:
        return _number(raw, at + 4, 4)

    chunks, last = _walk_chunks(
        tf.minimum(end, size), 12, lambda at: at + 8 + (length(at) + 1) // 2 * 2
    )
    heads = tf.ensure_shape(tf.gather(raw, chunks[:, None] + np.arange(18)), (None, 18))
    names, sizes = _numbers(heads[:, :4], "big"), (_numbers(heads[:, 4:8]) + 1) // 2 * 2
    extended, alpha, lossy, lossless, frame, animation = (
        tf.equal(names, _code(name))
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
    packed = _numbers(head[9:13])
    lossless = tf.stack([packed % 2**14 + 1, packed // 2**14 % 2**14 + 1])
    lossy = tf.stack([_numbers(head[14:16]), _numbers(head[16:18])]) % 2**14
    return tf.where(tf.equal(head[3], ord("L")), lossless, lossy)


def _decode_first(data: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a WebP or a GIF; drop alpha."""
    frame = tf.io.decode_image(data, expand_animations=False)
    return tf.ensure_shape(frame[..., :3], (None, None, 3))


def _is_webp(raw: tf.Tensor) -> tf.Tensor:
    return _starts(b"RIFF")(raw) & _starts(b"WEBP", at=8)(raw)


def _is_gif(raw: tf.Tensor) -> tf.Tensor:
    return _starts(b"GIF87a")(raw) | _starts(b"GIF89a")(raw)


def _gif_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Refuse what Pillow composes; cut the file after its first frame."""
    width, height = _number(raw, 6, 2), _number(raw, 8, 2)
    frame, end, transparent, blocks = _walk_gif(raw)
    box = tf.stack([_number(raw, frame + at, 2) for at in (1, 3, 5, 7)])
    whole = tf.reduce_all(tf.equal(box, tf.stack([0, 0, width, height])))
    refusal = _refuse(
        (blocks >= MAX_BLOCKS, f"a GIF of more than {MAX_BLOCKS} blocks"),
        (tf.equal(frame, 0), "truncated or damaged GIF: it has no frame"),
        (transparent, "a GIF with transparency, which TensorFlow cannot compose"),
        (~whole, "a GIF whose first frame does not fill it"),
    )
    # TensorFlow decompresses every frame, and a GIF may have thousands.
    data = tf.strings.join([tf.strings.substr(data, 0, end), b";"])
    return _Header(width, height, refusal, data)


def _walk_gif(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Go through the blocks to the end of the first frame.

    Returns:
        The offset of its descriptor (0 if none), the offset behind its data, whether
        it has a transparent colour, and how many blocks were read.
    """
    end = tf.size(raw) - PADDING

    def table(flags: Any) -> Any:
        colours = tf.bitwise.left_shift(2, tf.cast(flags, tf.int32) % 8)
        return tf.where(flags >= 0x80, 3 * colours, 0)

    def step(at: Any, frame: Any, inside: Any, transparent: Any, blocks: Any) -> Any:
        code = tf.cast(raw[at], tf.int32)
        extension, image = (~inside & tf.equal(code, byte) for byte in (0x21, 0x2C))
        control = extension & tf.equal(raw[at + 1], 0xF9)
        transparent |= control & tf.equal(raw[at + 3] % 2, 1)
        frame = tf.where(image, at, frame)
        size = tf.where(image, 11 + table(raw[at + 9]), tf.where(inside, code + 1, 2))
        inside = tf.where(inside, code > 0, extension | image)
        return tf.minimum(at + size, end), frame, inside, transparent, blocks + 1

    def unfinished(at: Any, frame: Any, inside: Any, *_: Any) -> Any:
        more = tf.equal(raw[at], 0x21) | tf.equal(raw[at], 0x2C)
        return (at < end) & (inside | (more & tf.equal(frame, 0)))

    no = tf.constant(False)
    state = (13 + table(raw[10]), tf.constant(0), no, no, tf.constant(0))
    at, frame, _, transparent, blocks = tf.while_loop(
        unfinished, step, state, maximum_iterations=MAX_BLOCKS
    )
    return frame, at, transparent, blocks


def _bmp_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Refuse all but plain 24 and 32 bits: TensorFlow reads fewer BMPs than Pillow."""
    width, height = (_number(raw, at, 4) for at in (18, 22))
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: top down
    bits, packing = _number(raw, 28, 2), _number(raw, 30, 4)
    masks = tf.stack([_number(raw, at, 4) for at in (54, 58, 62)])
    plain = tf.equal(packing, 0) & (tf.equal(bits, 24) | tf.equal(bits, 32))
    fields = tf.equal(packing, 3) & tf.equal(bits, 32)
    fields &= tf.reduce_all(tf.equal(masks, BMP_MASKS))
    known = tf.reduce_any(tf.equal(_number(raw, 14, 4), BMP_HEADERS))
    kind = tf.strings.format("{} bits, compression {}", (bits, packing))
    text = tf.strings.join(["a BMP of ", kind, ": expected plain 24 or 32 bits"])
    return _Header(width, height, _refuse((~(known & (plain | fields)), text)), data)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_bmp(data)[..., :3], (None, None, 3))


DECODERS = {
    "JPEG": (_starts(b"\xff\xd8\xff"), _jpeg_header, decode_jpeg),
    "PNG": (_starts(b"\x89PNG\r\n\x1a\n"), _png_header, _decode_png),
    "WebP": (_is_webp, _webp_header, _decode_first),
    "GIF": (_is_gif, _gif_header, _decode_first),
    "BMP": (_starts(b"BM"), _bmp_header, _decode_bmp),
}
