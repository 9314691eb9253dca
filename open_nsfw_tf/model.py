"""ResNet-50-thin in Keras, built block by block, and the class `OpenNsfwModel`.

Tensors are NHWC. A layer has the name of its entry in the weights; a block's sum is
called ``eltwise_stage{s}_block{b}`` and its activation ``relu_stage{s}_block{b}``.
TensorFlow and Keras are imported when a network is built, not with this module.
"""

import os
import threading
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    BLOCKS,
    CHANNELS,
    DENSE,
    INPUT_SIZE,
    POOL_SIZE,
    POOL_STRIDE,
    STAGES,
    STEM,
    Block,
    Convolution,
    Weights,
    check_weights,
    classes_of,
    fold_batch_norm,
)
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import check_batch
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.tf_image import error_reason, load_base64_tensor, load_bytes_tensor
from open_nsfw_tf.weights import load_weights

__all__ = [
    "LOADERS",
    "STAGES",
    "InputType",
    "OpenNsfwModel",
    "compile_network",
    "conv_block",
    "identity_block",
    "network",
    "predictions_of",
]

Tensor = Any  # a symbolic Keras tensor

# Every layer gets its dtype: an application may have set other defaults for its own.
EXACT = {"dtype": "float32"}
IMAGE = {**EXACT, "data_format": "channels_last"}


def network(x: Tensor, weights: Weights) -> dict[str, Tensor]:
    """Build the whole network on an input; returns the stages' outputs by name.

    Args:
        x: float32 (N, 224, 224, 3).
        weights: the canonical dict; a convolution without a ``bn_`` layer gets none.
            The number of classes is that of its last layer.
    """
    from keras import layers

    endpoints = {}
    x = endpoints["conv_1"] = _relu(_conv_and_norm(x, STEM, weights), STEM.key)
    # From 112 to 56 pixels: Caffe rounds up, as TensorFlow does with SAME padding.
    pool = layers.MaxPooling2D(
        POOL_SIZE, POOL_STRIDE, padding="same", name="pool1", **IMAGE
    )
    x = endpoints["pool1"] = pool(x)
    for number, stage in enumerate(BLOCKS):
        for block in stage:
            build = conv_block if block.projection else identity_block
            x = build(x, block, weights)
        endpoints[f"stage{number}"] = x
    x = endpoints["pool"] = layers.GlobalAveragePooling2D(name="pool", **IMAGE)(x)
    x = endpoints["logits"] = _dense(x, weights)
    endpoints["predictions"] = layers.Softmax(name="predictions", **EXACT)(x)
    return endpoints


def conv_block(x: Tensor, block: Block, weights: Weights) -> Tensor:
    """A block whose shortcut is a convolution: the first block of each stage.

    Args:
        x: float32 (N, H, W, inputs).
        block: one of `BLOCKS` with a projection.
        weights: the canonical dict.

    Returns:
        float32 (N, H / stride, W / stride, outputs), after the ReLU.
    """
    if block.projection is None:
        raise ValueError(f"{block.key} has no projection: build an identity_block")
    shortcut = _conv_and_norm(x, block.projection, weights)
    return _add(shortcut, _main_path(x, block, weights), block)


def identity_block(x: Tensor, block: Block, weights: Weights) -> Tensor:
    """A block whose shortcut is its input.

    Args:
        x: float32 (N, H, W, channels).
        block: one of `BLOCKS` without a projection.
        weights: the canonical dict.

    Returns:
        float32 of the shape of `x`, after the ReLU.
    """
    return _add(x, _main_path(x, block, weights), block)


def _main_path(x: Tensor, block: Block, weights: Weights) -> Tensor:
    a, b, c = block.main
    x = _relu(_conv_and_norm(x, a, weights), a.key)
    x = _relu(_conv_and_norm(x, b, weights), b.key)
    return _conv_and_norm(x, c, weights)


def _add(shortcut: Tensor, x: Tensor, block: Block) -> Tensor:
    from keras import layers

    return _relu(
        layers.Add(name=f"eltwise_{block.key}", **EXACT)([shortcut, x]), block.key
    )


def _relu(x: Tensor, key: str) -> Tensor:
    from keras import layers

    return layers.ReLU(name=f"relu_{key}", **EXACT)(x)


def _conv_and_norm(x: Tensor, conv: Convolution, weights: Weights) -> Tensor:
    x = _conv(x, conv, weights)
    return _batch_norm(x, conv, weights) if f"bn_{conv.key}" in weights else x


def _conv(x: Tensor, conv: Convolution, weights: Weights) -> Tensor:
    from keras import layers

    name = f"conv_{conv.key}"
    if conv.padding and conv.stride > 1:
        # Caffe pads both sides equally; SAME would pad less at the top and the left.
        x = layers.ZeroPadding2D(conv.padding, name=f"pad_{conv.key}", **IMAGE)(x)
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

    name = f"bn_{conv.key}"
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


# -- the model


class InputType(Enum):
    """What the built network takes."""

    TENSOR = "tensor"  # float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123)
    BASE64_JPEG = "base64_jpeg"  # strings (N,), base64 of picture files
    BYTES = "bytes"  # strings (N,), picture files as they are


LOADERS = {
    InputType.BASE64_JPEG: load_base64_tensor,
    InputType.BYTES: load_bytes_tensor,
}


class OpenNsfwModel:
    """Yahoo's Open-NSFW as a Keras model.

    Attributes (after `build`):
        keras_model: the `keras.Model` from `input` to `predictions`.
        input: symbolic float32 (None, 224, 224, 3), or strings (None,).
        logits: symbolic float32 (None, 2), the output of ``fc_nsfw``.
        predictions: symbolic float32 (None, 2), softmax, columns SFW, NSFW; with
            weights of other classes one column for each, here and in `predict`.
        endpoints: the stages' outputs by name: ``conv_1`` (after its ReLU), ``pool1``,
            ``stage0`` to ``stage3``, ``pool``, ``logits``, ``predictions``.
        weights: the canonical dict that the network was built from.
    """

    def __init__(self) -> None:
        self.keras_model: Any = None
        self.input: Tensor = None
        self.logits: Tensor = None
        self.predictions: Tensor = None
        self.endpoints: dict[str, Tensor] = {}
        self.weights: Weights = {}
        self.input_type = InputType.TENSOR
        self._function: Any = None
        self._lock = threading.Lock()

    def build(
        self,
        weights_path: str | os.PathLike[str] | None = None,
        input_type: InputType = InputType.TENSOR,
    ) -> None:
        """Build the network with weights from a file.

        Args:
            weights_path: in any known format; None searches, see `load_weights`.
            input_type: what the network takes.

        Raises:
            WeightsError: the weights are not found, not readable or do not fit.
            TypeError: `input_type` is no `InputType`.
        """
        _check_input_type(input_type)
        self.build_from(load_weights(weights_path), input_type)

    def build_from(
        self,
        weights: Weights,
        input_type: InputType = InputType.TENSOR,
        fold: bool = False,
    ) -> None:
        """Build the network with weights that are loaded already.

        Args:
            weights: the canonical dict.
            input_type: what the network takes.
            fold: whether to fold the batch norms into the convolutions: the network
                then has no batch norm layers and is faster.

        Raises:
            WeightsError: the weights do not fit.
            TypeError: `input_type` is no `InputType`.
        """
        _check_input_type(input_type)
        check_weights(weights)
        import_tensorflow()
        import keras

        self.weights = fold_batch_norm(weights) if fold else weights
        layers = self.weights
        if fold:
            layers = {k: v for k, v in layers.items() if not k.startswith("bn_")}
        self.input, batch = _input(input_type)
        self.input_type = input_type
        self.endpoints = network(batch, layers)
        self.logits = self.endpoints["logits"]
        self.predictions = self.endpoints["predictions"]
        self.keras_model = keras.Model(self.input, self.predictions, name="open_nsfw")
        self._function = None

    def predict(self, batch: np.ndarray | Sequence[str | bytes]) -> np.ndarray:
        """Score a batch.

        Args:
            batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123); or a
                sequence of N strings, if the network was built for strings.

        Returns:
            float32 (N, 2), softmax, columns SFW, NSFW.

        Raises:
            RuntimeError: `build` was not called, or was called before a fork.
            ValueError: the batch has another shape or dtype, or contains NaN.
            ImageError: a string is not a picture; the message gives its number.
        """
        if self.keras_model is None:
            raise RuntimeError("the network is not built: call build() first")
        import_tensorflow()  # raises in a forked process, where it would hang
        if self.input_type is not InputType.TENSOR:
            return self._predict_strings(batch)
        batch = check_batch(batch)
        if not len(batch):
            return np.empty((0, classes_of(self.weights)), np.float32)
        return np.asarray(self._compiled()(batch).numpy(), dtype=np.float32)

    def _compiled(self) -> Any:
        with self._lock:
            if self._function is None:
                self._function = compile_network(self.keras_model)
            return self._function

    def _predict_strings(self, strings: Any) -> np.ndarray:
        tf = import_tensorflow()
        if isinstance(strings, str | bytes) or not all(
            isinstance(text, str | bytes) for text in strings
        ):
            raise ValueError("expected a sequence of strings, one a picture")
        if not len(strings):
            return np.empty((0, classes_of(self.weights)), np.float32)
        batch = tf.constant([tf.compat.as_bytes(text) for text in strings])
        try:
            return np.asarray(self._compiled()(batch).numpy(), dtype=np.float32)
        except tf.errors.InvalidArgumentError as error:
            raise ImageError(error_reason(error)) from error


def _check_input_type(input_type: InputType) -> None:
    if not isinstance(input_type, InputType):
        raise TypeError(f"expected an InputType, got {input_type!r}")


def _input(input_type: InputType) -> tuple[Tensor, Tensor]:
    """A symbolic input, and the preprocessed batch computed from it."""
    import keras

    shape = (INPUT_SIZE, INPUT_SIZE, CHANNELS)
    if input_type is InputType.TENSOR:
        batch = keras.Input(shape, dtype="float32", name="input")
        return batch, batch
    load = LOADERS[input_type]

    class YahooLoader(keras.layers.Layer):  # type: ignore[misc]
        """The exact loader as a layer: strings (N,) to float32 (N, 224, 224, 3)."""

        def call(self, strings: Tensor) -> Tensor:
            return load(strings)

        def compute_output_spec(self, strings: Tensor) -> Tensor:
            return keras.KerasTensor((None, *shape), dtype="float32")

    strings = keras.Input((), dtype="string", name="input")
    return strings, YahooLoader(name="yahoo_loader", dtype="string")(strings)


def compile_network(keras_model: Any) -> Any:
    """One traced function of a Keras model, for batches of any size."""
    tf = import_tensorflow()
    if not tf.executing_eagerly():
        raise RuntimeError(
            "TensorFlow's eager execution is switched off in this process: this "
            "network needs it on"
        )
    tensor = keras_model.inputs[0]

    @tf.function(
        input_signature=[tf.TensorSpec(tensor.shape, tensor.dtype)], autograph=False
    )
    def predict(batch: Any) -> Any:
        if batch.dtype == tf.string:
            return keras_model(batch, training=False)
        return predictions_of(keras_model, batch)

    return predict.get_concrete_function()


def predictions_of(keras_model: Any, batch: Any) -> Any:
    """A network's output for a batch of any size, even 0: a tensor (N, n).

    Of a network with several outputs, a list of them, each with N rows.

    For an empty batch TensorFlow's oneDNN convolution returns the shape of its input,
    at which the next layer fails; so an empty batch gets one picture, whose score is
    dropped.

    Args:
        keras_model: from float32 (N, side, side, 3) to (N, n).
        batch: float32 (N, side, side, 3).
    """
    tf = import_tensorflow()
    size = tf.shape(batch)[0]
    missing = tf.cast(tf.equal(size, 0), tf.int32)
    padded = tf.pad(batch, [[0, missing], [0, 0], [0, 0], [0, 0]])
    padded = tf.ensure_shape(padded, (None, *keras_model.inputs[0].shape[1:]))
    outputs = keras_model(padded, training=False)
    return tf.nest.map_structure(lambda output: output[:size], outputs)
