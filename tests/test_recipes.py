"""The recipes as tables, by their schedules, and carried out at reduced size."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from training_pictures import make_bands, make_pictures

from open_nsfw_tf.backbones import BACKBONES
from open_nsfw_tf.backbones.trained import HeadLayer
from open_nsfw_tf.image import YAHOO
from open_nsfw_tf.train import recipes
from open_nsfw_tf.train.augment import Augmentation
from open_nsfw_tf.train.config import TrainingConfig, TrainingOptions, make_config
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.recipes import RECIPES, Recipe, Row, Schedule, Stage, override
from open_nsfw_tf.train.trainer import Callbacks, Trainer

DENSE = {"kind": "dense", "activation": "relu"}
TUTORIALS = Augmentation(True, False, (1, 1), 30, 0.2, 0.2, 0.2, 20)
TABLE: dict[str, dict[str, Any]] = {  # what the sources say
    "yahoo": {
        "backbone": "resnet50_thin",
        "init": "pretrained",
        "head": (),
        "last_kernel": 5,
        "last_bias": 10,
        "batch_norm_frozen": True,
        "replace_last": True,
        "margin": 256 / 224,
    },
    "mobilenet": {
        "backbone": "mobilenet_v2",
        "head": (
            HeadLayer(units=32, **DENSE),
            HeadLayer("batch_norm"),
            HeadLayer("dropout", rate=0.5),
        ),
        "augmentation": TUTORIALS,
        "stages": (Stage(30, 0.1, Schedule("plateau", math.sqrt(0.1), patience=5)),),
    },
    "inception": {
        "backbone": "inception_v3",
        "head": (
            HeadLayer(units=256, initializer="he_normal", l2=5e-4, **DENSE),
            HeadLayer("dropout", rate=0.5),
            HeadLayer(units=128, **DENSE),
            HeadLayer("dropout", rate=0.25),
        ),
        "augmentation": TUTORIALS,
    },
    "vgg": {
        "backbone": "vgg16",
        "init": "random",
        "head": (
            HeadLayer(units=128, **DENSE),
            HeadLayer("dropout", rate=0.0),  # .5 there: see what is corrected
            HeadLayer(units=64, **DENSE),
            HeadLayer("dropout", rate=0.0),
        ),
        "batch_size": 10,
    },
}


def config_of(recipe: str | Recipe = "yahoo", **asked: Any) -> TrainingConfig:
    return make_config(TrainingOptions(**{"recipe": recipe, **asked}))


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_is_what_its_source_says(name: str) -> None:
    recipe = RECIPES[name]
    for field, value in {"momentum": 0.9, **TABLE[name]}.items():
        assert getattr(recipe, field) == value, field
    assert recipe.source
    assert recipe.title
    assert recipe.corrected
    assert json.loads(json.dumps(recipe.hyperparameters())) == recipe.hyperparameters()
    assert recipe.backbone in BACKBONES


def test_the_stages() -> None:
    (yahoo,) = RECIPES["yahoo"].stages
    assert yahoo.schedule.kind == "step"
    assert yahoo.trainable_from == "all"
    augmentation = RECIPES["yahoo"].augmentation
    assert augmentation is not None
    assert augmentation.flip
    assert augmentation.crop
    assert augmentation.scale != (1, 1)
    first, second = RECIPES["inception"].stages
    assert (first.trainable_from, first.schedule.kind) == ("head", "constant")
    assert (second.trainable_from, second.schedule.kind) == ("conv2d_56", "exponential")


def test_the_input_is_the_backbones() -> None:
    assert config_of("yahoo").preprocessing == YAHOO
    for name, size in (("mobilenet", 224), ("inception", 299), ("vgg", 224)):
        assert config_of(name).preprocessing.crop == size
    small = config_of("yahoo", size=112).preprocessing
    assert (small.resize, small.crop) == (128, 112)
    other = config_of("yahoo", backbone="mobilenet_v2").preprocessing
    assert (other.resize, other.crop, other.order) == (256, 224, "RGB")


def test_a_random_network_without_batch_norms_gets_small_inputs() -> None:
    assert config_of("vgg").preprocessing.scale == 1 / 64
    assert config_of("vgg", overrides={"init": "pretrained"}).preprocessing.scale == 1
    config = config_of("yahoo", overrides={"init": "random"})
    assert config.preprocessing == YAHOO
    assert not config.recipe.batch_norm_frozen


# -- numbers set otherwise


@pytest.mark.parametrize(
    ("name", "value", "found"),
    [
        ("momentum", "0.8", lambda r: r.momentum == 0.8),
        ("batch_size", "16", lambda r: r.batch_size == 16),
        ("batch_size", 16.0, lambda r: type(r.batch_size) is int),
        ("patience", "3", lambda r: r.patience == 3),
        ("batch_norm_frozen", "false", lambda r: r.batch_norm_frozen is False),
        ("init", "random", lambda r: r.init == "random"),
        ("augmentation.rotation", "15", lambda r: r.augmentation.rotation == 15.0),
        ("augmentation.scale", "[0.9, 1.1]", lambda r: r.augmentation.scale[1] == 1.1),
        (
            "stages.1.schedule.factor",
            "0.5",
            lambda r: r.stages[1].schedule.factor == 0.5,
        ),
        (
            "stages.1.trainable_from",
            "all",
            lambda r: r.stages[1].trainable_from == "all",
        ),
        ("head.0.units", "64", lambda r: r.head[0].units == 64),
    ],
)
def test_every_number_can_be_set(name: str, value: object, found: Any) -> None:
    assert found(override(RECIPES["inception"], name, value))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("momentun", "0.8"),
        ("momentum", "fast"),
        ("momentum", "2"),
        ("momentum", "true"),
        ("momentum", "null"),
        ("batch_size", "1.5"),
        ("head", "[]"),
        ("head.7.units", "3"),
        ("stages.0.schedule.kind", "cosine"),
        ("augmentation", "3"),
        ("augmentation.rotation", "900"),
        ("init", "imagenet"),
        ("class_weights", "yes"),
    ],
)
def test_what_cannot_be_set(name: str, value: str) -> None:
    with pytest.raises(ValueError, match="expected|recipe|got"):
        override(RECIPES["inception"], name, value)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"recipe": "resnet"}, "choose of yahoo, mobilenet, inception, vgg"),
        ({"backbone": "alexnet"}, "choose of resnet50_thin"),
        ({"precision": "int8"}, "float32, bfloat16, float16"),
        ({"epochs": [1, 2]}, "has 1 stages"),
        ({"epochs": 0}, "1 epoch or more"),
        ({"learning_rate": -1.0}, "above 0"),
        ({"seed": -1}, "expected a seed"),
    ],
)
def test_what_cannot_be_planned(asked: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        config_of(**asked)


def test_epochs_and_learning_rates_of_stages() -> None:
    config = config_of("inception", epochs=[1, 3], learning_rate=0.1)
    assert [stage.epochs for stage in config.recipe.stages] == [1, 3]
    assert [stage.learning_rate for stage in config.recipe.stages] == [0.1, 0.01]
    assert [
        stage.epochs for stage in config_of("inception", epochs=2).recipe.stages
    ] == [
        2,
        2,
    ]


def test_a_recipe_for_random_weights() -> None:
    recipe = config_of("inception", init="random", epochs=[1, 3]).recipe
    assert [stage.trainable_from for stage in recipe.stages] == ["all", "all"]
    assert [stage.epochs for stage in recipe.stages] == [1, 3]
    assert [stage.learning_rate for stage in recipe.stages] == [0.01, 0.01]
    assert (recipe.clip_norm, recipe.batch_norm_frozen) == (1.0, False)
    asked = {"init": "random", "clip_norm": 3, "stages.0.trainable_from": "head"}
    recipe = config_of("inception", overrides=asked, learning_rate=0.005).recipe
    assert [stage.trainable_from for stage in recipe.stages] == ["head", "all"]
    assert recipe.stages[0].learning_rate == 0.005
    assert recipe.clip_norm == 3
    own = replace(RECIPES["yahoo"], init="random")
    assert config_of(own).recipe.stages == RECIPES["yahoo"].stages  # as it is
    assert config_of("vgg", init="random").recipe == RECIPES["vgg"]


def test_a_frozen_body_takes_one_stage_and_no_augmentation() -> None:
    recipe = config_of("inception", freeze_body=True).recipe
    assert recipe.augmentation is None
    assert [stage.trainable_from for stage in recipe.stages] == ["head"]


# -- schedules


def rows(*losses: float, stage: int = 1) -> list[Row]:
    return [
        {"stage": stage, "epoch": n, "val_loss": one} for n, one in enumerate(losses)
    ]


def rate(kind: Schedule, epoch: float, *losses: float) -> float:
    return recipes.learning_rate(Stage(9, 1.0, kind), epoch, rows(*losses))


def test_learning_rates() -> None:
    step = Schedule("step", 0.1, every=2)
    assert [round(rate(step, e), 9) for e in (0, 1.9, 2, 3.99, 4)] == [
        1,
        1,
        0.1,
        0.1,
        0.01,
    ]
    assert rate(Schedule("exponential", 0.25, every=2), 1) == pytest.approx(0.5)
    assert rate(Schedule(), 5) == 1
    plateau = Schedule("plateau", 0.5, patience=2)
    assert rate(plateau, 3, 3.0, 2.0, 1.0) == 1
    assert rate(plateau, 3, 1.0, 1.0, 1.0) == 0.5
    assert rate(plateau, 3, 1.0, 1.1, 0.9, 1.0) == 1
    assert rate(plateau, 3, 1.0, 1.0, 1.0, 1.0, 1.0) == 0.25


def test_stages_follow_each_other() -> None:
    recipe = replace(RECIPES["inception"], stages=(Stage(2, 1.0), Stage(2, 1.0)))
    assert recipes.next_stage(recipe, []) == 0
    assert recipes.next_stage(recipe, rows(1, 1)) == 1
    assert recipes.next_stage(recipe, rows(1, 1) + rows(1, stage=2)) == 1
    assert recipes.next_stage(recipe, rows(1, 1) + rows(1, 1, stage=2)) is None
    # What was begun with other numbers of epochs goes on in the stage where it is.
    assert recipes.next_stage(recipe, rows(1) + rows(1, stage=2)) == 1


def test_patience_ends_a_stage() -> None:
    recipe = replace(RECIPES["yahoo"], stages=(Stage(9, 1.0),), patience=2)
    assert recipes.next_stage(recipe, rows(3, 2, 2.5)) == 0
    assert recipes.next_stage(recipe, rows(3, 2, 2.5, 2)) is None
    assert recipes.best_row(rows(3, 2, 2.5, 2)) == rows(3, 2)[1]
    assert recipes.best_row([]) is None


# -- carried out

HEADS = {  # trainable values behind the pooled features, by hand
    "yahoo": 1024 * 2 + 2,
    "mobilenet": (1280 + 1) * 32 + 2 * 32 + (32 + 1) * 3,
    "inception": (2048 + 1) * 256 + (256 + 1) * 128 + (128 + 1) * 5,
    "vgg": (512 + 1) * 128 + (128 + 1) * 64 + (64 + 1) * 2,
}
BODIES = {  # and in the body, in the last stage
    "yahoo": 5_891_266 - HEADS["yahoo"],  # the kernels and biases, no batch norm
    "mobilenet": 2_223_872,
    "vgg": 14_714_688,
}
REDUCED: dict[str, Any] = {  # classes, pixels, and numbers that suit so little
    "yahoo": (2, 32, {"learning_rate": 2e-4}),
    "mobilenet": (3, 32, {"learning_rate": 0.02, "epochs": 5}),
    "inception": (5, 75, {"learning_rate": 0.005, "epochs": [1, 2]}),
    "vgg": (2, 32, {}),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_and_its_loss_falls(name: str, tmp_path: Path) -> None:
    classes, size, asked = REDUCED[name]
    recipe = replace(RECIPES[name], batch_size=8)
    if name in ("mobilenet", "inception"):  # whose pretrained weights are far away
        recipe = replace(recipe, init="random")
    stages = len(recipe.stages)
    config = config_of(recipe, size=size, **{"epochs": 3, **asked})
    data = read_data(make_pictures(tmp_path / "data", classes, train=16, test=0))
    (tmp_path / "run").mkdir()
    trainer = Trainer(config, data, tmp_path / "run")
    layers = [layer.name for layer in trainer.model.layers]
    after = layers[layers.index("pool") + 1 :]
    numbered = [f"head_{index}" for index in range(len(config.recipe.head))]
    last = "fc_nsfw" if name == "yahoo" else "logits"
    assert after == [*numbered, last, "predictions"]
    assert trainer.model.output.shape == (None, classes)
    seen = []

    def epoch(row: Row) -> None:
        values = sum(math.prod(v.shape) for v in trainer.model.trainable_variables)
        seen.append((row["stage"], values))

    assert trainer.run(Callbacks(epoch=epoch))
    losses = [row["loss"] for row in trainer.history]
    assert losses[-1] < losses[stages - 1], losses  # of the last stage
    epochs = [stage.epochs for stage in config.recipe.stages]
    numbers = [n + 1 for n, count in enumerate(epochs) for _ in range(count)]
    assert [stage for stage, _ in seen] == numbers
    assert seen[0][1] == HEADS[name] + (0 if stages > 1 else BODIES[name])
    if name == "inception":
        _check_second_stage(trainer.model)


@pytest.mark.slow
def test_vgg_learns_from_nothing(tmp_path: Path) -> None:
    """In short; see `RECIPES` for what was measured."""
    config = config_of("vgg", size=32, epochs=2, validation=0.2)
    data = read_data(make_bands(tmp_path / "data", train=120, side=32))
    (tmp_path / "run").mkdir()
    trainer = Trainer(config, data, tmp_path / "run")
    assert trainer.run(Callbacks())
    history = trainer.history
    assert history[-1]["val_accuracy"] >= 0.9, history
    assert history[-1]["loss"] < math.log(2) / 2, history


def _check_second_stage(model: Any) -> None:
    trained = {layer.name for layer in model.layers if layer.trainable_variables}
    assert {"conv2d_56", "conv2d_93", "head_0", "logits"} <= trained
    assert not trained & {"conv2d", "conv2d_1", "conv2d_40"}
