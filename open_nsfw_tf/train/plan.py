"""What a run shall do, settled before anything is computed."""

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from open_nsfw_tf import __version__
from open_nsfw_tf.backbones import BACKBONES
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.image import Preprocessing
from open_nsfw_tf.train.data import Data
from open_nsfw_tf.train.recipes import HEAD, RECIPES, Recipe, Stage
from open_nsfw_tf.train.settings import changed

PRECISIONS = ("float32", "bfloat16", "float16")
VERSION = 1  # of the config
SPREAD = 1 / 64  # about that of photographs' pixels, of 0..255


@dataclass(frozen=True)
class Plan:
    """All that decides what comes out, but for the pictures.

    Attributes:
        name: of the recipe.
        recipe: with everything set as it was asked for.
        backbone: a key of `BACKBONES`.
        preprocessing: of the pictures.
        weights: a file to take instead of the backbone's own pretrained weights.
        freeze_body: whether only the head is trained, on features computed once.
        precision: of `PRECISIONS`: what is computed in.
        validation: the share of the pictures that is split off where there is no val/.
        seed: of all chance.
    """

    name: str
    recipe: Recipe
    backbone: str
    preprocessing: Preprocessing
    weights: str | None
    freeze_body: bool
    precision: str
    validation: float
    seed: int

    @property
    def dtype(self) -> str:
        """The precision as Keras calls it."""
        return (
            self.precision if self.precision == "float32" else f"mixed_{self.precision}"
        )

    def config(self, data: Data, root: str | os.PathLike[str]) -> dict[str, Any]:
        """What a run that goes on must have in common with the one that was begun."""
        return {
            "version": VERSION,
            "written_by": f"open_nsfw_tf {__version__}",
            "backbone": self.backbone,
            "recipe": self.name,
            "classes": list(data.classes),
            "preprocessing": self.preprocessing.record(),
            "weights": self.weights,
            "freeze_body": self.freeze_body,
            "precision": self.precision,
            "seed": self.seed,
            "settings": self.recipe.settings(),
            "pictures": {
                "training": data.count(data.train),
                "validation": data.count(data.validation),
                "digest": _digest(data, root),
            },
        }


def make_plan(
    recipe: str | Recipe = "yahoo",
    *,
    backbone: str | None = None,
    settings: Mapping[str, object] | None = None,
    epochs: int | Sequence[int] | None = None,
    learning_rate: float | None = None,
    size: int | None = None,
    weights: str | os.PathLike[str] | None = None,
    freeze_body: bool = False,
    precision: str = "float32",
    validation: float = 0.1,
    seed: int = 0,
) -> Plan:
    """Settle what a run shall do; the arguments are those of `open_nsfw_tf.train.train`.

    Raises:
        ValueError: an argument makes no sense.
    """
    name, chosen = ("own", recipe) if isinstance(recipe, Recipe) else (recipe, None)
    if chosen is None:
        if name not in RECIPES:
            raise ValueError(
                f"no recipe is called {sanitize(name, 80)}: choose of {', '.join(RECIPES)}"
            )
        chosen = RECIPES[name]
    for key, value in (settings or {}).items():
        chosen = changed(chosen, key, value)
    chosen = replace(chosen, stages=_stages(chosen, epochs, learning_rate))
    if freeze_body:
        stage = replace(chosen.stages[0], trainable_from=HEAD)
        chosen = replace(chosen, stages=(stage,), augmentation=None)
    if chosen.init == "random":  # statistics of nothing are not worth keeping
        chosen = replace(chosen, batch_norm_frozen=False)
    of = backbone or chosen.backbone
    if of not in BACKBONES:
        raise ValueError(
            f"no backbone is called {sanitize(of, 80)}: choose of {', '.join(BACKBONES)}"
        )
    if precision not in PRECISIONS:
        raise ValueError(
            f"expected a precision of {', '.join(PRECISIONS)}, got {precision!r:.80}"
        )
    if type(seed) is not int or not 0 <= seed < 1 << 31:
        raise ValueError(f"expected a seed of 0 to 2147483647, got {seed!r:.80}")
    return Plan(
        name,
        chosen,
        of,
        _preprocessing(of, chosen, size),
        None if weights is None else os.path.abspath(os.fsdecode(weights)),
        freeze_body,
        precision,
        validation,
        seed,
    )


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


def _preprocessing(backbone: str, recipe: Recipe, size: int | None) -> Preprocessing:
    """The backbone's own, for another input size in proportion, with room for crops.

    A network without batch norms that begins at random cannot learn from inputs of -128
    to 128: its first scores are as large.
    """
    own = BACKBONES[backbone].preprocessing
    if recipe.init == "random" and not BACKBONES[backbone].statistics:
        own = replace(own, scale=own.scale if own.scale < 1 else SPREAD)
    crop = own.crop if size is None else size
    resize = round(crop * max(own.resize / own.crop, recipe.margin))
    return replace(own, resize=resize, crop=crop)


def _digest(data: Data, root: str | os.PathLike[str]) -> str:
    """Of which pictures are learned from and watched, wherever their folder is."""
    known = hashlib.sha256()
    base = os.path.abspath(os.fsdecode(root))
    for split in (data.train, data.validation):
        for path, label in zip(split.paths, split.labels, strict=True):
            name = os.path.relpath(path, base)
            known.update(f"{name}\0{label}\0".encode("utf-8", "surrogateescape"))
        known.update(b"\0")
    return known.hexdigest()[:16]
