"""`open-nsfw train`: training a network on folders of pictures."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.backbones import BACKBONES
from open_nsfw_tf.backbones.builder import INITS
from open_nsfw_tf.cli.interrupt import INTERRUPTED, interruptible
from open_nsfw_tf.cli.options import Writing, choice, grouped, pairs
from open_nsfw_tf.errors import sanitize, shell_word
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.progress import progress_bar
from open_nsfw_tf.train import Callbacks, TrainingOptions, TrainingResult, train
from open_nsfw_tf.train.config import TRAINING_PRECISIONS, TrainingConfig
from open_nsfw_tf.train.data import Data
from open_nsfw_tf.train.learner import DEVICES
from open_nsfw_tf.train.recipes import FROM_RANDOM, RECIPES, Recipe, Row

commands = typer.Typer()
_Begin = Callable[[Data, TrainingConfig, int], None]


def _list_recipes(wanted: bool) -> None:
    if wanted:
        for name, recipe in RECIPES.items():
            print("\n".join(_lines(name, recipe)))
        print("with --init random, where a recipe has pretrained weights:")
        print("\n".join(f"    {line}" for line in FROM_RANDOM))
        raise typer.Exit


def _lines(name: str, recipe: Recipe) -> Iterator[str]:
    yield f"{name}: {recipe.title}"
    yield f"    from: {recipe.source}"
    yield (
        f"    on {recipe.backbone}, {recipe.init} weights, {recipe.batch_size} a batch"
    )
    for layer in recipe.head:
        what = {"dense": layer.units, "dropout": layer.rate}.get(layer.kind, "")
        yield f"    head: {layer.kind} {what}".rstrip()
    for stage in recipe.stages:
        yield (
            f"    {stage.epochs} epochs of {stage.trainable_from}, learning rate "
            f"{stage.learning_rate:g}, {stage.schedule.kind}"
        )
    for text in recipe.corrected:
        yield f"    here: {text}"


@dataclass(frozen=True)
class NetworkOptions:
    """Which network is trained, and from which weights."""

    recipe: Annotated[
        str,
        choice(
            RECIPES,
            "--recipe",
            help="How to train: see --recipes. yahoo fine-tunes the original.",
        ),
    ] = "yahoo"
    backbone: Annotated[
        str | None,
        choice(
            BACKBONES,
            "--backbone",
            help="The network; the recipe's if not given. See `open-nsfw models`.",
        ),
    ] = None
    init: Annotated[
        str | None,
        typer.Option(
            "--init",
            metavar=f"[{'|'.join(INITS)}|RUN]",
            help="Begin with the network's pretrained weights; at random, which takes "
            "many more pictures; or with a trained model of the same network, the "
            "folder RUN of an earlier run or of `weights fetch nsfwjs-...`: its "
            "preprocessing, its body and, for the same classes, its head.",
        ),
    ] = None
    weights: Annotated[
        Path | None,
        typer.Option("--weights", "-m", help="A file with the pretrained weights."),
    ] = None
    size: Annotated[
        int | None,
        typer.Option(
            help="Pixels a side that the network sees. Default: the backbone's own."
        ),
    ] = None
    freeze_body: Annotated[
        bool,
        typer.Option(
            "--freeze-body",
            help="Train the last layers only: much faster. Pictures are looked at "
            "once, without augmentation.",
        ),
    ] = False


@dataclass(frozen=True)
class Learning:
    """How it is trained."""

    epochs: Annotated[
        str | None,
        typer.Option(
            metavar="N[,N]",
            help="How often each picture is seen, in every stage of the recipe, or "
            "one number for each stage.",
        ),
    ] = None
    batch_size: Annotated[
        int | None, typer.Option(min=1, help="Pictures that are learned from at once.")
    ] = None
    learning_rate: Annotated[
        float | None,
        typer.Option(
            help="How far each step goes. Lower it if the loss is not finite."
        ),
    ] = None
    class_weights: Annotated[
        bool,
        typer.Option(
            "--class-weights", help="Let rare classes count as much as others."
        ),
    ] = False
    label_smoothing: Annotated[
        float | None,
        typer.Option(
            help="Share of each label that is spread over all classes, such as 0.1."
        ),
    ] = None
    patience: Annotated[
        int | None,
        typer.Option(
            help="End when the validation has not improved for so many epochs."
        ),
    ] = None
    settings: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=VALUE",
            help="Any other number of the recipe, such as momentum=0.8 or "
            "augmentation.rotation=15; may be given many times. RUN/config.json has "
            "all.",
        ),
    ] = None

    def changes(self) -> dict[str, object]:
        """The values of the recipe that the options change."""
        own = {
            "batch_size": self.batch_size,
            "class_weights": self.class_weights or None,
            "label_smoothing": self.label_smoothing,
            "patience": self.patience,
        }
        found: dict[str, object] = dict(pairs(self.settings, "--set", "NAME=VALUE"))
        return found | {k: value for k, value in own.items() if value is not None}


@dataclass(frozen=True)
class Machine:
    """The hardware and the precision."""

    precision: Annotated[
        str,
        choice(
            TRAINING_PRECISIONS,
            "--precision",
            help="What training computes in. 16 bits are faster on some hardware, and "
            "less exact. The model that comes out is float32 in any case.",
        ),
    ] = "float32"
    devices: Annotated[
        str,
        choice(
            DEVICES,
            "--devices",
            help="all: every graphics card. Several machines: set TF_CONFIG on each.",
        ),
    ] = "one"


@dataclass(frozen=True)
class Validation:
    """Validation, the report, and which pictures are used."""

    validation: Annotated[
        float,
        typer.Option(
            help="Share of the pictures to set aside for validation, where there is no "
            "val/."
        ),
    ] = 0.1
    positive: Annotated[
        list[str] | None,
        typer.Option(
            help="The class that the report looks for; may be given many times. "
            "Default: nsfw, or the last one."
        ),
    ] = None
    seed: Annotated[int, typer.Option(min=0, help="Seed of all random choices.")] = 0
    max_pixels: Annotated[
        int,
        typer.Option(
            min=1, help="Larger pictures are left out, and counted as broken."
        ),
    ] = MAX_PIXELS


@commands.command("train")
@grouped
def train_command(
    data: Annotated[
        Path,
        typer.Argument(
            metavar="DATA",
            help="A folder with one folder of pictures for each class, such as sfw/ "
            "and nsfw/; or with train/ and test/ (and val/) that have such folders.",
        ),
    ],
    run: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            metavar="RUN",
            help="The folder for the model, its history and its report.",
        ),
    ],
    network: NetworkOptions,
    learning: Learning,
    machine: Machine,
    checking: Validation,
    writing: Writing,
    recipes: Annotated[
        bool,
        typer.Option(
            "--recipes",
            callback=_list_recipes,
            is_eager=True,
            help="List the recipes with their sources, and end.",
        ),
    ] = False,
) -> None:
    """Train a classifier of your own classes on your pictures.

    Begins with Yahoo's network by default. RUN gets the best model, for every other
    command: `open-nsfw classify --model RUN photo.jpg`. A run that ended early, even by
    Ctrl-C or a power cut, goes on with the same command and --resume.
    """
    with interruptible("the step") as stop, _bar() as (begin, step):
        result = train(
            data,
            run,
            TrainingOptions(
                recipe=network.recipe,
                backbone=network.backbone,
                init=network.init,
                overrides=learning.changes(),
                epochs=_epochs(learning.epochs),
                learning_rate=learning.learning_rate,
                size=network.size,
                weights=network.weights,
                freeze_body=network.freeze_body,
                precision=machine.precision,
                validation=checking.validation,
                seed=checking.seed,
                max_pixels=checking.max_pixels,
                positive=checking.positive,
            ),
            mode=writing.mode,
            devices=machine.devices,
            callbacks=Callbacks(
                begin, step, _tell_epoch, lambda text: print(f"note: {text}"), stop
            ),
        )
    _tell(result)


def _epochs(text: str | None) -> list[int] | int | None:
    if text is None:
        return None
    try:
        counts = list(map(int, text.split(",")))
    except ValueError as error:
        raise typer.BadParameter(
            f"expected a number, or some with commas, got {text!r}.",
            param_hint="--epochs",
        ) from error
    return counts[0] if len(counts) == 1 else counts


@contextmanager
def _bar() -> Iterator[tuple[_Begin, Callable[[int], None]]]:
    """Functions to call at the beginning and after steps, which update a bar."""
    total: list[int] = []
    known = threading.Event()

    def begin(data: Data, config: TrainingConfig, steps: int) -> None:
        for line in _data_lines(data, config):
            print(line, flush=True)
        total.append(steps)
        known.set()

    def count() -> int:
        known.wait()
        return total[0]

    with progress_bar(count) as step:
        yield begin, step


def _data_lines(data: Data, config: TrainingConfig) -> Iterator[str]:
    for name, split in (
        ("train", data.train),
        ("validation", data.validation),
        ("test", data.test),
    ):
        if split is not None:
            counts = ", ".join(
                f"{sanitize(c)} {n}" for c, n in data.count(split).items()
            )
            yield f"{name}: {len(split)} pictures: {counts}"
    if data.broken:
        reason = data.broken[0][1]
        count = len(data.broken)
        yield f"left out: {count} broken pictures, the first is {sanitize(reason)}"
    if data.passed_over:
        yield f"passed over as no pictures: {data.passed_over}"
    size = config.preprocessing.crop
    yield f"recipe {config.name} on {config.backbone}, {size}x{size} pixels"
    if config.start is not None:
        yield f"beginning with {sanitize(config.start.folder)}"
    precision = config.options.precision
    if precision != "float32":
        yield f"computing in {precision}: less exact than float32"


def _tell_epoch(row: Row) -> None:
    print(
        f"epoch {row['epoch']}: loss {row['loss']:.4f}, accuracy "
        f"{row['accuracy']:.4f}; validation: loss {row['val_loss']:.4f}, accuracy "
        f"{row['val_accuracy']:.4f}; learning rate {row['learning_rate']:.3g}; "
        f"{row['seconds']:.1f} s",
        flush=True,
    )


def _tell(result: TrainingResult) -> None:
    """Print what was done."""
    if not result.finished:
        print(
            f"stopped: {_epochs_done(result.history)} and the steps since are safe in "
            f"{sanitize(result.run)}; go on with the same command and --resume "
            "(without --overwrite)",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED)
    if result.best is not None:
        print(
            f"best: epoch {result.best['epoch']}, the model in {sanitize(result.run)}"
        )
    if result.accuracy is not None:
        print(f"accuracy of the test: {100 * result.accuracy:.2f} %")
    model = shell_word(result.run)
    print(f"score with it: open-nsfw classify --model {model} PICTURE")


def _epochs_done(history: Sequence[Row]) -> str:
    return f"{len(history)} epoch{'' if len(history) == 1 else 's'}"
