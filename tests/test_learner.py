"""One step of training: what it does to which variable, and what it tells."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_pictures import make_pictures

from open_nsfw_tf.errors import TrainingError
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.recipes import RECIPES, Recipe, Schedule, Stage


@pytest.fixture(scope="module")
def network() -> Any:
    from open_nsfw_tf.backbones import build

    return build("squeezenet", 2, size=32, init="random", seed=0)


def learner_of(model: Any, recipe: Recipe, **options: Any) -> Any:
    from open_nsfw_tf.backend import import_tensorflow
    from open_nsfw_tf.train.learner import Learner, logits_of, set_trainable

    set_trainable(model, recipe, "all")
    strategy = import_tensorflow().distribute.get_strategy()
    weights = options.pop("weights", None)
    return Learner(model, logits_of(model), recipe, weights, strategy, **options)


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    pictures = random.normal(size=(6, 32, 32, 3)).astype(np.float32)
    return pictures, np.array([0, 1, 0, 0, 1, 0])


def changes(model: Any, recipe: Recipe, batch: Any, **options: Any) -> dict[str, Any]:
    """What one step does to each variable; the network is left as it was."""
    learner = learner_of(model, recipe, **options)
    before = {v.path: v.numpy().copy() for v in model.trainable_variables}
    learner.optimizer.rate.assign(1e-3)
    learner.train(*batch)
    found = {}
    for variable in model.trainable_variables:
        found[variable.path] = variable.numpy() - before[variable.path]
        variable.assign(before[variable.path])
    return found


def test_the_last_layer_learns_faster(network: Any, batch: Any) -> None:
    plain = replace(RECIPES["yahoo"], last_kernel=1, last_bias=1, weight_decay=0)
    same = changes(network, plain, batch)
    fast = changes(network, replace(plain, last_kernel=5, last_bias=10), batch)
    for path, change in same.items():
        times = {"logits/kernel": 5, "logits/bias": 10}.get(path, 1)
        np.testing.assert_allclose(fast[path], times * change, rtol=1e-3, atol=1e-7)
    folded = changes(network, plain, batch, folded=True)
    first = network.trainable_variables[0].path
    np.testing.assert_allclose(folded[first], same[first] / 128**2, atol=1e-7)


def test_weight_decay_is_of_kernels(network: Any, batch: Any) -> None:
    plain = replace(RECIPES["yahoo"], weight_decay=0)
    same = changes(network, plain, batch)
    decayed = changes(network, replace(plain, weight_decay=0.5), batch)
    for variable in network.trainable_variables:
        wanted = -1e-3 * 0.5 * variable.numpy() * (variable.name == "kernel")
        times = 5 if variable.path == "logits/kernel" else 1
        np.testing.assert_allclose(
            decayed[variable.path] - same[variable.path], times * wanted, atol=2e-6
        )


def test_the_loss_is_smoothed_and_weighted(network: Any, batch: Any) -> None:
    recipe = replace(RECIPES["yahoo"], label_smoothing=0.2)
    learner = learner_of(network, recipe, weights={0: 0.5, 1: 2.0})
    pictures, labels = batch
    scores = np.asarray(network(pictures, training=False), np.float64)
    losses = -np.log(scores[range(6), labels])
    total, right, count = learner.test(*batch)
    assert total == pytest.approx(losses.sum(), rel=1e-4)
    assert (right, count) == ((scores.argmax(1) == labels).sum(), 6)
    wanted = np.eye(2)[labels] * 0.8 + 0.1
    smooth = -(wanted * np.log(scores)).sum(1) * np.array([0.5, 2.0])[labels]
    assert learner.train(*batch)[0] == pytest.approx(smooth.sum(), rel=1e-4)


def test_momentum_is_caffes() -> None:
    from open_nsfw_tf.backend import import_tensorflow
    from open_nsfw_tf.train.optimizer import Momentum

    tf = import_tensorflow()
    variable = tf.Variable([1.0])
    optimizer = Momentum([variable], [2.0], [0.1], 0.9)
    optimizer.rate.assign(0.5)
    velocity, value = 0.0, 1.0
    for gradient in (1.0, -2.0, 0.5):
        optimizer.apply([tf.constant([gradient])])
        velocity = 0.9 * velocity - 0.5 * 2.0 * (gradient + 0.1 * value)
        value += velocity
        assert variable.numpy()[0] == pytest.approx(value, rel=1e-5)


def test_a_step_that_overflows_is_left_out() -> None:
    from open_nsfw_tf.backend import import_tensorflow
    from open_nsfw_tf.train.optimizer import LARGEST_SCALE, Momentum

    tf = import_tensorflow()
    variable = tf.Variable([1.0])
    optimizer = Momentum([variable], [1.0], [0.0], 0.9, scaled=True)
    optimizer.rate.assign(0.5)
    optimizer.apply([tf.constant([float("inf")])])
    assert variable.numpy()[0] == 1.0
    assert optimizer.scale.numpy() == LARGEST_SCALE / 2
    optimizer.apply([tf.constant([LARGEST_SCALE / 2])])
    assert variable.numpy()[0] == 0.5


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits(precision: str, batch: Any) -> None:
    from open_nsfw_tf.backbones import build

    model = build(
        "squeezenet", 2, size=32, init="random", seed=0, dtype=f"mixed_{precision}"
    )
    recipe = replace(RECIPES["yahoo"], weight_decay=0)
    learner = learner_of(model, recipe, scaled=precision == "float16")
    learner.optimizer.rate.assign(1e-3)
    losses = [learner.train(*batch)[0] for _ in range(30)]
    assert min(losses[-3:]) < losses[0]
    assert {variable.dtype for variable in model.trainable_variables} == {"float32"}


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("UnavailableError", "another worker is gone: start all .* --resume"),
        ("ResourceExhaustedError", "memory is short: .* a lower --batch-size"),
        ("InternalError", "InternalError: first second"),
    ],
)
def test_errors_of_computing_are_one_line(kind: str, message: str) -> None:
    from open_nsfw_tf.backend import import_tensorflow
    from open_nsfw_tf.train.learner import computing

    error = getattr(import_tensorflow().errors, kind)(None, None, "first\nsecond")
    with pytest.raises(TrainingError, match=f"^{message}$"), computing():
        raise error


def test_a_frozen_body_gives_the_same_head(tmp_path: Path) -> None:
    from open_nsfw_tf.train.fit import Watch
    from open_nsfw_tf.train.plan import make_plan
    from open_nsfw_tf.train.session import Session

    stages = (Stage(3, 1e-3, Schedule("step", 0.5), trainable_from="head"),)
    own = replace(
        RECIPES["yahoo"], stages=stages, init="random", batch_size=8, augmentation=None
    )
    asked: dict[str, Any] = {"recipe": own, "backbone": "squeezenet", "size": 32}
    data, found = read_data(make_pictures(tmp_path / "data", test=0)), []
    for freeze in (False, True):
        run = tmp_path / str(freeze)
        run.mkdir()
        plan = make_plan(freeze_body=freeze, **asked)
        session = Session(plan, data, run)
        assert session.run(Watch())
        found.append(
            (session.history, session.model.get_layer("logits").kernel.numpy())
        )
    for row, other in zip(found[0][0], found[1][0], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
