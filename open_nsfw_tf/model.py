"""`OpenNsfwModel`: the network on Keras with its weights, ready to predict.

TensorFlow is imported when a network is built, not with this module.
"""

import os
import threading
from collections.abc import Sequence
from enum import Enum
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    CHANNELS,
    INPUT_SIZE,
    STAGES,
    Weights,
    check_weights,
    classes_of,
)
from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.folding import fold_batch_norm
from open_nsfw_tf.image import ImageError, check_batch
from open_nsfw_tf.image_graph import (
    error_reason,
    load_base64_tensor,
    load_bytes_tensor,
)
from open_nsfw_tf.network import (
    Tensor,
    conv_block,
    identity_block,
    network,
    predictions_of,
)
from open_nsfw_tf.weights import load_weights

__all__ = ["STAGES", "InputType", "OpenNsfwModel", "conv_block", "identity_block"]


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
        logits: symbolic float32 (None, 2), what ``fc_nsfw`` gives.
        predictions: symbolic float32 (None, 2), softmax, columns SFW, NSFW; of weights
            with other classes, these are the columns, here and in `predict`.
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
        """Build the network with weights at hand.

        Args:
            weights: the canonical dict.
            input_type: what the network takes.
            fold: whether to fold the batch norms into the convolutions: the network
                then has no such layers, and is faster.

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
            batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123); or,
                where the network was built for them, a sequence of N strings.

        Returns:
            float32 (N, 2), softmax, columns SFW, NSFW.

        Raises:
            RuntimeError: `build` was not called, or not after this process was forked.
            ValueError: the batch has another shape or dtype, or NaN in it.
            ImageError: a string is no picture; the message gives its number.
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
    """A symbolic input, and the preprocessed batch that comes of it."""
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
            "TensorFlow's eager execution is switched off in this process: this network "
            "needs it on"
        )
    tensor = keras_model.inputs[0]

    @tf.function(input_signature=[tf.TensorSpec(tensor.shape, tensor.dtype)])
    def answer(batch: Any) -> Any:
        if batch.dtype == tf.string:
            return keras_model(batch, training=False)
        return predictions_of(keras_model, batch)

    return answer.get_concrete_function()
