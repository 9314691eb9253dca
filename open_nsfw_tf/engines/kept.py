"""The serialized networks of weights files, kept in the user's cache.

Building one takes from a fraction of a second (ONNX) to ten (LiteRT, by way of
TensorFlow). So a network that was built from a file is kept under the file's SHA-256,
and later runs read neither the weights' format nor the library that builds it.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights, WeightsError
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Source
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.published import cache_folder, sha256
from open_nsfw_tf.weights import load_weights

MAX_KEPT = 8  # networks, of 6 to 24 MB each
CHECKSUM = hashlib.sha256().digest_size  # bytes at the end of a kept file


def kept(weights: Source, name: str, build: Callable[[Weights], bytes]) -> bytes:
    """The serialized network of some weights.

    Args:
        weights: the path of a weights file in any known format or a trained model,
            whose network is kept; or the canonical dict, whose network is built every
            time.
        name: of the network among those of the same weights; it must change whenever
            `build` makes another one: ``float32-2.onnx``.
        build: makes it of the canonical dict.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    if isinstance(weights, dict):
        return build(weights)
    digest = _digest(weights)
    path = cache_folder() / "graphs" / f"{digest}-{name}"
    network = _read(path)
    if network is None:
        network = build(loaded(weights))
        _keep(path, network)
    return network


def loaded(weights: Source) -> Weights:
    """The canonical dict of what a network is made of.

    Raises:
        WeightsError: as `load_weights`.
    """
    if isinstance(weights, TrainedModel):
        return weights.weights
    return weights if isinstance(weights, dict) else load_weights(weights)


def _digest(weights: Path | TrainedModel) -> str:
    """The SHA-256 of a weights file, or of a trained model's arrays."""
    if isinstance(weights, TrainedModel):
        return _digest_of_arrays(weights.weights)
    try:
        return sha256(weights)
    except OSError as error:
        raise WeightsError(f"{weights}: {error.strerror or error}") from error


def _digest_of_arrays(weights: Weights) -> str:
    made = hashlib.sha256()
    for layer, fields in sorted(weights.items()):
        for field, array in sorted(fields.items()):
            made.update(f"{layer}.{field} {array.shape}\n".encode())
            made.update(np.ascontiguousarray(array).data)
    return made.hexdigest()


def _read(path: Path) -> bytes | None:
    """A network whose last 32 bytes, its own checksum, fit."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    network, digest = data[:-CHECKSUM], data[-CHECKSUM:]
    return network if hashlib.sha256(network).digest() == digest else None


def _keep(path: Path, network: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as temporary:
            temporary.write_bytes(network + hashlib.sha256(network).digest())
        # Those that others are writing begin with a dot.
        found = path.parent.glob("[!.]*")
        by_age = sorted(found, key=lambda one: one.stat().st_mtime)
        for old in by_age[:-MAX_KEPT]:
            old.unlink()
    except OSError:
        return  # no cache on a read-only or full disk: only slower next time
