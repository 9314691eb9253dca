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
from pathlib import Path
from typing import IO

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Source, is_other_network
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.forks import loading
from open_nsfw_tf.formats import sha256
from open_nsfw_tf.weights import cache_folder, load_weights

MAX_CACHED = 8  # networks, of 6 to 90 MB each
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of a cached file


class SerializedNetwork:
    """The bytes of a network, which cannot be changed.

    After an engine has opened them, they are needed again only for another engine of
    the same network, or in a forked process. Meanwhile they are in a file: the cached
    one, which is replaced or removed but never changed, or a temporary one without a
    name; in memory if the disk has no room, or its file system maps no files.

    Args:
        data: the bytes, or the mapped file that has them.
    """

    def __init__(self, data: bytes | mmap.mmap) -> None:
        self._data = _in_a_file(data) if isinstance(data, bytes) else data

    def read(self) -> bytes:
        """A copy of the bytes."""
        data = self._data[:]
        if isinstance(self._data, mmap.mmap) and hasattr(mmap, "MADV_DONTNEED"):
            self._data.madvise(mmap.MADV_DONTNEED)  # out of this process's memory
        return data

    def __reduce__(self) -> tuple[type, tuple[bytes]]:
        return SerializedNetwork, (self.read(),)


def _in_a_file(data: bytes) -> bytes | mmap.mmap:
    """Some bytes as a temporary file, or as they are if the disk has no room for it."""
    try:
        with tempfile.TemporaryFile() as file:
            file.write(data)
            file.flush()
            return _mapped(file, len(data))
    except OSError:
        return data


def _mapped(file: IO[bytes], size: int) -> mmap.mmap:
    # It outlives its descriptor, of which it has a copy: a daemon may close both.
    return mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ)


Parts = Weights | TrainedModel  # what a network is built from: see `_parts`


def cached(
    weights: Source, name: str, build: Callable[[Parts], bytes]
) -> SerializedNetwork:
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
        return SerializedNetwork(build(weights))
    folder = cache_folder()
    if folder is None:
        return SerializedNetwork(build(_parts(weights)))
    digest = weights_sha256(weights)
    path = folder / "graphs" / f"{digest}-{name}"
    found = _read(path)
    if found is not None:
        return found
    network = build(_parts(weights))
    if weights_sha256(weights) == digest:  # the file was not replaced meanwhile
        _write(path, network)
    return SerializedNetwork(network)


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


def _read(path: Path) -> SerializedNetwork | None:
    """A cached network; None if it is missing, or its checksum at the end is wrong."""
    try:
        with path.open("rb") as file:
            size = max(1, os.fstat(file.fileno()).st_size - CHECKSUM)
            try:
                data: bytes | mmap.mmap = _mapped(file, size)
                file.seek(size)
            except OSError:
                data = file.read(size)
            digest = file.read()
    except (OSError, ValueError):  # ValueError: it is empty
        return None
    right = hashlib.sha256(data).digest() == digest
    return SerializedNetwork(data) if right else None


def _write(path: Path, network: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(network + hashlib.sha256(network).digest())
        # Files that other processes are writing begin with a dot.
        files = path.parent.glob("[!.]*")
        by_age = sorted(files, key=lambda file: file.stat().st_mtime)
        for old in by_age[:-MAX_CACHED]:
            old.unlink()
    except OSError:
        return  # on a read-only or full disk the next run is slower, and that is all
