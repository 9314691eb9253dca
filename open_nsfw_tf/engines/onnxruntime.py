"""ONNX Runtime: the default engine. Exact, and ready in a fraction of a second.

The graph is built once from the weights and cached (see `cache`), so that later runs
need neither parse the weights nor import onnx.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from threading import Lock
from typing import Any

import numpy as np

from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.engines import Contributions, Source, check_explained
from open_nsfw_tf.engines.base import SerializedEngine, Settings
from open_nsfw_tf.engines.cache import Parts, SerializedNetwork, cached
from open_nsfw_tf.engines.device import choose
from open_nsfw_tf.forks import OneProcess, loading
from open_nsfw_tf.formats.onnx_graph import BIASES, CELLS, OUTPUT
from open_nsfw_tf.libraries import CPU_PROVIDER, import_onnxruntime, open_session

GRAPH_VERSION = 10  # raise it when a builder below makes another graph


@dataclass(frozen=True)
class Provider:
    """ONNX Runtime's execution provider for a kind of device.

    Attributes:
        name: of the execution provider.
        package: that contains it.
        options: of the provider, all strings, beside the device's number.
        numbered: whether there may be several such devices.
        alone: whether only one thread at a time may use it, and its memory must not be
            planned ahead.
    """

    name: str
    package: str
    options: dict[str, str] = field(default_factory=dict)
    numbered: bool = True
    alone: bool = False


DEVICES = {
    "cpu": Provider(CPU_PROVIDER, "onnxruntime", numbered=False),
    "cuda": Provider(
        "CUDAExecutionProvider",
        "onnxruntime-gpu",
        {
            "arena_extend_strategy": "kSameAsRequested",  # never the whole card
            # The default search tries every algorithm anew for each size of batch, and
            # takes all memory for it.
            "cudnn_conv_algo_search": "HEURISTIC",
            "use_tf32": "0",  # on by default, and rounds factors to 10 bits
        },
    ),
    "migraphx": Provider("MIGraphXExecutionProvider", "onnxruntime-migraphx"),
    "directml": Provider("DmlExecutionProvider", "onnxruntime-directml", alone=True),
    "coreml": Provider(
        "CoreMLExecutionProvider",
        "onnxruntime",
        # The other format, and the neural engine, compute in float16.
        {"ModelFormat": "MLProgram", "MLComputeUnits": "CPUAndGPU"},
        numbered=False,
    ),
}


# The libraries of graphics cards do not survive a fork.
_ONE_PROCESS = {
    provider.name: OneProcess(f"ONNX Runtime's {provider.name}")
    for provider in DEVICES.values()
    if provider.name != CPU_PROVIDER
}


class Engine(SerializedEngine):
    """The network in an ONNX Runtime session.

    Largest difference from Caffe's scores over 103 pictures: float32 7.6e-7; float16
    9.8e-4 (9e-5 on average), which is for GPUs: a CPU computes it no faster. int8, 2.5
    times as fast on a CPU with VNNI and slower than float32 on another x86 one, differs
    by up to .03 (.003 on average) on photographs left out of calibration, and by .02
    (.002) on those in it. It is calibrated on samples the first time, which takes a
    minute, and cached then. All threads call one session.

    Args:
        weights: the canonical dict, the path of a weights file, or a trained model;
            int8 is only for Yahoo's network.
        precision: a key of `BUILDERS`.
        threads: for the operations of one batch; None: one for each core. With 1, a
            batch is computed by the thread that calls.
        device: a key of `DEVICES`, with a number where there are several: ``cuda:1``;
            None: ``cpu``. Only ``cpu`` could be measured.
        workers: how many threads will call at once; they need nothing of their own.

    Raises:
        ValueError: there is no such device, or this onnxruntime cannot use it.
        RuntimeError: the device did not start.
        WeightsError: the weights cannot be read or do not fit.
    """

    @staticmethod
    def devices() -> list[str]:
        """The kinds of devices that this onnxruntime was built for."""
        return _kinds(import_onnxruntime())

    @staticmethod
    def check_device(settings: Settings) -> None:
        """Refuse a device that this onnxruntime cannot use."""
        _provider(import_onnxruntime(), settings.device)

    @staticmethod
    def serialize(weights: Source, precision: str) -> bytes:
        """The ONNX graph."""
        return graph(weights, precision)

    @staticmethod
    def open(network: SerializedNetwork, settings: Settings) -> "Session":
        """Open a session of ONNX Runtime."""
        provider, chosen = _provider(import_onnxruntime(), settings.device)
        if provider.name in _ONE_PROCESS:
            _ONE_PROCESS[provider.name].use()
        session = open_session(
            network.read(),
            settings.threads or 0,
            providers=[chosen],
            plan_memory=not provider.alone,
        )
        started = session.get_providers()[0]
        if started != provider.name:
            raise RuntimeError(
                f"{settings.device}: expected {provider.name}, but onnxruntime started "
                f"{started}: check the device's number, its driver and its libraries"
            )
        lock = Lock() if provider.alone else nullcontext()
        return Session(session, session.get_inputs()[0].name, lock)

    @property
    def session(self) -> Any:
        """The `onnxruntime.InferenceSession` of this process."""
        return self._opened.get().session

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""
        return np.asarray(self._run([OUTPUT], batch)[0], dtype=np.float32)

    def contributions(self, batch: np.ndarray) -> Contributions:
        """Scores of a batch, and what each place adds to them."""
        check_explained(len(self.session.get_outputs()))
        scores, cells, biases = self._run([OUTPUT, CELLS, BIASES], batch)
        return Contributions(scores, cells.transpose(0, 2, 3, 1), biases)

    def _run(self, outputs: list[str], batch: np.ndarray) -> list[np.ndarray]:
        opened: Session = self._opened.get()
        with opened.lock:
            answers: list[np.ndarray] = opened.session.run(
                outputs, {opened.input: batch}
            )
        return answers


@dataclass(frozen=True)
class Session:
    """An open session.

    Attributes:
        session: an `onnxruntime.InferenceSession`.
        input: the name of its input.
        lock: held while it computes; a null context if threads may share the session.
    """

    session: Any
    input: str
    lock: AbstractContextManager[Any]


def _kinds(onnxruntime: Any) -> list[str]:
    available = onnxruntime.get_available_providers()
    return [kind for kind, known in DEVICES.items() if known.name in available]


def _provider(
    onnxruntime: Any, name: str | None
) -> tuple[Provider, tuple[str, dict[str, str]]]:
    """A device's provider, and its name and options as a session takes them."""
    here = _kinds(onnxruntime)
    asked = (name or "").lower().partition(":")[0]
    if asked in DEVICES and asked not in here:
        raise ValueError(
            f"the installed onnxruntime has no {DEVICES[asked].name} for {asked}, only "
            f"{', '.join(here)}: pip uninstall onnxruntime, then pip install "
            f"{DEVICES[asked].package}"
        )
    device = choose(name, here, "onnxruntime")
    provider = DEVICES[device.kind]
    if not provider.numbered and device.number:
        raise ValueError(f"onnxruntime has one {device.kind}, got {device}")
    number = {"device_id": str(device.number)} if provider.numbered else {}
    return provider, (provider.name, {**provider.options, **number})


def graph(weights: Source, precision: str = "float32") -> bytes:
    """The serialized ONNX graph of some weights, cached unless they are a dict.

    Args:
        weights: the canonical dict, the path of a weights file, or a trained model;
            int8 is only for Yahoo's network.
        precision: a key of `BUILDERS`.

    Raises:
        WeightsError: the weights cannot be read or do not fit.
    """
    name = f"{precision}-{GRAPH_VERSION}.onnx"
    return cached(weights, name, BUILDERS[precision])


def _int8(weights: Parts) -> bytes:
    assert isinstance(weights, dict)  # `engines.create` refuses other networks
    with loading:
        from open_nsfw_tf.quantize import qdq, quantize, sample_batch

    network = quantize(weights, sample_batch())
    model = qdq.graph(network, cells=True)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


def _float(dtype: type, weights: Parts) -> bytes:
    if isinstance(weights, TrainedModel):
        with loading:
            from open_nsfw_tf.backbones import onnx_ops

        model = onnx_ops.trained_graph(weights, dtype=dtype, cells=True)
    else:
        with loading:
            from open_nsfw_tf.formats import onnx_graph

        model = onnx_graph.graph(weights, dtype=dtype, lean=True, cells=True)
    serialized: bytes = model.SerializeToString(deterministic=True)
    return serialized


BUILDERS: dict[str, Callable[[Parts], bytes]] = {
    "float32": partial(_float, np.float32),
    "float16": partial(_float, np.float16),
    "int8": _int8,
}
