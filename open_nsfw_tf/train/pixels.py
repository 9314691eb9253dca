"""Decoded and resized pictures, kept in memory or in a file once they were made.

What is kept is what comes before the crop: after it every epoch differs.
"""

import hashlib
import os
import threading
import weakref
import zlib
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import numpy as np

from open_nsfw_tf.image import (
    MAX_PIXELS,
    Picture,
    Preprocessing,
    check_max_pixels,
    load_rgb,
    pixels,
)
from open_nsfw_tf.train.data import Split

AUTO, MEMORY = "auto", "memory"
SHARE = 0.25  # of the machine's memory that `AUTO` takes at most
UNKNOWN_MEMORY = 1 << 34  # bytes, where the system does not say
MARK = b"px01"  # begins every record of a file
Cache = str | os.PathLike[str] | None


def resized(
    picture: Picture, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A picture up to the crop: decoded, resized, and through JPEG where that is asked.

    Args:
        picture: as for `open_nsfw_tf.image.load_rgb`.
        preprocessing: whose `resize` and `jpeg` are taken.
        max_pixels: as for `load_rgb`.

    Returns:
        uint8 (resize, resize, 3), RGB, 0..255; with Yahoo's preprocessing those of
        `open_nsfw_tf.image.pixels` before its crop, bit for bit.

    Raises:
        ImageError: the picture cannot be read.
    """
    whole = replace(preprocessing, crop=preprocessing.resize)
    return pixels(load_rgb(picture, max_pixels), whole)


class Pixels:
    """The pictures of a split as `resized` makes them, made when first asked for.

    Threads may ask at the same time.

    Args:
        split: the pictures.
        preprocessing: as for `resized`.
        cache: `MEMORY`; a folder, for a file that a later run finds again; None: nothing
            is kept; `AUTO`: memory, if a quarter of the machine's is enough.
        max_pixels: as for `resized`.

    Raises:
        OSError: the folder cannot be made or written to.
        ValueError: `max_pixels` is none.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        cache: Cache = AUTO,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_max_pixels(max_pixels)
        self.split = split
        self.preprocessing = preprocessing
        self.max_pixels = max_pixels
        self._store = _store(split, preprocessing, cache)

    def __getitem__(self, index: int) -> np.ndarray:
        """One picture.

        Returns:
            uint8 (resize, resize, 3), RGB, 0..255; not to be written to.

        Raises:
            ImageError: the picture cannot be read.
        """
        kept = self._store.get(index)
        if kept is None:
            path = self.split.paths[index]
            kept = resized(path, self.preprocessing, self.max_pixels)
            self._store.put(index, kept)
        return kept


class _Store(Protocol):
    def get(self, index: int) -> np.ndarray | None:
        """What was put there, if anything was."""

    def put(self, index: int, made: np.ndarray) -> None:
        """Keep it."""


def _store(split: Split, preprocessing: Preprocessing, cache: Cache) -> _Store:
    shape = (len(split), preprocessing.resize, preprocessing.resize, 3)
    if cache == AUTO:
        fits = int(np.prod(shape, dtype=np.int64)) <= SHARE * _machines_memory()
        cache = MEMORY if fits else None
    if cache is None:
        return _Nothing()
    if cache == MEMORY:
        return _Memory(shape)
    return _File(Path(os.fsdecode(cache)), _digest(split, preprocessing), shape[1:])


def _machines_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return UNKNOWN_MEMORY


class _Nothing:
    def get(self, index: int) -> np.ndarray | None:
        return None

    def put(self, index: int, made: np.ndarray) -> None:
        return


class _Memory:
    def __init__(self, shape: tuple[int, ...]) -> None:
        self._pixels = np.empty(shape, np.uint8)  # the system gives it as it is filled
        self._filled = np.zeros(shape[0], bool)

    def get(self, index: int) -> np.ndarray | None:
        return self._pixels[index] if self._filled[index] else None

    def put(self, index: int, made: np.ndarray) -> None:
        self._pixels[index] = made
        self._filled[index] = True


class _File:
    """Records of one size: `MARK`, the pixels' CRC-32, the pixels.

    A record counts if its sum does: what was never written, was cut by a crash or lies
    on a damaged disk is made again. It is no memory map, where a full disk would kill the
    process. Several processes may share it.
    """

    def __init__(self, folder: Path, digest: str, shape: tuple[int, ...]) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"pixels-{digest}"
        handle = os.open(
            path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666
        )
        self._close = weakref.finalize(self, os.close, handle)
        self._handle, self._shape = handle, shape
        self._size = len(MARK) + 4 + int(np.prod(shape))
        self._full = False
        self._turn = threading.Lock()

    def get(self, index: int) -> np.ndarray | None:
        try:
            with self._turn:
                os.lseek(self._handle, index * self._size, os.SEEK_SET)
                record = os.read(self._handle, self._size)
        except OSError:  # a bad disk: as if nothing had been kept
            return None
        head, data = record[:8], memoryview(record)[8:]
        if len(record) < self._size or head != _head(data):
            return None
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def put(self, index: int, made: np.ndarray) -> None:
        if self._full:
            return
        data = np.ascontiguousarray(made).data.cast("B")
        record = b"".join([_head(data), data])
        try:
            with self._turn:
                os.lseek(self._handle, index * self._size, os.SEEK_SET)
                os.write(self._handle, record)
        except OSError:  # a full disk: training goes on, only slower
            self._full = True


def _head(data: memoryview) -> bytes:
    return MARK + zlib.crc32(data).to_bytes(4, "little")


def _digest(split: Split, preprocessing: Preprocessing) -> str:
    """Of all that decides about the pixels."""
    known = hashlib.sha256(f"{preprocessing.resize} {preprocessing.jpeg}".encode())
    known.update(files_digest(split))
    return known.hexdigest()[:16]


def files_digest(split: Split) -> bytes:
    """A digest of the pictures' paths, sizes and times, and of their order."""
    known = hashlib.sha256()
    for path in split.paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # gone since it was found
            state = "none"
        known.update(os.fsencode(path) + f"\0{state}\0".encode())
    return known.digest()
