"""The file formats of weights: one module each, with the functions `read` and `write`.

All use one canonical dict, `Weights`: ``{layer: {field: float32 array}}`` with the
names and shapes of `open_nsfw_tf.architecture.LAYERS` (kernels HWIO, dense (in, out)).
A reader returns the contents of the file; `open_nsfw_tf.weights.load_weights` checks
them against the network.
"""

import hashlib
import mmap
import os
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, cast

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.errors import WeightsError, one_line, sanitize
from open_nsfw_tf.files import file_sha256


class FormatModule(Protocol):
    """The functions of a module of this package."""

    def read(self, path: Path) -> Weights:
        """Read a file; WeightsError if it is incomplete or of another kind."""

    def write(self, path: Path, weights: Weights) -> None:
        """Write a file under a temporary name, and rename it when it is complete."""


@dataclass(frozen=True)
class Format:
    """A file format of weights.

    Attributes:
        title: for people.
        suffixes: of file names, lower case; the first one is the usual one.
    """

    title: str
    suffixes: tuple[str, ...]


FORMATS = {  # the first with a matching suffix is used, so longer ones come first
    "mmdnn": Format("MMdnn's .npy", (".mmdnn.npy",)),
    "npy": Format("caffe-tensorflow's .npy", (".npy",)),
    "safetensors": Format("safetensors", (".safetensors",)),
    "onnx": Format("ONNX graph", (".onnx",)),
    "caffemodel": Format("Caffe's caffemodel", (".caffemodel",)),
    "keras_h5": Format("Keras weights", (".weights.h5",)),
    "opennsfw2": Format("opennsfw2's .h5, Keras weights by name", (".h5", ".hdf5")),
    "keras": Format("Keras archive", (".keras",)),
}

# Checksums of the published copies, which can be trusted: git's name of the content
# (SHA-1 of ``blob <size>\0`` and the content); of the ONNX graph SHA-256.
CHECKSUMS = {
    "npy": "fd83911bd7a2e5ab7f691485de90885827ad6431",
    "caffemodel": "c4f31059fcc1433112eefd3d100e4410a704d6a7",
    "onnx": "864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
}

CHUNK = 1 << 16  # bytes
RECENT = 2_000_000_000  # nanoseconds; the resolution of file times on FAT
LONGEST = 1000  # characters of an error about the contents of a file
HEAD = 512  # bytes that `detect` reads
MAX_BYTES = 1 << 29  # of a file; the real ones have 24 MB
# The errors that cut or broken files cause in a reader.
PARSE_ERRORS = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    Warning,  # of a library, if the application turns warnings into errors
    struct.error,
)
PROTOTXT = "a prototxt, the network's definition (pass the .caffemodel)"
IMPOSTORS = {  # other contents that are often found under the name of a weights file
    b"version https://git-lfs": "a git-lfs pointer (run `git lfs pull`)",
    b"<!doctype html": "an HTML page (the download failed)",
    b"<html": "an HTML page (the download failed)",
    b"<": "an XML or HTML page (the download failed)",
    b"404": "a server's error message (the download failed)",
    b"{": "JSON, perhaps a server's error message",
    b"\x1f\x8b": "a gzip archive (unpack it)",
    b"\xff\xd8\xff": "a picture",
    b"\x89png": "a picture",
    **dict.fromkeys((b"name:", b"layer", b"input", b"force_backward"), PROTOTXT),
}


def module(name: str) -> FormatModule:
    """The module that reads and writes a format, imported when it is first used.

    Raises:
        WeightsError: no format has this name.
    """
    if name not in FORMATS:
        raise WeightsError(
            f"no weights format is called {name!r}: choose one of {', '.join(FORMATS)}"
        )
    return cast(FormatModule, import_module(f"{__name__}.{name}"))


def detect(path: Path) -> str:
    """Recognise a file's format by its content, or else by its suffix.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is empty, or of no known format.
    """
    if path.suffix.lower() in (".json", ".pb"):
        return "mmdnn"  # its reader refuses them, and explains what they are
    with path.open("rb") as file, reading(path, "file"):
        head = file.read(HEAD)
        _refuse_impostor(head)
    if head.startswith(b"\x93NUMPY"):
        # MMdnn has the field `bias` where caffe-tensorflow has `biases` and `offset`.
        mmdnn = _holds(path, b"bias") and not _holds(path, b"biases")
        return "mmdnn" if mmdnn else "npy"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        # Keras 3 numbers its arrays, Keras 2 names them.
        return "opennsfw2" if _holds(path, b"kernel") else "keras_h5"
    if head.startswith(b"PK\x03\x04"):
        if path.suffix.lower() == ".npz":
            raise WeightsError(
                f"{sanitize(path)}: this is an .npz archive; expected "
                "caffe-tensorflow's .npy, or another known format"
            )
        return "keras"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    if head[:1] == b"\x08" and head[2:3] in _AFTER_IR_VERSION:
        return "onnx"
    if _starts_as_net(head):
        return "caffemodel"
    for name, known in FORMATS.items():
        if path.name.lower().endswith(known.suffixes):
            return name
    raise WeightsError(
        f"{sanitize(path)}: no known weights format; known are "
        + ", ".join(f"{known.title}" for known in FORMATS.values())
    )


# Tags of an ONNX model's fields 2 to 8, which follow its version of one byte.
_AFTER_IR_VERSION = (b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x3a", b"\x42")


def _refuse_impostor(head: bytes) -> None:
    if not head:
        raise WeightsError("the file is empty; fetch or convert it again")
    start = head.removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    while start.startswith(b"#"):  # comments, as a prototxt may have
        start = start.partition(b"\n")[2].lstrip()
    for known, what in IMPOSTORS.items():
        if start.startswith(known):
            raise WeightsError(f"this is {what}, not weights")
    if len(head) > 8 and not any(byte < 32 and byte not in b"\t\n\r" for byte in head):
        raise WeightsError(
            f"this is text that begins {sanitize(head[:40].decode('latin-1'))!r}, not "
            "weights"
        )


def _holds(path: Path, text: bytes) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(text) >= 0


def _starts_as_net(head: bytes) -> bool:
    """Whether Caffe's NetParameter begins so: with its name, if any, and a layer."""
    after = head[2 + head[1] :] if head[:1] == b"\x0a" and len(head) > 1 else head
    today, v1 = after.startswith(b"\xa2\x06"), after.startswith(b"\x12")
    return today or (v1 and after is not head)


def check_size(path: Path) -> None:
    """Refuse a file that is too large for weights, before anything reads it.

    Raises:
        OSError: there is no such file.
        WeightsError: it is larger than `MAX_BYTES`.
    """
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"larger than {MAX_BYTES >> 20} MiB, not weights")


def check_file(path: Path) -> None:
    """Refuse a file that clearly contains no weights; for use under `reading`.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is empty, too large, or something else.
    """
    check_size(path)
    with path.open("rb") as file:
        _refuse_impostor(file.read(HEAD))


def read_bytes(path: Path) -> bytes:
    """The bytes of a file that passes `check_file`; for use under `reading`."""
    check_file(path)
    return path.read_bytes()


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal.

    It is needed several times at start-up, so it is remembered while the file seems
    unchanged, unless the file is so new that a change may not show in its time.
    """
    status = path.stat()
    if time.time_ns() - status.st_mtime_ns < RECENT:
        return _sha256.__wrapped__(path)
    return _sha256(path, status.st_ino, status.st_size, status.st_mtime_ns)


@lru_cache(maxsize=8)
def _sha256(path: Path, *_version: int) -> str:
    return file_sha256(str(path))


def git_blob(path: Path) -> str:
    """Git's name of a file's content: SHA-1 of ``blob <size>\\0`` and the content."""
    with path.open("rb") as file:
        digest = _blob(os.fstat(file.fileno()).st_size)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return str(digest.hexdigest())


def git_blob_of(data: bytes) -> str:
    """As `git_blob`, of bytes."""
    digest = _blob(len(data))
    digest.update(data)
    return str(digest.hexdigest())


def _blob(size: int) -> Any:
    # SHA-1 is weak, but upstream publishes no other checksum.
    return hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)


@contextmanager
def reading(path: Path, title: str, *broken: type[Exception]) -> Iterator[None]:
    """Turn errors while a file is read into a WeightsError that names the file.

    Args:
        path: of the file.
        title: of the format, for people.
        broken: the errors, besides WeightsError, that mean that the file is broken.
    """
    try:
        yield
    except WeightsError as error:
        # Names in a file may be long, and contain newlines or control characters.
        reason = str(error).removeprefix(f"{sanitize(path)}: ")  # of a reader within
        raise WeightsError(f"{sanitize(path)}: {sanitize(reason, LONGEST)}") from error
    except broken as error:
        raise WeightsError(
            f"{sanitize(path)}: cut or broken {title} ({one_line(error)})"
        ) from error


_notes: ContextVar[list[str] | None] = ContextVar("notes", default=None)


@contextmanager
def collect_notes() -> Iterator[list[str]]:
    """Collect the notes of readers and writers about what they changed."""
    notes: list[str] = []
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def note(text: str) -> None:
    """Add a note, once, to the list of the enclosing `collect_notes`, if any."""
    notes = _notes.get()
    if notes is not None and text not in notes:
        notes.append(text)


def from_file(array: np.ndarray) -> np.ndarray:
    """A file's array as float32, with a note if it had another dtype."""
    if array.dtype.itemsize != np.dtype(np.float32).itemsize:
        note(f"{array.dtype.newbyteorder('=')} arrays were converted to float32")
    return float32(array)


def float32(array: np.ndarray) -> np.ndarray:
    """The array as contiguous, native float32; too large values become infinite."""
    with np.errstate(all="ignore"):  # `check_weights` finds values that are not finite
        return np.asarray(array, dtype=np.float32, order="C")
