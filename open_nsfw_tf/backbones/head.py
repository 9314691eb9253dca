"""The layers after a body's pooled features: head, last dense layer, softmax."""

from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.architecture import Shapes
from open_nsfw_tf.backbones.trained import HeadLayer
from open_nsfw_tf.errors import sanitize

LONGEST = 32  # layers of a head
INITIALIZERS = {  # of dense layers' kernels: Keras' name, and its class
    "glorot_normal": "GlorotNormal",
    "glorot_uniform": "GlorotUniform",
    "he_normal": "HeNormal",
    "he_uniform": "HeUniform",
    "lecun_normal": "LecunNormal",
    "lecun_uniform": "LecunUniform",
}
EXACT = {"dtype": "float32"}


def check_head(head: Sequence[HeadLayer]) -> None:
    """Refuse a head that cannot be built.

    Raises:
        ValueError: too many layers, an initialiser that is not known, or a decay that
            is no number of 0 or more.
    """
    if len(head) > LONGEST:
        raise ValueError(
            f"expected at most {LONGEST} layers of a head, got {len(head)}"
        )
    for layer in head:
        if layer.initializer not in tuple(INITIALIZERS):
            raise ValueError(
                f"no initialiser is called {sanitize(layer.initializer, 80)}: choose "
                f"of {', '.join(INITIALIZERS)}"
            )
        if type(layer.l2) not in (int, float) or not 0 <= layer.l2 < 1:
            raise ValueError(
                f"expected an l2 of 0 to below 1, got {sanitize(layer.l2, 40)}"
            )


def head_shapes(
    head: Sequence[HeadLayer], features: int, classes: int, last: str
) -> Shapes:
    """Shapes of the arrays that `add_head` makes: ``{layer: {variable: shape}}``."""
    shapes: Shapes = {}
    for index, layer in enumerate(head):
        if layer.kind == "dense":
            shapes[f"head_{index}"] = _dense_shapes(features, layer.units)
            features = layer.units
        elif layer.kind == "batch_norm":
            names = ("gamma", "beta", "moving_mean", "moving_variance")
            shapes[f"head_{index}"] = dict.fromkeys(names, (features,))
    return {**shapes, last: _dense_shapes(features, classes)}


def _dense_shapes(inputs: int, outputs: int) -> dict[str, tuple[int, ...]]:
    return {"kernel": (inputs, outputs), "bias": (outputs,)}


def add_head(
    x: Any, head: Sequence[HeadLayer], classes: int, last: str, seed: int | None
) -> Any:
    """The layers after the pooled features.

    Args:
        x: float32 (N, F), symbolic.
        head: the layers before the last one, called ``head_0`` and so on.
        classes: outputs.
        last: the name of the last dense layer.
        seed: of the kernels; None: another network each time.

    Returns:
        float32 (N, classes), the output of the softmax ``predictions``.
    """
    from keras import layers

    for index, layer in enumerate(head):
        x = _LAYERS[layer.kind](layer, f"head_{index}", _seed(seed, index))(x)
    final = HeadLayer("dense", units=classes)
    x = _dense(final, last, _seed(seed, len(head)))(x)
    return layers.Softmax(name="predictions", **EXACT)(x)


def _seed(seed: int | None, index: int) -> int | None:
    return None if seed is None else seed + index


def _dense(layer: HeadLayer, name: str, seed: int | None) -> Any:
    import keras

    kernel = getattr(keras.initializers, INITIALIZERS[layer.initializer])
    return keras.layers.Dense(
        layer.units,
        activation=layer.activation,
        kernel_initializer=kernel(seed=seed),
        kernel_regularizer=keras.regularizers.L2(layer.l2) if layer.l2 else None,
        name=name,
        **EXACT,
    )


def _batch_norm(layer: HeadLayer, name: str, seed: int | None) -> Any:
    from keras import layers

    return layers.BatchNormalization(name=name, **EXACT)


def _dropout(layer: HeadLayer, name: str, seed: int | None) -> Any:
    from keras import layers

    return layers.Dropout(layer.rate, seed=seed, name=name, **EXACT)


_LAYERS = {"dense": _dense, "batch_norm": _batch_norm, "dropout": _dropout}
