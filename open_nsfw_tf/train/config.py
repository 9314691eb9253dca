"""The options of a run, and the config made of them before anything is computed."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from open_nsfw_tf import __version__
from open_nsfw_tf.backbones import BACKBONES
from open_nsfw_tf.backbones.builder import INITS
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image import MAX_PIXELS, Preprocessing
from open_nsfw_tf.train.data import Data
from open_nsfw_tf.train.recipes import (
    HEAD,
    RECIPES,
    Recipe,
    Stage,
    from_random,
    override,
)
from open_nsfw_tf.train.start import Start, fit_head, read_start

TRAINING_PRECISIONS = ("float32", "bfloat16", "float16")
VERSION = 1  # of the config
SPREAD = 1 / 64  # about that of photographs' pixels, of 0..255


@dataclass(frozen=True)
class TrainingOptions:
    """What a run is asked to do.

    Attributes:
        recipe: a key of `open_nsfw_tf.train.recipes.RECIPES`, or a recipe of one's own.
        backbone: a key of `open_nsfw_tf.backbones.BACKBONES`; None: the recipe's.
        init: "pretrained": the backbone's own weights; "random", for which
            `recipes.from_random` changes the recipe; or the folder of a
            trained model of this backbone, whose preprocessing and body are taken, and
            whose head if its classes are those of the pictures. None: the recipe's.
        overrides: other values for numbers of the recipe, see `recipes.override`.
        epochs: of every stage; or one number for each of them.
        learning_rate: of the first stage; those of others change in proportion.
        size: pixels a side of the network's input; None: the backbone's.
        weights: a file with pretrained weights, instead of looking for them.
        freeze_body: train the head alone, on features that are computed once; without
            augmentation, and only the recipe's first stage.
        precision: "float32"; "bfloat16" or "float16", which are faster on some
            processors and graphics cards, and less exact. The model is float32.
        validation: share of the pictures for validation, where there is no ``val/``.
        seed: for everything that is drawn by chance.
        max_pixels: larger pictures count as broken.
        positive: the classes that the report looks for; None: nsfw, or the last one.
        bootstrap: replicates for the report's confidence intervals; 0: none.
    """

    recipe: str | Recipe = "yahoo"
    backbone: str | None = None
    init: str | os.PathLike[str] | None = None
    overrides: Mapping[str, object] = field(default_factory=dict)
    epochs: int | Sequence[int] | None = None
    learning_rate: float | None = None
    size: int | None = None
    weights: str | os.PathLike[str] | None = None
    freeze_body: bool = False
    precision: str = "float32"
    validation: float = 0.1
    seed: int = 0
    max_pixels: int = MAX_PIXELS
    positive: Sequence[str] | None = None
    bootstrap: int = 200


@dataclass(frozen=True)
class TrainingConfig:
    """All that decides what comes out, but for the pictures.

    Attributes:
        options: of which it was made.
        name: of the recipe.
        recipe: with all that the options change in it.
        backbone: a key of `BACKBONES`.
        preprocessing: of the pictures.
        weights: a file to take instead of the backbone's own pretrained weights.
        start: the trained model to begin with; None: the weights are the backbone's
            own, or random.
        notes: what the user should know.
    """

    options: TrainingOptions
    name: str
    recipe: Recipe
    backbone: str
    preprocessing: Preprocessing
    weights: str | None
    start: Start | None = None
    notes: tuple[str, ...] = ()

    def fitted(self, classes: Sequence[str]) -> "TrainingConfig":
        """The config for pictures of some classes: with `start`'s head if it fits."""
        if self.start is None:
            return self
        changed = any(name.startswith("head.") for name in self.options.overrides)
        recipe, note = fit_head(self.recipe, self.start, classes, changed)
        return replace(self, recipe=recipe, notes=(note,) if note else ())

    @property
    def dtype(self) -> str:
        """The precision as Keras calls it."""
        precision = self.options.precision
        return precision if precision == "float32" else f"mixed_{precision}"

    def record(self, data: Data, root: str | os.PathLike[str]) -> dict[str, Any]:
        """As ``config.json`` has it: what a resumed run must have in common."""
        return {
            "version": VERSION,
            "written_by": f"open_nsfw_tf {__version__}",
            "backbone": self.backbone,
            "recipe": self.name,
            "classes": list(data.classes),
            "preprocessing": self.preprocessing.record(),
            "weights": self.weights,
            "start": self.start and self.start.folder,
            "start_sha256": self.start and self.start.sha256,
            "freeze_body": self.options.freeze_body,
            "precision": self.options.precision,
            "seed": self.options.seed,
            "hyperparameters": self.recipe.hyperparameters(),
            "pictures": {
                "training": data.count(data.train),
                "validation": data.count(data.validation),
                "digest": _digest(data, root),
            },
        }


def make_config(options: TrainingOptions) -> TrainingConfig:
    """Make the config of a run.

    Raises:
        ValueError: an option makes no sense.
    """
    name = "own" if isinstance(options.recipe, Recipe) else options.recipe
    recipe = _recipe(options)
    backbone, precision = options.backbone or recipe.backbone, options.precision
    if backbone not in BACKBONES:
        raise ValueError(
            f"no backbone is called {sanitize(backbone, 80)}: choose of "
            f"{', '.join(BACKBONES)}"
        )
    if precision not in TRAINING_PRECISIONS:
        raise ValueError(
            f"expected a precision of {', '.join(TRAINING_PRECISIONS)}, got "
            f"{precision!r:.80}"
        )
    if type(options.seed) is not int or not 0 <= options.seed < 1 << 31:
        raise ValueError(
            f"expected a seed of 0 to 2147483647, got {options.seed!r:.80}"
        )
    weights, start = options.weights, read_start(options.init, backbone, options.size)
    if start is not None and weights is not None:
        raise ValueError(
            f"expected a trained model to begin with, {sanitize(start.folder)}, or "
            "--weights, got both: leave one of them out"
        )
    own = None if start is None else start.model.preprocessing
    return TrainingConfig(
        options,
        name=name,
        recipe=recipe,
        backbone=backbone,
        preprocessing=_preprocessing(backbone, recipe, options.size, own),
        weights=None if weights is None else os.path.abspath(os.fsdecode(weights)),
        start=start,
    )


def _recipe(options: TrainingOptions) -> Recipe:
    """The recipe with everything that the options change in it."""
    recipe = options.recipe
    if not isinstance(recipe, Recipe):
        if recipe not in RECIPES:
            raise ValueError(
                f"no recipe is called {sanitize(recipe, 80)}: choose of "
                f"{', '.join(RECIPES)}"
            )
        recipe = RECIPES[recipe]
    overrides = dict(options.overrides)
    if options.init is not None:  # a trained model is "pretrained", too
        overrides["init"] = "random" if options.init == "random" else INITS[0]
    own = recipe.init
    if "init" in overrides:
        recipe = override(recipe, "init", overrides.pop("init"))
    if recipe.init == "random" != own:
        recipe = from_random(recipe)
    for name, value in overrides.items():
        recipe = override(recipe, name, value)
    stages = _stages(recipe, options.epochs, options.learning_rate)
    recipe = replace(recipe, stages=stages)
    if options.freeze_body:
        stage = replace(recipe.stages[0], trainable_from=HEAD)
        recipe = replace(recipe, stages=(stage,), augmentation=None)
    if recipe.init == "random":  # there are no statistics worth freezing
        recipe = replace(recipe, batch_norm_frozen=False)
    return recipe


def _stages(
    recipe: Recipe, epochs: int | Sequence[int] | None, learning_rate: float | None
) -> tuple[Stage, ...]:
    stages = recipe.stages
    if learning_rate is not None:  # of the first stage; the others keep their share
        share = learning_rate / stages[0].learning_rate
        stages = tuple(
            replace(stage, learning_rate=stage.learning_rate * share)
            for stage in stages
        )
    if epochs is None:
        return stages
    counts = [epochs] * len(stages) if isinstance(epochs, int) else list(epochs)
    if len(counts) != len(stages):
        raise ValueError(
            f"the recipe has {len(stages)} stages: expected as many numbers of epochs, "
            f"or one for each of them, got {len(counts)}"
        )
    return tuple(
        replace(stage, epochs=count)
        for stage, count in zip(stages, counts, strict=True)
    )


def _preprocessing(
    backbone: str, recipe: Recipe, size: int | None, own: Preprocessing | None
) -> Preprocessing:
    """The given one or the backbone's, for another input size, with room for crops.

    A network without batch norms whose weights are random cannot learn from inputs of
    -128 to 128: its first scores are as large.
    """
    own = own or BACKBONES[backbone].preprocessing
    if recipe.init == "random" and not BACKBONES[backbone].statistics:
        own = replace(own, scale=own.scale if own.scale < 1 else SPREAD)
    crop = own.crop if size is None else size
    resize = round(crop * max(own.resize / own.crop, recipe.margin))
    return replace(own, resize=resize, crop=crop)


def _digest(data: Data, root: str | os.PathLike[str]) -> str:
    """A digest of the pictures' names and labels, wherever their folder is."""
    known = hashlib.sha256()
    base = os.path.abspath(os.fsdecode(root))
    for split in (data.train, data.validation):
        for path, label in zip(split.paths, split.labels, strict=True):
            name = os.path.relpath(path, base)
            known.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))
        known.update(b"\0")
    return known.hexdigest()[:16]
