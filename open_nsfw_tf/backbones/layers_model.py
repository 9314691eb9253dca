"""TensorFlow.js layers models of our backbones as trained models.

The layers of the file are translated to graph operations and compared with the
backbone's (`graph_ops`): every kind, input, stride, padding and shape must be the same.
What follows the body must be a head as `HeadLayer` describes it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.graph_ops import (
    INPUT,
    GraphOp,
    operations_of,
    pads_of,
    stored_body,
)
from open_nsfw_tf.backbones.keras_apps import renumbered
from open_nsfw_tf.backbones.registry import BACKBONES
from open_nsfw_tf.backbones.trained import HeadLayer, TrainedModel
from open_nsfw_tf.errors import WeightsError, one_line, sanitize
from open_nsfw_tf.formats import PARSE_ERRORS
from open_nsfw_tf.formats.tfjs import Layer, LayersModel
from open_nsfw_tf.image import Preprocessing

READ = ("mobilenet_v2", "inception_v3")  # the backbones that are looked for
_VARIABLES = {"depthwise_kernel": "kernel"}  # Keras 2's names, and ours
_POOLS = ("GlobalAveragePooling2D", "AveragePooling2D", "Flatten")


def trained_model(
    model: LayersModel, classes: Sequence[str], origin: dict[str, str] | None = None
) -> TrainedModel:
    """A layers model of one of our backbones as a trained model.

    Args:
        model: as `open_nsfw_tf.formats.tfjs.read` returned it.
        classes: the names of its scores, in order; the file does not have them.
        origin: as `TrainedModel` has it.

    Returns:
        It takes pictures as nsfwjs does: RGB, resized with aligned corners, divided
        by 255.

    Raises:
        WeightsError: it is another network, or its number of classes differs.
    """
    with _described():
        return replace(_trained_model(model, classes), origin=origin or {})


def _trained_model(model: LayersModel, classes: Sequence[str]) -> TrainedModel:
    size, layers = _size(model.layers), _renamed(model.layers)
    end = _head_of(layers)
    body = layers[: len(layers) - len(end)]
    ops, maps = _operations(body, size)
    name = _backbone(ops, size)
    _check_pooling(end[0], maps)
    head, names = _head(end, body[-1].name, len(classes), BACKBONES[name].last)
    renamed = {
        old.name: new.name for old, new in zip(model.layers, layers, strict=True)
    }
    weights: Weights = {}
    for layer, fields in model.weights.items():
        ours = names.get(renamed.get(layer, layer), renamed.get(layer, layer))
        if ours in weights:
            raise _mismatch(f"it has two layers {sanitize(ours, 80)}")
        weights[ours] = {_VARIABLES.get(v, v): array for v, array in fields.items()}
    steps = Preprocessing(size, size, False, "RGB", (0.0, 0.0, 0.0), 1 / 255, "aligned")
    trained = TrainedModel(name, tuple(classes), steps, head, weights)
    operations_of(trained)  # compares the arrays' shapes
    return trained


@contextmanager
def _described() -> Iterator[None]:
    """Turn what a description without an option causes into a WeightsError."""
    try:
        yield
    except PARSE_ERRORS as error:
        if isinstance(error, WeightsError):
            raise
        raise _mismatch(f"its description is broken ({one_line(error)})") from error


def _mismatch(reason: str) -> WeightsError:
    return WeightsError(
        f"expected {' or '.join(READ)} with dense layers after it, as nsfwjs's "
        f"networks are: {reason}"
    )


def _size(layers: Sequence[Layer]) -> int:
    first = layers[0] if layers else None
    shape = first.config.get("batch_input_shape") if first else None  # of Keras 2
    if not isinstance(shape, list) or len(shape) != 4 or shape[1] != shape[2]:
        raise _mismatch(f"its input is {shape!r:.80}")
    size = shape[1]
    if type(size) is not int or shape[3] != 3:
        raise _mismatch(f"its input is {shape!r:.80}")
    return size


def _renamed(layers: Sequence[Layer]) -> list[Layer]:
    """The layers with the numbers that Keras gives in a new process: from 0."""
    names = renumbered((layer.name, layer.kind) for layer in layers)
    names[layers[0].name] = INPUT
    return [
        replace(
            layer,
            name=names.get(layer.name, layer.name),
            inputs=tuple(names.get(source, source) for source in layer.inputs),
        )
        for layer in layers
    ]


# -- the body


Size = tuple[int, int]  # of maps: height, width
Translated = tuple[GraphOp, Size]


def _backbone(ops: Sequence[GraphOp], size: int) -> str:
    """The name of the backbone that these operations are."""
    found, reason = _pads_joined(ops), ""
    for name in READ:
        known = stored_body(name, size)
        if known is not None:
            reason = _difference(found, _pads_joined(known[:-1]))  # without `pool`
            if not reason:
                return name
    sizes = ", ".join(str(BACKBONES[name].preprocessing.crop) for name in READ)
    raise _mismatch(reason or f"its input has {size} pixels a side, not one of {sizes}")


def _difference(ops: dict[str, GraphOp], wanted: dict[str, GraphOp]) -> str:
    """Why operations are not those of a backbone; "" if they are."""
    for name in [*wanted, *ops]:
        if name not in ops or name not in wanted:
            return (
                f"it has {'no' if name in wanted else 'a'} layer {sanitize(name, 80)}"
            )
        op, other = ops[name], wanted[name]
        # The file does not tell all options: those are given by the arrays' shapes.
        same_options = {option: other.options.get(option) for option in op.options}
        if (op.kind, op.inputs, op.options) != (other.kind, other.inputs, same_options):
            return f"its layer {name} differs"
    return ""


def _pads_joined(ops: Sequence[GraphOp]) -> dict[str, GraphOp]:
    """Operations by name; a padding of zeros becomes the convolution's after it."""
    pads = {op.name: op for op in ops if op.kind == "pad"}
    found = {}
    for op in ops:
        source = pads.get(op.inputs[0]) if op.inputs else None
        if source is not None and op.options.get("pads") == (0, 0, 0, 0):
            options = {**op.options, "pads": source.options["pads"]}
            op = replace(op, inputs=source.inputs, options=options)
        if op.kind != "pad":
            found[op.name] = op
    return found


def _operations(layers: Sequence[Layer], size: int) -> tuple[list[GraphOp], Size]:
    """The operations of layers after the input, without arrays, and their last maps."""
    sizes: dict[str, Size] = {INPUT: (size, size)}
    ops = []
    for layer in layers[1:]:
        if layer.kind not in _KINDS:
            known = ", ".join(_KINDS)
            raise _mismatch(
                f"its layer {sanitize(layer.name, 80)} is of the kind "
                f"{sanitize(layer.kind, 80)}, not of {known}"
            )
        missing = [source for source in layer.inputs if source not in sizes]
        if missing or not layer.inputs:
            raise _mismatch(f"nothing comes into its layer {sanitize(layer.name, 80)}")
        if layer.config.get("data_format", "channels_last") != "channels_last":
            raise _mismatch("its channels are not the last axis")
        before = sizes[layer.inputs[0]]
        op, sizes[layer.name] = _KINDS[layer.kind](layer, before)
        ops.append(op)
    return ops, sizes[layers[-1].name]


def _windowed(kind: str, window_option: str) -> Callable[[Layer, Size], Translated]:
    """A convolution or pooling, whose window is the option `window_option`."""

    def translate(layer: Layer, size: Size) -> Translated:
        config = layer.config
        window, strides = tuple(config[window_option]), tuple(config["strides"])
        plain = [config.get("activation", "linear"), *config.get("dilation_rate", ())]
        if plain not in (["linear"], ["linear", 1, 1]) or not all((*window, *strides)):
            raise _mismatch(f"its layer {layer.name} differs")
        pads = pads_of(config["padding"], size, window, strides)
        options: dict[str, Any] = {"strides": strides, "pads": pads}
        if "pool" in kind:
            options["window"] = window
        padded = (size[0] + sum(pads[:2]), size[1] + sum(pads[2:]))
        found = [
            (all_ - side) // stride + 1
            for all_, side, stride in zip(padded, window, strides, strict=True)
        ]
        return GraphOp(kind, layer.name, layer.inputs, {}, options), (
            found[0],
            found[1],
        )

    return translate


def _padding(layer: Layer, size: Size) -> Translated:
    (top, bottom), (left, right) = layer.config["padding"]
    pads = {"pads": (top, bottom, left, right)}
    op = GraphOp("pad", layer.name, layer.inputs, {}, pads)
    return op, (size[0] + top + bottom, size[1] + left + right)


def _batch_norm(layer: Layer, size: Size) -> Translated:
    if layer.config.get("axis", -1) not in (-1, 3, [-1], [3]):
        raise _mismatch(f"its layer {layer.name} is not of channels")
    options = {"epsilon": layer.config["epsilon"]}
    return GraphOp("batch_norm", layer.name, layer.inputs, {}, options), size


def _relu(layer: Layer, size: Size) -> Translated:
    config = layer.config
    if config.get("negative_slope") or config.get("threshold"):
        raise _mismatch(f"its layer {layer.name} is a leaky ReLU")
    options = {"most": config.get("max_value")}
    return GraphOp("relu", layer.name, layer.inputs, {}, options), size


def _activation(layer: Layer, size: Size) -> Translated:
    kind = str(layer.config["activation"])
    return GraphOp(kind, layer.name, layer.inputs), size


def _plain(kind: str) -> Callable[[Layer, Size], Translated]:
    def translate(layer: Layer, size: Size) -> Translated:
        if layer.config.get("axis", -1) not in (-1, 3):
            raise _mismatch(f"its layer {layer.name} is not of channels")
        return GraphOp(kind, layer.name, layer.inputs), size

    return translate


_KINDS: dict[str, Callable[[Layer, Size], Translated]] = {
    "Activation": _activation,
    "Add": _plain("add"),
    "AveragePooling2D": _windowed("average_pool", "pool_size"),
    "BatchNormalization": _batch_norm,
    "Concatenate": _plain("concat"),
    "Conv2D": _windowed("conv", "kernel_size"),
    "DepthwiseConv2D": _windowed("depthwise", "kernel_size"),
    "MaxPooling2D": _windowed("max_pool", "pool_size"),
    "ReLU": _relu,
    "ZeroPadding2D": _padding,
}


# -- the head


def _head_of(layers: Sequence[Layer]) -> list[Layer]:
    """The last layers, from the pooling of whole maps on."""
    for index in range(len(layers) - 1, 0, -1):
        layer = layers[index]
        if layer.kind == "GlobalAveragePooling2D":
            return list(layers[index:])
        if layer.kind == "Flatten" and layers[index - 1].kind == "AveragePooling2D":
            return list(layers[index - 1 :])
    raise _mismatch("it does not average its last maps")


def _check_pooling(layer: Layer, maps: Size) -> None:
    """Refuse a pooling that leaves out a part of the maps."""
    if layer.kind == "AveragePooling2D":
        window, padding = tuple(layer.config["pool_size"]), layer.config["padding"]
        if window != maps or padding != "valid":
            raise _mismatch(f"it averages {window} pixels of its last maps of {maps}")


def _head(
    layers: Sequence[Layer], source: str, classes: int, last: str
) -> tuple[tuple[HeadLayer, ...], dict[str, str]]:
    """The head's layers but for the last one, and our names of all, by the file's."""
    final = layers[-1]
    if (final.kind, final.config.get("activation")) != ("Dense", "softmax"):
        raise _mismatch("its last layer is no softmax")
    found: list[HeadLayer] = []
    names: dict[str, str] = {}
    for layer in layers:
        if layer.inputs != (source,):
            raise _mismatch(f"its layer {sanitize(layer.name, 80)} is not in one line")
        source = layer.name
        if layer.kind not in _POOLS:
            names[layer.name] = f"head_{len(found)}"
            found.append(_head_layer(layer))
    if found[-1].units != classes:
        raise WeightsError(
            f"expected the names of {found[-1].units} classes, got {classes}: name "
            "them with --classes, in the order of the model's scores"
        )
    names[final.name] = last
    return tuple(found[:-1]), names


def _head_layer(layer: Layer) -> HeadLayer:
    config = layer.config
    if layer.kind == "Dropout":
        return HeadLayer("dropout", rate=config["rate"])
    if layer.kind == "BatchNormalization" and config["epsilon"] == 0.001:
        return HeadLayer("batch_norm")
    if layer.kind != "Dense":
        raise _mismatch(f"its layer {sanitize(layer.name, 80)} is no layer of a head")
    activation = config["activation"]
    regularizer = (config.get("kernel_regularizer") or {}).get("config", {})
    return HeadLayer(
        "dense",
        units=config["units"],
        activation="linear" if activation == "softmax" else activation,
        l2=float(regularizer.get("l2") or 0),
    )
