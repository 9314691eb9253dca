"""A network's variables as plain arrays, and back; names and shapes are checked."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import Weights, check_arrays
from open_nsfw_tf.backbones.trained import OPEN_NSFW

FIELDS = {  # Keras' names of variables, and those of the canonical dict
    "kernel": "weights",
    "bias": "biases",
    "gamma": "scale",
    "beta": "offset",
    "moving_mean": "mean",
    "moving_variance": "variance",
}


def weights_of(model: Any) -> Weights:
    """All values of a network that `build` made.

    Returns:
        ``{layer: {variable: float32 array}}`` with the names that Keras gives; of
        resnet50_thin without a head the canonical dict, which any weights format can
        hold, with as many outputs of ``fc_nsfw`` as there are classes. Of its body
        (`open_nsfw_tf.backbones.body_of`) the same without ``fc_nsfw``.
    """
    fields = _fields(model)
    return {
        layer.name: {
            fields[variable.name]: np.array(values, np.float32)
            for variable, values in zip(layer.weights, layer.get_weights(), strict=True)
        }
        for layer in _with_weights(model)
    }


def set_weights(model: Any, weights: Weights) -> None:
    """Give a network the values that `weights_of` gave of another one.

    Raises:
        WeightsError: layers or variables are missing or surplus, shapes differ, or
            values are not finite float32; one line names all of it, and nothing is set.
    """
    fields = _fields(model)
    shapes = {
        layer.name: {fields[one.name]: tuple(one.shape) for one in layer.weights}
        for layer in _with_weights(model)
    }
    check_arrays(weights, shapes)
    for layer in _with_weights(model):
        for variable in layer.weights:
            variable.assign(weights[layer.name][fields[variable.name]])


def initialise(model: Any, seed: int | None) -> None:
    """Initialise every kernel: normal, scaled by the inputs (He, arXiv 1502.01852).

    The last batch norm of a residual block begins at 0, so that the block passes its
    input on (Goyal, arXiv 1706.02677): without that, ResNets learn nothing from few
    pictures. Biases and other batch norms stay as they are.
    """
    random = np.random.default_rng(seed)
    for layer in _with_weights(model):
        for variable in layer.weights:
            if variable.name == "kernel":
                values = random.standard_normal(variable.shape, dtype=np.float32)
                scale = np.float32(math.sqrt(2 / fan_in(layer)))
                variable.assign(values * scale)
    for norm in _last_norms(model):
        norm.gamma.assign(norm.gamma * 0)


def _last_norms(model: Any) -> Iterator[Any]:
    """The batch norms whose output is added to a block's input."""
    for layer in model.layers:
        if type(layer).__name__ == "Add":
            last = layer.input[-1]._keras_history.operation  # the shortcut is first
            if type(last).__name__ == "BatchNormalization":
                yield last


def fan_in(layer: Any) -> int:
    """How many values one output of a convolution or dense layer is a sum of."""
    shape = tuple(layer.kernel.shape)
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    return math.prod(shape[:2] if depthwise else shape[:-1])


def _fields(model: Any) -> dict[str, str]:
    """The fields' names by Keras' names of variables."""
    head = any(layer.name.startswith("head_") for layer in model.layers)
    canonical = model.name.removesuffix("_body") == OPEN_NSFW and not head
    return FIELDS if canonical else {name: name for name in FIELDS}


def _with_weights(model: Any) -> Iterator[Any]:
    return (layer for layer in model.layers if layer.weights)
