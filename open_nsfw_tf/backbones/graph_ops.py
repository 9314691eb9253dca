"""A network as a list of graph operations, for computing it or writing it elsewhere.

It supports the layers that `open_nsfw_tf.backbones` builds and refuses all others.
Batch norms are folded into the convolutions before them; layers that only training
needs are left out. All sizes are fixed, so that every padding is a number of pixels.

The folder ``graphs`` has the operations of every backbone's body at its usual input
size, as Keras builds it (`tools/write_graphs.py` writes it, and a test compares). So a
trained model becomes a graph without TensorFlow.
"""

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import Shapes, Weights, check_arrays
from open_nsfw_tf.backbones.arrays import FIELDS
from open_nsfw_tf.backbones.builder import body_of, check_model, network_of
from open_nsfw_tf.backbones.head import head_shapes
from open_nsfw_tf.backbones.registry import BACKBONES
from open_nsfw_tf.backbones.trained import HeadLayer, TrainedModel
from open_nsfw_tf.errors import ExportError

GRAPHS = Path(__file__).parent / "graphs"
INPUT = "input"
NEIGHBOURS = 5  # channels of a local response normalisation, AlexNet's
LAST = "predictions"


@dataclass(frozen=True)
class GraphOp:
    """One operation of a network.

    Attributes:
        kind: such as ``conv``; see the functions below.
        name: of its output.
        inputs: the names of its inputs.
        arrays: its constants by name, float32; kernels HWIO, dense (in, out).
        options: its numbers by name; `pads` are top, bottom, left and right.
        shapes: of the variables of its layer, by Keras' names.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)


def operations(network: Any) -> list[GraphOp]:
    """The operations of a network in topological order.

    Args:
        network: a `keras.Model` with one input, called `INPUT`, and one output.

    Returns:
        Its operations; the output of the last one is `LAST`.

    Raises:
        ExportError: it has a layer that is not supported; the message names it.
    """
    weights = {
        layer.name: {one.name: np.asarray(one, np.float32) for one in layer.weights}
        for layer in network.layers
    }
    return _with_weights(structure(network), weights)


def operations_of(model: TrainedModel) -> list[GraphOp]:
    """The operations of a trained model's network, as `operations` gives them.

    TensorFlow is imported only if the input has another size than the backbone's usual.

    Raises:
        WeightsError: the model's description and its arrays do not fit each other.
    """
    backbone = check_model(model)
    body = stored_body(model.backbone, model.preprocessing.crop)
    if body is None:
        ops = structure(network_of(model))
    else:
        shapes = head_shapes(
            model.head, backbone.features, len(model.classes), backbone.last
        )
        ops = [*body, *head_operations(model.head, shapes, body[-1].name)]
    weights = model.weights
    if backbone.canonical and not model.head:
        names = {ours: keras for keras, ours in FIELDS.items()}
        weights = {
            layer: {names.get(field, field): array for field, array in fields.items()}
            for layer, fields in weights.items()
        }
    check_arrays(weights, shapes_of(ops))
    return _with_weights(ops, weights)


def shapes_of(ops: Sequence[GraphOp]) -> Shapes:
    """The arrays that operations need: ``{layer: {variable: shape}}``."""
    return {op.name: op.shapes for op in ops if op.shapes}


@cache
def stored_body(name: str, size: int) -> tuple[GraphOp, ...] | None:
    """A backbone's operations up to its pooled features, without arrays.

    None if `size`, the pixels a side of the input, is not the backbone's usual one.
    """
    if size != BACKBONES[name].preprocessing.crop:
        return None
    text = (GRAPHS / f"{name}.json").read_text(encoding="utf-8")
    return tuple(
        GraphOp(kind, op, tuple(inputs), {}, _tuples(options), _tuples(shapes))
        for kind, op, inputs, options, shapes in json.loads(text)
    )


def _tuples(options: dict[str, Any]) -> dict[str, Any]:
    return {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in options.items()
    }


def body_text(network: Any) -> str:
    """What `stored_body` reads, from a network that `build` made."""
    rows = (
        [op.kind, op.name, op.inputs, op.options, op.shapes]
        for op in structure(body_of(network))
    )
    return "[\n" + ",\n".join(map(json.dumps, rows)) + "\n]\n"


def head_operations(
    head: Sequence[HeadLayer], shapes: Shapes, source: str
) -> list[GraphOp]:
    """The operations after the pooled features.

    Args:
        head: the layers before the last one.
        shapes: of the arrays of all of them, as `head_shapes` gives them.
        source: the name of the features.
    """
    layers = {f"head_{index}": layer for index, layer in enumerate(head)}
    ops: list[GraphOp] = []
    for name, found in shapes.items():
        inputs = (ops[-1].name if ops else source,)
        if "kernel" in found:
            ops.append(GraphOp("dense", name, inputs, shapes=found))
            if name in layers:
                function = layers[name].activation
                ops += _activation(f"{name}_{function}", function, (name,))
        else:
            ops.append(
                GraphOp("batch_norm", name, inputs, {}, {**_NORM, "flat": True}, found)
            )
    return [*ops, GraphOp("softmax", LAST, (ops[-1].name,))]


_NORM = {"epsilon": 1e-3}  # Keras' default


def structure(network: Any) -> list[GraphOp]:
    """The operations of a Keras network before batch norms are folded, without arrays.

    Raises:
        ExportError: as `operations`.
    """
    ops: list[GraphOp] = []
    ends: dict[str, str] = {}  # the name of each layer's output
    for layer in network.operations:
        kind = type(layer).__name__
        if kind == "InputLayer":
            ends[layer.name] = INPUT
            continue
        if kind not in _LAYERS:
            raise ExportError(
                f"cannot export the layer {layer.name!r}, a {kind}: expected one of "
                f"{', '.join(sorted(_LAYERS))}"
            )
        inputs = tuple(ends[name] for name in _sources(layer))
        layer_ops = _LAYERS[kind](layer, inputs)
        ends[layer.name] = layer_ops[-1].name if layer_ops else inputs[0]
        ops += layer_ops
    return ops


def _sources(layer: Any) -> list[str]:
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in tensors]


def _shapes(layer: Any) -> dict[str, tuple[int, ...]]:
    return {one.name: tuple(one.shape) for one in layer.weights}


# -- layers to operations

Inputs = tuple[str, ...]


def _activated(layer: Any, op: GraphOp) -> list[GraphOp]:
    """An operation, followed by the activation of its layer."""
    name = layer.activation.__name__
    return [op, *_activation(f"{layer.name}_{name}", name, (op.name,))]


def _activation(name: str, function: str, inputs: Inputs) -> list[GraphOp]:
    if function == "linear":
        return []
    if function not in ("relu", "softmax"):
        raise ExportError(f"cannot export the activation {function!r} of {name!r}")
    return [GraphOp(function, name, inputs)]


def _pads(layer: Any, window: Any) -> tuple[int, int, int, int]:
    return pads_of(layer.padding, layer.input.shape[1:3], window, layer.strides)


def pads_of(
    padding: str, sizes: Sequence[int], window: Sequence[int], strides: Sequence[int]
) -> tuple[int, int, int, int]:
    """The pixels that Keras' "same" or "valid" adds: top, bottom, left, right."""
    if padding == "valid":
        return (0, 0, 0, 0)
    pads: list[int] = []
    for size, kernel, stride in zip(sizes, window, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return (pads[0], pads[1], pads[2], pads[3])


def _conv(layer: Any, inputs: Inputs) -> list[GraphOp]:
    shapes = _shapes(layer)
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    if tuple(layer.dilation_rate) != (1, 1):
        raise ExportError(f"cannot export the dilated convolution {layer.name!r}")
    options = {
        "strides": tuple(layer.strides),
        "pads": _pads(layer, shapes["kernel"][:2]),
        "groups": shapes["kernel"][2] if depthwise else layer.groups,
    }
    kind = "depthwise" if depthwise else "conv"
    return _activated(layer, GraphOp(kind, layer.name, inputs, {}, options, shapes))


def _batch_norm(layer: Any, inputs: Inputs) -> list[GraphOp]:
    options = {"epsilon": layer.epsilon, "flat": len(layer.output.shape) == 2}
    shapes = _shapes(layer)
    return [GraphOp("batch_norm", layer.name, inputs, {}, options, shapes)]


def _dense(layer: Any, inputs: Inputs) -> list[GraphOp]:
    shapes = _shapes(layer)
    return _activated(layer, GraphOp("dense", layer.name, inputs, shapes=shapes))


def _relu(layer: Any, inputs: Inputs) -> list[GraphOp]:
    if layer.negative_slope or layer.threshold:
        raise ExportError(f"cannot export the leaky ReLU {layer.name!r}")
    most = None if layer.max_value is None else float(layer.max_value)
    return [GraphOp("relu", layer.name, inputs, options={"most": most})]


def _pool(kind: str) -> Callable[[Any, Inputs], list[GraphOp]]:
    def pool(layer: Any, inputs: Inputs) -> list[GraphOp]:
        window = tuple(layer.pool_size)
        options = {
            "window": window,
            "strides": tuple(layer.strides),
            "pads": _pads(layer, window),
        }
        return [GraphOp(kind, layer.name, inputs, options=options)]

    return pool


def _zero_padding(layer: Any, inputs: Inputs) -> list[GraphOp]:
    (top, bottom), (left, right) = layer.padding
    pads = {"pads": (top, bottom, left, right)}
    return [GraphOp("pad", layer.name, inputs, options=pads)]


def _plain(kind: str) -> Callable[[Any, Inputs], list[GraphOp]]:
    return lambda layer, inputs: [GraphOp(kind, layer.name, inputs)]


_LAYERS: dict[str, Callable[[Any, Inputs], list[GraphOp]]] = {
    "Activation": lambda layer, inputs: _activation(
        layer.name, layer.activation.__name__, inputs
    ),
    "Add": _plain("add"),
    "AveragePooling2D": _pool("average_pool"),
    "BatchNormalization": _batch_norm,
    "Concatenate": _plain("concat"),  # of the channels, or of flat features
    "Conv2D": _conv,
    "Dense": _dense,
    "DepthwiseConv2D": _conv,
    "Dropout": lambda layer, inputs: [],
    "Flatten": lambda layer, inputs: [
        GraphOp("flatten", layer.name, inputs, options={"shape": layer.input.shape[1:]})
    ],
    "GlobalAveragePooling2D": _plain("mean"),
    "LocalResponseNormalization": _plain("normalize"),
    "MaxPooling2D": _pool("max_pool"),
    "ReLU": _relu,
    "Softmax": _plain("softmax"),
    "ZeroPadding2D": _zero_padding,
}


# -- arrays, and folding


def _with_weights(ops: Sequence[GraphOp], weights: Weights) -> list[GraphOp]:
    """The operations with their layers' arrays, and batch norms folded."""
    return _folded(
        [_ARRAYS[op.kind](op, weights[op.name]) if op.shapes else op for op in ops]
    )


def _linear(op: GraphOp, values: dict[str, np.ndarray]) -> GraphOp:
    kernel = values["kernel"]
    biases = values.get("bias", np.zeros(kernel.shape[-1], np.float32))
    return replace(op, arrays={"kernel": kernel, "biases": biases})


def _depthwise(op: GraphOp, values: dict[str, np.ndarray]) -> GraphOp:
    """A convolution with a group for each channel."""
    height, width, channels, each = values["kernel"].shape
    kernel = values["kernel"].reshape(height, width, 1, channels * each)
    return replace(_linear(op, {**values, "kernel": kernel}), kind="conv")


def _affine(op: GraphOp, values: dict[str, np.ndarray]) -> GraphOp:
    """A factor and an offset for each channel, computed in float64."""
    wide = {name: array.astype(np.float64) for name, array in values.items()}
    factor = 1 / np.sqrt(wide["moving_variance"] + op.options["epsilon"])
    factor = factor * wide.get("gamma", 1.0)
    offset = wide.get("beta", 0.0) - wide["moving_mean"] * factor
    arrays = {"factor": factor, "offset": offset}
    return replace(op, kind="affine", arrays=arrays)


_ARRAYS: dict[str, Callable[[GraphOp, dict[str, np.ndarray]], GraphOp]] = {
    "batch_norm": _affine,
    "conv": _linear,
    "dense": _linear,
    "depthwise": _depthwise,
}


def _folded(ops: list[GraphOp]) -> list[GraphOp]:
    """Move each batch norm into the convolution before it, if it is the only reader."""
    readers = Counter(name for op in ops for name in op.inputs)
    made: dict[str, GraphOp] = {}
    renamed: dict[str, str] = {}
    for op in ops:
        inputs = tuple(renamed.get(name, name) for name in op.inputs)
        before = made.get(inputs[0])
        alone = readers[op.inputs[0]] == 1
        if op.kind == "affine" and before and before.kind == "conv" and alone:
            made[before.name] = _with_norm(before, op)
            renamed[op.name] = before.name
        else:
            made[op.name] = replace(op, inputs=inputs)
    return list(made.values())


def _with_norm(conv: GraphOp, norm: GraphOp) -> GraphOp:
    factor, offset = norm.arrays["factor"], norm.arrays["offset"]
    arrays = {
        "kernel": (conv.arrays["kernel"] * factor).astype(np.float32),
        "biases": (conv.arrays["biases"] * factor + offset).astype(np.float32),
    }
    return replace(conv, arrays=arrays)
