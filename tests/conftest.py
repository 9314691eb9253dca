"""What the tests share: the trained weights, Caffe's numbers, and a cache of their own."""

import json
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

# Before anything is imported: the tests neither use nor fill the user's cache, and no
# weights of the user's are found by chance.
_CACHE = tempfile.TemporaryDirectory(prefix="open_nsfw_tf-tests-")
os.environ["XDG_CACHE_HOME"] = _CACHE.name
os.environ.pop("OPEN_NSFW_TF_WEIGHTS", None)

GOLDEN = json.loads((Path(__file__).parent / "golden" / "caffe.json").read_text())
SCORE_TOLERANCE = 5e-6  # float32 paths against Caffe; see README


@pytest.fixture(scope="session")
def weights_path() -> Path:
    from open_nsfw_tf.weights import find_weights

    return find_weights(download=False)


@pytest.fixture(scope="session")
def weights(weights_path: Path) -> Any:
    from open_nsfw_tf import load_weights

    return load_weights(weights_path)


@pytest.fixture(scope="session", params=["onnxruntime", "tensorflow"])
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
