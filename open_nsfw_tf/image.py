"""The exact Yahoo loader: any picture to the tensor that Caffe saw, bit for bit.

Yahoo's ``classify_nsfw.py`` (yahoo/open_nsfw) converts to RGB, resizes to 256 x 256
with Pillow's bilinear filter, saves as JPEG, decodes that, crops 224 x 224 from the
middle, swaps to BGR and takes off the mean. Every step changes scores; none is left
out here. Alpha is dropped, EXIF orientation ignored, the first frame of an animation
taken - as in the original.
"""

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import IO, Any

import numpy as np
from PIL import Image, UnidentifiedImageError

RESIZE = 256  # pixels, both sides; Yahoo's resize before the crop
CROP = 224  # pixels, both sides; the network's input
OFFSET = (RESIZE - CROP) // 2  # pixels
MEAN_BGR = (104.0, 117.0, 123.0)  # of 0..255, Yahoo's training mean

MAX_PIXELS = (
    178_956_970  # Pillow's own limit: twice 2**28 // 3 pixels, rounded as there
)
MAX_BYTES = 1 << 30  # of one picture in a stream, whose size nothing else bounds
READ = 1 << 20  # bytes that are asked of a stream at once

# Raster formats only. Pillow's default list has EPS (runs Ghostscript) and dozens that
# nobody moderates; a JPEG with several pictures in it (MPO) opens as JPEG.
FORMATS = (
    "JPEG",
    "PNG",
    "GIF",
    "WEBP",
    "BMP",
    "TIFF",
    "AVIF",
    "JPEG2000",
    "ICO",
    "PPM",
)

Picture = str | os.PathLike[str] | bytes | IO[bytes] | Image.Image | np.ndarray


class ImageError(ValueError):
    """A picture that cannot be read, or is not one."""


def describe(picture: object) -> str:
    """How errors call a picture: its path, or what kind of thing it is."""
    if isinstance(picture, str | os.PathLike):
        # Names may hold newlines and undecodable bytes; an error stays one line.
        path = os.fsdecode(picture)
        return path if path.isprintable() else ascii(path)[1:-1]
    if isinstance(picture, bytes | bytearray | memoryview):
        return f"<{len(picture)} bytes>"
    name = getattr(picture, "name", None)
    return name if isinstance(name, str) else f"<{type(picture).__name__}>"


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
    with _naming(picture):
        if isinstance(picture, np.ndarray):
            return _from_array(picture, max_pixels)
        if isinstance(picture, Image.Image):
            _check_size(picture.size, max_pixels)
            return _to_rgb(picture)
        with _open_binary(picture) as file, _open_image(file) as image:
            _check_size(image.size, max_pixels)
            return _to_rgb(image)


def read_file(picture: Picture) -> bytes:
    """The bytes of a picture file, which are not looked into.

    Args:
        picture: a path, bytes, or a binary file object (read from where it stands).

    Raises:
        ImageError: it is missing, empty, no regular file, too large, or no file at all.
    """
    with _naming(picture), _open_binary(picture) as file:
        return _read_all(file)


@contextmanager
def _naming(picture: object) -> Iterator[None]:
    """Whatever goes wrong with a picture is an `ImageError` that names it."""
    try:
        yield
    except ImageError as error:
        raise ImageError(f"{describe(picture)}: {error}") from error
    except OSError as error:
        reason = error.strerror or _one_line(error)
        raise ImageError(f"{describe(picture)}: {reason}") from error
    except _DECODER_ERRORS as error:
        raise ImageError(
            f"{describe(picture)}: corrupt picture ({_one_line(error)})"
        ) from error


def yahoo_pixels(image: Image.Image) -> np.ndarray:
    """Yahoo's resize, JPEG round trip and crop.

    Args:
        image: of mode RGB, any size.

    Returns:
        uint8 (224, 224, 3), RGB, 0..255.
    """
    # Two calls, one axis each, horizontal first: what Pillow did in one call until
    # version 13, which starts with the vertical axis for some tall pictures.
    resized = image.resize((RESIZE, image.height), Image.Resampling.BILINEAR)
    resized = resized.resize((RESIZE, RESIZE), Image.Resampling.BILINEAR)
    resized.info.clear()  # or a comment of the source would be written into the JPEG
    file = BytesIO()
    resized.save(file, format="JPEG")  # quality 75, 4:2:0: Pillow's defaults
    with Image.open(file, formats=("JPEG",)) as jpeg:
        pixels = np.asarray(jpeg)
    return pixels[OFFSET : OFFSET + CROP, OFFSET : OFFSET + CROP]


def yahoo_tensor(picture: Picture, max_pixels: int = MAX_PIXELS) -> np.ndarray:
    """The network's input for one picture, equal to Caffe's bit for bit.

    Args:
        picture: as for `load_rgb`.
        max_pixels: as for `load_rgb`.

    Returns:
        float32 (224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        ImageError: as `load_rgb`.
    """
    pixels = yahoo_pixels(load_rgb(picture, max_pixels))
    return pixels[..., ::-1] - np.array(MEAN_BGR, np.float32)


def create_yahoo_image_loader(
    expand_dims: bool = True, max_pixels: int = MAX_PIXELS
) -> Callable[[Picture], np.ndarray]:
    """Make the loader of the original's ``image_utils.py``.

    Args:
        expand_dims: whether the loader adds a first axis of one.
        max_pixels: as for `load_rgb`.

    Returns:
        A function from a picture (see `load_rgb`) to float32 (1, 224, 224, 3), or
        (224, 224, 3) without `expand_dims`; BGR, 0..255 minus (104, 117, 123). It
        raises `ImageError`.
    """

    def load_image(picture: Picture) -> np.ndarray:
        tensor = yahoo_tensor(picture, max_pixels)
        return tensor[np.newaxis] if expand_dims else tensor

    return load_image


def check_batch(batch: object) -> np.ndarray:
    """Hold a batch against the network's input.

    Args:
        batch: an array (N, 224, 224, 3) of floats, BGR, 0..255 minus (104, 117, 123).

    Returns:
        The same as contiguous float32.

    Raises:
        TypeError: it is no array.
        ValueError: another dtype or shape, or values that are not finite.
    """
    expected = f"expected a float32 batch (N, {CROP}, {CROP}, 3)"
    if not isinstance(batch, np.ndarray):
        raise TypeError(f"{expected}, got {type(batch).__name__}")
    if not np.issubdtype(batch.dtype, np.floating):
        raise ValueError(
            f"{expected} from create_yahoo_image_loader, got dtype {batch.dtype}; "
            "pictures go into classify()"
        )
    if batch.ndim != 4 or batch.shape[1:] != (CROP, CROP, 3):
        raise ValueError(f"{expected}, got shape {batch.shape}")
    batch = np.ascontiguousarray(batch, dtype=np.float32)
    if not np.isfinite(batch).all():
        raise ValueError(f"{expected}, got values that are NaN or infinite")
    return batch


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
    MemoryError,
    NotImplementedError,
    RuntimeError,
    AssertionError,
    struct.error,
    Image.DecompressionBombError,
    Warning,  # where the application turns warnings into errors
)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__


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


def _to_rgb(image: Image.Image) -> Image.Image:
    image.load()
    return image if image.mode == "RGB" else image.convert("RGB")


def _open_binary(picture: Any) -> IO[bytes]:
    if isinstance(picture, str | os.PathLike):
        return _open_path(Path(picture))
    if isinstance(picture, bytes | bytearray | memoryview):
        data = picture
    elif hasattr(picture, "read"):
        data = _read_all(picture)
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
        if not isinstance(chunk, bytes):
            raise ImageError("expected a file opened in binary mode, got a text file")
        data += chunk
        if len(data) > MAX_BYTES:
            raise ImageError(f"more than {MAX_BYTES >> 20} MiB in one picture")
    return bytes(data)


def _open_path(path: Path) -> IO[bytes]:
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


def _open_image(file: IO[bytes]) -> Image.Image:
    """`Image.open` for our formats, without its check of sizes, which is ours.

    Pillow warns above half of its limit, and the warning can only be silenced, as the
    limit can only be moved, for the whole process: another thread's business.
    """
    Image.preinit()
    prefix = file.read(16)
    reasons = []
    for name in FORMATS:
        if name not in Image.OPEN:
            Image.init()
        factory, accept = Image.OPEN.get(name, (None, None))
        if factory is None:
            reasons.append(f"this Pillow has no decoder for {name}")
            continue
        accepted = accept is None or accept(prefix)
        if isinstance(accepted, str):  # the plugin's own words: a codec is missing
            reasons.append(accepted)
        elif accepted:
            file.seek(0)
            try:
                return factory(file, "")
            except (SyntaxError, IndexError, TypeError, struct.error) as error:
                reasons.append(_one_line(error))
    known = ", ".join(FORMATS)
    why = f" ({'; '.join(reasons)})" if reasons else ""
    raise UnidentifiedImageError(f"not a picture this library reads{why}: {known}")
