"""What is remembered of every picture to compare it with all others: no pixels."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

import numpy as np
from PIL import Image

from open_nsfw_tf.dataset.folder import File
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.files import file_sha256
from open_nsfw_tf.image import MAX_PIXELS, describe, load_rgb
from open_nsfw_tf.libraries import need
from open_nsfw_tf.parallel import in_order

CHUNK = 1 << 20  # pixels that are hashed at once
SHRUNK = 256  # pixels, both sides; a perceptual hash takes 32
PHASH_BYTES = 8  # of a perceptual hash
BLANK_SIZE = 64  # pixels, both sides; whether a picture is blank is seen at this size
# Photographs have 4 to 7.6 bits and 47 to 230 levels, a chessboard 2.2 bits.
LEAST_BITS = 1.5
LEAST_RANGE = 10  # of 255 levels of gray


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How all pictures of a folder are read.

    Attributes:
        max_pixels: larger pictures count as unreadable.
        workers: threads; None: one for each core.
        progress: called after every file.
    """

    max_pixels: int = MAX_PIXELS
    workers: int | None = None
    progress: Callable[[], None] = lambda: None


READ_DEFAULTS = ReadOptions()


# -- blank pictures


@dataclass(frozen=True, slots=True)
class Detail:
    """How much there is to see in a small gray copy of a picture.

    Attributes:
        bits: entropy of its levels, 0 to 8.
        range: between the darkest and the lightest percent, 0 to 255.
    """

    bits: float
    range: float

    @property
    def is_blank(self) -> bool:
        """Whether the picture is blank, or nearly so."""
        return self.bits < LEAST_BITS or self.range <= LEAST_RANGE


def measure_detail(image: Image.Image) -> Detail:
    """Measure how much there is to see in a picture.

    Args:
        image: of mode RGB, any size.
    """
    size = (BLANK_SIZE, BLANK_SIZE)
    gray = np.asarray(image.resize(size, Image.Resampling.BOX).convert("L"))
    share = np.bincount(gray.ravel(), minlength=256) / gray.size
    share = share[share > 0]
    dark, light = np.percentile(gray, (1, 99))
    return Detail(abs(float((share * np.log2(share)).sum())), float(light - dark))


# -- hashes


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is remembered of a picture.

    Attributes:
        file_hash: SHA-256 of the file.
        pixel_hash: SHA-256 of width, height and RGB pixels, as the loader gives them.
        phash: 64-bit perceptual hash (imagehash's phash), 8 bytes.
        width: in pixels.
        height: in pixels.
        blank: whether it is nearly blank, so that its phash says nothing.
    """

    file_hash: bytes
    pixel_hash: bytes
    phash: bytes
    width: int
    height: int
    blank: bool


@dataclass(slots=True)
class Fingerprints:
    """The pictures of a folder.

    Attributes:
        files: those that can be read, in their order.
        prints: one for each of them.
        unreadable: name and reason of the others.
    """

    files: list[File] = field(default_factory=list)
    prints: list[Fingerprint] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)


def fingerprints(
    files: Iterable[File], reading: ReadOptions = READ_DEFAULTS
) -> Fingerprints:
    """Read every picture once and remember its hashes.

    Args:
        files: of a folder.
        reading: how they are read.

    Raises:
        ImportError: imagehash is not installed.
    """
    need("dataset", "imagehash")
    known: dict[bytes, Fingerprint] = {}
    files = list(files)
    made = Fingerprints()
    work = partial(_fingerprint, known=known, max_pixels=reading.max_pixels)
    found = in_order(work, files, reading.workers)
    for file, one in zip(files, found, strict=True):
        if isinstance(one, ImageError):
            made.unreadable[file.name] = str(one)
        else:
            made.files.append(file)
            made.prints.append(one)
        reading.progress()
    return made


def _fingerprint(
    file: File, known: dict[bytes, Fingerprint], max_pixels: int
) -> Fingerprint | ImageError:
    try:
        digest = _hash_of(file.path)
        made = known.get(digest)
        if made is None:
            made = known[digest] = _read(file.path, digest, max_pixels)
    except ImageError as error:
        return error
    return made


def _read(path: str, digest: bytes, max_pixels: int) -> Fingerprint:
    image = load_rgb(path, max_pixels)
    pixels = _hash_of_pixels(image)
    width, height = image.size
    if max(image.size) > SHRUNK:  # once, for all that need few pixels
        image = image.resize((SHRUNK, SHRUNK), Image.Resampling.BOX)
    blank = measure_detail(image).is_blank
    return Fingerprint(digest, pixels, phash(image), width, height, blank)


def phash(image: Image.Image) -> bytes:
    """The perceptual hash of a picture, 8 bytes; alike pictures differ in few bits."""
    bits = import_module("imagehash").phash(image).hash
    return np.packbits(bits).tobytes()


def _hash_of_pixels(image: Image.Image) -> bytes:
    digest = hashlib.sha256(b"%d x %d " % image.size)
    rows = max(1, CHUNK // image.width)  # at once: a second copy may be too much
    for top in range(0, image.height, rows):
        bottom = min(top + rows, image.height)
        digest.update(image.crop((0, top, image.width, bottom)).tobytes())
    return digest.digest()


def _hash_of(path: str) -> bytes:
    try:
        return bytes.fromhex(file_sha256(path))
    except OSError as error:
        raise ImageError(f"{describe(path)}: {error.strerror or error}") from error
