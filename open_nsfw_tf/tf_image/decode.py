"""Decoding inside a TensorFlow graph, to exactly the pixels that Pillow gives.

Each header is read with ops before anything large is allocated. A picture that
TensorFlow would read differently from Pillow is refused, never read approximately.
No error is raised: `decode` returns `(picture, reason)`, where an empty reason means
"good". Only in this way can the error of a batch name its bad elements. The rules were
found by comparing TensorFlow 2.21 with Pillow 13.
"""

from __future__ import annotations

import functools
from typing import Any

import tensorflow as tf

from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.tf_image.header import (
    MAX_BLOCKS,
    PADDING,
    Header,
    attempt,
    read_number,
    refuse,
    starts_with,
)
from open_nsfw_tf.tf_image.jpeg import decode_jpeg, jpeg_header
from open_nsfw_tf.tf_image.png import decode_png, png_header
from open_nsfw_tf.tf_image.webp import is_webp, webp_header

BMP_HEADERS = (40, 52, 56, 64, 108, 124)  # bytes; the sizes that Pillow knows
BMP_MASKS = (0xFF0000, 0xFF00, 0xFF)  # of the bit fields that TensorFlow assumes


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
        reason = refuse(
            (tf.equal(tf.strings.length(data), 0), "empty: it has no bytes"),
            (
                starts_with(b"ftyp", at=4)(raw),
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
    refusal = refuse(
        (tf.not_equal(header.refusal, ""), header.refusal),
        ((width < 1) | (height < 1), f"damaged {name}: it has no pixels"),
        (width * height > MAX_PIXELS, too_large),
        (tf.maximum(width, height) > max_side, too_large),
    )
    picture = tf.cond(
        tf.equal(refusal, ""),
        lambda: attempt(decode, header.data, _no_picture()),
        _no_picture,
    )
    broken = tf.equal(refusal, "") & tf.equal(tf.size(picture), 0)
    message = f"truncated or damaged {name}, or one that TensorFlow cannot decode"
    return picture, refuse((broken, message), (True, refusal))


def _no_picture() -> tf.Tensor:
    return tf.zeros((0, 0, 3), tf.uint8)


def _is_gif(raw: tf.Tensor) -> tf.Tensor:
    return starts_with(b"GIF87a")(raw) | starts_with(b"GIF89a")(raw)


def _gif_header(data: tf.Tensor, raw: tf.Tensor) -> Header:
    """Refuse what Pillow composes; cut the file after its first frame."""
    width, height = read_number(raw, 6, 2), read_number(raw, 8, 2)
    frame, end, transparent, blocks = _walk_gif(raw)
    box = tf.stack([read_number(raw, frame + at, 2) for at in (1, 3, 5, 7)])
    whole = tf.reduce_all(tf.equal(box, tf.stack([0, 0, width, height])))
    refusal = refuse(
        (blocks >= MAX_BLOCKS, f"a GIF of more than {MAX_BLOCKS} blocks"),
        (tf.equal(frame, 0), "truncated or damaged GIF: it has no frame"),
        (transparent, "a GIF with transparency, which TensorFlow cannot compose"),
        (~whole, "a GIF whose first frame does not fill it"),
    )
    # TensorFlow decompresses every frame, and a GIF may have thousands.
    data = tf.strings.join([tf.strings.substr(data, 0, end), b";"])
    return Header(width, height, refusal, data)


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


def _bmp_header(data: tf.Tensor, raw: tf.Tensor) -> Header:
    """Refuse all but plain 24 and 32 bits: TensorFlow reads fewer BMPs than Pillow."""
    width, height = (read_number(raw, at, 4) for at in (18, 22))
    height = tf.where(height >= 2**31, 2**32 - height, height)  # negative: top down
    bits, packing = read_number(raw, 28, 2), read_number(raw, 30, 4)
    masks = tf.stack([read_number(raw, at, 4) for at in (54, 58, 62)])
    plain = tf.equal(packing, 0) & (tf.equal(bits, 24) | tf.equal(bits, 32))
    fields = tf.equal(packing, 3) & tf.equal(bits, 32)
    fields &= tf.reduce_all(tf.equal(masks, BMP_MASKS))
    known = tf.reduce_any(tf.equal(read_number(raw, 14, 4), BMP_HEADERS))
    kind = tf.strings.format("{} bits, compression {}", (bits, packing))
    text = tf.strings.join(["a BMP of ", kind, ": expected plain 24 or 32 bits"])
    return Header(width, height, refuse((~(known & (plain | fields)), text)), data)


def _decode_bmp(data: tf.Tensor) -> tf.Tensor:
    return tf.ensure_shape(tf.io.decode_bmp(data)[..., :3], (None, None, 3))


def _decode_first(data: tf.Tensor) -> tf.Tensor:
    """Decode the first frame of a WebP or a GIF; drop alpha."""
    frame = tf.io.decode_image(data, expand_animations=False)
    return tf.ensure_shape(frame[..., :3], (None, None, 3))


DECODERS = {
    "JPEG": (starts_with(b"\xff\xd8\xff"), jpeg_header, decode_jpeg),
    "PNG": (starts_with(b"\x89PNG\r\n\x1a\n"), png_header, decode_png),
    "WebP": (is_webp, webp_header, _decode_first),
    "GIF": (_is_gif, _gif_header, _decode_first),
    "BMP": (starts_with(b"BM"), _bmp_header, _decode_bmp),
}
