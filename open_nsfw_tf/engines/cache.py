"""Serialized networks, cached in the user's cache folder.

Building one takes from a fraction of a second (ONNX) to ten seconds (LiteRT, by
TensorFlow). So a network that was built from a weights file is cached under the file's
SHA-256, and later runs need not parse the weights or import the library that builds it.
"""

import hashlib
import mmap
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Source, is_other_network
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.forks import loading
from open_nsfw_tf.formats import sha256
from open_nsfw_tf.weights import cache_folder, load_weights

MAX_CACHED = 16  # networks, of 6 to 90 MB each, most of them 24 MB
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of a cached file


class SerializedNetwork:
    """The bytes of a network, which cannot be changed.

    After an engine has opened them, they are needed again only for another engine of
    the same network, or in a forked process. Meanwhile their 24 MB are in a temporary
    file without a name, or in memory if the disk has no room for it.
    """

    def __init__(self, data: bytes) -> None:
        self._data: bytes | None = data
        self._file: mmap.mmap | None = None
        try:
            with tempfile.TemporaryFile() as file:
                file.write(data)
                file.flush()
                # Keeps the file open without a descriptor, which a daemon may close.
                self._file = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        except OSError:
            return

    def read(self) -> bytes:
        """The bytes; at the first call from memory, which is then freed."""
        data = self._data
        if self._file is None:
            assert data is not None
            return data
        self._data = None
        if data is None:
            data = self._file[:]
            if hasattr(mmap, "MADV_DONTNEED"):
                self._file.madvise(mmap.MADV_DONTNEED)  # out of this process's memory
        return data

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        return SerializedNetwork, (self.read(),)


Parts = Weights | TrainedModel  # what a network is built from: see `_parts`


def cached(weights: Source, name: str, build: Callable[[Parts], bytes]) -> bytes:
    """The serialized network of some weights.

    Args:
        weights: the path of a weights file in any known format or a trained model,
            whose network is cached; or the canonical dict, whose network is built every
            time.
        name: of the kind of network, such as ``float32-2.onnx``; it must change
            whenever `build` makes another network from the same weights.
        build: makes the network from the canonical dict, or from a trained model of
            another network than Yahoo's.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    if isinstance(weights, dict):
        return build(weights)
    folder = cache_folder()
    if folder is None:
        return build(_parts(weights))
    digest = weights_sha256(weights)
    path = folder / "graphs" / f"{digest}-{name}"
    network = _read(path)
    if network is None:
        network = build(_parts(weights))
        if weights_sha256(weights) == digest:  # the file was not replaced meanwhile
            _write(path, network)
    return network


def _parts(weights: Source) -> Parts:
    return weights if is_other_network(weights) else loaded(weights)


def loaded(weights: Source) -> Weights:
    """The canonical dict of weights, from whichever form they have.

    Raises:
        WeightsError: as `load_weights`.
    """
    if isinstance(weights, TrainedModel):
        return weights.weights
    if isinstance(weights, dict):
        return weights
    with loading:  # it imports the library of the file's format
        return load_weights(weights)


def weights_sha256(weights: Path | TrainedModel) -> str:
    """The SHA-256 of a weights file, or of a trained model's arrays.

    Raises:
        WeightsError: the file cannot be read.
    """
    if isinstance(weights, TrainedModel):
        return _digest_of_model(weights)
    try:
        return sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: {error.strerror or error}") from error


def _digest_of_model(model: TrainedModel) -> str:
    """The SHA-256 of a model's arrays; of another network also of its description."""
    digest = hashlib.sha256()
    if is_other_network(model):
        size, classes = model.preprocessing.crop, len(model.classes)
        digest.update(f"{model.backbone} {size} {classes} {model.head}\n".encode())
    weights = model.weights
    for layer, fields in sorted(weights.items()):
        for field, array in sorted(fields.items()):
            digest.update(f"{layer}.{field} {array.shape}\n".encode())
            digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _read(path: Path) -> bytes | None:
    """A cached network; None if it is missing, or its checksum at the end is wrong."""
    try:
        with path.open("rb") as file:
            size = path.stat().st_size
            network, digest = file.read(max(0, size - CHECKSUM)), file.read()
    except OSError:
        return None
    with suppress(OSError):  # a cache that may only be read
        os.utime(path)  # the time of its last use: `_write` removes the oldest
    return network if hashlib.sha256(network).digest() == digest else None


def _write(path: Path, network: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(network + hashlib.sha256(network).digest())
        # Files that other processes are writing begin with a dot.
        files = path.parent.glob("[!.]*")
        by_use = sorted(files, key=lambda file: file.stat().st_mtime)
        for old in by_use[:-MAX_CACHED]:
            old.unlink()
    except OSError:
        return  # on a read-only or full disk the next run is slower, and that is all
