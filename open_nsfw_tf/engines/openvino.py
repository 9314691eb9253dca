"""OpenVINO: exact in float32; in bfloat16 twice as fast, and approximate.

It reads the same graph as ONNX Runtime. By default it computes in bfloat16 if the
processor can, so the precision is always set, and the one in use is checked.
"""

from typing import Any

import numpy as np

from open_nsfw_tf.engines import Contributions, Source, check_explained
from open_nsfw_tf.engines.base import Pool, SerializedEngine, Settings
from open_nsfw_tf.engines.cache import SerializedNetwork
from open_nsfw_tf.engines.device import choose
from open_nsfw_tf.engines.onnxruntime import graph
from open_nsfw_tf.forks import loading
from open_nsfw_tf.libraries import import_openvino, openvino_use

HINTS = {"float32": "f32", "bfloat16": "bf16"}


class Engine(SerializedEngine):
    """The network in OpenVINO.

    Largest difference from Caffe's scores over 103 pictures: float32 1.2e-6; bfloat16
    .0127 (.001 on average; .0045 on photographs). float16 is not offered: set to
    float16, OpenVINO computes in bfloat16 on a processor.

    Args:
        weights: the canonical dict, the path of a weights file, or a trained model.
        precision: a key of `HINTS`; the weights are read in float32 all the same.
        threads: for the operations of one batch; None leaves it to OpenVINO.
        device: ``cpu``, ``gpu:0`` and so on; None: ``cpu``, which alone could be
            measured.
        workers: how many threads will call at once: so many streams compute, each with
            `threads` threads; threads beyond them wait.

    Raises:
        ValueError: there is no such device, or it lacks this precision.
        WeightsError: the weights cannot be read or do not fit.
        RuntimeError: OpenVINO was used before this process was forked.
    """

    @staticmethod
    def devices() -> list[str]:
        """The devices that OpenVINO finds here."""
        openvino_use.use()
        return list(_devices(import_openvino().Core()))

    @staticmethod
    def serialize(weights: Source, precision: str) -> bytes:
        """The ONNX graph in float32, whatever the precision."""
        openvino_use.use()  # a child that is refused need not read the weights first
        return graph(weights)

    @staticmethod
    def open(network: SerializedNetwork, settings: Settings) -> Pool[Any]:
        """Compile the network: a pool of requests, each for one thread at a time."""
        openvino_use.use()
        core = import_openvino().Core()
        devices = _devices(core)
        device = choose(settings.device, devices, "openvino")
        hint = HINTS[settings.precision]
        options: dict[str, Any] = {
            "INFERENCE_PRECISION_HINT": hint,
            "NUM_STREAMS": settings.workers,
        }
        if device.kind == "cpu":
            # Otherwise it pins its threads to the first cores, as every other process
            # does: two processes of one thread each took twice the time.
            options["ENABLE_CPU_PINNING"] = False
            if settings.threads:
                options["INFERENCE_NUM_THREADS"] = settings.workers * settings.threads
        with loading:
            model = core.read_model(network.read())
            compiled = core.compile_model(model, devices[str(device)], options)
        used = compiled.get_property("INFERENCE_PRECISION_HINT").get_type_name()
        if used != hint:
            raise ValueError(
                f"openvino cannot compute in {settings.precision} on {device} here, "
                f"only in {used}: choose another precision or engine"
            )
        requests: Pool[Any] = Pool(compiled.create_infer_request, settings.workers)
        # The first call initialises tables of types; two simultaneous first calls would
        # deadlock (2026.4: a lock of C++ against Python's).
        _, *sides = compiled.input(0).partial_shape
        shape = (1, *(side.get_length() for side in sides))
        _infer(requests, np.zeros(shape, np.float32))
        return requests

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""
        return _infer(self._opened.get(), batch)[0]

    def contributions(self, batch: np.ndarray) -> Contributions:
        """Scores of a batch, and what each place adds to them."""
        scores, *others = _infer(self._opened.get(), batch)
        check_explained(1 + len(others))
        cells, biases = others
        return Contributions(scores, cells.transpose(0, 2, 3, 1), biases)


def _infer(requests: Pool[Any], batch: np.ndarray) -> list[np.ndarray]:
    """All outputs, in the order of the graph."""
    with requests.lent() as request:
        # The outputs are copied; the batch is not.
        answers = request.infer({0: batch}, share_inputs=True)
    return [np.asarray(answers[index], np.float32) for index in range(len(answers))]


def _devices(core: Any) -> dict[str, str]:
    """OpenVINO's names of the devices here, by ours."""
    return {_ours(name): name for name in core.available_devices}


def _ours(name: str) -> str:
    """``cpu:0`` for OpenVINO's CPU, ``gpu:1`` for its GPU.1."""
    kind, _, number = name.lower().partition(".")
    return f"{kind}:{number or 0}"
