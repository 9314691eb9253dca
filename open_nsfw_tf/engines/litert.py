"""LiteRT, the new name of TensorFlow Lite: exact in float32, and a small package.

Making its network needs TensorFlow and ten seconds, once for a weights file: the
network is cached (see `cache`). Batches are computed one picture at a time: LiteRT
plans its memory for fixed shapes, and larger ones are slower (11.6 against 13.1 ms a
picture in batches of 16).
"""

import os
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS, INPUT_SIZE, Weights
from open_nsfw_tf.backbones.builder import last_layer, with_cells
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Contributions, Source, check_explained
from open_nsfw_tf.engines.base import Pool, SerializedEngine, Settings
from open_nsfw_tf.engines.cache import SerializedNetwork, cached
from open_nsfw_tf.engines.device import choose
from open_nsfw_tf.engines.tensorflow import keras_network
from open_nsfw_tf.formats.onnx_graph import BIASES, CELLS
from open_nsfw_tf.libraries import disk_errors, import_tensorflow, without_noise

SIGNATURE = "serving_default"
NETWORK_VERSION = 2  # raise it when `convert` makes another network


class Engine(SerializedEngine):
    """The network in LiteRT's interpreter, on the CPU.

    Largest difference from Caffe's scores over 103 pictures: float32 1.0e-6. float16
    is not offered: it only halves the file, and is slower.

    Args:
        weights: the canonical dict, whose network is made every time, the path of a
            weights file, or a trained model.
        precision: "float32".
        threads: for the operations of one picture; None: the cores, shared by the
            workers.
        device: ``cpu`` or None.
        workers: how many threads will call at once: each gets an interpreter, with
            some 35 MB of its own; threads beyond them wait.

    Raises:
        ValueError: there is no such device.
        ImportError: the network must be made, and TensorFlow cannot be used for it.
        WeightsError: the weights cannot be read or do not fit.
    """

    @staticmethod
    def check_device(settings: Settings) -> None:
        """Refuse any device but the CPU."""
        choose(settings.device, ["cpu:0"], "litert")

    @staticmethod
    def serialize(weights: Source, precision: str) -> bytes:
        """The network as TensorFlow Lite's flatbuffer."""
        name = f"{precision}-{NETWORK_VERSION}.tflite"
        return cached(weights, name, lambda loaded: convert(loaded, precision, True))

    @staticmethod
    def open(network: SerializedNetwork, settings: Settings) -> Pool[Any]:
        """Interpreters' runners, which one thread at a time may use."""
        workers = settings.workers
        threads = settings.threads or max(1, (os.cpu_count() or 1) // workers)
        # All interpreters share the weights in these bytes.
        return Pool(partial(_runner, network.read(), threads), workers)

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""
        runners: Pool[Any] = self._opened.get()
        with runners.lent() as runner:
            _, classes = runner.get_output_details()["outputs"]["shape"]
            scores = np.empty((len(batch), classes), np.float32)
            for index in range(len(batch)):
                scores[index] = runner(inputs=batch[index : index + 1])["outputs"][0]
        return scores

    def contributions(self, batch: np.ndarray) -> Contributions:
        """Scores of a batch, and what each place adds to them."""
        runners: Pool[Any] = self._opened.get()
        with runners.lent() as runner:
            details = runner.get_output_details()
            check_explained(len(details))
            shapes = [details[name]["shape"][1:] for name in ("outputs", CELLS)]
            scores, cells = (np.empty((len(batch), *s), np.float32) for s in shapes)
            for index in range(len(batch)):
                answers = runner(inputs=batch[index : index + 1])
                scores[index] = answers["outputs"][0]
                cells[index] = answers[CELLS][0]
                biases = answers[BIASES]
        return Contributions(scores, cells, biases)


def _runner(model: bytes, threads: int) -> Any:
    with without_noise():
        from ai_edge_litert.interpreter import Interpreter

        interpreter = Interpreter(model_content=model, num_threads=threads)
        interpreter.allocate_tensors()  # logs the name of its delegate
        return interpreter.get_signature_runner(SIGNATURE)


def convert(
    weights: Weights | TrainedModel, precision: str = "float32", cells: bool = False
) -> bytes:
    """The network as TensorFlow Lite's flatbuffer, by TensorFlow's converter.

    Its signature ``serving_default`` takes ``inputs``, float32 (1, 224, 224, 3), BGR,
    0..255 minus (104, 117, 123), and answers ``outputs``, float32 (1, 2): SFW, NSFW; of
    a trained model its input and its classes.

    Args:
        weights: the canonical dict, or a trained model of any network.
        precision: of the stored weights: "float16", which is approximate, or any other
            for "float32".
        cells: whether to add the outputs ``cells`` and ``biases``, those of
            `open_nsfw_tf.engines.Contributions`, if the network can have them.

    Raises:
        WeightsError: the weights do not fit.
        OSError: no room for temporary files.
    """
    network = keras_network(weights)
    if cells:
        network = with_cells(network)

    def answers(images: Any) -> dict[str, Any]:
        scores, *others = tf.nest.flatten(network(images, training=False))
        named = {"outputs": scores}
        if others:
            named |= {CELLS: others[0], BIASES: tf.identity(last_layer(network).bias)}
        return named

    tf = import_tensorflow()
    return flatbuffer(
        answers,
        [variable.value for variable in network.variables],
        half=precision == "float16",
        size=network.inputs[0].shape[1],
    )


def flatbuffer(
    network: Callable[[Any], dict[str, Any]],
    variables: Sequence[Any] = (),
    half: bool = False,
    size: int = INPUT_SIZE,
) -> bytes:
    """A network in TensorFlow ops as TensorFlow Lite's flatbuffer, as in `convert`.

    Args:
        network: from a tensor float32 (1, size, size, 3) to the named outputs.
        variables: that it reads.
        half: whether they are stored in float16.
        size: of its input, pixels a side.

    Raises:
        OSError: no room for temporary files.
    """
    tf = import_tensorflow()
    # Batches of one: LiteRT plans its memory for fixed shapes.
    spec = tf.TensorSpec((1, size, size, CHANNELS), tf.float32, "inputs")

    @tf.function(input_signature=[spec], autograph=False)
    def serve(inputs: Any) -> dict[str, Any]:
        return network(inputs)

    module = tf.Module()
    module.tf_variables = list(variables)
    with tempfile.TemporaryDirectory() as folder:
        signatures = {SIGNATURE: serve.get_concrete_function()}
        with disk_errors():
            tf.saved_model.save(module, folder, signatures)
        converter = tf.lite.TFLiteConverter.from_saved_model(folder)
        if half:
            converter.optimizations = [tf.lite.Optimize.DEFAULT]
            converter.target_spec.supported_types = [tf.float16]
        with without_noise():
            converted: bytes = converter.convert()
    return converted
