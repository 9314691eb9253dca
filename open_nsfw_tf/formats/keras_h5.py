"""Keras weights in HDF5, read array by array; a model's config in the file is ignored.

Two layouts are read. Keras 3 (``.weights.h5``) numbers the layers of each class in the
order of ``model.layers`` and the arrays of each layer:
``layers/conv2d_7/vars/0``. Keras 2 (``.h5``) names them:
``conv_1/conv_1/kernel:0``. `write` writes the former, for a network whose layers are
ordered as in `open_nsfw_tf.model`.
"""

import io
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from open_nsfw_tf.architecture import (
    DENSE,
    LAYERS,
    Layer,
    Weights,
    convolution_groups,
    weights_in_order,
)
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import PARSE_ERRORS, check_file, from_file, reading, sandbox
from open_nsfw_tf.libraries import need

if TYPE_CHECKING:
    import h5py

# Keras' names of our fields, in the order in which Keras numbers them.
KERNEL = {"kernel": "weights", "bias": "biases"}
NORM = {
    "gamma": "scale",
    "beta": "offset",
    "moving_mean": "mean",
    "moving_variance": "variance",
}
MAX_ARRAYS = 1 << 15  # and groups; a training checkpoint of ours has 3,000
MAX_DEPTH = 16  # of groups in groups
MAX_GROWTH = 4  # of all arrays over the file; compression hardly shrinks weights
_CLASSES = {"conv2d": KERNEL, "batch_normalization": NORM, "dense": KERNEL}
_NUMBERED = re.compile(r"(?:^|/)(\w+?)(?:_(\d+))?/vars/(\d+)$", re.ASCII)
_OTHERS = ("optimizer", "top_level_model_weights")  # other groups of a trained model

Arrays = dict[str, np.ndarray]  # by their paths in the file


def read(path: Path) -> Weights:
    """Read Keras weights of this network: `.weights.h5`, or `.h5` with named layers.

    Args:
        path: of the file; a model's config in an `.h5` is ignored.

    Returns:
        ``{layer: {field: float32 array}}``; float16 and float64 are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut or broken, refers to other files, or is another
            network's: the first layer that does not fit is named.
    """
    need(None, "h5py")
    with reading(path, "HDF5 file", *PARSE_ERRORS):
        check_file(path)
        return layers_of(sandbox.run(arrays_in_file, path))


# -- the file, in a child process


def arrays_in_file(path: Path) -> Arrays:
    """Every float array of an HDF5 file, by its path in it; see `arrays_in`."""
    return arrays_in(path.read_bytes())


def arrays_in(data: bytes) -> Arrays:
    """Every float array of an HDF5 file but those of `_OTHERS`.

    Args:
        data: the whole file.

    Returns:
        float32 arrays by their paths, such as ``layers/conv2d/vars/0``.

    Raises:
        WeightsError: it refers to other files, or has arrays that are not floats or
            are larger than the file.
        OSError, RuntimeError, KeyError, ValueError: it is cut or broken.
    """
    import h5py

    found: Arrays = {}
    room = MAX_GROWTH * len(data)
    with h5py.File(h5py.h5f.open_file_image(data)) as file:
        groups = [("", file)]
        while groups:
            parent, group = groups.pop()
            for name in group:
                path = f"{parent}/{name}".lstrip("/")
                if path.startswith(_OTHERS):
                    continue
                item = _item(group, name, path)
                if isinstance(item, h5py.Group):
                    groups.append((path, item))
                else:
                    room -= _size(item, path)
                    if room < 0:
                        raise WeightsError(
                            f"cut or broken: with {path:.80} of shape {item.shape} its "
                            "arrays are larger than the file"
                        )
                    found[path] = from_file(item[()])
                if len(found) + len(groups) > MAX_ARRAYS:
                    raise WeightsError("refused: it has more arrays than any network")
    return found


def _item(group: "h5py.Group", name: str, path: str) -> "h5py.Group | h5py.Dataset":
    """The group or array with a name in a group; links to other files are refused."""
    import h5py

    if path.count("/") > MAX_DEPTH:
        raise WeightsError("refused: its groups are nested deeper than any network")
    if not isinstance(group.get(name, getlink=True), h5py.HardLink):
        raise WeightsError(f"refused: {path:.80} is a link to somewhere else")
    item = group[name]
    if not isinstance(item, h5py.Group | h5py.Dataset):
        raise WeightsError(f"expected groups and arrays, {path:.80} is neither")
    return item


def _size(array: "h5py.Dataset", path: str) -> int:
    """The bytes of an array, which must be of floats and stored in this file."""
    if array.external:
        raise WeightsError(f"refused: {path:.80} keeps its numbers in another file")
    if array.is_virtual:
        raise WeightsError(f"refused: {path:.80} is virtual, made of other arrays")
    if array.dtype.kind != "f" or array.dtype.itemsize > 8 or array.shape is None:
        raise WeightsError(f"expected float arrays, {path:.80} has {array.dtype}")
    return int(array.size) * int(array.dtype.itemsize)


# -- arrays to layers


def layers_of(arrays: Arrays) -> Weights:
    """The network's layers from arrays by their paths.

    Raises:
        WeightsError: they are another network's.
    """
    numbered = any(map(_NUMBERED.search, arrays))
    return _by_number(arrays) if numbered else _by_name(arrays)


def _by_name(arrays: Arrays) -> Weights:
    """Layers with the names of `LAYERS`, such as ``conv_1/conv_1/kernel:0``."""
    weights: Weights = {}
    fields = {**KERNEL, **NORM}
    for path, array in arrays.items():
        *groups, name = path.split("/")
        layer = next((group for group in groups if group in LAYERS), "/".join(groups))
        field = fields.get(name.removesuffix(":0"))
        if field is None or field in weights.get(layer, {}):
            raise WeightsError(
                f"expected one each of {', '.join(fields)} in a layer, got {path:.80}"
            )
        weights.setdefault(layer, {})[field] = array
    if DENSE not in weights and len(weights) > 0:
        raise WeightsError(
            f"another network: no layer {DENSE}, but "
            f"{', '.join(list(weights)[:4]):.200}"
        )
    return weights


def _by_number(arrays: Arrays) -> Weights:
    """Layers numbered in the order of ``model.layers``, each class from 0."""
    layers: dict[str, dict[int, Layer]] = {kind: {} for kind in _CLASSES}
    for path, array in arrays.items():
        match = _NUMBERED.search(path)
        if match is None or match[1] not in _CLASSES:
            raise WeightsError(f"another network: it has an array {path:.80}")
        kind, number, index = match[1], int(match[2] or 0), int(match[3])
        fields = list(_CLASSES[kind].values())
        if index >= len(fields):
            raise WeightsError(f"another network: it has an array {path:.80}")
        layers[kind].setdefault(number, {})[fields[index]] = array
    for kind, numbers in layers.items():
        for number, layer in numbers.items():
            if len(layer) != len(_CLASSES[kind]):
                raise WeightsError(
                    f"expected {len(_CLASSES[kind])} arrays in {kind}_{number}, got "
                    f"{len(layer)}"
                )
    convs, norms = (
        [layers[kind][number] for number in sorted(layers[kind])]
        for kind in ("conv2d", "batch_normalization")
    )
    return weights_in_order(convs, norms, list(layers["dense"].values()))


# -- writing


def write(path: Path, weights: Weights) -> None:
    """Write a file for ``model.load_weights`` of Keras 3, for `OpenNsfwModel`'s model.

    Args:
        path: of the file; Keras requires that it ends in `.weights.h5`.
        weights: the canonical dict.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(file_of(weights))


def file_of(weights: Weights) -> bytes:
    """The bytes of a `.weights.h5`; see `write`."""
    need(None, "h5py")
    import h5py

    content = io.BytesIO()
    counts = dict.fromkeys(_CLASSES, 0)
    with h5py.File(content, "w") as file:
        for name in layer_names():
            kind = _KINDS[name.partition("_")[0]]
            group = f"{kind}_{counts[kind]}" if counts[kind] else kind
            _write_layer(file, group, name, weights)
            counts[kind] += 1
    return content.getvalue()


_KINDS = {"conv": "conv2d", "bn": "batch_normalization", "fc": "dense"}


def layer_names(shortcut_first: bool = True) -> list[str]:
    """The layers with weights in the order of ``model.layers``: by depth.

    Args:
        shortcut_first: whether the blocks' sums take the shortcut as their first
            input, as `open_nsfw_tf.model` does, or as the second.
    """
    names = []
    for convolutions in convolution_groups():
        *path, last = [conv.key for conv in convolutions]
        # The last convolution of the main path and the projection have the same depth.
        beside = [path.pop(), last] if len(convolutions) == 4 else [last]
        for key in path:
            names += [f"conv_{key}", f"bn_{key}"]
        if shortcut_first:
            beside.reverse()
        names += [f"{kind}_{key}" for kind in ("conv", "bn") for key in beside]
    return [*names, DENSE]


def _write_layer(file: "h5py.File", group: str, name: str, weights: Weights) -> None:
    arrays = file.create_group(f"layers/{group}/vars")
    arrays.attrs["name"] = name  # as Keras does, for people: no code reads it
    fields = NORM if "mean" in weights[name] else KERNEL
    for number, field in enumerate(fields.values()):
        arrays[str(number)] = np.asarray(weights[name][field], np.float32)
