"""TensorFlow: `OpenNsfwModel` with folded weights behind one compiled function."""

from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones import network_of
from open_nsfw_tf.backbones.builder import last_layer, with_cells
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Contributions, Source, check_explained
from open_nsfw_tf.engines.cache import loaded
from open_nsfw_tf.engines.device import choose
from open_nsfw_tf.forks import PerProcess
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.model import OpenNsfwModel, compile_network


class Engine:
    """The network as one frozen TensorFlow function, float32.

    Largest difference from Caffe's scores over 103 pictures: 1.4e-6. bfloat16 is not
    offered: in batches it takes half of this engine's time, which is the time of ONNX
    Runtime in float32.

    Args:
        weights: the canonical dict, the path of a weights file, or a trained model of
            any network.
        precision: "float32".
        threads: for the operations of one batch; None: one for each core. TensorFlow
            has one pool of threads a process: the first engine sets it, for all.
        device: ``cpu``, ``gpu:0`` and so on; None leaves it to TensorFlow, which takes
            the first GPU where it can use one. A card's memory is taken as it is
            needed, and products are not rounded to TensorFloat-32, in the whole
            process. Only the CPU could be measured.
        workers: how many threads will call at once; they share the pool of threads.

    Raises:
        ValueError: there is no such device, or `threads` comes too late.
        WeightsError: the weights cannot be read or do not fit.
        RuntimeError: TensorFlow was used before this process was forked.
    """

    def __init__(
        self,
        weights: Source,
        precision: str = "float32",
        threads: int | None = None,
        device: str | None = None,
        workers: int = 1,
    ) -> None:
        if isinstance(weights, Path):
            weights = loaded(weights)
        else:
            weights = deepcopy(weights)  # the caller may change the arrays later
        self.__setstate__((weights, threads, device))
        self._opened.get()

    def __getstate__(self) -> tuple[Weights | TrainedModel, int | None, str | None]:
        return self._state

    def __setstate__(
        self, state: tuple[Weights | TrainedModel, int | None, str | None]
    ) -> None:
        self._state = state
        self._opened = PerProcess(partial(_opened, *state))

    @staticmethod
    def devices() -> list[str]:
        """The devices that TensorFlow finds here."""
        return _devices(import_tensorflow())

    def divided(self, threads: int, workers: int) -> Self:
        """This engine: TensorFlow has one pool of threads a process."""
        return self

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""
        return np.asarray(self._run(batch)[0].numpy(), dtype=np.float32)

    def contributions(self, batch: np.ndarray) -> Contributions:
        """Scores of a batch, and what each place adds to them."""
        scores, *cells = (output.numpy() for output in self._run(batch))
        check_explained(1 + len(cells))
        biases = last_layer(self._opened.get().network).bias
        return Contributions(scores, cells[0], np.asarray(biases, np.float32))

    def _run(self, batch: np.ndarray) -> list[Any]:
        opened = self._opened.get()
        tf = import_tensorflow()
        with tf.device(opened.device):
            outputs = opened.function(tf.constant(batch))
        # Keras answers a list of one output with that output alone.
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


@dataclass(frozen=True)
class _Opened:
    """A compiled network.

    Attributes:
        network: the `keras.Model`, whose variables live as long as it.
        function: from a batch to scores and cells, see `with_cells`.
        device: as TensorFlow calls it; None leaves it to TensorFlow.
    """

    network: Any
    function: Any
    device: str | None


def _opened(
    weights: Weights | TrainedModel, threads: int | None, device: str | None
) -> _Opened:
    tf = import_tensorflow()
    device = None if device is None else _device(tf, device)
    if threads is not None:
        _set_threads(threads)
    keep_float32()
    with tf.device(device):
        network = with_cells(keras_network(weights))
        return _Opened(network, compile_network(network), device)


def keep_float32() -> None:
    """Keep TensorFlow from rounding to TensorFloat-32 on GPUs, in this process."""
    tf = import_tensorflow()
    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_tensor_float_32_execution(False)


def keras_network(weights: Source) -> Any:
    """The network as a `keras.Model`; Yahoo's with batch norms folded.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    if isinstance(weights, TrainedModel) and not weights.is_open_nsfw:
        return network_of(weights)
    model = OpenNsfwModel()
    model.build_from(loaded(weights), fold=True)
    return model.keras_model


def _device(tf: Any, name: str) -> str:
    """TensorFlow's own name of a device."""
    chosen = choose(name, _devices(tf), "tensorflow")
    return f"/{chosen.kind.upper()}:{chosen.number}"


def _devices(tf: Any) -> list[str]:
    return [
        device.name.removeprefix("/physical_device:").lower()
        for device in tf.config.list_physical_devices()
    ]


def _set_threads(threads: int) -> None:
    """Set TensorFlow's threads, which are the whole process's and set once."""
    tf = import_tensorflow()
    if tf.config.threading.get_intra_op_parallelism_threads() == threads:
        return
    try:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError as error:
        raise ValueError(
            f"threads={threads} came too late: TensorFlow already runs in this "
            "process; make this engine first"
        ) from error
