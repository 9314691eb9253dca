"""Engines compute where they are told to, or say why not; none sends anything home."""

import json
import os
import subprocess
import sys
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from conftest import SCORE_TOLERANCE, installed_engines

from open_nsfw_tf import Classifier, engines
from open_nsfw_tf.engines import onnxruntime, openvino
from open_nsfw_tf.engines.base import Pool
from open_nsfw_tf.engines.device import Device, choose
from open_nsfw_tf.libraries import import_onnxruntime, import_tensorflow


@pytest.mark.parametrize("name", installed_engines())
def test_every_engine_has_the_cpu(
    name: str, weights_path: Path, batch: np.ndarray, expected: np.ndarray
) -> None:
    for device in ("cpu", "CPU:0"):
        classifier = Classifier(name, weights_path, device=device)
        assert np.abs(classifier.predict(batch) - expected).max() <= SCORE_TOLERANCE
        assert classifier.device == device


@pytest.mark.parametrize("device", ["gpu:7", "tpu", "", "cuda:x", "cpu:1", "cpu\n"])
@pytest.mark.parametrize("name", installed_engines())
def test_devices_that_are_not_there_are_told(
    name: str, device: str, weights_path: Path
) -> None:
    with pytest.raises(ValueError, match="cpu") as caught:
        engines.create(name, weights_path, device=device)
    assert "\n" not in str(caught.value)


def test_a_device_is_a_kind_and_a_number() -> None:
    assert choose("gpu", ["cpu:0", "gpu:0"], "x") == Device("gpu", 0)
    assert choose("GPU:1", ["gpu:0", "gpu:1"], "x") == Device("gpu", 1)
    assert choose("cuda:3", ["cpu", "cuda"], "x") == Device("cuda", 3)
    with pytest.raises(ValueError, match="x has no device 'gpu:2' here: .* gpu:0"):
        choose("gpu:2", ["cpu:0", "gpu:0"], "x")


class Session:
    """Stands for the session that a machine with a graphics card would make."""

    started = "CUDAExecutionProvider"

    def __init__(self, graph: bytes, options: Any, providers: list[Any]) -> None:
        self.providers = providers
        self.options = options

    def get_providers(self) -> list[str]:
        return [self.started, "CPUExecutionProvider"]

    def get_inputs(self) -> list[Any]:
        return [SimpleNamespace(name="input")]


@pytest.fixture
def graphics_card(monkeypatch: pytest.MonkeyPatch) -> None:
    library = import_onnxruntime()
    names = [provider.name for provider in onnxruntime.DEVICES.values()]
    monkeypatch.setattr(library, "get_available_providers", lambda: names)
    monkeypatch.setattr(library, "InferenceSession", Session)


@pytest.mark.usefixtures("graphics_card")
def test_a_card_is_never_taken_whole_nor_rounded(weights_path: Path) -> None:
    engine = onnxruntime.Engine(weights_path, device="cuda:1")
    ((name, options),) = engine.session.providers
    assert name == "CUDAExecutionProvider"
    assert options["device_id"] == "1"
    assert options["arena_extend_strategy"] == "kSameAsRequested"
    assert options["use_tf32"] == "0"
    assert "gpu_mem_limit" not in options
    assert onnxruntime.DEVICES["cuda"].options.keys() < options.keys()


@pytest.mark.usefixtures("graphics_card")
def test_a_device_that_did_not_start_is_told(
    weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "started", "CPUExecutionProvider")
    with pytest.raises(RuntimeError, match="cuda: expected CUDAExecutionProvider, but"):
        onnxruntime.Engine(weights_path, device="cuda")


@pytest.mark.usefixtures("graphics_card")
def test_directml_is_used_by_one_thread_at_a_time(
    weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Session, "started", "DmlExecutionProvider")
    engine = onnxruntime.Engine(weights_path, device="directml")
    assert isinstance(engine._opened.get().lock, type(threading.Lock()))
    assert engine.session.options.enable_mem_pattern is False


def test_a_provider_that_is_not_installed_is_told_with_its_package(
    weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = import_onnxruntime()
    only = ["CPUExecutionProvider"]
    monkeypatch.setattr(library, "get_available_providers", lambda: only)
    with pytest.raises(ValueError, match="for cuda, only cpu: .* onnxruntime-gpu"):
        engines.create("onnxruntime", weights_path, device="cuda:1")


def test_tensorflow_takes_memory_as_it_needs_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("TF_FORCE_GPU_ALLOW_GROWTH", raising=False)
    import_tensorflow()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"
    monkeypatch.setenv("TF_FORCE_GPU_ALLOW_GROWTH", "false")
    import_tensorflow()
    assert os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] == "false"  # the user's word


def test_tensorflow_does_not_round_on_a_card(
    weights: Any, batch: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    tf = import_tensorflow()
    rounding = tf.config.experimental
    before = rounding.tensor_float_32_execution_enabled()
    real = tf.config.list_physical_devices
    card = tf.config.PhysicalDevice("/physical_device:GPU:0", "GPU")
    monkeypatch.setattr(
        tf.config,
        "list_physical_devices",
        lambda kind=None: [card] if kind == "GPU" else [*real(kind), card],
    )
    try:
        rounding.enable_tensor_float_32_execution(True)
        with pytest.raises(ValueError, match="choose one of cpu:0, gpu:0"):
            engines.create("tensorflow", weights, device="gpu:1")
        assert engines.create("tensorflow", weights, device="cpu")(batch).shape == (
            4,
            2,
        )
        assert not rounding.tensor_float_32_execution_enabled()
    finally:
        rounding.enable_tensor_float_32_execution(before)


def test_openvino_never_computes_in_less_than_it_was_asked_for(
    weights_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from open_nsfw_tf.libraries import import_openvino

    core = import_openvino().Core()
    if "FP16" in core.get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip("this processor computes in float16")
    monkeypatch.setitem(openvino.HINTS, "float16", "f16")
    with pytest.raises(ValueError, match="cannot compute in float16 on cpu:0 here"):
        openvino.Engine(weights_path, "float16")


QUIET = """
import json, sys
seen = []
def watch(event, arguments):
    if event.startswith("socket.") or event in ("os.fork", "subprocess.Popen"):
        seen.append(event)
sys.addaudithook(watch)
import numpy as np
from open_nsfw_tf import engines
from open_nsfw_tf.weights import find_weights
engine = engines.create("openvino", find_weights(download=False))
shape = engine(np.zeros((1, 224, 224, 3), np.float32)).shape
print(json.dumps([shape, seen, "openvino_telemetry" in sys.modules]))
"""


def test_openvino_sends_nothing_home(tmp_path: Path) -> None:
    """Its package tells Google Analytics of every import, and makes ~/intel."""
    settings = {k: v for k, v in os.environ.items() if k not in ("CI", "TF_BUILD")}
    done = subprocess.run(
        [sys.executable, "-c", QUIET],
        env={**settings, "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert json.loads(done.stdout) == [[1, 2], [], False]
    assert not done.stderr
    assert not list(tmp_path.iterdir())


def test_a_pool_lends_each_thing_to_one_thread() -> None:
    made: list[threading.Lock] = []

    def make() -> Any:
        made.append(threading.Lock())
        return made[-1]

    pool: Pool[Any] = Pool(make, 2)
    collisions = []

    def work() -> None:
        for _ in range(200):
            with pool.lent() as thing:
                if not thing.acquire(blocking=False):
                    collisions.append(thing)
                else:
                    thing.release()

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 1 <= len(made) <= 2
    assert not collisions


def test_a_thing_that_cannot_be_made_leaves_its_place() -> None:
    def fail() -> None:
        raise OSError("no memory")

    pool: Pool[None] = Pool(fail, 1)
    for _ in range(2):
        with pytest.raises(OSError, match="no memory"), pool.lent():
            pytest.fail("lent what was not made")
