"""How networks are trained, as tables: the original's way, and three tutorials'.

A recipe is data. `open_nsfw_tf.train.train` follows it, on any backbone; every number
in it can be overridden. When its learning rate falls, a stage ends and a model is the
best is computed from the history alone, the rows of the epochs so far, so that a
resumed run needs nothing else to go on in the same way.
"""

import dataclasses
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from open_nsfw_tf.backbones.builder import INITS
from open_nsfw_tf.backbones.trained import HeadLayer
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.train.augment import YAHOO_SCALE, Augmentation

ALL, HEAD = "all", "head"  # values of `Stage.trainable_from`, beside a layer's name
CONSTANT, STEP, EXPONENTIAL, PLATEAU = "constant", "step", "exponential", "plateau"
SCHEDULES = (CONSTANT, STEP, EXPONENTIAL, PLATEAU)
LEAST = 1e-4  # that a validation loss must fall by to count as lower, for the plateau

# An epoch: epoch and stage (from 1), learning_rate (at its end), loss, accuracy,
# val_loss, val_accuracy, seconds.
Row = dict[str, Any]
_T = TypeVar("_T")


@dataclass(frozen=True)
class Schedule:
    """How a stage's learning rate changes.

    Attributes:
        kind: of `SCHEDULES`. constant: not at all. step: times `factor` after every
            `every` epochs, at once. exponential: the same, but a little with every
            step. plateau: times `factor` when the validation loss has not fallen for
            `patience` epochs.
        factor: above 0, to 1.
        every: epochs.
        patience: epochs.
    """

    kind: str = CONSTANT
    factor: float = 1.0
    every: float = 1.0
    patience: int = 1

    def __post_init__(self) -> None:
        if self.kind not in SCHEDULES:
            raise ValueError(
                f"expected a schedule of {', '.join(SCHEDULES)}, got "
                f"{sanitize(self.kind, 40)}"
            )
        if not (0 < self.factor <= 1 and self.every > 0 and self.patience >= 1):
            raise ValueError(
                "expected a schedule's factor above 0 to 1, every above 0 and a "
                f"patience of 1 or more, got {self.factor:g}, {self.every:g} and "
                f"{self.patience}"
            )


@dataclass(frozen=True)
class Stage:
    """Some epochs in which the same layers are trained.

    Attributes:
        epochs: how many at most.
        learning_rate: at the beginning.
        schedule: of the learning rate.
        trainable_from: `ALL`; `HEAD`: what follows the pooled features; or the name of
            a layer: that one, all after it, and the head.
    """

    epochs: int
    learning_rate: float
    schedule: Schedule = Schedule()
    trainable_from: str = ALL

    def __post_init__(self) -> None:
        if self.epochs < 1 or not 0 < self.learning_rate < float("inf"):
            raise ValueError(
                "expected 1 epoch or more and a learning rate above 0, got "
                f"{self.epochs} and {self.learning_rate:g}"
            )


@dataclass(frozen=True)
class Recipe:
    """How a network is made of a backbone and trained.

    Attributes:
        title: for people.
        source: where it is from.
        corrected: what is done differently here, and what the source leaves open.
        backbone: a key of `open_nsfw_tf.backbones.BACKBONES`, unless another is chosen.
        init: "pretrained" or "random".
        stages: one after the other.
        head: layers between the pooled features and the last dense layer.
        augmentation: of the training pictures; None: none.
        margin: pictures are resized to at least this many times the network's input, so
            that a random crop has room.
        batch_size: pictures a step, on all devices together.
        momentum: of stochastic gradient descent.
        clip_norm: how long the gradient of all variables together may be; a longer one
            is shortened to it. 0: any length.
        weight_decay: times a kernel, added to its gradient.
        last_kernel, last_bias: what the learning rate of the last dense layer's kernel
            and bias is multiplied by.
        replace_last: whether the last layer is initialised anew even where the
            pretrained weights have one with as many classes; a trained model that a run
            begins with keeps its head if its classes are those of the pictures.
        batch_norm_frozen: whether the backbone's batch norms keep their statistics,
            scales and offsets.
        batch_norm_momentum: the share of running statistics that a step keeps.
        class_weights: whether rare classes count more.
        label_smoothing: the share of the right class's label that is spread over all
            classes, 0 to below 1.
        patience: epochs without a lower validation loss that end a stage; None: it
            never ends early.
    """

    title: str
    source: str
    corrected: tuple[str, ...]
    backbone: str
    stages: tuple[Stage, ...]
    init: str = "pretrained"
    head: tuple[HeadLayer, ...] = ()
    augmentation: Augmentation | None = None
    margin: float = 1.0
    batch_size: int = 32
    momentum: float = 0.9
    clip_norm: float = 0.0
    weight_decay: float = 0.0
    last_kernel: float = 1.0
    last_bias: float = 1.0
    replace_last: bool = True
    batch_norm_frozen: bool = False
    batch_norm_momentum: float = 0.9
    class_weights: bool = False
    label_smoothing: float = 0.0
    patience: int | None = None

    def __post_init__(self) -> None:
        for name, (low, high) in _RANGES.items():
            value = getattr(self, name)
            missing = value is None and name != "patience"
            if missing or (value is not None and not low <= value <= high):
                raise ValueError(
                    f"expected a {name} of {low:g} to {high:g}, got {value}"
                )
        if self.init not in INITS or not self.stages:
            raise ValueError(
                f"expected an init of {', '.join(INITS)} and one stage or more, got "
                f"{sanitize(self.init, 40)} and {len(self.stages)}"
            )

    def hyperparameters(self) -> dict[str, Any]:
        """Every number, as JSON can hold it; without the descriptions."""
        record = dataclasses.asdict(self)
        for description in ("title", "source", "corrected"):
            del record[description]
        return dict(json.loads(json.dumps(record)))


_RANGES = {
    "margin": (1, 4),
    "batch_size": (1, 1 << 16),
    "momentum": (0, 0.9999),
    "clip_norm": (0, 1e6),
    "weight_decay": (0, 1),
    "batch_norm_momentum": (0, 0.9999),
    "last_kernel": (0, 1000),
    "last_bias": (0, 1000),
    "label_smoothing": (0, 0.99),
    "patience": (1, 1 << 16),
}
_OWN_PREPROCESSING = (
    "the pictures are prepared as the backbone's own weights want it, and how is "
    "stored in the model: the same code prepares them in training and in service"
)
_OWN_VALIDATION = (
    "the learning rate, the best epoch and the end are chosen on validation pictures, "
    "never on the test set, which is scored once, at the end"
)
_TUTORIALS = Augmentation(
    flip=True,
    crop=False,
    rotation=30.0,
    shift=0.2,
    shear=0.2,
    zoom=0.2,
    channel_shift=20.0,
)

RECIPES = {
    "yahoo": Recipe(
        title="Yahoo's fine-tuning of Open-NSFW",
        source="https://yahooeng.tumblr.com/post/151148689421, "
        "github.com/yahoo/open_nsfw",
        corrected=(
            "it starts from the finished Open-NSFW, where Yahoo started from ImageNet",
            (
                "Yahoo published no learning rate, schedule, batch size or range of "
                "scales: these are ours"
            ),
            _OWN_VALIDATION,
        ),
        backbone="resnet50_thin",
        stages=(Stage(6, 0.0002, Schedule(STEP, factor=0.1, every=2)),),
        augmentation=Augmentation(flip=True, crop=True, scale=YAHOO_SCALE),
        margin=256 / 224,
        weight_decay=0.0001,
        last_kernel=5.0,
        last_bias=10.0,
        batch_norm_frozen=True,
    ),
    "mobilenet": Recipe(
        title="the tutorial of three classes on MobileNetV2",
        source="a tutorial: pool, dense 32, batch norm, dropout .5; SGD .1; plateau",
        corrected=(
            _OWN_PREPROCESSING,
            _OWN_VALIDATION,
            (
                "running statistics of batch norms keep .9 at each step, not the .999 "
                "of Keras' MobileNetV2, with which a short run is validated by "
                "statistics that are not its own"
            ),
            "the number of epochs, the batch size and the dense layer's ReLU are ours",
        ),
        backbone="mobilenet_v2",
        stages=(Stage(30, 0.1, Schedule(PLATEAU, factor=0.1**0.5, patience=5)),),
        head=(
            HeadLayer("dense", units=32, activation="relu"),
            HeadLayer("batch_norm"),
            HeadLayer("dropout", rate=0.5),
        ),
        augmentation=_TUTORIALS,
    ),
    "inception": Recipe(
        title="the tutorial of five classes on Inception v3",
        source="a tutorial: dense 256 and 128, two stages, the second from conv2d_56",
        corrected=(
            _OWN_PREPROCESSING,
            _OWN_VALIDATION,
            (
                "batch norms of the backbone stay frozen in both stages: unfrozen, "
                "small batches would spoil their statistics"
            ),
            (
                "the numbers of epochs, the batch size, the learning rates and the "
                "pace of the decay are ours"
            ),
        ),
        backbone="inception_v3",
        stages=(
            Stage(5, 0.01, trainable_from=HEAD),
            Stage(
                20,
                0.001,
                Schedule(EXPONENTIAL, factor=0.9, every=1),
                trainable_from="conv2d_56",
            ),
        ),
        head=(
            HeadLayer(
                "dense",
                units=256,
                activation="relu",
                initializer="he_normal",
                l2=5e-4,
            ),
            HeadLayer("dropout", rate=0.5),
            HeadLayer("dense", units=128, activation="relu"),
            HeadLayer("dropout", rate=0.25),
        ),
        augmentation=_TUTORIALS,
        batch_norm_frozen=True,
    ),
    "vgg": Recipe(
        title="the tutorial of two classes on VGG16, from scratch",
        source=(
            "a tutorial: VGG16's body, dense 128 and 64, dropout .5 after each; SGD, "
            "10 epochs, 10 a batch; 72 % after 8,127 pictures"
        ),
        corrected=(
            _OWN_PREPROCESSING,
            _OWN_VALIDATION,
            "the maps are averaged before the dense layers, as everywhere here",
            (
                "no dropout: the 64 values that it halves differ little between "
                "pictures while nothing is learned, so that its noise hides the "
                "classes; head.1.rate=0.5 and head.3.rate=0.5 are the tutorial's"
            ),
            (
                "gradients are clipped to a length of 1: the first are 40 to 120 long, "
                "and such steps shrink all activations until the scores are even for "
                "good"
            ),
            (
                "kernels are initialised as by He et al. and inputs divided by 64, as "
                "there are no batch norms"
            ),
            "the learning rate, its schedule, the flip and the ReLUs are ours",
        ),
        backbone="vgg16",
        stages=(Stage(10, 0.01, Schedule(PLATEAU, factor=0.1**0.5, patience=5)),),
        init="random",
        batch_size=10,
        clip_norm=1.0,
        head=(
            HeadLayer("dense", units=128, activation="relu"),
            HeadLayer("dropout", rate=0.0),
            HeadLayer("dense", units=64, activation="relu"),
            HeadLayer("dropout", rate=0.0),
        ),
        augmentation=Augmentation(flip=True, crop=False),
    ),
}

# With random weights no layer has anything to keep, small steps lead nowhere, and the
# first gradients of a network without batch norms are dozens of times too long.
RANDOM_RATE, RANDOM_CLIP = 0.01, 1.0
RANDOM_SCHEDULE = Schedule(PLATEAU, factor=0.1**0.5, patience=5)
FROM_RANDOM = (  # for people: what `from_random` does, and what came of it
    (
        "every stage trains all layers, with a learning rate of .01 or more that falls "
        "when the validation stands still; gradients are clipped to a length of 1, and "
        "the last layer learns no faster than the others"
    ),
    (
        "the last batch norm of a residual block begins at 0; without that the ResNets "
        "learn nothing"
    ),
    (
        "measured on 360 made-up pictures of 64 pixels and two classes, 32 a batch; "
        "the best accuracy of 40 others: yahoo on resnet50_thin 97 %, resnet50 95 % "
        "(14 epochs), squeezenet 97 % and googlenet 100 % (15); mobilenet on "
        "mobilenet_v2 100 % (14); yahoo on ms_ctc 95 % (5, of 192 pixels); vgg on "
        "1,000 pictures of 96 pixels 98 to 100 % (12)"
    ),
    (
        "inception on inception_v3 learns nothing in 12 epochs (80 pixels): begin with "
        "pretrained weights"
    ),
)


def from_random(recipe: Recipe) -> Recipe:
    """What becomes of a recipe for pretrained weights where the weights are random.

    Every stage trains all layers, with a learning rate of at least `RANDOM_RATE`, which
    falls when the validation loss stands still; gradients are clipped to `RANDOM_CLIP`;
    batch norms are not frozen, and the last layer learns as fast as the others.
    """
    stages = tuple(
        replace(
            stage,
            learning_rate=max(stage.learning_rate, RANDOM_RATE),
            schedule=RANDOM_SCHEDULE,
            trainable_from=ALL,
        )
        for stage in recipe.stages
    )
    return replace(
        recipe,
        init="random",
        stages=stages,
        clip_norm=RANDOM_CLIP,
        last_kernel=1.0,
        last_bias=1.0,
        batch_norm_frozen=False,
    )


def override(recipe: Recipe, name: str, value: object) -> Recipe:
    """A recipe with another value for one number.

    Args:
        recipe: that is taken as it is otherwise.
        name: of the number: "momentum", "augmentation.rotation", "head.0.units",
            "stages.1.learning_rate".
        value: of the number's type; a string is read as JSON.

    Raises:
        ValueError: there is no such number, or it cannot have this value.
    """
    try:
        parsed = json.loads(value) if isinstance(value, str) else value
    except ValueError:
        parsed = value  # a name
    try:
        return _replaced(recipe, name.split("."), parsed)
    except (AttributeError, IndexError, KeyError, TypeError) as error:
        raise ValueError(
            f"no recipe has the number {sanitize(name)!r} with such a value; there are "
            f"{', '.join(recipe.hyperparameters())}, and those within, such as "
            "stages.0.learning_rate"
        ) from error


def _replaced(thing: _T, names: list[str], value: object) -> _T:
    """A dataclass, or a tuple of them, with a value replaced that lies within it."""
    name, *rest = names
    if isinstance(thing, tuple):
        parts = list(thing)
        parts[int(name)] = _replaced(parts[int(name)], rest, value)
        return tuple(parts)  # type: ignore[return-value]
    before = getattr(thing, name)
    if rest:
        after = _replaced(before, rest, value)
    else:
        after = _converted(before, value)
    return replace(thing, **{name: after})  # type: ignore[type-var]


def _converted(before: object, value: Any) -> Any:
    """The value as the type of the one that it replaces."""
    if isinstance(before, (bool, str)):
        if type(value) is not type(before):
            raise TypeError
        return value
    if isinstance(before, tuple):
        if not all(isinstance(number, int | float) for number in (*before, *value)):
            raise TypeError  # stages and layers are set one number at a time
        return tuple(map(float, value))
    if dataclasses.is_dataclass(before) or isinstance(value, bool):
        raise TypeError
    if value is None or before is None:  # such as patience
        return None if value is None else int(value)
    if not isinstance(value, int | float):
        raise TypeError
    if isinstance(before, int) and value != int(value):
        raise TypeError
    return type(before)(value)  # type: ignore[call-arg]


def learning_rate(stage: Stage, epoch: float, rows: Sequence[Row]) -> float:
    """The learning rate of a step.

    Args:
        stage: of the step.
        epoch: epochs of the stage that are done, with fractions.
        rows: of the stage's epochs so far.
    """
    schedule = stage.schedule
    passed = {
        STEP: math.floor(epoch / schedule.every + 1e-9),
        EXPONENTIAL: epoch / schedule.every,
    }
    if schedule.kind == PLATEAU:
        times: float = _plateaus(rows, schedule.patience)
    else:
        times = passed.get(schedule.kind, 0)
    return float(stage.learning_rate * schedule.factor**times)


def _plateaus(rows: Sequence[Row], patience: int) -> int:
    """How often the validation loss did not fall for so many epochs."""
    lowest, waited, times = math.inf, 0, 0
    for row in rows:
        if row["val_loss"] < lowest - LEAST:
            lowest, waited = row["val_loss"], 0
            continue
        waited += 1
        if waited >= patience:
            waited, times = 0, times + 1
    return times


def next_stage(recipe: Recipe, history: Sequence[Row]) -> int | None:
    """The stage of the next epoch, counted from 0; None: all epochs are done.

    Args:
        recipe: with the stages.
        history: the rows of all epochs that are done.
    """
    number = history[-1]["stage"] - 1 if history else 0
    while number < len(recipe.stages):
        rows = rows_of_stage(history, number)
        if len(rows) < recipe.stages[number].epochs and not _out_of_patience(
            recipe, rows
        ):
            return number
        number += 1
    return None


def rows_of_stage(history: Sequence[Row], number: int) -> list[Row]:
    """The rows of one stage, counted from 0."""
    return [row for row in history if row["stage"] == number + 1]


def _out_of_patience(recipe: Recipe, rows: Sequence[Row]) -> bool:
    """Whether the validation loss has not fallen for `Recipe.patience` epochs."""
    if recipe.patience is None or not rows:
        return False
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) >= recipe.patience


def best_row(history: Sequence[Row]) -> Row | None:
    """The epoch of the lowest validation loss, the first of several; None: no epoch."""
    return min(history, key=lambda row: row["val_loss"], default=None)
