"""Yahoo's preprocessing as TensorFlow ops, bit for bit equal to the Pillow loader.

No Python code runs in the graph, so the same code works in a `tf.function`, a
SavedModel, a frozen graph and TensorFlow Serving. A picture that TensorFlow would read
differently from Pillow is refused with a reason, never read approximately. No step
raises an error: each returns `(result, reason)`, where an empty reason means "good".
Only in this way can the error of a batch name its bad elements.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from io import BytesIO
from typing import TYPE_CHECKING, Any, cast

import numpy as np
from PIL import Image

from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import (
    YAHOO,
    Picture,
    Preprocessing,
    describe,
    is_heif,
    load_rgb,
    read_file,
)
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.tf_image.resize import max_side, resize, resize_aligned

if TYPE_CHECKING:
    import tensorflow as tf

MAX_SIDE = max_side(YAHOO.resize)  # pixels, of a picture that is given as pixels
LONGEST = 1000  # characters of an error about a batch
PARALLEL_PICTURES = 4  # pictures of a batch in memory at the same time
JPEG_QUALITY = 75  # Pillow's default for save(format="JPEG"), with 4:2:0


def load_bytes_tensor(
    strings: tf.Tensor, preprocessing: Preprocessing | None = None
) -> tf.Tensor:
    """Load a batch of encoded pictures inside a graph exactly as Yahoo did.

    Args:
        strings: string [None], each a JPEG, PNG, WebP, GIF (first frame) or BMP file;
            may be empty.
        preprocessing: of another network; the result equals that of
            `open_nsfw_tf.image.tensor`. None: Yahoo's.

    Returns:
        float32 (None, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        tf.errors.InvalidArgumentError: When run with a bad element; the message names
            the index of every bad element and the reason. A picture is bad if it is
            damaged, larger than MAX_PIXELS, or of a kind that TensorFlow reads
            differently from Pillow (CMYK JPEG, palette BMP, GIF with transparency, HEIC
            ...). The pixels of a GIF have no checksum, so damage there may be accepted.

    Source: Yahoo's classify_nsfw.py and the Resample.c of Pillow.
    """
    blobs, reasons = _load_batch(preprocessing or YAHOO)(_as_strings(strings))
    return _require(reasons, blobs)


def load_base64_tensor(
    strings: tf.Tensor, preprocessing: Preprocessing | None = None
) -> tf.Tensor:
    """Load a batch of base64 pictures inside a graph exactly as Yahoo did.

    Args:
        strings: string [None]; base64 in the standard or the urlsafe alphabet, padded
            or not, with or without white space; the pictures as for
            `load_bytes_tensor`.
        preprocessing: as for `load_bytes_tensor`.

    Returns:
        float32 (None, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        tf.errors.InvalidArgumentError: As for `load_bytes_tensor`; also when an element
            is not base64.
    """
    tf = import_tensorflow()

    data, not_base64 = _decode_base64(_as_strings(strings))
    blobs, reasons = _load_batch(preprocessing or YAHOO)(data)
    reasons = tf.where(tf.equal(not_base64, ""), reasons, not_base64)
    return _require(reasons, blobs)


def require_finite(values: tf.Tensor, of: str) -> tf.Tensor:
    """Refuse NaN and infinity inside a graph, in a batch or in its scores.

    Args:
        values: float32 (None, ...), one element a picture; may be empty.
        of: the name of the values, for the message.

    Returns:
        The values.

    Raises:
        tf.errors.InvalidArgumentError: When run with such an element; the message names
            the index of every one. TF Serving answers with INVALID_ARGUMENT (400).
    """
    tf = import_tensorflow()
    inner = range(1, values.shape.rank)
    finite = tf.reduce_all(tf.math.is_finite(values), axis=list(inner))
    return _require(tf.where(finite, "", f"NaN or infinity in its {of}"), values)


def create_tensorflow_image_loader(
    expand_dims: bool = True,
) -> Callable[[Picture], np.ndarray]:
    """Return a function that loads one picture through the TensorFlow graph.

    Args:
        expand_dims: Whether to add the batch dimension.

    Returns:
        `load(picture)`; a path (str or PathLike), bytes, a binary file, a PIL image or
        a uint8 RGB array (H, W, 3). HEIC and HEIF are decoded by pillow-heif:
        TensorFlow cannot do it, so the loaders inside a graph refuse them. It returns
        float32 (1, 224, 224, 3), or (224, 224, 3) without expand_dims; BGR, 0..255
        minus (104, 117, 123). It raises ImageError, whose one-line message names the
        picture and the reason.
    """

    def load(picture: Picture) -> np.ndarray:
        value = _value(picture)
        tf = import_tensorflow()
        from_bytes, from_pixels = _compiled()
        run = from_bytes if isinstance(value, bytes) else from_pixels
        try:
            blob, reason = run(tf.constant(value))
        except tf.errors.OpError as error:
            what = f"{describe(picture)}: TensorFlow failed: {error_reason(error)}"
            raise ImageError(what) from error
        if reason.numpy():
            raise ImageError(f"{describe(picture)}: {reason.numpy().decode()}")
        tensor: np.ndarray = blob.numpy()
        return tensor[np.newaxis] if expand_dims else tensor

    return load


@functools.cache
def _compiled() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Trace the two graphs, from bytes and from pixels, once for all loaders."""
    tf = import_tensorflow()

    pixels = tf.TensorSpec([None, None, 3], tf.uint8)
    return (
        tf.function(
            _load, input_signature=[tf.TensorSpec([], tf.string)], autograph=False
        ),
        tf.function(
            lambda rgb: (_prepare(rgb), ""), input_signature=[pixels], autograph=False
        ),
    )


def _value(picture: Picture) -> bytes | np.ndarray:
    """The bytes of a picture file, or the pixels of a picture, uint8 (H, W, 3).

    Pixels for a picture in memory, and for HEIC and HEIF, which TensorFlow cannot
    decode.
    """
    if isinstance(picture, Image.Image | np.ndarray):
        pixels = np.asarray(load_rgb(picture))
    else:
        data = read_file(picture)
        if not is_heif(data[:16]):
            return data
        file = BytesIO(data)
        file.name = describe(picture)  # type: ignore[attr-defined]  # in an error
        pixels = np.asarray(load_rgb(file))
    if max(pixels.shape) > MAX_SIDE:
        raise ImageError(
            f"{describe(picture)}: expected sides of at most {MAX_SIDE} pixels, got "
            f"{pixels.shape[1]} x {pixels.shape[0]}"
        )
    return pixels


def error_reason(error: Any) -> str:
    """The reason in an error of the two loaders for graphs, in one line.

    Args:
        error: the `tf.errors.OpError` that was raised.
    """
    message = " ".join(error.message.split())
    # TensorFlow's message of a failed check in a graph, and in eager execution.
    in_graph = re.search(r"assertion failed: \[(.*?)\]", message)
    eagerly = re.search(r"Summarized data: b'(.*)'", message)
    found = in_graph or eagerly
    return sanitize(found[1] if found else message, LONGEST)


def _load(
    data: tf.Tensor, preprocessing: Preprocessing = YAHOO
) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the blob and a reason, "" for a good picture; a bad one's blob is zero."""
    tf = import_tensorflow()

    from open_nsfw_tf.tf_image.decode import decode

    # On a GPU TensorFloat-32 would round the sums, and decoding is CPU work anyway.
    shape = (preprocessing.crop, preprocessing.crop, 3)
    with tf.device("/CPU:0"):
        picture, reason = decode(data, max_side(preprocessing.resize))
        blob = tf.cond(
            tf.equal(reason, ""),
            lambda: _prepare(picture, preprocessing),
            lambda: tf.zeros(shape),
        )
        return tf.ensure_shape(blob, shape), reason


def _as_strings(strings: tf.Tensor) -> tf.Tensor:
    tf = import_tensorflow()
    return tf.ensure_shape(tf.convert_to_tensor(strings, tf.string), (None,))


def _decode_base64(texts: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Return the decoded strings, "" for a bad one, and the reasons as `_load` does."""
    tf = import_tensorflow()

    with tf.device("/CPU:0"):
        texts = tf.strings.regex_replace(texts, r"\s+", "")
        good = tf.strings.regex_full_match(texts, "[A-Za-z0-9+/_-]*={0,2}")
        for old, new in ((r"\+", "-"), ("/", "_"), ("=+", "")):
            texts = tf.strings.regex_replace(texts, old, new)
        # A last group of a single character is not valid base64.
        good = good & tf.not_equal(tf.strings.length(texts) % 4, 1)
        reason = "not base64: expected A-Z a-z 0-9 with +/ or -_, = only at the end"
        data = tf.io.decode_base64(tf.where(good, texts, ""))
        return data, tf.where(good, "", reason)


@functools.cache
def _load_batch(preprocessing: Preprocessing) -> Callable[..., Any]:
    """Make `_load` for a batch: strings (N,) to blobs (N, crop, crop, 3), reasons (N,).

    A function of TensorFlow, which a SavedModel holds once for all its signatures.
    """
    tf = import_tensorflow()

    shape = (preprocessing.crop, preprocessing.crop, 3)
    specs = (tf.TensorSpec(shape, tf.float32), tf.TensorSpec((), tf.string))

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string)], autograph=False)
    def load(strings: Any) -> tuple[Any, Any]:
        blobs, reasons = tf.map_fn(
            lambda string: _load(string, preprocessing),
            strings,
            fn_output_signature=specs,
            parallel_iterations=PARALLEL_PICTURES,
        )
        return blobs, reasons

    return cast(Callable[..., Any], load)


def _require(reasons: tf.Tensor, values: tf.Tensor) -> tf.Tensor:
    """Return `values`, or fail with the number and the reason of each bad picture."""
    tf = import_tensorflow()

    bad = tf.reshape(tf.where(tf.not_equal(reasons, "")), (-1,))
    lines = tf.strings.join(
        ["picture ", tf.strings.as_string(bad), ": ", tf.gather(reasons, bad)]
    )
    check = tf.debugging.Assert(
        tf.equal(tf.size(bad), 0), [tf.strings.reduce_join(lines, separator="; ")]
    )
    # Without the dependency, freezing the graph would drop the check.
    with tf.control_dependencies([check] if check is not None else []):
        return tf.identity(values)


def _prepare(picture: tf.Tensor, preprocessing: Preprocessing = YAHOO) -> tf.Tensor:
    """Turn uint8 RGB (H, W, 3) into the network's float32 (crop, crop, 3)."""
    tf = import_tensorflow()

    from open_nsfw_tf.tf_image.jpeg import decode_jpeg

    side, crop = preprocessing.resize, preprocessing.crop
    edge = (side - crop) // 2
    with tf.device("/CPU:0"):
        make = resize_aligned if preprocessing.aligned else resize
        pixels = make(picture, side)
        if preprocessing.jpeg:
            jpeg = tf.io.encode_jpeg(
                pixels, format="rgb", quality=JPEG_QUALITY, chroma_downsampling=True
            )
            pixels = decode_jpeg(jpeg)
        pixels = pixels[edge : edge + crop, edge : edge + crop]
        if preprocessing.order == "BGR":
            pixels = pixels[..., ::-1]
        values = tf.ensure_shape(tf.cast(pixels, tf.float32), (crop, crop, 3))
        values -= preprocessing.mean
        return values if preprocessing.scale == 1 else values * preprocessing.scale
