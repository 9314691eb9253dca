"""Training: what comes out, and that what ends a run costs no more than its step."""

import csv
import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HEEDING
from training_pictures import make_pictures

from open_nsfw_tf import Classifier, WeightsError
from open_nsfw_tf.backbones import build, weights_of
from open_nsfw_tf.backbones.trained import (
    ARRAYS,
    MODEL,
    TrainedModel,
    read_trained,
    write_trained,
)
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.cli.train import _bar
from open_nsfw_tf.errors import TrainingError
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.train import Callbacks, TrainingOptions, TrainingResult
from open_nsfw_tf.train import run_folder as results
from open_nsfw_tf.train import run_folder as runs
from open_nsfw_tf.train import train as train_with
from open_nsfw_tf.train.config import make_config
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.recipes import RECIPES, Stage
from open_nsfw_tf.train.trainer import Trainer

ROOT = Path(__file__).parent.parent
EPOCHS = 4
# The same in Python and on the command line.
ASKED: dict[str, Any] = {
    "backbone": "squeezenet",
    "size": 32,
    "epochs": EPOCHS,
    "learning_rate": 0.002,
    "overrides": {"init": "random", "batch_size": 8, "augmentation.flip": "false"},
}
COMMAND = ["train", "data", "-o", "run", "--backbone", "squeezenet", "--size", "32"]
COMMAND += ["--epochs", f"{EPOCHS}", "--learning-rate", "0.002", "--init", "random"]
COMMAND += ["--batch-size", "8", "--set", "augmentation.flip=false"]
SAME = 1e-3  # of losses, relative: float32 sums in another order


def train(data: Path, run: Path, **asked: Any) -> TrainingResult:
    """Train with the options among the keyword arguments."""
    names = {field.name for field in fields(TrainingOptions)} & asked.keys()
    options = TrainingOptions(**{name: asked.pop(name) for name in names})
    return train_with(data, run, options, **asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """DATA, with a broken picture and a file that is none."""
    root = make_pictures(tmp_path_factory.mktemp("training") / "data")
    (root / "train" / "sfw" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nno more")
    (root / "train" / "nsfw" / "notes.txt").write_text("nothing")
    return root


@pytest.fixture(scope="module")
def notes() -> list[str]:
    return []


@pytest.fixture(scope="module")
def whole(folder: Path, notes: list[str]) -> TrainingResult:
    """A run that nothing disturbed."""
    place = folder.parent / "whole"
    return train(
        folder, place, bootstrap=0, callbacks=Callbacks(note=notes.append), **ASKED
    )


def figures(history: list[dict[str, Any]]) -> np.ndarray:
    names = ("epoch", "stage", "learning_rate", "loss", "accuracy", "val_loss")
    return np.array([[row[name] for name in names] for row in history])


def assert_same(first: list[dict[str, Any]], second: list[dict[str, Any]]) -> None:
    np.testing.assert_allclose(figures(first), figures(second), rtol=SAME)


# -- what comes out


def test_the_loss_falls_and_the_model_is_right(whole: TrainingResult) -> None:
    assert whole.finished
    assert len(whole.history) == EPOCHS
    assert whole.history[-1]["loss"] < 0.7 * whole.history[0]["loss"]
    assert whole.classes == ("sfw", "nsfw")
    assert whole.accuracy == 1.0


def test_the_folder_has_all(whole: TrainingResult, notes: list[str]) -> None:
    run = whole.run
    config = json.loads((run / runs.CONFIG).read_text())
    assert config["backbone"] == "squeezenet"
    assert config["hyperparameters"]["stages"][0]["learning_rate"] == 0.002
    assert config["pictures"]["training"] == {"sfw": 20, "nsfw": 20}
    assert (run / runs.CLASSES).read_text() == "sfw\nnsfw\n"
    with open(run / runs.HISTORY, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == [r["loss"] for r in whole.history]
    assert ET.fromstring((run / runs.CURVES).read_text()).tag.endswith("svg")
    with open(run / runs.BROKEN, newline="") as file:
        ((path, reason),) = list(csv.reader(file))[1:]
    assert path.endswith("broken.png")
    assert reason
    assert whole.broken == 1
    assert (run / runs.CONFUSION).read_text() == "label,sfw,nsfw\nsfw,6,0\nnsfw,0,6\n"
    assert json.loads((run / runs.EVALUATION).read_text())["rows"] == 12
    assert "<svg" in (run / runs.REPORT).read_text()
    assert [path for path in (run / runs.LOGS).iterdir() if "tfevents" in path.name]
    assert not [path for path in run.iterdir() if path.name.startswith(".config")]
    assert not notes


def test_the_model_answers_as_its_table_says(whole: TrainingResult) -> None:
    table = read_table(whole.run / runs.SCORES)
    model = Classifier(model=whole.run)
    scores = list(model.classify_many(table.paths))
    np.testing.assert_allclose(
        [score.nsfw for score in scores], table.columns["nsfw"], atol=1e-6
    )
    assert set(table.columns) == {"sfw", "nsfw"}


def test_best_and_last(whole: TrainingResult) -> None:
    best, last = read_trained(whole.run), read_trained(whole.run / runs.LAST)
    assert best.preprocessing == last.preprocessing
    same = np.array_equal(
        best.weights["logits"]["kernel"], last.weights["logits"]["kernel"]
    )
    assert whole.best is not None
    assert same == (whole.best["epoch"] == EPOCHS)


# -- what ends a run, and how it goes on


@pytest.fixture
def place(folder: Path, tmp_path: Path) -> Path:
    """A working directory with DATA in it."""
    (tmp_path / "data").symlink_to(folder)
    return tmp_path


def started(place: Path, *more: str, **environment: str) -> Any:
    script = Path(sys.executable).parent / "open-nsfw"
    return subprocess.Popen(
        [sys.executable, "-c", HEEDING, str(script), *COMMAND, *more],
        cwd=place,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(process: Any, beginning: str) -> list[str]:
    """The lines that a process prints until one begins so."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(beginning):
            return lines
    raise AssertionError(process.stderr.read())


def test_kill_ctrl_c_and_resume_come_to_the_same_end(
    place: Path, whole: TrainingResult
) -> None:
    process = started(place)
    until(process, "epoch 2:")
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    killed = runs.read_state(place / "run")
    assert killed is not None
    assert 2 <= len(killed.history) < EPOCHS
    process = started(place, "--resume")
    *told, last = until(process, "recipe ")
    process.send_signal(signal.SIGINT)
    _, err = process.communicate()
    assert process.returncode == 130
    assert "finishing the step" in err
    assert "go on with the same command and --resume" in err
    assert "train: 40 pictures: sfw 20, nsfw 20\n" in told
    assert told[-2].startswith("left out: 1 broken pictures, the first is ")
    assert last == "recipe yahoo on squeezenet, 32x32 pixels\n"
    stopped = runs.read_state(place / "run")
    assert stopped is not None
    assert stopped.history[: len(killed.history)] == killed.history
    result = train(place / "data", place / "run", mode="resume", bootstrap=0, **ASKED)
    assert result.finished
    assert result.history[: len(stopped.history)] == stopped.history
    assert_same(result.history, whole.history)


def test_a_run_stops_within_an_epoch(place: Path, whole: TrainingResult) -> None:
    steps: list[int] = []
    callbacks = Callbacks(step=steps.append, stop=lambda: len(steps) >= 6)
    result = train(place / "data", place / "run", callbacks=callbacks, **ASKED)
    assert not result.finished
    assert result.accuracy is None
    state = runs.read_state(place / "run")
    assert state is not None
    assert (len(state.history), state.step) == (1, 2)  # of 5 steps
    steps.clear()
    callbacks = Callbacks(step=steps.append, stop=lambda: len(steps) >= 8)
    again = train(
        place / "data", place / "run", mode="resume", callbacks=callbacks, **ASKED
    )
    assert_same(again.history, whole.history[: len(again.history)])
    assert len(again.history) >= 2


def test_a_loss_that_is_no_number(place: Path) -> None:
    stages = (Stage(1, 0.002), Stage(1, 1e30))
    own = replace(RECIPES["yahoo"], stages=stages, init="random", batch_size=8)
    asked = {"recipe": own, "backbone": "squeezenet", "size": 32}
    with pytest.raises(
        TrainingError, match=r"step \d of 5 of epoch 2.* 1e\+30"
    ) as error:
        train(place / "data", place / "run", **asked)
    assert "epoch 1 is kept" in str(error.value)
    state = runs.read_state(place / "run")
    assert state is not None
    assert len(state.history) == 1
    read_trained(place / "run")


def test_a_run_without_a_test_set_or_extras_says_so(
    folder: Path,
    whole: TrainingResult,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in (MODEL, ARRAYS):
        (tmp_path / name).write_bytes((whole.run / name).read_bytes())
    monkeypatch.setattr(results, "NEEDED", {"report": "no_such_package"})
    notes: list[str] = []
    data = replace(read_data(folder), test=None)
    options = TrainingOptions(bootstrap=0)
    accuracy = results.score_test_set(tmp_path, data, ["nsfw"], options, notes.append)
    assert accuracy == 1.0
    assert "the validation pictures were scored instead" in notes[0]
    assert "no_such_package is missing: pip install 'open_nsfw_tf[train]'" in notes[1]
    assert len(read_table(tmp_path / runs.SCORES)) == 4


# -- the command line


class Terminal(io.StringIO):
    """A file that says it is one."""

    def isatty(self) -> bool:
        return True


def test_a_bar_on_a_terminal(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with _bar() as (begin, step):
        begin(
            read_data(folder),
            make_config(TrainingOptions("vgg", precision="bfloat16")),
            40,
        )
        for _ in range(40):
            step(1)
    assert "40/" in terminal.getvalue()  # the total may come too late
    assert "computing in bfloat16: less exact" in terminal.getvalue()


def test_the_recipes_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    app(["train", "--recipes"], standalone_mode=False)
    told = capsys.readouterr().out
    assert all(f"{name}: {recipe.title}" in told for name, recipe in RECIPES.items())
    assert "epochs of conv2d_56, learning rate 0.001, exponential" in told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--resume", "--overwrite"], "exclude each other"),
        (["--set", "momentum"], "expected NAME=VALUE"),
        (["--epochs", "many"], "expected a number, or some with commas"),
        (["--recipe", "resnet"], "not one of yahoo, mobilenet"),
        (["--precision", "int8"], "not one of float32, bfloat16, float16"),
    ],
)
def test_wrong_usage(more: list[str], message: str, tmp_path: Path) -> None:
    run = ["train", str(tmp_path), "-o", str(tmp_path / "run"), *more]
    with pytest.raises(Exception, match=message):
        app(run, standalone_mode=False)
    assert not os.listdir(tmp_path)


# -- whose folder it is


def test_a_run_is_not_overwritten(folder: Path, whole: TrainingResult) -> None:
    with pytest.raises(
        FileExistsError, match="--resume, or begin anew with --overwrite"
    ):
        train(folder, whole.run, **ASKED)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (
            {"backbone": "mobilenet_v2"},
            "backbone squeezenet, this asks for mobilenet_v2",
        ),
        ({"recipe": "vgg"}, "recipe yahoo, this asks for vgg"),
        ({"seed": 7}, "seed 0, this asks for 7"),
        ({"learning_rate": 0.1}, r"stages.0.learning_rate 0.002, this asks for 0.1"),
        ({"size": 64}, "preprocessing.resize 37, this asks for 73"),
    ],
)
def test_a_run_does_not_go_on_as_another(
    folder: Path, whole: TrainingResult, asked: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=f"was begun with.*{message}") as error:
        train(folder, whole.run, mode="resume", **{**ASKED, **asked})
    assert "\n" not in str(error.value)


def test_a_run_does_not_go_on_with_other_classes(
    whole: TrainingResult, tmp_path: Path
) -> None:
    other = make_pictures(tmp_path, classes=3, test=0)
    with pytest.raises(ValueError, match=r"was begun with classes .*'a', 'b', 'c'"):
        train(other, whole.run, mode="resume", **ASKED)


def test_a_folder_of_other_things_is_left_alone(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years")
    with pytest.raises(FileExistsError, match="it has other files"):
        train(folder, tmp_path, mode="overwrite", **ASKED)
    assert os.listdir(tmp_path) == ["thesis.txt"]


def test_overwriting_removes_what_a_run_wrote(tmp_path: Path) -> None:
    for name in (runs.CONFIG, runs.HISTORY, "mine.txt", ".config.json.12.ab"):
        (tmp_path / name).write_text("{}")
    (tmp_path / runs.LAST).mkdir()
    with runs.locked(tmp_path, "overwrite"):
        runs.clear(tmp_path)
        assert sorted(os.listdir(tmp_path)) == [runs.LOCK, "mine.txt"]


def test_a_run_that_is_half_removed_is_still_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in (runs.CONFIG, runs.HISTORY):
        (tmp_path / name).write_text("{}")
    (tmp_path / runs.LAST).mkdir()

    def killed(folder: Path, ignore_errors: bool) -> None:
        raise KeyboardInterrupt("killed")

    with monkeypatch.context() as patch, runs.locked(tmp_path, "overwrite"):
        patch.setattr(runs.shutil, "rmtree", killed)
        with pytest.raises(KeyboardInterrupt, match="^killed$"):
            runs.clear(tmp_path)
    with runs.locked(tmp_path, "overwrite"):
        runs.clear(tmp_path)
        assert os.listdir(tmp_path) == [runs.LOCK]


def test_a_validation_that_is_gone_stops_with_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(TrainingOptions(**ASKED))
    trainer = Trainer(config, read_data(folder), tmp_path)
    monkeypatch.setattr(trainer, "_validate", lambda learner: np.zeros(3))
    with pytest.raises(TrainingError, match="no picture of the validation"):
        trainer.run(Callbacks())


@pytest.mark.parametrize("data", [".", "train"])
@pytest.mark.parametrize("name", ["run", "run/deeper", "sfw/run"])
def test_a_run_is_no_class(data: str, name: str, folder: Path) -> None:
    before = sorted(folder.rglob("*"))
    with pytest.raises(ValueError, match="outside of the pictures"):
        train(folder / data, folder / "train" / name, **ASKED)
    assert sorted(folder.rglob("*")) == before


def test_a_run_beside_train_is_apart(folder: Path) -> None:
    runs.check_apart(folder / "run", str(folder))
    runs.check_apart(folder.parent / f"{folder.name}2", str(folder))


def test_a_run_that_is_a_file(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("years")
    for name in ("mine", "mine/run"):
        with pytest.raises(OSError, match="expected a folder for a run, got a file"):
            train(folder, tmp_path / name, **ASKED)
    assert (tmp_path / "mine").read_text() == "years"


@pytest.mark.parametrize("mode", ["new", "overwrite"])
def test_what_cannot_begin_leaves_no_run(
    mode: Any, folder: Path, whole: TrainingResult, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    if mode == "overwrite":
        shutil.copytree(whole.run, run)

    def listed() -> list[str]:
        return sorted(os.listdir(run)) if run.exists() else []

    before = listed()
    with pytest.raises(WeightsError, match="--init random"):
        train(folder, run, backbone="squeezenet", size=32, mode=mode)
    with pytest.raises(OSError, match="nowhere"):
        train(folder / "nowhere", run, mode=mode, **ASKED)
    assert listed() == before


def test_one_run_at_a_time(tmp_path: Path) -> None:
    with (
        runs.locked(tmp_path, "new"),
        pytest.raises(ValueError, match="another run is writing to it"),
        runs.locked(tmp_path, "overwrite"),
    ):
        pass


def test_a_config_that_is_none(tmp_path: Path) -> None:
    (tmp_path / runs.CONFIG).write_text("{")
    with pytest.raises(ValueError, match="begin anew with --overwrite"):
        runs.check_config(tmp_path, {})


def test_the_class_of_the_report_must_be_one(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no class is called 'porn'.*sfw, nsfw"):
        train(folder, tmp_path / "run", positive=["porn"], **ASKED)


# -- many devices


def free_ports(count: int) -> list[int]:
    with_sockets = [socket.socket() for _ in range(count)]
    for one in with_sockets:
        one.bind(("127.0.0.1", 0))
    ports = [one.getsockname()[1] for one in with_sockets]
    for one in with_sockets:
        one.close()
    return ports


def test_two_workers_come_to_the_loss_of_one(place: Path) -> None:
    """From a trained model, whose body is taken; the head begins at random."""
    begun = place / "begun"
    overrides = {**ASKED["overrides"], "init": "pretrained"}
    asked = {**ASKED, "epochs": 2, "overrides": overrides}
    model = build("squeezenet", 3, size=32, init="random", seed=1)
    preprocessing = make_config(TrainingOptions(**ASKED)).preprocessing
    begun.mkdir()
    write_trained(
        begun,
        TrainedModel(
            "squeezenet", ("a", "b", "c"), preprocessing, (), weights_of(model)
        ),
    )
    alone = train(place / "data", place / "alone", init=begun, bootstrap=0, **asked)
    more = ("--init", str(begun), "--epochs", "2")
    workers = [f"127.0.0.1:{port}" for port in free_ports(2)]
    processes = []
    for index in range(2):
        task = {"type": "worker", "index": index}
        cluster = json.dumps({"cluster": {"worker": workers}, "task": task})
        processes.append(started(place, *more, TF_CONFIG=cluster))
    outputs = [process.communicate() for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    state = runs.read_state(place / "run")
    assert state is not None
    np.testing.assert_allclose(
        figures(state.history), figures(alone.history), rtol=0.02, atol=0.01
    )
    kernel = read_trained(place / "run").weights["conv1"]["kernel"]
    assert not np.array_equal(kernel, weights_of(model)["conv1"]["kernel"])
    assert json.loads((place / "run" / runs.CONFIG).read_text())["start"] == str(begun)
    told = [
        [line for line in out.splitlines() if "epoch" in line] for out, _ in outputs
    ]
    assert len(told[0]) >= 2


LONE = """
from open_nsfw_tf.cli.process import errors_in_one_line
from open_nsfw_tf.train import learner as devices
devices.LONGEST_WAIT = 2
with errors_in_one_line():
    devices.find_workers()
"""


def test_a_lone_worker_does_not_wait_for_ever() -> None:
    names = [f"127.0.0.1:{port}" for port in free_ports(2)]
    task = {"type": "worker", "index": 0}
    cluster = json.dumps({"cluster": {"worker": names}, "task": task})
    ended = subprocess.run(
        [sys.executable, "-c", LONE],
        env={**os.environ, "TF_CONFIG": cluster},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert ended.returncode == -signal.SIGKILL
    assert "error: TF_CONFIG: not all workers came within 2 s" in ended.stderr
    assert "Traceback" not in ended.stderr


MIRRORED = """
import sys
from pathlib import Path
from open_nsfw_tf.libraries import import_tensorflow
tf = import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
sys.path.insert(0, sys.argv[1])
from test_train import ASKED
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.config import TrainingOptions, make_config
from open_nsfw_tf.train.trainer import Callbacks, Trainer
data, run = read_data("data"), Path("run")
run.mkdir()
for epochs in (1, 2):  # the second one goes on with the first
    config = make_config(TrainingOptions(**{**ASKED, "epochs": epochs}))
    trainer = Trainer(config, data, run, "all")
    assert trainer.workers.devices == 2
    assert trainer.run(Callbacks())
"""


def test_two_devices_come_to_the_loss_of_one(
    place: Path, whole: TrainingResult
) -> None:
    done = subprocess.run(
        [sys.executable, "-c", MIRRORED, ROOT / "tests"],
        cwd=place,
        check=False,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "AutoGraph" not in done.stderr  # which warns of code that it cannot read
    state = runs.read_state(place / "run")
    assert state is not None
    np.testing.assert_allclose(
        figures(state.history), figures(whole.history[:2]), rtol=0.02, atol=0.01
    )


@pytest.mark.parametrize(
    "cluster",
    [
        "{",
        '{"cluster": {"chief": ["a:1"]}, "task": {"type": "chief", "index": 0}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
    ],
)
def test_a_cluster_that_is_none(
    cluster: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TF_CONFIG", cluster)
    with pytest.raises(ValueError, match="TF_CONFIG: expected"):
        train(folder, tmp_path / "run", **ASKED)
