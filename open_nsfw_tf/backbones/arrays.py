"""A network's variables as plain arrays, and back; names and shapes are checked."""

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import MAX_COMPLAINTS, Weights
from open_nsfw_tf.backbones.trained import OPEN_NSFW
from open_nsfw_tf.errors import WeightsError

Shapes = dict[str, dict[str, tuple[int, ...]]]  # {layer: {variable: shape}}

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
        hold, with as many outputs of ``fc_nsfw`` as there are classes.
    """
    fields = _fields(_is_canonical(model))
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
        WeightsError: layers or variables are missing or surplus, shapes differ, or values
            are not finite float32; one line names all of it, and nothing is set.
    """
    canonical = _is_canonical(model)
    check_arrays(weights, shapes_of(model), canonical=canonical)
    fields = _fields(canonical)
    for layer in _with_weights(model):
        for variable in layer.weights:
            variable.assign(weights[layer.name][fields[variable.name]])


def shapes_of(model: Any) -> Shapes:
    """The shapes of all values of a network."""
    return {
        layer.name: {variable.name: tuple(variable.shape) for variable in layer.weights}
        for layer in _with_weights(model)
    }


def check_arrays(
    weights: Weights, shapes: Shapes, *, canonical: bool = False, partial: bool = False
) -> None:
    """Compare arrays with what a network needs.

    Args:
        weights: ``{layer: {field: array}}``.
        shapes: what is expected, with Keras' names.
        canonical: whether the fields have the names of the canonical dict.
        partial: whether there may be other layers too.

    Raises:
        WeightsError: as `set_weights`.
    """
    mismatches = list(_mismatches(weights, shapes, _fields(canonical), partial))
    if mismatches:
        rest = len(mismatches) - MAX_COMPLAINTS
        more = f"; and {rest} more" if rest > 0 else ""
        raise WeightsError("; ".join(mismatches[:MAX_COMPLAINTS]) + more)


def _mismatches(
    weights: Weights, shapes: Shapes, fields: dict[str, str], partial: bool
) -> Iterator[str]:
    if not isinstance(weights, dict):
        yield f"expected a dict of layers, got {type(weights).__name__}"
        return
    for name, expected in shapes.items():
        layer = weights.get(name)
        if not isinstance(layer, dict):
            yield f"no weights for the layer '{name}' found"
            continue
        wanted = {fields[variable]: shape for variable, shape in expected.items()}
        for field, shape in wanted.items():
            if field not in layer:
                yield f"{name}: there is no '{field}'"
            else:
                yield from _array_mismatches(f"{name}.{field}", layer[field], shape)
        yield from (f"{name}: surplus {f!r:.80}" for f in layer if f not in wanted)
    if not partial:
        yield from (f"surplus layer {n!r:.80}" for n in weights if n not in shapes)


def _array_mismatches(
    name: str, array: object, shape: tuple[int, ...]
) -> Iterator[str]:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        kind = getattr(array, "dtype", type(array).__name__)
        yield f"{name}: expected a float32 array, got {kind}"
    elif array.shape != shape:
        yield f"{name}: expected shape {shape}, got {array.shape}"
    elif not np.isfinite(array).all():
        yield f"{name}: holds values that are not finite (NaN or infinity)"
    elif name.endswith("variance") and array.min() < 0:
        yield f"{name}: holds a negative variance"


def initialise(model: Any, seed: int | None) -> None:
    """Initialise every kernel: normal, scaled by the inputs (He et al., arXiv 1502.01852).

    Biases and batch norms stay as they are.
    """
    random = np.random.default_rng(seed)
    for layer in _with_weights(model):
        for variable in layer.weights:
            if variable.name == "kernel":
                values = random.standard_normal(variable.shape, dtype=np.float32)
                scale = np.float32(math.sqrt(2 / fan_in(layer)))
                variable.assign(values * scale)


def fan_in(layer: Any) -> int:
    """How many values one output of a convolution or dense layer is a sum of."""
    shape = tuple(layer.kernel.shape)
    depthwise = type(layer).__name__ == "DepthwiseConv2D"
    return math.prod(shape[:2] if depthwise else shape[:-1])


def _is_canonical(model: Any) -> bool:
    heads = any(layer.name.startswith("head_") for layer in model.layers)
    return bool(model.name == OPEN_NSFW) and not heads


def _fields(canonical: bool) -> dict[str, str]:
    return FIELDS if canonical else {name: name for name in FIELDS}


def _with_weights(model: Any) -> Iterator[Any]:
    return (layer for layer in model.layers if layer.weights)
