"""What is kept of every picture to compare it with all others: hashes, no pixels."""

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module

import numpy as np
from PIL import Image

from open_nsfw_tf.dataset import need
from open_nsfw_tf.dataset.folder import File
from open_nsfw_tf.dataset.plainness import plainness
from open_nsfw_tf.dataset.workers import in_order
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import MAX_PIXELS, describe, load_rgb

CHUNK = 1 << 20  # bytes that are read at once
SHRUNK = 256  # pixels, both sides; a perceptual hash looks at 32
HASH_BYTES = 8  # of a perceptual hash


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is kept of a picture.

    Attributes:
        file_hash: SHA-256 of the file.
        pixel_hash: SHA-256 of width, height and RGB pixels, as the loader sees them.
        look: 64-bit perceptual hash (imagehash's phash), 8 bytes.
        width: in pixels.
        height: in pixels.
        plain: whether it is nearly blank, so that its look says nothing.
    """

    file_hash: bytes
    pixel_hash: bytes
    look: bytes
    width: int
    height: int
    plain: bool


@dataclass(slots=True)
class Seen:
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
    files: Iterable[File],
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen_one: Callable[[], None] = lambda: None,
) -> Seen:
    """Read every picture once and keep its hashes.

    Args:
        files: of a folder.
        max_pixels: larger pictures count as unreadable.
        threads: None: as many as there are processors.
        seen_one: called after every file, for a progress bar.

    Raises:
        ImportError: imagehash is not installed.
    """
    need("imagehash")
    known: dict[bytes, Fingerprint] = {}
    files = list(files)
    seen = Seen()
    work = partial(_fingerprint, known=known, max_pixels=max_pixels)
    for file, made in zip(files, in_order(work, files, threads), strict=True):
        if isinstance(made, ImageError):
            seen.unreadable[file.name] = str(made)
        else:
            seen.files.append(file)
            seen.prints.append(made)
        seen_one()
    return seen


def _fingerprint(
    file: File, known: dict[bytes, Fingerprint], max_pixels: int
) -> Fingerprint | ImageError:
    try:
        digest = _hash_of(file.path)
        made = known.get(digest)
        if made is None:
            made = known[digest] = _look_at(file.path, digest, max_pixels)
    except ImageError as error:
        return error
    return made


def _look_at(path: str, digest: bytes, max_pixels: int) -> Fingerprint:
    image = load_rgb(path, max_pixels)
    pixels = _hash_of_pixels(image)
    width, height = image.size
    if max(image.size) > SHRUNK:  # once, for all that looks at it from afar
        image = image.resize((SHRUNK, SHRUNK), Image.Resampling.BOX)
    plain = plainness(image).plain
    return Fingerprint(digest, pixels, look_of(image), width, height, plain)


def look_of(image: Image.Image) -> bytes:
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
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while chunk := file.read(CHUNK):
                digest.update(chunk)
    except OSError as error:
        raise ImageError(f"{describe(path)}: {error.strerror or error}") from error
    return digest.digest()
