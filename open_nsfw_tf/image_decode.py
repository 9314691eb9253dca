"""Decoding inside a TensorFlow graph with Pillow's pixels, or a reason why not.

Each header is read with ops before anything large is allocated. A picture that
TensorFlow would read differently from Pillow is refused, never read approximately.
Nothing raises: `decode` hands on `(picture, reason)`, where an empty reason means
"good", because only so can a batch say which of its elements is bad. The facts behind
each rule were measured with TensorFlow 2.21 against Pillow 13.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import tensorflow as tf

from open_nsfw_tf.image import MAX_PIXELS

MAX_BLOCKS = 16_384  # JPEG segments or GIF blocks walked, about 40 us each
PADDING = 1024  # zero bytes behind the file: no header reads beyond them
SMOOTHED = 10  # coefficients libjpeg guesses when their scans are missing
# JPEG bytes after FF that are no segment: stuffing, TEM, RST0..7 and fill bytes.
JPEG_NO_SEGMENT = (0x00, 0x01, *range(0xD0, 0xD8), 0xFF)
JPEG_NO_FRAME = (0xC4, 0xC8, 0xCC)  # within C0..CF, but DHT, JPG and DAC
JPEG_PROGRESSIVE = (0xC2, 0xCA)
BMP_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes; those that Pillow knows
BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)  # of the bit fields TensorFlow assumes


class _Header(NamedTuple):
    """What the first bytes say: sizes are int64 scalars, `refusal` is "" when good."""

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
    names = list(FORMATS)
    starts = [FORMATS[name][0](raw) for name in names] + [tf.constant(True)]
    found = tf.argmax(tf.cast(tf.stack(starts), tf.int32), output_type=tf.int32)

    def unknown() -> tuple[tf.Tensor, tf.Tensor]:
        reason = _refuse(
            (tf.equal(tf.strings.length(data), 0), "empty: it has no bytes"),
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
    _, read_header, decode = FORMATS[name]
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

    A graph has no `try`; ignoring the errors of a data set with one element is one.
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
    steps = range(size) if order == "little" else reversed(range(size))
    digits = tf.cast(raw[at : at + size], tf.int64)
    return tf.reduce_sum(digits * tf.constant([256**step for step in steps], tf.int64))


def _starts(magic: bytes, at: int = 0) -> Callable[[tf.Tensor], tf.Tensor]:
    """Return a test whether these bytes stand at the offset."""

    return lambda raw: tf.reduce_all(tf.equal(raw[at : at + len(magic)], list(magic)))


def _jpeg_header(data: tf.Tensor, raw: tf.Tensor) -> _Header:
    """Find the frame header; refuse CMYK and progressive files that lack scans."""
    frame, known, blocks = _walk_jpeg(raw)
    components = _number(raw, frame + 9, 1)
    guessed = tf.reduce_any(tf.not_equal(known[:components, :SMOOTHED], 0))
    progressive = _is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
    refusal = _refuse(
        (blocks >= MAX_BLOCKS, f"a JPEG of more than {MAX_BLOCKS} segments"),
        (tf.equal(frame, 0), "truncated or damaged JPEG: it has no frame header"),
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


def _walk_jpeg(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walk from segment to segment.

    Returns:
        The offset of the frame header (0 if none); int32 (4, 64), how many low bits of
        each coefficient of each component the scans left unknown (-1: all); and how
        many segments were walked. Only progressive files are walked to their end.
    """
    offsets = tf.cast(tf.where(tf.equal(raw[:-1], 0xFF))[:, 0], tf.int32)
    segment = ~_is_one_of(tf.gather(raw, offsets + 1), JPEG_NO_SEGMENT)
    # The last offset lies in the padding, where everything reads as zero.
    end = tf.size(raw) - PADDING
    offsets = tf.concat([tf.boolean_mask(offsets, segment), end[None]], 0)

    def step(at: Any, frame: Any, known: Any, blocks: Any) -> Any:
        code = raw[at + 1]
        is_frame = (code >= 0xC0) & (code <= 0xCF) & ~_is_one_of(code, JPEG_NO_FRAME)
        frame = tf.where(is_frame & tf.equal(frame, 0), at, frame)
        scan = tf.equal(code, 0xDA)
        known = tf.cond(scan, lambda: _add_scan(raw, at, frame, known), lambda: known)
        last = scan & ~_is_one_of(raw[frame + 1], JPEG_PROGRESSIVE)
        after = at + 2 + tf.cast(_number(raw, at + 2, 2, "big"), tf.int32)
        index = tf.searchsorted(offsets, tf.minimum(after, end)[None])[0]
        return tf.where(last, end, offsets[index]), frame, known, blocks + 1

    # The first offset is the start of the image (D8).
    state = (offsets[1], tf.constant(0), tf.fill((4, 64), -1), tf.constant(0))
    # Stops at the end of the image (D9) or of the file.
    _, frame, known, blocks = tf.while_loop(
        lambda at, *_: (at < end) & tf.not_equal(raw[at + 1], 0xD9),
        step,
        state,
        maximum_iterations=MAX_BLOCKS,
    )
    return frame, known, blocks


def _is_one_of(values: tf.Tensor, codes: tuple[int, ...]) -> tf.Tensor:
    return tf.gather([code in codes for code in range(256)], tf.cast(values, tf.int32))


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
    width, height = (_number(raw, at, 4, "big") for at in (16, 20))
    return _Header(width, height, _refuse(), data)


def _decode_png(data: tf.Tensor) -> tf.Tensor:
    """Decode; Pillow clips 16-bit gray, where TensorFlow would take the high byte."""

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
    """Read the size from whichever of the three first chunks the file has."""
    packed = _number(raw, 21, 4)  # lossless: 14 bits each, less one
    sizes = {
        b"VP8X": (_number(raw, 24, 3) + 1, _number(raw, 27, 3) + 1),
        b"VP8L": (packed % 2**14 + 1, packed // 2**14 % 2**14 + 1),
        b"VP8 ": (_number(raw, 26, 2) % 2**14, _number(raw, 28, 2) % 2**14),
    }
    found = [tf.cast(_starts(chunk, at=12)(raw), tf.int64) for chunk in sizes]
    sides = tf.stack(found)[:, None] * tf.stack([tf.stack(x) for x in sizes.values()])
    width, height = tf.unstack(tf.reduce_sum(sides, axis=0))
    # Flag bits of VP8X: 2 animation, 16 alpha. TensorFlow 2.21 writes animations as
    # RGBA into memory that it allocates for RGB: a heap overflow without the alpha bit.
    flags = tf.cast(raw[20], tf.int32)
    opaque_animation = (found[0] > 0) & tf.equal(flags & 18, 2)
    patched = tf.strings.join(
        [
            tf.strings.substr(data, 0, 20),
            tf.gather([bytes([byte]) for byte in range(256)], flags | 16),
            tf.strings.substr(data, tf.minimum(21, tf.strings.length(data)), -1),
        ]
    )
    data = tf.where(opaque_animation, patched, data)
    return _Header(width, height, _refuse(), data)


def _decode_first(data: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a WebP or a GIF; drop alpha."""
    frame = tf.io.decode_image(data, expand_animations=False)
    return tf.ensure_shape(frame[..., :3], (None, None, 3))


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
    # TensorFlow decompresses every frame there is, and a GIF may have thousands.
    data = tf.strings.join([tf.strings.substr(data, 0, end), b";"])
    return _Header(width, height, refusal, data)


def _walk_gif(raw: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor, tf.Tensor]:
    """Walk to the end of the first frame.

    Returns:
        The offset of its descriptor (0 if none), the offset behind its data, whether
        it has a transparent colour, and how many blocks were walked.
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
    """Refuse all but plain 24 and 32 bits: Pillow knows more BMPs than TensorFlow."""
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


FORMATS = {
    "JPEG": (_starts(b"\xff\xd8\xff"), _jpeg_header, decode_jpeg),
    "PNG": (_starts(b"\x89PNG\r\n\x1a\n"), _png_header, _decode_png),
    "WebP": (_starts(b"WEBP", at=8), _webp_header, _decode_first),
    "GIF": (_is_gif, _gif_header, _decode_first),
    "BMP": (_starts(b"BM"), _bmp_header, _decode_bmp),
}
