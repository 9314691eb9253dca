"""Training that begins with a trained model: what is taken of it, and refused."""

import json
import shutil
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_models import CLASSES, SMALL, other_network
from training_pictures import make_pictures

from open_nsfw_tf import Classifier, WeightsError
from open_nsfw_tf.backbones import body_of, build, weights_of
from open_nsfw_tf.backbones.trained import (
    ARRAYS,
    MODEL,
    HeadLayer,
    TrainedModel,
    read_trained,
    write_trained,
)
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.image import YAHOO
from open_nsfw_tf.train import Callbacks, TrainingOptions, TrainingResult
from open_nsfw_tf.train import run_folder as runs
from open_nsfw_tf.train import train as train_with
from open_nsfw_tf.train.config import make_config
from open_nsfw_tf.train.recipes import RECIPES

SQUEEZENET: dict[str, Any] = {
    "backbone": "squeezenet",
    "learning_rate": 0.002,
    "overrides": {"batch_size": 8, "augmentation.flip": False},
    "bootstrap": 0,
}


def train(data: Path, run: Path, **asked: Any) -> TrainingResult:
    """Train with the options among the keyword arguments."""
    names = {field.name for field in fields(TrainingOptions)} & asked.keys()
    options = TrainingOptions(**{name: asked.pop(name) for name in names})
    return train_with(data, run, options, **asked)


def noted(data: Path, run: Path, **asked: Any) -> tuple[TrainingResult, list[str]]:
    """Train, and also give the notes."""
    notes: list[str] = []
    callbacks = Callbacks(note=notes.append)
    return train(data, run, callbacks=callbacks, **asked), notes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_pictures(tmp_path_factory.mktemp("start") / "data")


@pytest.fixture(scope="module")
def first(folder: Path) -> TrainingResult:
    """A run from random weights, without a download."""
    run = folder.parent / "first"
    return train(folder, run, size=32, init="random", epochs=6, **SQUEEZENET)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trained MobileNetV2 with a head and three classes."""
    run = tmp_path_factory.mktemp("made")
    write_trained(run, other_network())
    return run


# -- what is taken


def test_a_run_begins_where_another_ended(
    folder: Path, first: TrainingResult, tmp_path: Path
) -> None:
    run, notes = noted(folder, tmp_path / "run", init=first.run, epochs=1, **SQUEEZENET)
    (row,) = run.history
    assert row["loss"] < 0.7 * first.history[0]["loss"]
    assert row["val_loss"] < 0.7 * first.history[0]["val_loss"]
    assert run.accuracy == 1.0
    assert not notes
    assert read_trained(run.run).preprocessing == read_trained(first.run).preprocessing
    config = json.loads((run.run / runs.CONFIG).read_text())
    assert config["start"] == str(first.run)
    assert config["hyperparameters"]["init"] == "pretrained"
    assert config["hyperparameters"]["replace_last"] is False


def test_other_classes_begin_with_the_body_alone(
    first: TrainingResult, tmp_path: Path
) -> None:
    data = make_pictures(tmp_path / "data", classes=3, train=8, test=0)
    frozen = {**SQUEEZENET, "freeze_body": True, "epochs": 1}
    run, notes = noted(data, tmp_path / "run", init=first.run, **frozen)
    assert run.classes == ("a", "b", "c")
    before, after = read_trained(first.run).weights, read_trained(run.run).weights
    for layer in before.keys() - {"logits"}:
        for name, array in before[layer].items():
            assert np.array_equal(array, after[layer][name]), (layer, name)
    (note,) = [note for note in notes if "body" in note]
    assert note == (
        f"{first.run}: only its body is taken, not its head: its classes are sfw, "
        "nsfw, and those of the pictures a, b, c"
    )


def test_the_head_is_taken_for_the_same_classes(made: Path) -> None:
    config = make_config(
        TrainingOptions("mobilenet", init=made, overrides={"momentum": 0.8})
    )
    assert config.preprocessing == SMALL
    assert config.recipe.head == RECIPES["mobilenet"].head
    fitted = config.fitted(CLASSES)
    head = read_trained(made).head
    assert fitted.recipe.head == head
    (note,) = fitted.notes
    assert note == (
        f"{made}: its head is taken too, dense 8, batch_norm, dropout 0.5, instead of "
        "the recipe's, dense 32, batch_norm, dropout 0.5"
    )
    model = build(
        "mobilenet_v2", 3, head=head, size=64, weights=fitted.start.model, seed=1
    )
    assert_equal(weights_of(model), fitted.start.model.weights)
    other = config.fitted(CLASSES[::-1])
    assert other.recipe.head == RECIPES["mobilenet"].head
    assert "its classes are drawing, neutral, nsfw, and those of" in other.notes[0]


def test_a_head_that_is_asked_for_is_made(made: Path) -> None:
    asked = TrainingOptions("mobilenet", init=made, overrides={"head.0.units": 16})
    fitted = make_config(asked).fitted(CLASSES)
    assert fitted.recipe.head[0].units == 16
    (note,) = fitted.notes
    assert note == (
        f"{made}: only its body is taken, not its head: it is dense 8, batch_norm, "
        "dropout 0.5, and another one was asked for"
    )
    alike = TrainingOptions("mobilenet", init=made, overrides={"head.0.units": 8})
    fitted = make_config(alike).fitted(CLASSES)
    assert fitted.recipe.head == read_trained(made).head
    assert not fitted.notes


def assert_equal(found: Any, wanted: Any) -> None:
    assert found.keys() == wanted.keys()
    for layer, arrays in wanted.items():
        for name, array in arrays.items():
            assert np.array_equal(found[layer][name], array), (layer, name)


def test_yahoos_network_gives_its_body_to_any_head(weights: Any) -> None:
    trained = TrainedModel("resnet50_thin", ("sfw", "nsfw"), YAHOO, (), weights)
    head = (HeadLayer("dense", units=4),)
    for given in (head, ()):
        model = build("resnet50_thin", 3, head=given, size=64, weights=trained, seed=0)
        body = weights_of(body_of(model))
        assert_equal(body, {n: weights[n] for n in weights.keys() - {"fc_nsfw"}})
    whole = build("resnet50_thin", 2, weights=trained, size=64)
    assert_equal(weights_of(whole), weights)


def test_a_trained_origin_is_kept(
    folder: Path, first: TrainingResult, tmp_path: Path
) -> None:
    origin = {"source": "someone/else", "licence": "MIT", "git blob of a": "0"}
    before = tmp_path / "before"
    for name in ("before", "after", "again"):
        (tmp_path / name).mkdir()
    write_trained(before, replace(read_trained(first.run), origin=origin))
    kept = {"source": "trained from someone/else", "licence": "MIT"}
    start = make_config(TrainingOptions(init=before, **SQUEEZENET)).start
    assert start is not None
    assert start.origin == kept
    write_trained(tmp_path / "after", replace(start.model, origin=start.origin))
    again = make_config(TrainingOptions(init=tmp_path / "after", **SQUEEZENET)).start
    assert again is not None
    assert again.origin == kept


# -- as with any other option


def test_the_command_resumes_what_it_began(
    folder: Path,
    first: TrainingResult,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
) -> None:
    command = ["train", str(folder), "-o", str(tmp_path / "run")]
    command += ["--backbone", "squeezenet", "--batch-size", "8", "--epochs"]
    init = ["--init", str(first.run)]
    app([*command, "1", *init], standalone_mode=False)
    assert f"beginning with {first.run}\n" in capfd.readouterr().out
    with pytest.raises(ValueError, match="this run was begun with "):
        app([*command, "2", "--resume"], standalone_mode=False)
    app([*command, "2", *init, "--resume"], standalone_mode=False)
    state = runs.read_state(tmp_path / "run")
    assert state is not None
    assert len(state.history) == 2
    picture = next((folder / "test" / "nsfw").iterdir())
    assert Classifier(model=tmp_path / "run").classify(picture).nsfw > 0.5


def test_a_changed_model_is_another_beginning(
    folder: Path, first: TrainingResult, tmp_path: Path
) -> None:
    start, run = tmp_path / "start", tmp_path / "run"
    shutil.copytree(first.run / runs.LAST, start)
    asked = {**SQUEEZENET, "init": start, "freeze_body": True, "epochs": 1}
    train(folder, run, **asked)
    arrays = (first.run / ARRAYS).read_bytes()
    (start / ARRAYS).write_bytes(arrays[:-1] + bytes([arrays[-1] ^ 1]))
    with pytest.raises(ValueError, match="begun with start_sha256"):
        train(folder, run, mode="resume", **asked)


# -- what is refused


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recipe": "yahoo"}, "a trained resnet50_thin to begin with, got a mobilenet"),
        ({"size": 96}, "an input of 96 pixels a side, got one of 64: leave --size out"),
        ({"weights": "a.h5"}, "or --weights, got both: leave one of them out"),
        ({"init": "imagenet"}, "imagenet: expected an init of pretrained, random, or"),
        ({"init": Path("none")}, f"the folder of a trained model, with {MODEL} and"),
    ],
)
def test_another_model_is_refused(
    asked: dict[str, Any], message: str, made: Path
) -> None:
    with pytest.raises(ValueError, match=message) as error:
        make_config(TrainingOptions(**{"recipe": "mobilenet", "init": made, **asked}))
    assert "\n" not in str(error.value)


def cut(run: Path) -> None:
    (run / ARRAYS).write_bytes((run / ARRAYS).read_bytes()[:-10])


def no_arrays(run: Path) -> None:
    (run / ARRAYS).unlink()


def no_json(run: Path) -> None:
    (run / MODEL).write_text("{")


def of_nothing(run: Path) -> None:
    changed = json.loads((run / MODEL).read_text()) | {"backbone": "alexnet"}
    (run / MODEL).write_text(json.dumps(changed))


def of_another_head(run: Path) -> None:
    changed = json.loads((run / MODEL).read_text())
    changed["head"][0]["units"] = 9
    (run / MODEL).write_text(json.dumps(changed))


@pytest.mark.parametrize(
    "damage", [cut, no_arrays, no_json, of_nothing, of_another_head]
)
def test_a_damaged_model_is_an_error_of_one_line(
    damage: Any, made: Path, folder: Path, tmp_path: Path
) -> None:
    broken = shutil.copytree(made, tmp_path / "broken")
    damage(broken)
    options = {"recipe": "mobilenet", "init": broken}
    with pytest.raises((WeightsError, OSError)) as error:
        train(folder, tmp_path / "run", **options)
    assert "\n" not in str(error.value)
    assert "broken" in str(error.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["first", "first/last"])
def test_a_run_does_not_write_over_its_beginning(
    name: str, folder: Path, first: TrainingResult
) -> None:
    before = sorted(first.run.rglob("*"))
    start = first.run.parent / name
    with pytest.raises(ValueError, match="expected another folder for a run than that"):
        train(folder, first.run, init=start, mode="overwrite", **SQUEEZENET)
    assert sorted(first.run.rglob("*")) == before
