"""The loop of training: epochs, stages, and what is kept of them."""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from open_nsfw_tf.errors import TrainingError
from open_nsfw_tf.train import checkpoints, schedule
from open_nsfw_tf.train.checkpoints import State
from open_nsfw_tf.train.learner import Learner, Sums, set_trainable
from open_nsfw_tf.train.recipes import Recipe
from open_nsfw_tf.train.schedule import Row
from open_nsfw_tf.train.workers import Workers


class Batches(Protocol):
    """What gives batches by epoch: `open_nsfw_tf.train.inputs.Inputs`, or features."""

    @property
    def steps(self) -> int:
        """Batches in an epoch."""

    def epochs(self, first: int = 0, count: int = 1) -> Any:
        """A dataset of the batches of some epochs: inputs and labels."""

    def raising(self) -> AbstractContextManager[None]:
        """Iterate under this."""


@dataclass(frozen=True)
class Watch:
    """What a run tells, and asks.

    Attributes:
        step: called with the number of steps that were taken.
        epoch: called with the row of an epoch that is done.
        best: called when the model is better than ever before, to write it.
        stop: asked after each step; True ends the run after it.
    """

    step: Callable[[int], None] = lambda count: None
    epoch: Callable[[list[Row]], None] = lambda history: None
    best: Callable[[], None] = lambda: None
    stop: Callable[[], bool] = lambda: False


class Fit:
    """A run that can be stopped after every step, and gone on with.

    Args:
        folder: where checkpoints are.
        model: the whole network.
        network: from what the batches hold to logits, see `Learner`.
        recipe: that is followed.
        batches: that are learned from.
        validation: that are watched.
        weights: of the classes, by label, or None.
        workers: who trains.
        watch: what is told and asked.
        scaled: whether gradients need a scale, see `Momentum`.
        folded: whether batch norms are folded into the kernels, see `learner.rules`.
        state: where to go on; None: at the beginning.

    Attributes:
        state: where it is.
    """

    def __init__(
        self,
        folder: Path,
        model: Any,
        network: Any,
        recipe: Recipe,
        batches: Batches,
        validation: Batches,
        *,
        weights: Mapping[int, float] | None,
        workers: Workers,
        watch: Watch,
        scaled: bool = False,
        folded: bool = False,
        state: State | None = None,
    ) -> None:
        self.folder, self.model, self.network = folder, model, network
        self.recipe, self.watch, self.workers = recipe, watch, workers
        self.batches, self.validation = batches, validation
        self.weights, self.scaled, self.folded = weights, scaled, folded
        self.state = state or State()
        self._learner: Learner | None = None
        self._stopping = False  # as some worker wants it
        if state is not None:
            going_on = schedule.place(recipe, state.history) == state.stage
            optimizer = {}
            if going_on:
                optimizer = self._learner_of(state.stage).optimizer.state
            else:  # the steps that were taken are of another stage
                state.step, state.sums, state.seconds = 0, [0.0, 0.0, 0.0], 0.0
            checkpoints.restore(folder, model, optimizer)

    def run(self) -> bool:
        """Train to the end, or until `Watch.stop`; whether it is the end.

        Raises:
            TrainingError: the loss, or a variable, is no finite number any more; or no
                picture of the validation can be read any more.
            OSError: a checkpoint cannot be written.
            ImageError: no picture of a class can be read any more.
        """
        while (number := schedule.place(self.recipe, self.state.history)) is not None:
            learner = self._learner_of(number)
            with self.batches.raising():
                if not self._epoch(learner, number):
                    self._save()
                    return False
            self._finish_epoch(learner, number)
            if self._stopping:
                return schedule.place(self.recipe, self.state.history) is None
        return True

    def _learner_of(self, number: int) -> Learner:
        """The learner of a stage; made anew, with an optimizer at rest, for another."""
        if self._learner is None or self.state.stage != number:
            set_trainable(
                self.model, self.recipe, self.recipe.stages[number].trainable_from
            )
            self._learner = Learner(
                self.model,
                self.network,
                self.recipe,
                self.weights,
                self.workers.strategy,
                self.scaled,
                self.folded,
            )
            self.state.stage = number
        return self._learner

    def _epoch(self, learner: Learner, number: int) -> bool:
        """The steps of an epoch that are left; whether none is."""
        state, start = self.state, time.monotonic() - self.state.seconds
        data = self.batches.epochs(len(state.history)).skip(state.step)
        for inputs, labels in self._spread(data):
            rate = self._rate(number, state.step)
            learner.optimizer.rate.assign(rate)
            *sums, stop = learner.train(inputs, labels, self.watch.stop()).tolist()
            self._check(sums[0], rate)
            state.sums = [a + b for a, b in zip(state.sums, sums, strict=True)]
            state.step += 1
            state.seconds = time.monotonic() - start
            self.watch.step(1)
            self._stopping = bool(stop)
            if stop and state.step < self.batches.steps:
                return False
        return True

    def _spread(self, data: Any) -> Iterable[Any]:
        if self.workers.devices > 1:
            return self.workers.strategy.experimental_distribute_dataset(data)  # type: ignore[no-any-return]
        return data  # type: ignore[no-any-return]

    def _rate(self, number: int, step: int) -> float:
        rows = schedule.of_stage(self.state.history, number)
        done = len(rows) + step / self.batches.steps
        return schedule.learning_rate(self.recipe.stages[number], done, rows)

    def _check(self, loss: float, rate: float, after: str = "") -> None:
        """Stop where the loss is no number; the last checkpoint is from before."""
        if math.isfinite(loss):
            return
        state = self.state
        where = after or f"at step {state.step + 1} of {self.batches.steps}"
        kept = (
            f"the checkpoint of epoch {len(state.history)} is kept"
            if state.history
            else "no checkpoint was saved yet"
        )
        raise TrainingError(
            f"the loss is {loss:g} {where} of epoch {len(state.history) + 1}, with the "
            f"learning rate {rate:g}: begin anew with a lower --learning-rate; {kept}"
        )

    def _finish_epoch(self, learner: Learner, number: int) -> None:
        """Validate, and keep the epoch: the best model first, then the checkpoint."""
        state = self.state
        rate = self._rate(number, state.step - 1)
        learner.average_statistics()
        loss, right, count = state.sums
        val_loss, val_right, val_count = self._validate(learner).tolist()
        if not val_count:
            raise TrainingError("no picture of the validation can be read any more")
        self._check(val_loss, rate, "in the validation")
        row = {
            "epoch": len(state.history) + 1,
            "stage": number + 1,
            "learning_rate": rate,
            "loss": loss / count,
            "accuracy": right / count,
            "val_loss": val_loss / val_count,
            "val_accuracy": val_right / val_count,
            "seconds": round(state.seconds, 3),
        }
        state.history.append(row)
        state.step, state.sums, state.seconds = 0, [0.0, 0.0, 0.0], 0.0
        if self.workers.is_chief and schedule.best(state.history) is row:
            self.watch.best()
        self._save()
        self.watch.epoch(state.history)

    def _validate(self, learner: Learner) -> Sums:
        total = np.zeros(3)
        with self.validation.raising():
            for inputs, labels in self.validation.epochs():
                total += learner.test(inputs, labels)
        return learner.added_up(total)

    def _save(self) -> None:
        if not self.workers.is_chief or self._learner is None:
            return
        optimizer = self._learner.optimizer.state
        checkpoints.write(self.folder, self.model, optimizer, self.state)
