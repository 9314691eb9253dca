"""A planned run with its network, its pictures and its devices."""

from dataclasses import replace
from pathlib import Path

from open_nsfw_tf.backbones import body_of, build, weights_of
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.train import checkpoints, schedule
from open_nsfw_tf.train import run as runs
from open_nsfw_tf.train.board import Board
from open_nsfw_tf.train.data import Data, Split, class_weights
from open_nsfw_tf.train.features import features
from open_nsfw_tf.train.fit import Batches, Fit, Watch
from open_nsfw_tf.train.inputs import Inputs
from open_nsfw_tf.train.kept import FeatureBatches
from open_nsfw_tf.train.learner import (
    head_of,
    is_folded,
    logits_of,
    set_batch_norms,
)
from open_nsfw_tf.train.plan import Plan
from open_nsfw_tf.train.schedule import Row
from open_nsfw_tf.train.workers import workers
from open_nsfw_tf.trained import TrainedModel, write_trained


class Session:
    """Builds what a plan needs, and runs it.

    Args:
        plan: what shall be done.
        data: the pictures.
        folder: of the run.
        devices: see `workers`.
        max_pixels: larger pictures count as broken.
        resume: whether a checkpoint in the folder is gone on with.

    Attributes:
        board: TensorBoard's.
        broken: path and reason of pictures that broke meanwhile.
        notes: what the user should know.
    """

    def __init__(
        self,
        plan: Plan,
        data: Data,
        folder: Path,
        devices: str = "one",
        max_pixels: int = MAX_PIXELS,
        resume: bool = True,
    ) -> None:
        self.plan, self.data, self.folder = plan, data, folder
        self.max_pixels = max_pixels
        self.board = Board(folder / runs.LOGS)
        self.state = checkpoints.read_state(folder) if resume else None
        self.workers = workers(devices)
        self._check()
        recipe = plan.recipe
        with self.workers.strategy.scope():
            self.model = build(
                plan.backbone,
                len(data.classes),
                head=recipe.head,
                size=plan.preprocessing.crop,
                init=recipe.init,
                weights=plan.weights,
                replace_last=recipe.replace_last,
                seed=plan.seed,
                dtype=plan.dtype,
            )
        self.broken: dict[str, str] = {}
        self.notes: list[str] = []
        self.recipe = recipe
        set_batch_norms(self.model, recipe)
        self.folded = recipe.init == "pretrained" and is_folded(self.model)
        if self.folded and not recipe.batch_norm_frozen:
            self.recipe = replace(recipe, batch_norm_frozen=True)
            self.notes.append(
                "the weights have their batch norms folded into the kernels: those stay "
                "frozen, as what they normalised by is lost"
            )
        make = self._features if plan.freeze_body else self._pictures
        self.batches, self.validation = (
            make(data.train, True),
            make(data.validation, False),
        )

    @property
    def history(self) -> list[Row]:
        """The rows of all epochs that are done."""
        return self.state.history if self.state else []

    @property
    def steps_left(self) -> int:
        """How many steps there are to come at most."""
        recipe, state = self.plan.recipe, self.state or checkpoints.State()
        number = schedule.place(recipe, state.history)
        if number is None:
            return 0
        done = len(schedule.of_stage(state.history, number))
        epochs = sum(stage.epochs for stage in recipe.stages[number:]) - done
        return epochs * self.batches.steps - state.step

    def run(self, watch: Watch) -> bool:
        """Train to the end, or until it is stopped; whether it is the end.

        Raises:
            TrainingError, OSError, ImageError: as `Fit.run`.
        """
        plan, recipe = self.plan, self.recipe
        network = (head_of if plan.freeze_body else logits_of)(self.model)
        weights = class_weights(self.data.train, self.data.classes)
        fit = Fit(
            self.folder,
            self.model,
            network,
            recipe,
            self.batches,
            self.validation,
            weights=weights if recipe.class_weights else None,
            workers=self.workers,
            watch=watch,
            scaled=plan.precision == "float16",
            folded=self.folded,
            state=self.state,
        )
        self.state = fit.state
        finished = fit.run()
        for batches in (self.batches, self.validation):
            self.broken |= getattr(batches, "broken", {})
        return finished

    def write(self, folder: Path) -> None:
        """Write the network as it is now as a trained model.

        Raises:
            OSError: it cannot be written, as on a full disk.
        """
        plan = self.plan
        trained = TrainedModel(
            plan.backbone,
            self.data.classes,
            plan.preprocessing,
            plan.recipe.head,
            weights_of(self.model),
        )
        try:
            folder.mkdir(exist_ok=True)
            write_trained(folder, trained)
        except OSError as error:
            reason = error.strerror or one_line(error)
            raise OSError(
                f"{sanitize(folder)}: cannot write the model: {reason}; the last checkpoint "
                "is whole: make room, then go on with --resume"
            ) from error

    def _check(self) -> None:
        """Refuse what cannot be divided among the devices."""
        who, size = self.workers, self.plan.recipe.batch_size
        replicas = who.count * who.devices
        if size % replicas:
            raise ValueError(
                f"expected a --batch-size that {replicas} devices can share evenly, got "
                f"{size}"
            )
        if replicas > 1 and self.plan.freeze_body:
            raise ValueError(
                "--freeze-body trains the head alone, in seconds: expected one device"
            )
        if not len(self.data.validation):
            raise ValueError(
                "expected pictures for validation: add val/, or leave --validation above 0"
            )
        if who.devices > 1 and len(self.data.train) < size:
            raise ValueError(
                f"expected at least one batch of {size} pictures, got "
                f"{len(self.data.train)}: lower --batch-size"
            )

    def _pictures(self, split: Split, training: bool) -> Batches:
        who, recipe = self.workers, self.plan.recipe
        return Inputs(
            split,
            self.plan.preprocessing,
            batch_size=recipe.batch_size // who.count,
            augmentation=recipe.augmentation if training else None,
            shuffle=training,
            seed=self.plan.seed,
            shard=(who.index, who.count),
            # The devices of one machine must get equal parts of every batch.
            drop_remainder=training and who.devices > 1,
            max_pixels=self.max_pixels,
        )

    def _features(self, split: Split, training: bool) -> Batches:
        kept = features(
            body_of(self.model),
            split,
            self.plan.preprocessing,
            self.folder / runs.KEPT,
            max_pixels=self.max_pixels,
        )
        self.broken |= kept.broken
        return FeatureBatches(
            kept.values,
            kept.labels,
            batch_size=self.plan.recipe.batch_size,
            shuffle=training,
            seed=self.plan.seed,
        )
