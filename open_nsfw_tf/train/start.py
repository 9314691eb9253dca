"""The trained model that a run begins with, where it does not begin otherwise.

Its body is taken in any case. Its head is taken where the pictures have its classes;
else the recipe's head begins anew.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from open_nsfw_tf.backbones.builder import INITS, check_model
from open_nsfw_tf.backbones.trained import (
    ARRAYS,
    MODEL,
    HeadLayer,
    TrainedModel,
    is_trained,
    read_trained,
)
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.formats import sha256
from open_nsfw_tf.train.recipes import Recipe

_KEPT = ("source", "licence")  # of an origin
_TRAINED_FROM = "trained from "


@dataclass(frozen=True)
class Start:
    """A trained model to begin with.

    Attributes:
        folder: its absolute path.
        model: what is in it.
        sha256: of its arrays' file.
    """

    folder: str
    model: TrainedModel
    sha256: str

    @contextmanager
    def named(self) -> Iterator[None]:
        """Raise an error about its weights with its name.

        Raises:
            WeightsError: the model is damaged.
        """
        try:
            yield
        except WeightsError as error:
            raise WeightsError(f"{sanitize(self.folder)}: {error}") from error

    @property
    def origin(self) -> dict[str, str]:
        """The origin of what is trained from it; nothing if it was trained here too."""
        kept = {n: self.model.origin[n] for n in _KEPT if n in self.model.origin}
        if "source" in kept:
            before = kept["source"].removeprefix(_TRAINED_FROM)
            kept["source"] = _TRAINED_FROM + before
        return kept


def read_start(
    init: str | os.PathLike[str] | None, backbone: str, size: int | None
) -> Start | None:
    """Read the trained model that a run begins with.

    Args:
        init: the folder of a trained model; None or one of `INITS`: there is none.
        backbone: that is trained.
        size: pixels a side that are asked for; None: whatever the model has.

    Raises:
        OSError: a file cannot be read.
        ValueError: there is no trained model, or it is of another backbone or size.
        WeightsError: the model is damaged.
    """
    if init is None or init in INITS:
        return None
    folder = os.path.abspath(os.fsdecode(init))
    if not is_trained(folder):
        raise ValueError(
            f"{sanitize(os.fsdecode(init))}: expected an init of {', '.join(INITS)}, "
            f"or the folder of a trained model, with {MODEL} and {ARRAYS}"
        )
    model = read_trained(folder)
    start = Start(folder, model, sha256(Path(folder) / ARRAYS))
    with start.named():
        check_model(model)
    if model.backbone != backbone:
        raise ValueError(
            f"{sanitize(folder)}: expected a trained {backbone} to begin with, got a "
            f"{model.backbone}: choose another recipe, or add --backbone "
            f"{model.backbone}"
        )
    if size not in (None, model.preprocessing.crop):
        raise ValueError(
            f"{sanitize(folder)}: expected a model with an input of {size} pixels a "
            f"side, got one of {model.preprocessing.crop}: leave --size out"
        )
    return start


def fit_head(
    recipe: Recipe, start: Start, classes: Sequence[str], changed: bool
) -> tuple[Recipe, str | None]:
    """Take the head of a trained model if it fits.

    Args:
        recipe: whose head is taken otherwise, with random values.
        start: the trained model.
        classes: of the pictures, in order.
        changed: whether the user has set numbers of the recipe's head.

    Returns:
        The recipe with the head of what is built, and a note of what the user may not
        expect, or None.
    """
    trained, folder = start.model, sanitize(start.folder)
    if tuple(classes) != trained.classes:
        reason = (
            f"its classes are {_names(trained.classes)}, and those of the pictures "
            f"{_names(classes)}"
        )
    elif changed and recipe.head != trained.head:
        reason = f"it is {_described(trained.head)}, and another one was asked for"
    else:
        note = (
            f"{folder}: its head is taken too, {_described(trained.head)}, instead of "
            f"the recipe's, {_described(recipe.head)}"
        )
        alike = recipe.head == trained.head
        taken = replace(recipe, head=trained.head, replace_last=False)
        return taken, None if alike else note
    note = f"{folder}: only its body is taken, not its head: {reason}"
    return replace(recipe, replace_last=True), note


def _names(classes: Sequence[str]) -> str:
    return sanitize(", ".join(classes), 200)


def _described(head: Sequence[HeadLayer]) -> str:
    """A head in words: "dense 32, batch_norm, dropout 0.5, then the last layer"."""
    words = []
    for layer in head:
        number = {"dense": layer.units, "dropout": layer.rate}.get(layer.kind, "")
        words.append(f"{layer.kind} {number}".rstrip())
    return ", ".join(words) or "the last layer alone"
