"""Every engine answers what Caffe answered."""

import gc
import re
import threading
import tracemalloc
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE, installed_engines

from open_nsfw_tf import (
    Classifier,
    WeightsError,
    create_yahoo_image_loader,
    engines,
    load_weights,
    save_weights,
)
from open_nsfw_tf.architecture import BLOCKS, Block, lean_blocks
from open_nsfw_tf.engines import ENGINES, PRECISIONS, cache, onnxruntime
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.libraries import import_onnxruntime
from open_nsfw_tf.weights import cache_folder

load = create_yahoo_image_loader(expand_dims=False)
ALL_ENGINES = pytest.mark.parametrize("name", installed_engines())
APPROXIMATE = [
    (name, precision)
    for name in installed_engines()
    for precision in ENGINES[name].precisions
    if precision != "float32"
]


@pytest.fixture(scope="module")
def golden_batch() -> np.ndarray:
    """What the network gets of every picture of ours that Caffe scored."""
    sources = [pictures.path(name) for name in GOLDEN["samples"]]
    sources += [pictures.MADE[name]() for name in GOLDEN["made"]]
    return np.stack([load(source) for source in sources])


@pytest.fixture(scope="module")
def golden_scores() -> np.ndarray:
    rows = [*GOLDEN["samples"].values(), *GOLDEN["made"].values()]
    return np.array([row["nsfw"] for row in rows])


def scores_of(engine: Any, batch: np.ndarray) -> np.ndarray:
    """NSFW scores, computed in batches of several sizes."""
    scores = np.concatenate([engine(part) for part in np.array_split(batch, 6)])
    assert np.abs(scores.sum(axis=1) - 1).max() <= 1e-6
    return scores[:, 1]


def test_pixels_that_nobody_looks_at_change_no_bit(golden_batch: np.ndarray) -> None:
    models = [graph(load_weights(), lean=lean) for lean in (False, True)]
    scores = [
        import_onnxruntime()
        .InferenceSession(model.SerializeToString())
        .run(None, {"input": golden_batch[:8]})[0]
        for model in models
    ]
    assert np.array_equal(*scores)
    assert multiply_adds(BLOCKS) == 1_068_550_144 - STEM_AND_DENSE
    assert multiply_adds(lean_blocks()) == multiply_adds(BLOCKS) - 3 * 31_309_824


STEM_AND_DENSE = 112**2 * 7**2 * 3 * 64 + 1024 * 2


def multiply_adds(blocks: tuple[tuple[Block, ...], ...]) -> int:
    """Of all convolutions of the blocks, for one picture."""
    side, found = 56, 0
    for block in (block for stage in blocks for block in stage):
        start = side
        for conv in block.main:
            side //= conv.stride
            found += side**2 * conv.kernel**2 * conv.inputs * conv.outputs
        if block.projection:
            side = start // block.projection.stride
            found += side**2 * block.projection.inputs * block.projection.outputs
    return found


def test_scores_are_caffes(
    any_classifier: Classifier, golden_batch: np.ndarray, golden_scores: np.ndarray
) -> None:
    found = scores_of(any_classifier.predict, golden_batch)
    assert np.abs(found - golden_scores).max() <= SCORE_TOLERANCE


@pytest.mark.usefixtures("calibrated_once")
@pytest.mark.parametrize(("name", "precision"), APPROXIMATE)
def test_other_precisions_drift_as_stated(
    name: str,
    precision: str,
    weights_path: Path,
    golden_batch: np.ndarray,
    golden_scores: np.ndarray,
) -> None:
    try:
        engine = engines.create(name, weights_path, precision)
    except ValueError as error:
        assert "cannot compute" in str(error)
        pytest.skip(str(error))
    drift = np.abs(scores_of(engine, golden_batch) - golden_scores).max()
    # More than float32's: or it is not what it says.
    assert ENGINES[name].precisions["float32"] < drift
    assert drift <= ENGINES[name].precisions[precision]
    found = engine.contributions(golden_batch[:4])
    assert np.array_equal(found.scores, engine(golden_batch[:4]))
    logits = found.cells.astype(np.float64).mean((1, 2)) + found.biases
    summed = 1 / (1 + np.exp(logits[:, 0] - logits[:, 1]))
    assert np.abs(summed - found.scores[:, 1]).max() <= engines.FLOAT16


def test_float32_comes_first_and_is_exact() -> None:
    for kind in ENGINES.values():
        assert next(iter(kind.precisions)) == "float32"
        assert kind.precisions["float32"] == SCORE_TOLERANCE
    assert PRECISIONS[0] == "float32"


def test_auto_takes_an_engine_that_has_the_precision(weights_path: Path) -> None:
    batch = np.zeros((1, 224, 224, 3), np.float32)
    for precision in ("float32", "float16"):
        engine = engines.create("auto", weights_path, precision)
        assert isinstance(engine, onnxruntime.Engine)
        assert engine(batch).shape == (1, 2)
    with pytest.raises(ValueError, match="choose one of float32, float16"):
        engines.create("auto", weights_path, "float8")


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
    (graph_file,) = (cache_folder() / "graphs").iterdir()
    monkeypatch.setattr(cache, "load_weights", None)  # not to be called again
    onnxruntime.Engine(weights_path)
    monkeypatch.undo()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    damaged = bytearray(graph_file.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    graph_file.write_bytes(damaged)
    onnxruntime.Engine(weights_path)  # noticed, and built anew
    assert graph_file.read_bytes() != damaged


def test_a_cache_that_cannot_be_written_is_no_error(
    weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    batch = np.zeros((1, 224, 224, 3), np.float32)
    assert onnxruntime.Engine(weights_path)(batch).shape == (1, 2)


@ALL_ENGINES
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
    with pytest.raises(ValueError, match="choose one of auto, onnxruntime, openvino"):
        engines.create("caffe", weights)
    with pytest.raises(ValueError, match="float32"):
        engines.create("tensorflow", weights, precision="float8")
    with pytest.raises(ValueError, match="at least 1 thread"):
        engines.create("onnxruntime", weights, threads=0)
    with pytest.raises(ValueError, match="at least 1 worker"):
        engines.create("onnxruntime", weights, workers=0)


def test_a_missing_package_is_told_with_its_command(
    weights: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engines, "find_spec", lambda _: None)
    with pytest.raises(ImportError, match="pip install tensorflow"):
        engines.create("tensorflow", weights)
    for name in ("openvino", "litert"):
        command = re.escape(f"pip install 'open_nsfw_tf[{name}]'")
        with pytest.raises(ImportError, match=command):
            engines.create(name, weights)
    with pytest.raises(ImportError, match=r"pip install 'open_nsfw_tf\[openvino\]'"):
        engines.create("auto", weights, "bfloat16")
    with pytest.raises(ImportError, match="pip install"):
        engines.create("auto", weights)


@ALL_ENGINES
def test_engines_agree_on_real_batch_norms(
    name: str, unfolded: Any, batch: np.ndarray, expected: np.ndarray
) -> None:
    """The trained weights come folded; these have random statistics everywhere."""
    scores = engines.create(name, unfolded)(batch)
    assert np.abs(scores - expected).max() <= 1e-5


@ALL_ENGINES
def test_workers_get_the_same_scores(
    name: str, weights_path: Path, batch: np.ndarray
) -> None:
    """Two have a place each, the others wait, and nobody gets another's scores."""
    threads = None if name == "tensorflow" else 1  # a process sets it once
    engine = engines.create(name, weights_path, threads=threads, workers=2)
    expected = [engine(batch[i : i + 1]) for i in range(len(batch))]
    found: list[tuple[int, np.ndarray]] = []

    def work(index: int) -> None:
        for _ in range(5):
            found.append((index, engine(batch[index : index + 1])))

    workers = [threading.Thread(target=work, args=(i % 4,)) for i in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 30
    assert all(np.array_equal(scores, expected[i]) for i, scores in found)


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_engines_hold_no_second_copy_of_the_weights(
    name: str, weights_path: Path
) -> None:
    engines.create(name, weights_path)  # and all its imports
    gc.collect()
    tracemalloc.start()
    try:
        engine = engines.create(name, weights_path)
        gc.collect()
        held, peak = tracemalloc.get_traced_memory()  # by Python, not by the library
    finally:
        tracemalloc.stop()
    assert engine(np.zeros((1, 224, 224, 3), np.float32)).shape == (1, 2)
    assert peak > 20e6  # the serialized graph was there,
    assert held < 5e6  # and is gone


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


def test_only_the_graphs_that_were_used_last_are_cached(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(cache, "MAX_CACHED", 2)
    changed = deepcopy(weights)
    for number in range(3):
        changed["fc_nsfw"]["biases"] += np.float32(1)
        save_weights(changed, tmp_path / f"{number}.safetensors")
    for number in (0, 1, 0, 2):
        onnxruntime.Engine(tmp_path / f"{number}.safetensors")
    kept = {cache.weights_sha256(tmp_path / f"{n}.safetensors") for n in (0, 2)}
    graphs = (cache_folder() / "graphs").iterdir()
    assert {file.name.partition("-")[0] for file in graphs} == kept
