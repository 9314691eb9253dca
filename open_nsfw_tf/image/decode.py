"""From a picture of any kind to RGB, by Pillow.

Pillow decodes an allow-list of raster formats, up to a limit of pixels that is checked
before anything is allocated. Whatever is wrong with a picture is raised as an
`ImageError` whose one-line message names it; Pillow and libtiff print nothing of their
own, except for Pillow's warnings of odd metadata.

HEIC and HEIF, which the original could not read, are read where pillow-heif is
installed. A file's own rotation and mirroring (``irot`` and ``imir``) are part of how
its pixels are stored, and applied; EXIF orientation is ignored, as in all formats.
"""

import ctypes
import errno
import logging
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
from PIL import Image, _imaging

from open_nsfw_tf.errors import (
    ImageError,
    NotReadError,
    PixelLimitError,
    one_line,
    sanitize,
)
from open_nsfw_tf.files import HEAD, HEIF_NEEDED, PICTURE_TYPES, type_by_content
from open_nsfw_tf.forks import fork_waits_for, loading

# Pillow's own limit for an error: twice its limit for a warning, with its rounding.
MAX_PIXELS = 178_956_970
MAX_BYTES = 1 << 30  # of one picture in a stream, whose size nothing else bounds
READ = 1 << 20  # bytes to read from a stream at once

# Raster formats only. Pillow's own list has EPS (runs Ghostscript) and dozens of
# formats that nobody moderates; a JPEG with several pictures in it (MPO) opens as JPEG.
PICTURE_FORMATS = tuple(PICTURE_TYPES)

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


def describe(picture: object) -> str:
    """The name of a picture in errors: its path, or the type of the object."""
    if isinstance(picture, str | os.PathLike):
        return sanitize(os.fsdecode(picture)) or "''"
    if isinstance(picture, bytes | bytearray | memoryview):
        return f"<{len(picture)} bytes>"
    name = getattr(picture, "name", None)
    return sanitize(name) if isinstance(name, str) else f"<{type(picture).__name__}>"


def load_rgb(
    picture: Picture, max_pixels: int = MAX_PIXELS, least: int | None = None
) -> Image.Image:
    """Decode any kind of picture to RGB, as Pillow's ``convert("RGB")`` does.

    Args:
        picture: a path, the bytes of a picture file, a binary file object (read from
            its current position), a PIL image (its current frame; it is not changed),
            or a uint8 RGB array (height, width, 3), 0..255.
        max_pixels: larger pictures are refused before they are decoded.
        least: pixels; a JPEG file may be decoded to a half, a quarter or an eighth of
            its size, the smallest whose both sides have at least so many. That takes
            less time, and gives other pixels than resizing. None: in its own size.

    Returns:
        A PIL image of mode RGB, in the original size; with `least` perhaps a smaller
        one.

    Raises:
        ImageError: the picture is missing, empty, truncated, corrupt, too large, not
            one of `PICTURE_FORMATS`, or an object or array of another kind. The message
            names the picture and the reason in one line. It is a `NotReadError` where
            the system, memory or a missing library is at fault, and not the picture.
    """
    check_max_pixels(max_pixels)
    with naming(picture):
        if isinstance(picture, np.ndarray):
            return _from_array(picture, max_pixels)
        if isinstance(picture, Image.Image):
            _check_size(picture.size, max_pixels)
            with decoding():
                return _to_rgb(picture)
        with _open_binary(picture) as file, decoding():
            return _decode(file, max_pixels, least)


def read_file(picture: Picture) -> bytes:
    """The bytes of a picture file, not decoded or checked.

    Args:
        picture: a path, bytes, or a binary file object (read from its current
            position).

    Raises:
        ImageError: it is missing, empty, too large, or not a regular file; or an image
            or array, which is not a file.
    """
    if isinstance(picture, Image.Image | np.ndarray):
        raise ImageError(
            f"{describe(picture)}: expected a picture file, by its path, bytes or file"
        )
    with naming(picture), _open_binary(picture) as file:
        return _read_all(file)


def check_max_pixels(max_pixels: object) -> None:
    """Refuse a limit that is not a whole number of at least 1.

    Raises:
        ValueError: it is not.
    """
    if not isinstance(max_pixels, int) or max_pixels < 1:
        raise ValueError(f"expected max_pixels of at least 1, got {max_pixels!r:.80}")


@contextmanager
def naming(picture: object) -> Iterator[None]:
    """Turn errors of a picture into an `ImageError` that names it."""
    try:
        yield
    except ImageError as error:
        raise type(error)(f"{describe(picture)}: {error}") from error
    except OSError as error:
        # Pillow's own errors of broken pictures have no number; EINVAL is that of a
        # decoder that goes where a broken picture sends it.
        broken = error.errno in (None, errno.EINVAL)
        kind = ImageError if broken else NotReadError
        reason = error.strerror or one_line(error)
        raise kind(f"{describe(picture)}: {reason}") from error
    except UnicodeEncodeError as error:  # such as a lone surrogate
        reason = "expected a path, got characters that no file name can have"
        raise ImageError(f"{describe(picture)}: {reason}") from error


@contextmanager
def decoding() -> Iterator[None]:
    """Turn a decoder's errors into `ImageError`, and silence its log messages."""
    try:
        with _quiet():
            yield
    except ImageError:
        raise
    except MemoryError as error:
        raise NotReadError("not enough memory to decode it") from error
    except _DECODER_ERRORS as error:
        raise ImageError(f"corrupt picture ({one_line(error)})") from error


# The errors that Pillow's decoders raise for broken files, besides OSError.
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
        raise PixelLimitError(
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
    # Without O_NONBLOCK, opening a pipe that nobody writes to would hang for ever.
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


# -- decoding, without Pillow's own check of sizes
#
# Pillow warns above half of its limit, and both the warning and the limit are settings
# of the whole process. So `Image.open` is not used. Three plugins check on their own:
# for those the limit is removed, under a lock, while they read a header.

_SETTINGS = threading.Lock()
_CHECKING = ("TIFF", "GIF", "ICO")


@contextmanager
def _without_pillows_limit() -> Iterator[None]:
    with _SETTINGS:
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            yield
        finally:
            Image.MAX_IMAGE_PIXELS = limit


def _decode(file: IO[bytes], max_pixels: int, least: int | None) -> Image.Image:
    try:
        return _decode_once(file, max_pixels, least)
    except Warning:
        # The application turns warnings into errors, but a warning of odd metadata must
        # not make a picture unreadable: decode again without the application's filters.
        with _FILTERS, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return _decode_once(file, max_pixels, least)


_FILTERS = threading.Lock()


def _decode_once(file: IO[bytes], max_pixels: int, least: int | None) -> Image.Image:
    with identify(file, max_pixels) as image:
        _check_size(image.size, max_pixels)
        if least is not None:
            image.draft("RGB", (least, least))  # changes nothing but JPEGs
        if image.format != "TIFF":
            return _to_rgb(image)
        _check_tiles(image, max_pixels)
        with _without_pillows_limit():
            image.load_prepare()  # the plugin checks the size here, before decoding
        with _without_libtiffs_errors:
            return _to_rgb(image)


# -- silencing decoders: their messages are in the error, which names the picture

_thread = threading.local()
_LOGGERS = ("Image", "ImageFile", "PngImagePlugin", "TiffImagePlugin")  # of Pillow


def _is_not_ours(record: logging.LogRecord) -> bool:
    return not getattr(_thread, "decoding", False)


for _name in _LOGGERS:  # only messages from our own calls are dropped
    logging.getLogger(f"PIL.{_name}").addFilter(_is_not_ours)


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Pillow's loggers silent in this thread."""
    before = getattr(_thread, "decoding", False)
    _thread.decoding = True
    try:
        yield
    finally:
        _thread.decoding = before


class _LibtiffErrors:
    """Keeps libtiff, inside Pillow, from writing errors to standard error.

    The whole process has one error handler: it is removed while any thread decodes a
    TIFF here, and then restored. If Pillow does not export libtiff's functions (it may
    be linked statically), nothing is changed.
    """

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._users = 0
        self._handler: int | None = None

    def __enter__(self) -> None:
        with self.lock:
            self._users += 1
            if self._users == 1:
                self._handler = self._set(None)

    def __exit__(self, *error: object) -> None:
        with self.lock:
            self._users -= 1
            if not self._users:
                self._set(self._handler)

    def _set(self, handler: int | None) -> int | None:
        try:
            function = ctypes.CDLL(_imaging.__file__).TIFFSetErrorHandler
        except (OSError, AttributeError):
            return None
        function.argtypes, function.restype = [ctypes.c_void_p], ctypes.c_void_p
        previous: int | None = function(handler)
        return previous


_without_libtiffs_errors = _LibtiffErrors()

# A fork waits until these are free, or in the child a setting of Pillow would stay
# changed. The outer lock is registered later.
for _lock in (_without_libtiffs_errors.lock, _SETTINGS, _FILTERS):
    fork_waits_for(_lock)


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def identify(file: IO[bytes], max_pixels: int) -> Any:
    """Open a picture of one of `PICTURE_FORMATS`; only the header is read.

    Raises ImageError or Pillow's own errors: for use under `decoding`.
    """
    _import_plugins()
    file.seek(0)
    head = file.read(HEAD)
    prefix = head[:16]
    reasons = []
    kind = ImageError
    for name in PICTURE_FORMATS:
        factory, accept = _plugin(name)
        if factory is None:
            reasons.append(f"this Pillow has no decoder for {name}")
            if type_by_content(head) == name:
                kind = NotReadError
            continue
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # the plugin's message: a codec is missing
            reasons.append(accepted)
            kind = NotReadError
        elif accepted:
            try:
                return _open_as(name, factory, file, max_pixels)
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reasons.append(f"it starts as {name}, but: {one_line(error)}")
    known = ", ".join(PICTURE_FORMATS)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise kind(f"not a picture this library reads{why}; it reads {known}")


def _plugin(name: str) -> Any:
    """The class that opens a format, or None, and the function that checks a prefix."""
    if name == "HEIF":
        return _open_heif, is_heif
    if name not in Image.OPEN:
        _import_plugins(every=True)
    return Image.OPEN.get(name, (None, None))


@cache
def _import_plugins(every: bool = False) -> None:
    with loading:
        Image.init() if every else Image.preinit()


def is_heif(head: bytes) -> bool:
    """Whether these first bytes may be of HEIC or HEIF; some such files are AVIF."""
    return head[4:8] == b"ftyp" and head[8:12] in PICTURE_TYPES["HEIF"].brands


def _open_heif(file: IO[bytes], name: str) -> Any:
    # Not by pillow-heif's `register_heif_opener`, which would change `Image.open` in
    # the whole process.
    try:
        from pillow_heif import HeifImageFile
    except ImportError as error:
        raise NotReadError(f"HEIC and HEIF need pillow-heif: {HEIF_NEEDED}") from error
    return HeifImageFile(file, name)


def _open_as(name: str, factory: Any, file: IO[bytes], max_pixels: int) -> Any:
    if name == "ICO":  # its plugin decodes when it opens, whatever the size
        for size in _ico_sizes(file):
            _check_size(size, max_pixels)
    file.seek(0)
    with _without_pillows_limit() if name in _CHECKING else nullcontext():
        return factory(file, "")


def _ico_sizes(file: IO[bytes]) -> Iterator[tuple[int, int]]:
    """The sizes of an icon's pictures, each of which is a PNG or a bitmap."""
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
            yield width, abs(height) // 2  # the height includes that of the mask


def _check_tiles(image: Any, max_pixels: int) -> None:
    """Refuse a small TIFF that declares tiles of gigabytes: libtiff allocates them."""
    sides = [image.tag_v2.get(tag, 1) for tag in (322, 323)]
    if all(isinstance(side, int) and side > 0 for side in sides):
        _check_size((sides[0], sides[1]), max(max_pixels, 1 << 16))
