"""The loop of training: epochs, stages, and what is written after each of them."""

import math
import time
from collections.abc import Callable, Iterable
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import is_folded
from open_nsfw_tf.backbones import body_of, build, weights_of, with_dtype
from open_nsfw_tf.backbones.trained import OPEN_NSFW, TrainedModel, write_trained
from open_nsfw_tf.errors import TrainingError, one_line, sanitize
from open_nsfw_tf.train import run_folder
from open_nsfw_tf.train.config import TrainingConfig
from open_nsfw_tf.train.data import Data, Split, class_weights
from open_nsfw_tf.train.inputs import Batches, FeatureBatches, Inputs, features
from open_nsfw_tf.train.learner import (
    Learner,
    LearnerOptions,
    Sums,
    find_workers,
    head_of,
    logits_of,
    set_batch_norms,
    set_trainable,
)
from open_nsfw_tf.train.recipes import (
    Row,
    best_row,
    learning_rate,
    next_stage,
    rows_of_stage,
)
from open_nsfw_tf.train.run_folder import State, TensorBoard

REDRAW = 30.0  # seconds between two drawings of the curves


@dataclass(frozen=True)
class Callbacks:
    """Functions that a run calls.

    Attributes:
        begin: with the pictures, the config, and the number of steps that are to come
            at most.
        step: with the number of steps that were taken.
        epoch: with the row of an epoch that is done.
        note: with something that the user should know.
        stop: asked after each step; True ends the run, which can be resumed.
    """

    begin: Callable[[Data, TrainingConfig, int], None] = lambda data, config, steps: (
        None
    )
    step: Callable[[int], None] = lambda count: None
    epoch: Callable[[Row], None] = lambda row: None
    note: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False


class Trainer:
    """Builds what a config asks for, and trains it.

    A run can be stopped after every step, and resumed.

    Args:
        config: what is done.
        data: the pictures.
        folder: of the run.
        devices: see `find_workers`.
        resume: whether to go on from a checkpoint in the folder.

    Attributes:
        model: the network.
        state: how far the run is.
        broken: path and reason of pictures that broke meanwhile.
        notes: what the user should know.

    Raises:
        TrainingError: the checkpoint is broken.
        WeightsError: pretrained weights are not found.
        ValueError: the pictures or the batch size do not fit the devices.
    """

    def __init__(
        self,
        config: TrainingConfig,
        data: Data,
        folder: Path,
        devices: str = "one",
        resume: bool = True,
    ) -> None:
        self.config, self.data, self.folder = config, data, folder
        found = run_folder.read_state(folder) if resume else None
        self.state, self._resumed = found or State(), found is not None
        self.workers = find_workers(devices)
        self._check()
        self.model = self._build()
        self.broken: dict[str, str] = {}
        self.notes: list[str] = list(config.notes)
        self.recipe = config.recipe
        set_batch_norms(self.model, self.recipe)
        self._folded = (
            config.backbone == OPEN_NSFW
            and self.recipe.init == "pretrained"
            and is_folded(weights_of(body_of(self.model)))
        )
        if self._folded and not self.recipe.batch_norm_frozen:
            self.recipe = replace(self.recipe, batch_norm_frozen=True)
            self.notes.append(
                "the weights have their batch norms folded into the kernels: those "
                "stay frozen, as what they normalised by is lost"
            )
        batches = self._features if config.options.freeze_body else self._pictures
        self.batches = batches(data.train, True)
        self.validation = batches(data.validation, False)
        self._learner: Learner | None = None
        self._stopping = False  # as some worker wants it
        self._tensorboard = TensorBoard(folder / run_folder.LOGS)
        self._drawn = time.monotonic()

    @property
    def history(self) -> list[Row]:
        """The rows of all epochs that are done."""
        return self.state.history

    @property
    def steps_left(self) -> int:
        """How many steps there are to come at most."""
        stages, number = self.recipe.stages, next_stage(self.recipe, self.history)
        if number is None:
            return 0
        done = len(rows_of_stage(self.history, number))
        epochs = sum(stage.epochs for stage in stages[number:]) - done
        return epochs * self.batches.steps - self.state.step

    def run(self, callbacks: Callbacks) -> bool:
        """Train to the end, or until `Callbacks.stop`; whether it is the end.

        Raises:
            TrainingError: the loss, or a variable, is not finite any more; or no
                picture of the validation can be read any more.
            OSError: a checkpoint cannot be written.
            ImageError: no picture of a class can be read any more.
        """
        self._restore()
        finished = self._epochs(callbacks)
        for batches in (self.batches, self.validation):
            self.broken |= batches.broken
        return finished

    def write_model(self, folder: Path) -> None:
        """Write the network as it is now as a trained model.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        trained = TrainedModel(
            self.config.backbone,
            self.data.classes,
            self.config.preprocessing,
            self.recipe.head,
            weights_of(self.model),
            self.config.start.origin if self.config.start else {},
        )
        try:
            folder.mkdir(exist_ok=True)
            write_trained(folder, trained)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise OSError(
                f"{sanitize(folder)}: cannot write the model: {reason}; the last "
                "checkpoint is whole: make room, then go on with --resume"
            ) from error

    # -- what is built

    def _check(self) -> None:
        """Refuse what cannot be divided among the devices."""
        workers, size = self.workers, self.config.recipe.batch_size
        replicas = workers.count * workers.devices
        if size % replicas:
            raise ValueError(
                f"expected a --batch-size that {replicas} devices can share evenly, "
                f"got {size}"
            )
        if replicas > 1 and self.config.options.freeze_body:
            raise ValueError(
                "--freeze-body trains the head alone, in seconds: expected one device"
            )
        if not len(self.data.validation):
            raise ValueError(
                "expected pictures for validation: add val/, or leave --validation "
                "above 0"
            )
        if workers.devices > 1 and len(self.data.train) < size:
            raise ValueError(
                f"expected at least one batch of {size} pictures, got "
                f"{len(self.data.train)}: lower --batch-size"
            )

    def _build(self) -> Any:
        config, recipe, start = self.config, self.config.recipe, self.config.start
        named = start.named() if start else nullcontext()
        with self.workers.strategy.scope(), named:
            model = build(
                config.backbone,
                len(self.data.classes),
                head=recipe.head,
                size=config.preprocessing.crop,
                init=recipe.init,
                weights=start.model if start else config.weights,
                replace_last=recipe.replace_last,
                seed=config.options.seed,
            )
            return with_dtype(model, config.dtype)

    def _pictures(self, split: Split, training: bool) -> Batches:
        workers, recipe = self.workers, self.recipe
        return Inputs(
            split,
            self.config.preprocessing,
            batch_size=recipe.batch_size // workers.count,
            augmentation=recipe.augmentation if training else None,
            shuffle=training,
            seed=self.config.options.seed,
            shard=(workers.index, workers.count),
            # The devices of one machine must get equal parts of every batch.
            drop_remainder=training and workers.devices > 1,
            max_pixels=self.config.options.max_pixels,
        )

    def _features(self, split: Split, training: bool) -> Batches:
        found = features(
            body_of(self.model),
            split,
            self.config.preprocessing,
            self.folder / run_folder.FEATURES,
            max_pixels=self.config.options.max_pixels,
        )
        return FeatureBatches(
            found,
            batch_size=self.recipe.batch_size,
            shuffle=training,
            seed=self.config.options.seed,
        )

    # -- the loop

    def _restore(self) -> None:
        """Give the variables the values of the checkpoint, if the run is resumed."""
        if not self._resumed:
            return
        state, optimizer = self.state, {}
        if next_stage(self.recipe, state.history) == state.stage:
            optimizer = self._learner_of(state.stage).optimizer_state
        else:  # the steps that were taken are of another stage
            state.step, state.sums, state.seconds = 0, [0.0, 0.0, 0.0], 0.0
        run_folder.restore_checkpoint(self.folder, self.model, optimizer)
        self._resumed = False

    def _epochs(self, callbacks: Callbacks) -> bool:
        """All epochs that are left; whether none is."""
        while (number := next_stage(self.recipe, self.history)) is not None:
            learner = self._learner_of(number)
            with self.batches.raising():
                if not self._epoch(learner, number, callbacks):
                    self._write_checkpoint()
                    return False
            self._finish_epoch(learner, number)
            callbacks.epoch(self.history[-1])
            if self._stopping:
                return next_stage(self.recipe, self.history) is None
        return True

    def _learner_of(self, number: int) -> Learner:
        """A stage's learner; another stage gets a new one, with a new optimizer."""
        if self._learner is None or self.state.stage != number:
            first = self.recipe.stages[number].trainable_from
            set_trainable(self.model, self.recipe, first)
            network = head_of if self.config.options.freeze_body else logits_of
            weights = None
            if self.recipe.class_weights:
                weights = class_weights(self.data.train, self.data.classes)
            options = LearnerOptions(
                self.recipe,
                weights,
                scaled=self.config.options.precision == "float16",
                folded=self._folded,
            )
            self._learner = Learner(
                self.model, network(self.model), options, self.workers.strategy
            )
            self.state.stage = number
        return self._learner

    def _epoch(self, learner: Learner, number: int, callbacks: Callbacks) -> bool:
        """The steps of an epoch that are left; whether none is."""
        state, start = self.state, time.monotonic() - self.state.seconds
        data = self.batches.epochs(len(state.history)).skip(state.step)
        for inputs, labels in self._distributed(data):
            rate = self._rate(number, state.step)
            learner.optimizer.learning_rate.assign(rate)
            *sums, stop = learner.train(inputs, labels, callbacks.stop()).tolist()
            self._check_loss(sums[0], rate)
            state.sums = [a + b for a, b in zip(state.sums, sums, strict=True)]
            state.step += 1
            state.seconds = time.monotonic() - start
            callbacks.step(1)
            self._stopping = bool(stop)
            if stop and state.step < self.batches.steps:
                return False
        return True

    def _distributed(self, data: Any) -> Iterable[Any]:
        if self.workers.devices > 1:
            return self.workers.strategy.experimental_distribute_dataset(data)  # type: ignore[no-any-return]
        return data  # type: ignore[no-any-return]

    def _rate(self, number: int, step: int) -> float:
        """The learning rate of a step of the next epoch."""
        rows = rows_of_stage(self.history, number)
        done = len(rows) + step / self.batches.steps
        return learning_rate(self.recipe.stages[number], done, rows)

    def _check_loss(self, loss: float, rate: float, where: str = "") -> None:
        """Stop where the loss is not finite; the last checkpoint is from before."""
        if math.isfinite(loss):
            return
        state = self.state
        where = where or f"at step {state.step + 1} of {self.batches.steps}"
        saved = (
            f"the checkpoint of epoch {len(state.history)} is kept"
            if state.history
            else "no checkpoint was saved yet"
        )
        raise TrainingError(
            f"the loss is {loss:g} {where} of epoch {len(state.history) + 1}, with the "
            f"learning rate {rate:g}: begin anew with a lower --learning-rate; {saved}"
        )

    def _finish_epoch(self, learner: Learner, number: int) -> None:
        """Validate, and write the epoch: the best model first, then the checkpoint."""
        state = self.state
        rate = self._rate(number, state.step - 1)
        learner.average_statistics()
        loss, right, count = state.sums
        val_loss, val_right, val_count = self._validate(learner).tolist()
        if not val_count:
            raise TrainingError("no picture of the validation can be read any more")
        self._check_loss(val_loss, rate, "in the validation")
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
        if not self.workers.is_chief:
            return
        if best_row(state.history) is row:
            self.write_model(self.folder)
        self._write_checkpoint()
        run_folder.write_history(self.folder, state.history)
        self._tensorboard.write(row)
        if time.monotonic() - self._drawn > REDRAW:
            run_folder.draw_curves(self.folder, state.history)
            self._drawn = time.monotonic()

    def _validate(self, learner: Learner) -> Sums:
        total = np.zeros(3)
        with self.validation.raising():
            for inputs, labels in self.validation.epochs():
                total += learner.test(inputs, labels)
        return learner.added_up(total)

    def _write_checkpoint(self) -> None:
        if self.workers.is_chief and self._learner is not None:
            optimizer = self._learner.optimizer_state
            run_folder.write_checkpoint(self.folder, self.model, optimizer, self.state)
