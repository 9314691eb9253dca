"""One step of training: what it does to which variable, and what it tells."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from training_pictures import make_pictures

from open_nsfw_tf.errors import TrainingError
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.recipes import RECIPES, Recipe, Schedule, Stage


def small_network() -> Any:
    """A few layers of each kind, as tests of single steps need no more."""
    from open_nsfw_tf.libraries import import_tensorflow

    import_tensorflow()
    import keras

    from open_nsfw_tf.backbones import body_of
    from open_nsfw_tf.backbones.arrays import initialise
    from open_nsfw_tf.backbones.caffe_nets import (
        Conv,
        Fire,
        MaxPool,
        MeanPool,
        Normalize,
        build_rows,
    )
    from open_nsfw_tf.backbones.head import add_head

    rows = (
        Conv("conv1", 32, kernel=7, stride=2),
        MaxPool("pool1", 3, 2),
        Normalize("norm1"),
        Fire("fire2", squeeze=16, expand=32),
        MeanPool(),
    )
    batch = keras.Input((32, 32, 3), name="input")
    scores = add_head(build_rows(batch, rows), (), 2, "logits", 0)
    model = keras.Model(batch, scores, name="small")
    initialise(body_of(model), 0)
    return model


@pytest.fixture(scope="module")
def network() -> Any:
    return small_network()


def learner_of(model: Any, recipe: Recipe, **changes: Any) -> Any:
    from open_nsfw_tf.libraries import import_tensorflow
    from open_nsfw_tf.train.learner import (
        Learner,
        LearnerOptions,
        logits_of,
        set_trainable,
    )

    set_trainable(model, recipe, "all")
    strategy = import_tensorflow().distribute.get_strategy()
    options = LearnerOptions(recipe, **changes)
    return Learner(model, logits_of(model), options, strategy)


@pytest.fixture(scope="module")
def batch() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    pictures = random.normal(size=(6, 32, 32, 3)).astype(np.float32)
    return pictures, np.array([0, 1, 0, 0, 1, 0])


def changes(model: Any, recipe: Recipe, batch: Any, **options: Any) -> dict[str, Any]:
    """What one step does to each variable; the network is left as it was."""
    learner = learner_of(model, recipe, **options)
    before = {v.path: v.numpy().copy() for v in model.trainable_variables}
    learner.optimizer.learning_rate.assign(1e-3)
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


def test_a_long_gradient_is_shortened(network: Any, batch: Any) -> None:
    plain = replace(RECIPES["yahoo"], last_kernel=1, last_bias=1, weight_decay=0)
    whole = changes(network, plain, batch)
    length = np.sqrt(
        sum((change.astype(float) ** 2).sum() for change in whole.values())
    )
    for limit in (0.25, 4.0):  # of its length, which is the rate times the gradient's
        clip = limit * float(length) / 1e-3
        clipped = changes(network, replace(plain, clip_norm=clip), batch)
        for path, change in whole.items():
            wanted = min(limit, 1.0) * change
            np.testing.assert_allclose(clipped[path], wanted, rtol=1e-2, atol=1e-7)


def test_the_loss_is_smoothed_and_weighted(network: Any, batch: Any) -> None:
    recipe = replace(RECIPES["yahoo"], label_smoothing=0.2)
    learner = learner_of(network, recipe, class_weights={0: 0.5, 1: 2.0})
    pictures, labels = batch
    scores = np.asarray(network(pictures, training=False), np.float64)
    losses = -np.log(scores[range(6), labels])
    total, right, count = learner.test(*batch)
    assert total == pytest.approx(losses.sum(), rel=1e-4)
    assert (right, count) == ((scores.argmax(1) == labels).sum(), 6)
    wanted = np.eye(2)[labels] * 0.8 + 0.1
    smooth = -(wanted * np.log(scores)).sum(1) * np.array([0.5, 2.0])[labels]
    assert learner.train(*batch)[0] == pytest.approx(smooth.sum(), rel=1e-4)


class Small:
    """A network of one weight that is multiplied by its input, and a fixed loss."""

    def __init__(
        self, recipe: Recipe, scaled: bool = False, strategy: Any = None
    ) -> None:
        import keras

        from open_nsfw_tf.libraries import import_tensorflow
        from open_nsfw_tf.train.learner import Learner, LearnerOptions

        strategy = strategy or import_tensorflow().distribute.get_strategy()
        with strategy.scope():
            pool = keras.Input((1,), name="pool")
            last = keras.layers.Dense(2, name="logits", kernel_initializer="ones")
            softmax = keras.layers.Softmax(name="predictions")
            model = keras.Model(pool, softmax(last(pool)))
        network = keras.Model(pool, last.output)
        options = LearnerOptions(recipe, scaled=scaled)
        self.learner = Learner(model, network, options, strategy)
        self.kernel = last.kernel

    def step(self, value: float, rate: float = 0.5) -> None:
        self.learner.optimizer.learning_rate.assign(rate)
        self.learner.train(np.array([[value]], np.float32), np.array([0]))


def test_momentum_is_caffes() -> None:
    recipe = replace(
        RECIPES["yahoo"], last_kernel=2, last_bias=0, weight_decay=0.1, momentum=0.9
    )
    small = Small(recipe)
    velocity, values = np.zeros(2), np.ones(2)
    for picture in (1.0, -2.0, 0.5):
        logits = picture * values
        scores = np.exp(logits) / np.exp(logits).sum()
        gradient = picture * (scores - [1, 0])
        small.step(picture)
        velocity = 0.9 * velocity - 0.5 * 2.0 * (gradient + 0.1 * values)
        values = values + velocity
        np.testing.assert_allclose(small.kernel.numpy()[0], values, rtol=1e-5)


def test_a_step_that_overflows_is_left_out() -> None:
    small = Small(replace(RECIPES["yahoo"], weight_decay=0), scaled=True)
    scale = small.learner.optimizer.dynamic_scale
    before, largest = small.kernel.numpy(), float(scale.numpy())
    assert largest == 2.0**15
    small.step(float("inf"))
    assert (small.kernel.numpy() == before).all()
    assert scale.numpy() == largest / 2
    small.step(1.0)
    # Half of the gradient of the first class is (1 - 1/2), five times as fast.
    np.testing.assert_allclose(small.kernel.numpy(), before + [[1.25, -1.25]])
    assert scale.numpy() == largest / 2


OVERFLOW = """
import sys
import numpy as np
from open_nsfw_tf.libraries import import_tensorflow
tf = import_tensorflow()
cpu = tf.config.list_physical_devices("CPU")[0]
two = [tf.config.LogicalDeviceConfiguration()] * 2
tf.config.set_logical_device_configuration(cpu, two)
sys.path.insert(0, sys.argv[1])
from test_learner import RECIPES, Small
strategy = tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"])
small = Small(RECIPES["yahoo"], True, strategy)
scale = small.learner.optimizer.dynamic_scale
small.learner.optimizer.learning_rate.assign(0.5)
pictures = np.array([[1.0], [np.inf]], np.float32)  # one for each device
data = tf.data.Dataset.from_tensors((pictures, np.array([0, 0]))).unbatch().batch(2)
for batch in strategy.experimental_distribute_dataset(data):
    small.learner.train(*batch)
assert (small.kernel.numpy() == 1).all(), small.kernel.numpy()
assert scale.numpy() == 2.0**14
"""


def test_a_step_that_overflows_on_one_device_is_left_out_on_all() -> None:
    tests = str(Path(__file__).parent)
    subprocess.run([sys.executable, "-c", OVERFLOW, tests], check=True)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_sixteen_bits(precision: str, batch: Any) -> None:
    from open_nsfw_tf.backbones import with_dtype

    model = with_dtype(small_network(), f"mixed_{precision}")
    recipe = replace(RECIPES["yahoo"], weight_decay=0)
    learner = learner_of(model, recipe, scaled=precision == "float16")
    learner.optimizer.learning_rate.assign(1e-3)
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
    from open_nsfw_tf.libraries import import_tensorflow
    from open_nsfw_tf.train.learner import one_line_errors

    error = getattr(import_tensorflow().errors, kind)(None, None, "first\nsecond")
    with pytest.raises(TrainingError, match=f"^{message}$"), one_line_errors():
        raise error


def test_a_frozen_body_gives_the_same_head(tmp_path: Path) -> None:
    from open_nsfw_tf.train.config import TrainingOptions, make_config
    from open_nsfw_tf.train.trainer import Callbacks, Trainer

    stages = (Stage(3, 1e-3, Schedule("step", 0.5), trainable_from="head"),)
    own = replace(
        RECIPES["yahoo"], stages=stages, init="random", batch_size=8, augmentation=None
    )
    asked: dict[str, Any] = {"recipe": own, "backbone": "squeezenet", "size": 32}
    data, found = read_data(make_pictures(tmp_path / "data", test=0)), []
    for freeze in (False, True):
        run = tmp_path / str(freeze)
        run.mkdir()
        config = make_config(TrainingOptions(freeze_body=freeze, **asked))
        trainer = Trainer(config, data, run)
        assert trainer.run(Callbacks())
        found.append(
            (trainer.history, trainer.model.get_layer("logits").kernel.numpy())
        )
    for row, other in zip(found[0][0], found[1][0], strict=True):
        assert row["loss"] == pytest.approx(other["loss"], rel=1e-3)
        assert row["val_loss"] == pytest.approx(other["val_loss"], rel=1e-3)
    np.testing.assert_allclose(found[0][1], found[1][1], atol=1e-4)
