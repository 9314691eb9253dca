"""When the learning rate falls, a stage ends and a model is the best: by the history.

All of it is a function of the rows that were written so far, one an epoch, so that a run
that goes on needs nothing else to go on the same way.
"""

import math
from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.train.recipes import EXPONENTIAL, PLATEAU, STEP, Recipe, Stage

# What is known of an epoch: epoch and stage (from 1), learning_rate (at its end), loss,
# accuracy, val_loss, val_accuracy, seconds.
Row = dict[str, Any]
LEAST = 1e-4  # that a validation loss must fall by to count as lower, for the plateau


def learning_rate(stage: Stage, epoch: float, rows: Sequence[Row]) -> float:
    """The learning rate of a step.

    Args:
        stage: that it belongs to.
        epoch: epochs of the stage that are done, with their fractions.
        rows: of the stage's epochs.
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


def place(recipe: Recipe, history: Sequence[Row]) -> int | None:
    """Which stage the next epoch belongs to; None: all is done.

    Args:
        recipe: whose stages are gone through.
        history: the rows of all epochs that are done.
    """
    number = history[-1]["stage"] - 1 if history else 0
    while number < len(recipe.stages):
        rows = of_stage(history, number)
        if len(rows) < recipe.stages[number].epochs and not _tired(recipe, rows):
            return number
        number += 1
    return None


def of_stage(history: Sequence[Row], number: int) -> list[Row]:
    """The rows of a stage, which is counted from 0."""
    return [row for row in history if row["stage"] == number + 1]


def _tired(recipe: Recipe, rows: Sequence[Row]) -> bool:
    """Whether the validation loss has not fallen for as long as one waits for it."""
    if recipe.patience is None or not rows:
        return False
    losses = [row["val_loss"] for row in rows]
    return len(losses) - 1 - losses.index(min(losses)) >= recipe.patience


def best(history: Sequence[Row]) -> Row | None:
    """The epoch of the lowest validation loss, the first of several; None: no epoch."""
    return min(history, key=lambda row: row["val_loss"], default=None)
