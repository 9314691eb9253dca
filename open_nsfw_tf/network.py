"""ResNet-50-thin on Keras, built block by block from the weights' dict.

Tensors are NHWC. A layer has the name of its entry in the weights; a block's sum is
called ``eltwise_stage{s}_block{b}`` and its activation ``relu_stage{s}_block{b}``. Keras is
imported when a network is built, not with this module.
"""

from typing import Any

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    BLOCKS,
    DENSE,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Block,
    Convolution,
    Weights,
    classes_of,
)
from open_nsfw_tf.backend import import_tensorflow

Tensor = Any  # a symbolic Keras tensor

# Said to every layer: an application may have set other defaults for its own networks.
EXACT = {"dtype": "float32"}
IMAGE = {**EXACT, "data_format": "channels_last"}


def network(x: Tensor, weights: Weights) -> dict[str, Tensor]:
    """The whole network after its input; returns the stages' outputs by name.

    Args:
        x: float32 (N, 224, 224, 3).
        weights: the canonical dict; where it has no ``bn_`` layers, none are built.
            The outputs are as many as its last layer's.
    """
    from keras import layers

    ends = {}
    x = ends["conv_1"] = _relu(_conv_and_norm(x, STEM, weights), STEM.place)
    # 112 to 56: Caffe's rounding up is what TensorFlow calls SAME.
    pool = layers.MaxPooling2D(
        POOL_SIZE, POOL_STRIDE, padding="same", name="pool1", **IMAGE
    )
    x = ends["pool1"] = pool(x)
    for number, stage in enumerate(BLOCKS):
        for block in stage:
            build = conv_block if block.projection else identity_block
            x = build(x, block, weights)
        ends[f"stage{number}"] = x
    x = ends["pool"] = layers.GlobalAveragePooling2D(name="pool", **IMAGE)(x)
    x = ends["logits"] = _dense(x, weights)
    ends["predictions"] = layers.Softmax(name="predictions", **EXACT)(x)
    return ends


def conv_block(x: Tensor, block: Block, weights: Weights) -> Tensor:
    """A block whose shortcut is a convolution; the first of each stage.

    Args:
        x: float32 (N, H, W, inputs).
        block: a row of the table, with a projection.
        weights: the canonical dict.

    Returns:
        float32 (N, H / stride, W / stride, outputs), after the ReLU.
    """
    if block.projection is None:
        raise ValueError(f"{block.place} has no projection: build an identity_block")
    shortcut = _conv_and_norm(x, block.projection, weights)
    return _add(shortcut, _main_path(x, block, weights), block)


def identity_block(x: Tensor, block: Block, weights: Weights) -> Tensor:
    """A block whose shortcut is its input.

    Args:
        x: float32 (N, H, W, channels).
        block: a row of the table, without a projection.
        weights: the canonical dict.

    Returns:
        float32 of the shape of `x`, after the ReLU.
    """
    return _add(x, _main_path(x, block, weights), block)


def _main_path(x: Tensor, block: Block, weights: Weights) -> Tensor:
    a, b, c = block.main
    x = _relu(_conv_and_norm(x, a, weights), a.place)
    x = _relu(_conv_and_norm(x, b, weights), b.place)
    return _conv_and_norm(x, c, weights)


def _add(shortcut: Tensor, x: Tensor, block: Block) -> Tensor:
    from keras import layers

    return _relu(
        layers.Add(name=f"eltwise_{block.place}", **EXACT)([shortcut, x]), block.place
    )


def _relu(x: Tensor, place: str) -> Tensor:
    from keras import layers

    return layers.ReLU(name=f"relu_{place}", **EXACT)(x)


def _conv_and_norm(x: Tensor, conv: Convolution, weights: Weights) -> Tensor:
    x = _conv(x, conv, weights)
    return _batch_norm(x, conv, weights) if f"bn_{conv.place}" in weights else x


def _conv(x: Tensor, conv: Convolution, weights: Weights) -> Tensor:
    from keras import layers

    name = f"conv_{conv.place}"
    if conv.padding and conv.stride > 1:
        # Caffe pads both sides alike; SAME would pad less at the top and the left.
        x = layers.ZeroPadding2D(conv.padding, name=f"pad_{conv.place}", **IMAGE)(x)
    layer = layers.Conv2D(
        conv.outputs,
        conv.kernel,
        strides=conv.stride,
        padding="same" if conv.stride == 1 else "valid",
        name=name,
        **IMAGE,
    )
    x = layer(x)
    layer.set_weights([weights[name]["weights"], weights[name]["biases"]])
    return x


def _batch_norm(x: Tensor, conv: Convolution, weights: Weights) -> Tensor:
    from keras import layers

    name = f"bn_{conv.place}"
    layer = layers.BatchNormalization(
        epsilon=BATCH_NORM_EPSILON, name=name, axis=-1, **EXACT
    )
    x = layer(x)
    fields = ("scale", "offset", "mean", "variance")  # Keras' order
    layer.set_weights([weights[name][field] for field in fields])
    return x


def _dense(x: Tensor, weights: Weights) -> Tensor:
    from keras import layers

    layer = layers.Dense(classes_of(weights), name=DENSE, **EXACT)
    x = layer(x)
    layer.set_weights([weights[DENSE]["weights"], weights[DENSE]["biases"]])
    return x


def predictions_of(keras_model: Any, batch: Any) -> Any:
    """What a network answers for a batch of any size, even 0: a tensor (N, n).

    TensorFlow's oneDNN convolution gives an empty batch the shape of its input, with
    which the next layer fails; so an empty batch gets a picture, and its score goes.

    Args:
        keras_model: from float32 (N, side, side, 3) to (N, n).
        batch: float32 (N, side, side, 3).
    """
    tf = import_tensorflow()
    size = tf.shape(batch)[0]
    missing = tf.cast(tf.equal(size, 0), tf.int32)
    padded = tf.pad(batch, [[0, missing], [0, 0], [0, 0], [0, 0]])
    padded = tf.ensure_shape(padded, (None, *keras_model.inputs[0].shape[1:]))
    return keras_model(padded, training=False)[:size]
