"""How one of the networks of `BACKBONES` is built, new or of a trained model.

A network is a body, which ends in a layer called ``pool``, a head, whose layers are
called ``head_0``, ``head_1`` and so on, a last dense layer and a softmax. TensorFlow is
imported when a network is built, not with this module.
"""

import math
import os
from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.architecture import DENSE, Weights, check_arrays, layers_of
from open_nsfw_tf.backbones.arrays import initialise, set_weights, weights_of
from open_nsfw_tf.backbones.head import add_head, check_head, head_shapes
from open_nsfw_tf.backbones.registry import BACKBONES, Backbone
from open_nsfw_tf.backbones.trained import MAX_CLASSES, HeadLayer, TrainedModel
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.image import LARGEST
from open_nsfw_tf.libraries import import_tensorflow

INITS = ("pretrained", "random")
POOL = "pool"  # the last layer of every body
DTYPES = ("float32", "mixed_float16", "mixed_bfloat16")


def build(
    name: str,
    classes: int,
    *,
    head: Sequence[HeadLayer] = (),
    size: int | None = None,
    init: str = "pretrained",
    weights: Weights | TrainedModel | str | os.PathLike[str] | None = None,
    replace_last: bool = False,
    seed: int | None = None,
) -> Any:
    """Build a network that can be trained.

    Args:
        name: a key of `BACKBONES`.
        classes: how many, 2 or more.
        head: the layers between the pooled features and the last dense layer.
        size: of the input, pixels a side; None: the crop of the backbone's
            preprocessing.
        init: "pretrained": Yahoo's weights for resnet50_thin, ImageNet's for the
            networks of `keras.applications`, which Keras downloads, verifies and
            caches; "random": as `initialise` does.
        weights: pretrained weights to use instead of those: for resnet50_thin the
            canonical dict or the path of a weights file, for the networks of
            `keras.applications` the path of Keras' file without the top; or a trained
            model of this backbone: its body, and its head if layers and classes are as
            many and alike.
        replace_last: whether the last layer is initialised anew even where pretrained
            weights have one that fits: those of resnet50_thin with 2 classes, no head.
            Of a trained model, no layer of the head is then taken.
        seed: for all random values; the same seed gives the same network.

    Returns:
        A `keras.Model` of the backbone's name, from ``input``, float32 (N, size, size,
        3), preprocessed, to ``predictions``, softmax, float32 (N, classes). Its layers
        are the body's, ``pool``, ``head_0`` and so on, ``logits`` (of resnet50_thin:
        ``fc_nsfw``) and ``predictions``.

    Raises:
        ValueError: no backbone has this name, the input is too small for it, or other
            arguments make no sense.
        WeightsError: there are no pretrained weights, or they cannot be found, fetched
            or read; the error names the choices.
    """
    backbone = _backbone(name)
    size = backbone.preprocessing.crop if size is None else size
    _check(backbone, name, classes, size)
    check_head(head)
    _check_init(init, weights)
    source = None
    if init == "pretrained" and not isinstance(weights, TrainedModel):
        source = backbone.pretrained(name, weights)
    model = _assemble(name, classes, head, size, source, seed)
    if init == "random":
        initialise(body_of(model), seed)
    elif isinstance(weights, TrainedModel):
        like = (tuple(head), classes) == (weights.head, len(weights.classes))
        _take_over(model, weights, whole=like and not replace_last)
    elif isinstance(source, dict) and not head and not replace_last:
        _set_last(model.get_layer(backbone.last), source[backbone.last])
    return model


def with_dtype(model: Any, dtype: str) -> Any:
    """The same network computing in another dtype, in all layers but the softmax.

    Args:
        model: as `build` returned it.
        dtype: of `DTYPES`; variables and scores stay float32.

    Returns:
        The model itself for float32, else a copy with variables of its own.

    Raises:
        ValueError: the dtype is unknown.
    """
    if dtype not in DTYPES:
        raise ValueError(f"expected a dtype of {', '.join(DTYPES)}, got {dtype!r:.80}")
    if dtype == "float32":
        return model
    import keras

    def clone(layer: Any) -> Any:
        config = layer.get_config()
        if layer.name != "predictions":
            config["dtype"] = dtype
        return layer.__class__.from_config(config)

    copy = keras.models.clone_model(model, clone_function=clone)
    copy.set_weights(model.get_weights())
    return copy


def body_of(model: Any) -> Any:
    """The network without its head: from ``input`` to the pooled features (N, F).

    The layers are the model's own, not copies.
    """
    import_tensorflow()
    import keras

    pool = model.get_layer(POOL).output
    return keras.Model(model.input, pool, name=f"{model.name}_body")


def with_cells(network: Any) -> Any:
    """A network with a second output: what each place of the last maps adds.

    Args:
        network: of one of the backbones.

    Returns:
        A `keras.Model` from ``input`` to a list: the scores, and the `cells` of
        `open_nsfw_tf.engines.Contributions`. The list has the scores alone if the
        network does not end in the mean of each map, one dense layer and a softmax.
    """
    import_tensorflow()
    import keras

    pool, dense = network.get_layer(POOL), last_layer(network)
    outputs = [network.output]
    layers = network.layers[network.layers.index(pool) + 1 :]
    linear = all(isinstance(one, keras.layers.Dropout) for one in layers[:-2])
    if linear and isinstance(pool, keras.layers.GlobalAveragePooling2D):
        outputs.append(keras.ops.matmul(pool.input, dense.kernel))
    return keras.Model(network.input, outputs)


def last_layer(network: Any) -> Any:
    """The dense layer before a network's softmax."""
    return next(one for one in reversed(network.layers) if one.weights)


def network_of(trained: TrainedModel) -> Any:
    """Build a trained model's network; nothing is downloaded.

    Args:
        trained: as `read_trained` returned it; its origin may be unknown.

    Returns:
        As `build`, with an input of the preprocessing's crop.

    Raises:
        WeightsError: no backbone has this name, or the description of the network does
            not fit the arrays. The head's layers are compared with the arrays before
            memory is allocated for them.
    """
    backbone = check_model(trained)
    classes, size = len(trained.classes), trained.preprocessing.crop
    shapes = head_shapes(trained.head, backbone.features, classes, backbone.last)
    if backbone.canonical and not trained.head:
        shapes = {DENSE: layers_of(classes)[DENSE]}
    check_arrays(trained.weights, shapes, partial=True)
    model = _assemble(trained.backbone, classes, trained.head, size, None, None)
    set_weights(model, trained.weights)
    return model


def check_model(trained: TrainedModel) -> Backbone:
    """Refuse a description of a network that cannot be built.

    Raises:
        WeightsError: no backbone has this name, or sizes or the head make no sense.
    """
    try:
        backbone = _backbone(trained.backbone)
        size = trained.preprocessing.crop
        _check(backbone, trained.backbone, len(trained.classes), size)
        check_head(trained.head)
    except ValueError as error:
        raise WeightsError(str(error)) from error
    return backbone


def _backbone(name: str) -> Backbone:
    backbone = BACKBONES.get(name) if isinstance(name, str) else None
    if backbone is None:
        raise ValueError(
            f"no backbone is called {sanitize(name, 80)}: choose of "
            f"{', '.join(BACKBONES)}"
        )
    return backbone


def _check(backbone: Backbone, name: str, classes: int, size: int) -> None:
    if type(classes) is not int or not 2 <= classes <= MAX_CLASSES:
        raise ValueError(
            f"expected 2 to {MAX_CLASSES} classes, got {sanitize(classes, 40)}"
        )
    if type(size) is not int or not backbone.least <= size <= LARGEST:
        raise ValueError(
            f"{name} takes an input of {backbone.least} to {LARGEST} pixels a side, "
            f"got {sanitize(size, 40)}"
        )


def _check_init(init: str, weights: object) -> None:
    if init not in INITS:
        raise ValueError(f"expected an init of {', '.join(INITS)}, got {init!r:.80}")
    if init == "random" and weights is not None:
        raise ValueError(
            "random initialisation takes no weights: leave one of them out"
        )


def _assemble(
    name: str,
    classes: int,
    head: Sequence[HeadLayer],
    size: int,
    source: Any,
    seed: int | None,
) -> Any:
    """The network with the values of `source`; None: values yet to be set."""
    import_tensorflow()
    import keras

    backbone = BACKBONES[name]
    batch = keras.Input((size, size, 3), dtype="float32", name="input")
    features = backbone.body(batch, source)
    if math.prod(features.shape[1:]) != backbone.features:
        raise RuntimeError(f"{name}: {backbone.features} features, {features.shape}")
    scores = add_head(features, head, classes, backbone.last, seed)
    return keras.Model(batch, scores, name=name)


def _take_over(model: Any, trained: TrainedModel, whole: bool) -> None:
    """Give a network the values of a trained model: all of them, or its body's.

    Raises:
        WeightsError: it is of another backbone, or damaged.
    """
    if trained.backbone != model.name:
        raise WeightsError(
            f"expected a trained {model.name}, got a {sanitize(trained.backbone, 80)}"
        )
    source = network_of(trained)  # which checks all arrays
    if not whole:
        model, source = body_of(model), body_of(source)
    set_weights(model, weights_of(source))


def _set_last(layer: Any, last: dict[str, Any]) -> None:
    if layer.kernel.shape == last["weights"].shape:
        layer.set_weights([last["weights"], last["biases"]])
