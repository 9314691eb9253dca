"""MMdnn's `.npy` (0.3.1): the weights that ``mmtoir`` writes beside its graph.

The file is a pickled dict like caffe-tensorflow's, and is read by the same restricted
interpreter. Fields are called ``weights bias`` (conv and dense) and ``mean var scale
bias`` (batch norm, with Caffe's scale factor and Scale layer merged in); the bias of a
convolution and the scale of a batch norm have the shape (1, 1, 1, C). The last layer is
called ``fc_nsfw_1``, because MMdnn puts a Flatten of its own before it.
"""

from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import DENSE, Layer, Weights
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.formats import npy, reading

GRAPHS = (".json", ".pb")  # the files that MMdnn writes beside the .npy
HEAD = 1 << 20  # bytes that are searched
INPUT = b"DataInput"  # the first operation of MMdnn's graphs, and of no other graphs
LAST = f"{DENSE}_1"
_CONV = {"weights": "weights", "bias": "biases"}
_NORM = {"mean": "mean", "var": "variance", "scale": "scale", "bias": "offset"}


def read(path: Path) -> Weights:
    """Read the arrays of an MMdnn file.

    Args:
        path: of the `.npy` file; its graph is not needed.

    Returns:
        ``{layer: {field: float32 array}}`` with our names of the fields; a batch norm
        that MMdnn left without scale or bias gets ones or zeros.

    Raises:
        OSError: the file cannot be read.
        WeightsError: as `open_nsfw_tf.formats.npy.read`; or it is MMdnn's graph.
    """
    if path.suffix.lower() in GRAPHS:
        raise WeightsError(f"{sanitize(path)}: {_graph(path)}")
    layers = npy.read_dict(path)
    with reading(path, "MMdnn file"):
        return {
            DENSE if name == LAST else name: _canonical(name, layer)
            for name, layer in layers.items()
        }


def _graph(path: Path) -> str:
    """The error for a graph without readable weights: what to pass instead."""
    with path.open("rb") as file:
        head = file.read(HEAD)
    if INPUT in head:
        return (
            "expected MMdnn's .npy, got its graph, which has no weights: pass the .npy "
            "that mmtoir wrote beside it"
        )
    if path.suffix.lower() == ".pb" and head:
        return (
            "expected a file of weights, got a TensorFlow graph, which cannot be read: "
            "pass the weights that it was made from"
        )
    return f"expected a file of weights, got a {path.suffix} file, which contains none"


def _canonical(name: str, layer: Layer) -> Layer:
    norm = "mean" in layer or "var" in layer
    names = _NORM if norm else _CONV
    if unknown := sorted(layer.keys() - names):
        raise WeightsError(
            f"expected the fields {', '.join(names)} in layer {name!r:.80}, got "
            f"{', '.join(unknown)!r:.80}"
        )
    found = {
        ours: layer[theirs] if theirs == "weights" else layer[theirs].reshape(-1)
        for theirs, ours in names.items()
        if theirs in layer
    }
    if norm and "mean" in found:
        found.setdefault("scale", np.ones_like(found["mean"]))
        found.setdefault("offset", np.zeros_like(found["mean"]))
    return found


def write(path: Path, weights: Weights) -> None:
    """Write the `.npy` that MMdnn writes for this network, for its other tools."""
    layers: Weights = {}
    for name, layer in weights.items():
        names = _NORM if "mean" in layer else _CONV
        fields = {theirs: layer[ours] for theirs, ours in names.items()}
        spread = "scale" if "mean" in layer else "bias"
        if name != DENSE:
            fields[spread] = fields[spread].reshape(1, 1, 1, -1)
        layers[LAST if name == DENSE else name] = fields
    npy.write(path, layers)
