"""The files these weights live in. One module a format, each with `read` and `write`.

All of them meet in one canonical dict, `Weights`: ``{layer: {field: float32 array}}``
with the names and shapes of `open_nsfw_tf.architecture.LAYERS` (kernels HWIO, dense
(in, out)). A reader returns what the file holds; `open_nsfw_tf.weights.load_weights`
checks it against the network.
"""

import mmap
import os
import secrets
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

import numpy as np

from open_nsfw_tf.architecture import Weights, WeightsError
from open_nsfw_tf.messages import one_line, shown


class FormatModule(Protocol):
    """What a module of this package offers."""

    def read(self, path: Path) -> Weights:
        """Read a file; WeightsError when it is not whole or not what it should be."""

    def write(self, path: Path, weights: Weights) -> None:
        """Write a file beside its name and rename it when it is whole."""


@dataclass(frozen=True)
class Format:
    """One way of keeping the weights in a file.

    Attributes:
        title: for people.
        suffixes: of file names, lower case; the first one is the usual one.
    """

    title: str
    suffixes: tuple[str, ...]


FORMATS = {  # a name goes to the first whose suffix fits: the longer ones stand first
    "mmdnn": Format("MMdnn's .npy", (".mmdnn.npy",)),
    "npy": Format("caffe-tensorflow's .npy", (".npy",)),
    "safetensors": Format("safetensors", (".safetensors",)),
    "onnx": Format("ONNX graph", (".onnx",)),
    "caffemodel": Format("Caffe's caffemodel", (".caffemodel",)),
    "keras_h5": Format("Keras weights", (".weights.h5",)),
    "opennsfw2": Format("opennsfw2's .h5, Keras weights by name", (".h5", ".hdf5")),
    "keras": Format("Keras archive", (".keras",)),
}


LONGEST = 1000  # characters of an error about what is in a file
HEAD = 512  # bytes that `detect` looks at
MAX_BYTES = 1 << 29  # of a file; the real ones have 24 MB
# What a cut or broken file makes of well-meant code.
BROKEN = (
    ValueError,
    TypeError,
    KeyError,
    IndexError,
    AttributeError,
    OverflowError,
    SyntaxError,
    RecursionError,
    MemoryError,
    Warning,  # a library's; an application may make it an error
    struct.error,
)
PROTOTXT = "a prototxt, the network's definition (pass the .caffemodel)"
IMPOSTORS = {  # what stands under the name of a weights file, and is none
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
    """The module that reads and writes a format, imported when first asked for.

    Raises:
        WeightsError: no format has this name.
    """
    if name not in FORMATS:
        raise WeightsError(
            f"no weights format is called {name!r}: choose one of {', '.join(FORMATS)}"
        )
    return cast(FormatModule, import_module(f"{__name__}.{name}"))


def detect(path: Path) -> str:
    """Tell a file's format: by its content, by its suffix where that is silent.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is empty, or no format that is known.
    """
    if path.suffix.lower() in (".json", ".pb"):
        return "mmdnn"  # its reader says what these are, and that they are no weights
    with path.open("rb") as file, reading(path, "file"):
        head = file.read(HEAD)
        _refuse_impostor(head)
    if head.startswith(b"\x93NUMPY"):
        # MMdnn calls a field `bias` where caffe-tensorflow says `biases` and `offset`.
        mmdnn = _holds(path, b"bias") and not _holds(path, b"biases")
        return "mmdnn" if mmdnn else "npy"
    if head.startswith(b"\x89HDF\r\n\x1a\n"):
        # Keras 3 numbers its arrays, Keras 2 names them.
        return "opennsfw2" if _holds(path, b"kernel") else "keras_h5"
    if head.startswith(b"PK\x03\x04"):
        if path.suffix.lower() == ".npz":
            raise WeightsError(
                f"{shown(path)}: this is an .npz archive; expected caffe-tensorflow's "
                ".npy, or another known format"
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
        f"{shown(path)}: no known weights format; known are "
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
            f"this is text that begins {shown(head[:40].decode('latin-1'))!r}, not weights"
        )


def _holds(path: Path, text: bytes) -> bool:
    with (
        path.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content,
    ):
        return content.find(text) >= 0


def _starts_as_net(head: bytes) -> bool:
    """Whether Caffe's NetParameter begins here: its name, if any, and then a layer."""
    after = head[2 + head[1] :] if head[:1] == b"\x0a" and len(head) > 1 else head
    today, v1 = after.startswith(b"\xa2\x06"), after.startswith(b"\x12")
    return today or (v1 and after is not head)


def check_size(path: Path) -> None:
    """Refuse a file that no weights would fill, before anything reads it.

    Raises:
        OSError: there is no such file.
        WeightsError: it is larger than `MAX_BYTES`.
    """
    if path.stat().st_size > MAX_BYTES:
        raise WeightsError(f"larger than {MAX_BYTES >> 20} MiB, not weights")


def whole(path: Path) -> bytes:
    """A weights file's bytes; for use under `reading`.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is empty, too large, or evidently something else.
    """
    check_size(path)
    data = path.read_bytes()
    _refuse_impostor(data[:HEAD])
    return data


@contextmanager
def reading(path: Path, title: str, *broken: type[Exception]) -> Iterator[None]:
    """Make what goes wrong while a file is read a WeightsError that names the file.

    Args:
        path: of the file.
        title: of the format, for people.
        broken: the errors, besides WeightsError, that tell of a broken file.
    """
    try:
        yield
    except WeightsError as error:
        # Names in a file may be long, and hold newlines and worse.
        raise WeightsError(f"{shown(path)}: {shown(error, LONGEST)}") from error
    except broken as error:
        raise WeightsError(
            f"{shown(path)}: cut or broken {title} ({one_line(error)})"
        ) from error


_remarks: ContextVar[list[str] | None] = ContextVar("remarks", default=None)


@contextmanager
def remarks() -> Iterator[list[str]]:
    """Collect what readers and writers say of what they had to change."""
    said: list[str] = []
    token = _remarks.set(said)
    try:
        yield said
    finally:
        _remarks.reset(token)


def remark(text: str) -> None:
    """Say something, once, to whoever collects `remarks`."""
    said = _remarks.get()
    if said is not None and text not in said:
        said.append(text)


def from_file(array: np.ndarray) -> np.ndarray:
    """A file's array as float32; that it was of another dtype is a remark."""
    if array.dtype.itemsize != np.dtype(np.float32).itemsize:
        remark(f"{array.dtype.newbyteorder('=')} arrays were converted to float32")
    return float32(array)


def float32(array: np.ndarray) -> np.ndarray:
    """The array as contiguous, native float32; what does not fit becomes infinite."""
    with np.errstate(all="ignore"):  # `check_weights` finds what is not finite
        return np.asarray(array, dtype=np.float32, order="C")


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, moved onto `path` if all went well.

    Raises:
        OSError: the folder is missing, read-only or full; or the path is a device or a
            pipe, which a move would take away from all others.
    """
    if path.exists() and not (path.is_file() or path.is_dir()):
        raise OSError(
            f"{shown(path)}: expected the name of a file, got a device or pipe"
        )
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    except OSError as error:
        if error.filename == str(temporary):  # which nobody has heard of
            error.filename = str(path)
            del error.filename2  # the same name once more
        raise
    finally:
        temporary.unlink(missing_ok=True)
