"""The files these weights live in. One module a format, each with `read` and `write`.

All of them meet in one canonical dict, `Weights`: ``{layer: {field: float32 array}}``
with the names and shapes of `open_nsfw_tf.architecture.LAYERS` (kernels HWIO, dense
(in, out)). A reader returns what the file holds; `open_nsfw_tf.weights.load_weights`
checks it against the network.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Protocol, cast

from open_nsfw_tf.architecture import Weights, WeightsError


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


FORMATS = {
    "npy": Format("caffe-tensorflow's .npy", (".npy",)),
    "safetensors": Format("safetensors", (".safetensors",)),
    "onnx": Format("ONNX graph", (".onnx",)),
}


HEAD = 512  # bytes that `detect` looks at
IMPOSTORS = {  # what a failed download leaves under the name of a weights file
    b"version https://git-lfs": "a git-lfs pointer (run `git lfs pull`)",
    b"<!doctype html": "an HTML page (the download failed)",
    b"<html": "an HTML page (the download failed)",
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
    """Tell a file's format: by its first bytes, by its suffix where those are silent.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is empty, or no format that is known.
    """
    with path.open("rb") as file:
        head = file.read(HEAD)
    if not head:
        raise WeightsError(f"{path}: the file is empty; fetch or convert it again")
    for start, what in IMPOSTORS.items():
        if head.lstrip().lower().startswith(start):
            raise WeightsError(f"{path}: this is {what}, not weights")
    if head.startswith(b"\x93NUMPY"):
        return "npy"
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 32:
        return "safetensors"
    for name, known in FORMATS.items():
        if path.suffix.lower() in known.suffixes:
            return name
    raise WeightsError(
        f"{path}: no known weights format; known are "
        + ", ".join(f"{known.title}" for known in FORMATS.values())
    )


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A name beside `path` to write to, moved onto `path` if all went well.

    Raises:
        OSError: the folder is missing, read-only or full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{secrets.token_hex(4)}")
    try:
        yield temporary
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
