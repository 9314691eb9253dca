"""A Keras network as a list of graph operations, for writing it in another format.

It supports the layers that `open_nsfw_tf.backbones` builds and refuses all others.
Batch norms are folded into the convolutions before them; layers that only training
needs are left out. All sizes are fixed, so that every padding is a number of pixels.
"""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from open_nsfw_tf.errors import ExportError

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
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)


def operations(network: Any) -> list[GraphOp]:
    """The operations of a network in topological order.

    Args:
        network: a `keras.Model` with one input, called `INPUT`, and one output.

    Returns:
        Its operations; the output of the last one is `LAST`.

    Raises:
        ExportError: it has a layer that is not supported; the message names it.
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
    return _folded(ops)


def _sources(layer: Any) -> list[str]:
    tensors = layer.input if isinstance(layer.input, list) else [layer.input]
    return [tensor._keras_history.operation.name for tensor in tensors]


def _array(value: Any) -> np.ndarray:
    return np.asarray(value, np.float32)


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
    """The pixels that TensorFlow's SAME adds: top, bottom, left, right."""
    if layer.padding == "valid":
        return (0, 0, 0, 0)
    pads: list[int] = []
    pairs = zip(layer.input.shape[1:3], window, layer.strides, strict=True)
    for size, kernel, stride in pairs:
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return (pads[0], pads[1], pads[2], pads[3])


def _conv(layer: Any, inputs: Inputs) -> list[GraphOp]:
    kernel = _array(layer.kernel)
    groups = getattr(layer, "groups", 1)
    if type(layer).__name__ == "DepthwiseConv2D":
        height, width, groups, each = kernel.shape
        kernel = kernel.reshape(height, width, 1, groups * each)
    if tuple(layer.dilation_rate) != (1, 1):
        raise ExportError(f"cannot export the dilated convolution {layer.name!r}")
    outputs = kernel.shape[-1]
    biases = _array(layer.bias) if layer.use_bias else np.zeros(outputs, np.float32)
    options = {
        "strides": tuple(layer.strides),
        "pads": _pads(layer, kernel.shape[:2]),
        "groups": groups,
    }
    arrays = {"kernel": kernel, "biases": biases}
    return _activated(layer, GraphOp("conv", layer.name, inputs, arrays, options))


def _batch_norm(layer: Any, inputs: Inputs) -> list[GraphOp]:
    """A factor and an offset for each channel, computed in float64."""
    wide = np.float64
    factor = 1 / np.sqrt(np.asarray(layer.moving_variance, wide) + layer.epsilon)
    factor = factor * np.asarray(layer.gamma, wide) if layer.scale else factor
    offset = -np.asarray(layer.moving_mean, wide) * factor
    offset = offset + np.asarray(layer.beta, wide) if layer.center else offset
    arrays = {"factor": factor, "offset": offset}
    flat = {"flat": len(layer.output.shape) == 2}
    return [GraphOp("affine", layer.name, inputs, arrays, flat)]


def _dense(layer: Any, inputs: Inputs) -> list[GraphOp]:
    arrays = {"kernel": _array(layer.kernel), "biases": _array(layer.bias)}
    return _activated(layer, GraphOp("dense", layer.name, inputs, arrays))


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


# -- folding


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
