"""What the tests share: the trained weights, Caffe's numbers and a cache."""

import hashlib
import json
import os
import pickle
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

# Before anything is imported: the tests neither use nor fill the user's cache, and no
# weights of the user's are found by chance.
if "PYTEST_XDIST_WORKER" not in os.environ:  # workers share the one of their parent
    _CACHE = tempfile.TemporaryDirectory(prefix="open_nsfw_tf-tests-")
    os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ.pop("OPEN_NSFW_TF_WEIGHTS", None)
# There are as many workers as cores, and threads of NumPy and TensorFlow wait by
# spinning: with two a worker, more than half of the time of int8's calibration was
# waiting.
for _threads in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS"):
    os.environ.setdefault(_threads, "1")

# An example may take long because the machine does something else meanwhile.
if find_spec("hypothesis"):
    from hypothesis import HealthCheck, settings

    settings.register_profile(
        "patient", deadline=None, suppress_health_check=[HealthCheck.too_slow]
    )
    settings.load_profile("patient")

GOLDEN = json.loads((Path(__file__).parent / "golden" / "caffe.json").read_text())
SCORE_TOLERANCE = 5e-6  # float32 paths against Caffe; see docs

# Runs its arguments with Ctrl-C heard: a shell that starts the tests in the background
# lets them, and all that they start, ignore it.
HEEDING = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.SIG_DFL)
os.execv(sys.argv[1], sys.argv[1:])
"""


def pytest_configure() -> None:
    """Start TensorFlow as the commands do, in half the time."""
    from open_nsfw_tf.libraries import start_tensorflow_fast

    start_tensorflow_fast()


@pytest.fixture
def nobodys() -> Iterator[Path]:
    """An empty folder, as a user whom permissions bind: root is made nobody."""
    with tempfile.TemporaryDirectory() as folder:
        root = os.geteuid() == 0
        if root:
            os.chown(folder, _NOBODY, _NOBODY)
            os.seteuid(_NOBODY)
        try:
            yield Path(folder)
        finally:
            if root:
                os.seteuid(0)


_NOBODY = 65534


@pytest.fixture(scope="session")
def weights_path() -> Path:
    from open_nsfw_tf.weights import find_weights

    return find_weights(download=False)


@pytest.fixture(scope="session")
def weights(weights_path: Path) -> Any:
    from open_nsfw_tf import load_weights

    return load_weights(weights_path)


def installed_engines() -> list[str]:
    """The engines that can run here; the developers' environment has all."""
    from open_nsfw_tf.engines import ENGINES

    return [name for name, kind in ENGINES.items() if find_spec(kind.package)]


@pytest.fixture(scope="session", params=installed_engines())
def any_classifier(request: pytest.FixtureRequest, weights_path: Path) -> Any:
    from open_nsfw_tf import Classifier

    return Classifier(engine=request.param, weights=weights_path)


@pytest.fixture(scope="session")
def classifier(weights_path: Path) -> Any:
    from open_nsfw_tf import Classifier

    return Classifier(engine="onnxruntime", weights=weights_path)


@pytest.fixture(scope="session")
def model(weights_path: Path) -> Any:
    from open_nsfw_tf import OpenNsfwModel

    model = OpenNsfwModel()
    model.build(weights_path)
    return model


@pytest.fixture(scope="session")
def trained(weights: Any) -> Any:
    """Yahoo's trained weights, batch norm folded."""
    return weights


@pytest.fixture(scope="session")
def unfolded(trained: Any) -> Any:
    """The same function with random batch norms."""
    from open_nsfw_tf.architecture import unfold_batch_norm

    return unfold_batch_norm(trained, seed=1)


def _smooth(seed: int) -> np.ndarray:
    """A soft colour field: the network is unsure of these, so errors show."""
    side = np.linspace(0, np.pi, 224)
    waves = np.stack([np.cos(count * side) for count in range(3)])
    colours = np.random.default_rng(seed).normal(size=(3, 3, 3))
    field = np.einsum("ih,jw,ijc->hwc", waves, waves, colours)
    return (20 * field / np.abs(field).max()).astype(np.float32)


@pytest.fixture(scope="session")
def batch() -> np.ndarray:
    """Four net inputs, whose scores lie between .47 and .65."""
    return np.stack([_smooth(seed) for seed in (1, 8, 10, 13)])


@pytest.fixture(scope="session")
def score(batch: np.ndarray) -> Callable[[Any], np.ndarray]:
    """np.ndarray of the batch with some weights, by ONNX Runtime."""
    from open_nsfw_tf.formats.onnx_graph import graph
    from open_nsfw_tf.libraries import import_onnxruntime

    onnxruntime = import_onnxruntime()

    def scored(weights: Any) -> np.ndarray:
        model = graph(weights).SerializeToString()
        session = onnxruntime.InferenceSession(
            model, providers=["CPUExecutionProvider"]
        )
        return session.run(None, {"input": batch})[0]

    return scored


@pytest.fixture(scope="session")
def expected(trained: Any, score: Callable[[Any], np.ndarray]) -> np.ndarray:
    """The scores of the batch with the trained weights."""
    return score(trained)


@pytest.fixture(scope="session")
def assert_equal() -> Callable[[Any, Any], None]:
    """Assert that two weights are the same to the bit."""

    def check(first: Any, second: Any) -> None:
        assert first.keys() == second.keys()
        for name, layer in first.items():
            assert layer.keys() == second[name].keys()
            for field, array in layer.items():
                assert np.array_equal(array, second[name][field]), f"{name}.{field}"

    return check


@pytest.fixture
def calibrated_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibrate int8 once for all tests, of both workers, that do it alike.

    It takes half a minute, and two formats and an engine begin with it.
    """
    from open_nsfw_tf.quantize import calibrate as room

    real = room.calibrate

    def calibrate(weights: Any, batch: np.ndarray) -> Any:
        digest = hashlib.sha256(pickle.dumps((weights, batch))).hexdigest()
        path = Path(os.environ["XDG_CACHE_HOME"], f"calibrated-{digest}.pickle")
        with FileLock(f"{path}.lock"):
            if not path.exists():
                path.write_bytes(pickle.dumps(real(weights, batch)))
        return pickle.loads(path.read_bytes())

    monkeypatch.setattr(room, "calibrate", calibrate)


@pytest.fixture(scope="session")
def saved_model(weights: Any) -> Path:
    """The folder of the version of an exported SavedModel, once for both workers."""
    from open_nsfw_tf.export import export

    version = Path(os.environ["XDG_CACHE_HOME"], "serving", "1")
    with FileLock(f"{version.parent}.lock"):
        if not version.exists():
            export("savedmodel", version.parent, weights)
    return version


@pytest.fixture(scope="session")
def served(saved_model: Path) -> Any:
    from serving_servers import Served

    return Served(saved_model)
