"""Keras weights in HDF5, read array by array: no model's config is ever looked at.

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
    BLOCKS,
    CONVOLUTIONS,
    DENSE,
    LAYERS,
    STEM,
    Convolution,
    Layer,
    Weights,
)
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import BROKEN, hdf5, reading, replacing, whole

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
_CLASSES = {"conv2d": KERNEL, "batch_normalization": NORM, "dense": KERNEL}
_NUMBERED = re.compile(r"(?:^|/)(\w+?)(?:_(\d+))?/vars/(\d+)$", re.ASCII)
_OTHERS = ("optimizer", "top_level_model_weights")  # what training leaves beside them

Arrays = dict[str, np.ndarray]  # by their paths in the file


def read(path: Path) -> Weights:
    """Read Keras weights of this network: `.weights.h5`, or `.h5` with named layers.

    Args:
        path: of the file; the model of an `.h5` with one is not looked at.

    Returns:
        ``{layer: {field: float32 array}}``; float16 and float64 are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut or broken, refers to other files, holds compressed
            arrays, or is another network's: the first layer that does not fit is named.
    """
    with reading(path, "HDF5 file", *BROKEN):
        return weights_of(whole(path))


def weights_of(data: bytes) -> Weights:
    """What `read` finds in the bytes of a file.

    Raises:
        WeightsError: as `read`.
        ValueError, KeyError, struct.error: it is cut or broken.
    """
    arrays = hdf5.arrays(data, skip=_OTHERS)
    numbered = any(map(_NUMBERED.search, arrays))
    return _by_number(arrays) if numbered else _by_name(arrays)


# -- arrays to layers


def _by_name(arrays: Arrays) -> Weights:
    """Layers called as ours, such as ``conv_1/conv_1/kernel:0``."""
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
            f"another network: no layer {DENSE}, but {', '.join(list(weights)[:4]):.200}"
        )
    return weights


def _by_number(arrays: Arrays) -> Weights:
    """Layers numbered in the order of ``model.layers``, one count a class."""
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
    convs = [layers["conv2d"][number] for number in sorted(layers["conv2d"])]
    norms = layers["batch_normalization"]
    in_order = [norms[number] for number in sorted(norms)]
    counts = (len(convs), len(in_order), len(layers["dense"]))
    if counts != (len(CONVOLUTIONS), len(CONVOLUTIONS), 1):
        raise WeightsError(
            f"another network: expected {len(CONVOLUTIONS)} Conv2D, as many "
            f"BatchNormalization and 1 Dense, got {counts[0]}, {counts[1]}, {counts[2]}"
        )
    weights = _placed(convs, in_order)
    weights[DENSE] = next(iter(layers["dense"].values()))
    return {name: weights[name] for name in LAYERS}


def _placed(convs: list[Layer], norms: list[Layer]) -> Weights:
    """Give the layers of each block their names, whose order differs between models.

    Keras sorts a block's last convolution and its projection by the order of the sum's
    inputs, and their batch norms alike. No two kernels of a block have one shape.
    """
    weights: Weights = {}
    for convolutions in _groups():
        for _ in convolutions:
            kernel, norm = convs.pop(0), norms.pop(0)
            place = _place(kernel.get("weights"), convolutions)
            if f"conv_{place}" in weights:
                raise WeightsError(f"another network: it has conv_{place} twice")
            weights[f"conv_{place}"], weights[f"bn_{place}"] = kernel, norm
    return weights


def _groups() -> list[tuple[Convolution, ...]]:
    """The convolutions of the stem and of each block."""
    blocks = [block for stage in BLOCKS for block in stage]
    return [(STEM,)] + [
        block.main + ((block.projection,) if block.projection else ())
        for block in blocks
    ]


def _place(kernel: np.ndarray | None, expected: tuple[Convolution, ...]) -> str:
    shapes = {
        (conv.kernel, conv.kernel, conv.inputs, conv.outputs): conv.place
        for conv in expected
    }
    shape = None if kernel is None else kernel.shape
    if shape not in shapes:
        raise WeightsError(
            f"another network: expected conv_{expected[0].place} and what is beside it "
            f"with kernels of {', '.join(map(str, shapes))}, got {shape}"
        )
    return shapes[shape]


# -- writing


def write(path: Path, weights: Weights) -> None:
    """Write what ``model.load_weights`` of Keras 3 reads, for `OpenNsfwModel`'s.

    Args:
        path: of the file; Keras demands that it ends in `.weights.h5`.
        weights: the canonical dict.
    """
    with replacing(path) as temporary:
        temporary.write_bytes(file_of(weights))


def file_of(weights: Weights) -> bytes:
    """The bytes of a `.weights.h5`; see `write`."""
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
    for convolutions in _groups():
        *path, last = [conv.place for conv in convolutions]
        # Of one depth: the last of the main path and the projection.
        beside = [path.pop(), last] if len(convolutions) == 4 else [last]
        for place in path:
            names += [f"conv_{place}", f"bn_{place}"]
        if shortcut_first:
            beside.reverse()
        names += [f"{kind}_{place}" for kind in ("conv", "bn") for place in beside]
    return [*names, DENSE]


def _write_layer(file: "h5py.File", group: str, name: str, weights: Weights) -> None:
    made = file.create_group(f"layers/{group}/vars")
    made.attrs["name"] = name  # as Keras does; for people, nothing reads it
    fields = NORM if "mean" in weights[name] else KERNEL
    for number, field in enumerate(fields.values()):
        made[str(number)] = np.asarray(weights[name][field], np.float32)
