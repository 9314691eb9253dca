"""Every engine answers what Caffe answered."""

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE

from open_nsfw_tf import (
    Classifier,
    WeightsError,
    create_yahoo_image_loader,
    engines,
    save_weights,
)
from open_nsfw_tf.engines import ENGINES, onnxruntime
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.published import cache_folder

load = create_yahoo_image_loader(expand_dims=False)


def test_scores_are_caffes(any_classifier: Classifier) -> None:
    worst = 0.0
    sources = [(pictures.path(name), row) for name, row in GOLDEN["samples"].items()]
    sources += [(pictures.MADE[name](), row) for name, row in GOLDEN["made"].items()]
    batch = np.stack([load(source) for source, _ in sources])
    scores = np.concatenate(
        [any_classifier.predict(part) for part in np.array_split(batch, 6)]
    )
    for (_, row), (sfw, nsfw) in zip(sources, scores, strict=True):
        worst = max(worst, abs(nsfw - row["nsfw"]))
        assert sfw + nsfw == pytest.approx(1, abs=1e-6)
    assert worst <= SCORE_TOLERANCE


def test_the_graph_is_valid_and_says_what_it_takes(weights: Any) -> None:
    model = graph(weights)
    onnx.checker.check_model(model, full_check=True)
    assert [i.name for i in model.graph.input] == ["input"]
    assert [o.name for o in model.graph.output] == ["predictions"]
    assert model.ByteSize() < 23_700_000
    assert model.SerializeToString(deterministic=True) == graph(
        weights
    ).SerializeToString(deterministic=True)


def test_weights_may_be_a_dict(weights: Any, classifier: Classifier) -> None:
    batch = load(pictures.path("coffee.png"))[np.newaxis]
    assert np.array_equal(
        Classifier(engine="onnxruntime", weights=weights).predict(batch),
        classifier.predict(batch),
    )


def test_the_graph_is_built_once(
    weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    onnxruntime.Engine(weights_path)
    (kept,) = (cache_folder() / "graphs").iterdir()
    monkeypatch.setattr(onnxruntime, "load_weights", None)  # not to be called again
    onnxruntime.Engine(weights_path)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    damaged = bytearray(kept.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    kept.write_bytes(damaged)
    onnxruntime.Engine(weights_path)  # noticed, and built anew
    assert kept.read_bytes() != damaged


def test_a_cache_that_cannot_be_kept_is_no_error(
    weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    batch = np.zeros((1, 224, 224, 3), np.float32)
    assert onnxruntime.Engine(weights_path)(batch).shape == (1, 2)


@pytest.mark.parametrize("name", ENGINES)
def test_threads_can_be_limited(name: str, weights_path: Path) -> None:
    batch = load(pictures.path("coffee.png"))[np.newaxis]
    try:
        engine = engines.create(name, weights_path, threads=1)
    except ValueError as error:  # TensorFlow sets them once a process
        assert "came too late" in str(error)
    else:
        golden = GOLDEN["samples"]["coffee.png"]["nsfw"]
        assert abs(engine(batch)[0, 1] - golden) <= SCORE_TOLERANCE


def test_wrong_names_are_told(weights: Any) -> None:
    with pytest.raises(ValueError, match="choose one of auto, onnxruntime, tensorflow"):
        engines.create("caffe", weights)
    with pytest.raises(ValueError, match="float32"):
        engines.create("tensorflow", weights, precision="float8")
    with pytest.raises(ValueError, match="at least 1 thread"):
        engines.create("onnxruntime", weights, threads=0)


def test_a_missing_package_is_told_with_its_command(
    weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install tensorflow"):
        engines.create("tensorflow", weights)
    with pytest.raises(ImportError, match="pip install"):
        engines.create("auto", weights)


@pytest.mark.parametrize("name", ENGINES)
def test_engines_agree_on_real_batch_norms(
    name: str, unfolded: Any, batch: np.ndarray, expected: np.ndarray
) -> None:
    """The trained weights come folded; these have random statistics everywhere."""
    scores = engines.create(name, unfolded)(batch)
    assert np.abs(scores - expected).max() <= 1e-5


def test_weights_that_overflow_are_no_scores(weights: Any, tmp_path: Path) -> None:
    huge = deepcopy(weights)
    huge["fc_nsfw"]["weights"] *= np.float32(1e38)
    save_weights(huge, tmp_path / "huge.npy")
    classifier = Classifier(engine="onnxruntime", weights=tmp_path / "huge.npy")
    with pytest.raises(WeightsError, match="not finite"):
        classifier.classify(pictures.path("coffee.png"))
    with pytest.raises(WeightsError, match="not finite"):
        for _ in classifier.classify_many([pictures.path("coffee.png")]):
            pytest.fail("a score that is none")
    for name in huge:
        if name.startswith("bn_"):
            huge[name]["scale"] = huge[name]["scale"] * np.float32(1e38)
    with pytest.raises(WeightsError, match="not finite"):
        Classifier(engine="onnxruntime", weights=huge)


def test_only_the_newest_graphs_are_kept(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(onnxruntime, "MAX_GRAPHS", 2)
    changed = deepcopy(weights)
    for number in range(3):
        changed["fc_nsfw"]["biases"] += np.float32(1)
        path = tmp_path / f"{number}.safetensors"
        save_weights(changed, path)
        onnxruntime.Engine(path)
    assert len(list((cache_folder() / "graphs").iterdir())) == 2
