"""A picture of any kind - path, bytes, file, PIL image, array - to RGB pixels.

Pillow decodes, from an allow-list of raster formats, below a limit of pixels that is
checked before anything is allocated. Whatever is wrong with a picture is an
`ImageError` of one line that names it. Of damaged files libtiff prints a line of its
own to standard error, and Pillow warns of odd metadata.
"""

import os
import stat
import struct
import threading
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache
from io import BytesIO
from typing import IO, Any

import numpy as np
from PIL import Image

from open_nsfw_tf.forks import fork_waits_for, loading
from open_nsfw_tf.messages import one_line, shown

# Pillow's own limit, where it raises: twice 2**28 // 3 pixels, as it rounds.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 30  # of one picture in a stream, whose size nothing else bounds
READ = 1 << 20  # bytes that are asked of a stream at once

# Raster formats only. Pillow's default list has EPS (runs Ghostscript) and dozens that
# nobody moderates; a JPEG with several pictures in it (MPO) opens as JPEG.
FORMATS = ("JPEG", "PNG", "GIF", "WEBP", "BMP") + (
    "TIFF",
    "AVIF",
    "JPEG2000",
    "ICO",
    "PPM",
)

Picture = (
    str
    | os.PathLike[str]
    | bytes
    | bytearray
    | memoryview
    | IO[bytes]
    | Image.Image
    | np.ndarray
)


class ImageError(ValueError):
    """A picture that cannot be read, or is not one."""


def describe(picture: object) -> str:
    """How errors call a picture: its path, or what kind of thing it is."""
    if isinstance(picture, str | os.PathLike):
        return shown(os.fsdecode(picture)) or "''"
    if isinstance(picture, bytes | bytearray | memoryview):
        return f"<{len(picture)} bytes>"
    name = getattr(picture, "name", None)
    return shown(name) if isinstance(name, str) else f"<{type(picture).__name__}>"


def load_rgb(picture: Picture, max_pixels: int = MAX_PIXELS) -> Image.Image:
    """Decode any kind of picture to RGB, as Pillow's ``convert("RGB")`` does.

    Args:
        picture: a path, the bytes of a picture file, a binary file object (read from
            where it stands), a PIL image (its current frame; it is not changed), or a
            uint8 RGB array (height, width, 3), 0..255.
        max_pixels: larger pictures are refused before they are decoded.

    Returns:
        A PIL image of mode RGB, in its own size.

    Raises:
        ImageError: the picture is missing, empty, truncated, corrupt, too large, not
            one of `FORMATS`, or an object or array of another kind. The message names
            the picture and the reason in one line.
    """
    check_max_pixels(max_pixels)
    with _naming(picture):
        if isinstance(picture, np.ndarray):
            return _from_array(picture, max_pixels)
        if isinstance(picture, Image.Image):
            _check_size(picture.size, max_pixels)
            with decoding():
                return _to_rgb(picture)
        with _open_binary(picture) as file, decoding():
            return _decode(file, max_pixels)


def read_file(picture: Picture) -> bytes:
    """The bytes of a picture file, which are not looked into.

    Args:
        picture: a path, bytes, or a binary file object (read from where it stands).

    Raises:
        ImageError: it is missing, empty, no regular file, too large, or no file at all.
    """
    if isinstance(picture, Image.Image | np.ndarray):
        raise ImageError(
            f"{describe(picture)}: expected a picture file, by its path, bytes or file"
        )
    with _naming(picture), _open_binary(picture) as file:
        return _read_all(file)


def check_max_pixels(max_pixels: object) -> None:
    """Refuse a limit that is none.

    Raises:
        ValueError: it is not a whole number of at least 1.
    """
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"expected max_pixels of at least 1, got {max_pixels!r:.80}")


@contextmanager
def _naming(picture: object) -> Iterator[None]:
    """Whatever goes wrong with a picture is an `ImageError` that names it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{describe(picture)}: {error}") from error
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise ImageError(f"{describe(picture)}: {reason}") from error
    except UnicodeEncodeError as error:  # such as half of a pair of surrogates
        reason = "expected a path, got characters that no file name can have"
        raise ImageError(f"{describe(picture)}: {reason}") from error


@contextmanager
def decoding() -> Iterator[None]:
    """Whatever a decoder stumbles over is an `ImageError`."""
    try:
        yield
    except ImageError:
        raise
    except MemoryError as error:
        raise ImageError("not enough memory to decode it") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"corrupt picture ({one_line(error)})") from error


# What Pillow's decoders raise for broken files, beside OSError.
_DECODER_ERRORS = (
    ValueError,
    TypeError,
    SyntaxError,
    IndexError,
    KeyError,
    AttributeError,
    EOFError,
    OverflowError,
    ZeroDivisionError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
)


def _check_size(size: tuple[int, int], max_pixels: int) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise ImageError(
            f"expected a picture of at least 1 x 1, got {width} x {height}"
        )
    if width * height > max_pixels:
        raise ImageError(
            f"{width} x {height} pixels are more than the limit of {max_pixels:,}; "
            "raise max_pixels if you trust the picture"
        )


def _from_array(array: np.ndarray, max_pixels: int) -> Image.Image:
    if array.dtype != np.uint8 or array.ndim != 3 or array.shape[2] != 3:
        raise ImageError(
            "expected a uint8 RGB array of shape (height, width, 3), got "
            f"{array.dtype} of shape {array.shape}"
        )
    _check_size((array.shape[1], array.shape[0]), max_pixels)
    return Image.fromarray(np.ascontiguousarray(array))


def _open_binary(picture: Any) -> IO[bytes]:
    if isinstance(picture, str | os.PathLike):
        return _open_path(os.fsdecode(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        data = bytes(picture)
    elif hasattr(picture, "read"):
        try:
            data = _read_all(picture)
        except (ValueError, TypeError, RuntimeError, EOFError) as error:
            if isinstance(error, ImageError):
                raise
            raise ImageError(f"cannot be read ({one_line(error)})") from error
    else:
        raise ImageError(
            "expected a path, bytes, a binary file, a PIL image or a uint8 RGB array, "
            f"got {type(picture).__name__}"
        )
    if not data:
        raise ImageError("empty: expected a picture, got 0 bytes")
    return BytesIO(data)


def _read_all(file: Any) -> bytes:
    data = bytearray()
    while chunk := file.read(READ):
        if not isinstance(chunk, bytes | bytearray):
            raise ImageError("expected a file opened in binary mode, got a text file")
        data += chunk
        if len(data) > MAX_BYTES:
            raise ImageError(f"more than {MAX_BYTES >> 20} MiB in one picture")
    return bytes(data)


def _open_path(path: str) -> IO[bytes]:
    if not path or "\0" in path:
        raise ImageError("expected a path, got an empty one or one with a null byte")
    # Not blocking, or opening a pipe that nobody writes to would hang for ever.
    handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | _O_BINARY)
    try:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            kind = (
                "a directory" if stat.S_ISDIR(status.st_mode) else "not a regular file"
            )
            raise ImageError(f"expected a picture file, this is {kind}")
        if not status.st_size:
            raise ImageError("empty: expected a picture, got 0 bytes")
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


_O_BINARY = getattr(os, "O_BINARY", 0)  # Windows


# -- decoding, past Pillow's own check of sizes
#
# Pillow warns above half of its limit, and both the warning and the limit are settings
# of the whole process. `Image.open` is passed by. Three plugins check on their own: for
# those the limit is lifted under a lock, while they read a header.

_SETTINGS = threading.Lock()
_CHECKING = ("TIFF", "GIF", "ICO")
fork_waits_for(_SETTINGS)


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    with _SETTINGS:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode(file: IO[bytes], max_pixels: int) -> Image.Image:
    try:
        return _decode_once(file, max_pixels)
    except Warning:
        # The application turns warnings into errors, but one of odd metadata must not
        # decide over a picture: once more, with the filters set aside.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode_once(file, max_pixels)


_FILTERS = threading.Lock()
fork_waits_for(_FILTERS)


def _decode_once(file: IO[bytes], max_pixels: int) -> Image.Image:
    with identify(file, max_pixels) as image:
        _check_size(image.size, max_pixels)
        if image.format == "TIFF":
            _check_tiles(image, max_pixels)
            with _without_pillows_limit():
                image.load_prepare()  # where its plugin checks; decoding comes after
        return _to_rgb(image)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def identify(file: IO[bytes], max_pixels: int) -> Any:
    """`Image.open` for our formats: the picture, of which only the header is read.

    Raises ImageError, or what Pillow does: for use under `decoding`.
    """
    _import_plugins()
    file.seek(0)
    prefix = file.read(16)
    reasons = []
    for name in FORMATS:
        if name not in Image.OPEN:
            _import_plugins(every=True)
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None:
            reasons.append(f"this Pillow has no decoder for {name}")
            continue
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # the plugin's own words: a codec is missing
            reasons.append(accepted)
        elif accepted:
            try:
                return _open_as(name, factory, file, max_pixels)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reasons.append(f"it starts as {name}, but: {one_line(error)}")
    known = ", ".join(FORMATS)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise ImageError(f"not a picture this library reads{why}; it reads {known}")


@cache
def _import_plugins(every: bool = False) -> None:
    with loading:
        Image.init() if every else Image.preinit()


def _open_as(name: str, factory: Any, file: IO[bytes], max_pixels: int) -> Any:
    if name == "ICO":  # whose plugin decodes at once, whatever the size
        for size in _ico_sizes(file):
            _check_size(size, max_pixels)
    file.seek(0)
    with _without_pillows_limit() if name in _CHECKING else nullcontext():
        return factory(file, "")


def _ico_sizes(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The sizes of an icon's pictures, of which each is a PNG or a bitmap."""
    file.seek(0)
    _, _, count = struct.unpack("<3H", file.read(6))
    entries = [struct.unpack("<8x2I", file.read(16)) for _ in range(count)]
    for _, offset in entries:
        file.seek(offset)
        head = file.read(24)
        if head.startswith(b"\x89PNG"):
            yield struct.unpack(">2I", head[16:])
        else:
            width, height = struct.unpack("<4x2i12x", head)
            yield width, abs(height) // 2  # the colours, and below them the mask


def _check_tiles(image: Any, max_pixels: int) -> None:
    """A TIFF may be small and declare tiles of gigabytes, which libtiff allocates."""
    sides = [image.tag_v2.get(tag, 1) for tag in (322, 323)]
    if all(isinstance(side, int) and side > 0 for side in sides):
        _check_size((sides[0], sides[1]), max(max_pixels, 1 << 16))
