"""Training on folders of pictures: the original network, or another backbone.

`recipes` has the tables, `config` the options of a run. `data` finds and checks the
pictures, `augment` varies them, `inputs` makes batches of them, or of a frozen body's
features of them. The loop is in `trainer`; `learner` takes one step of it, on one
device or many. `run_folder` has all that is written, from the config to the scores of
the test set.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.train import run_folder
from open_nsfw_tf.train.config import TrainingOptions, make_config
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.learner import is_chief
from open_nsfw_tf.train.recipes import Row, best_row
from open_nsfw_tf.train.run_folder import draw_curves, positive_classes, score_test_set
from open_nsfw_tf.train.trainer import Callbacks, Trainer

__all__ = ["Callbacks", "TrainingOptions", "TrainingResult", "train"]


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        run: its folder.
        classes: in the order of the scores.
        history: a row for each epoch, also of the runs that this one resumed.
        finished: whether it came to its end; False after `Callbacks.stop`.
        accuracy: on the test set; None where it was not scored.
        broken: how many pictures were left out.
    """

    run: Path
    classes: tuple[str, ...]
    history: list[Row]
    finished: bool
    accuracy: float | None
    broken: int

    @property
    def best(self) -> Row | None:
        """The epoch that the model is from; None where none was finished."""
        return best_row(self.history)


def train(
    data: str | os.PathLike[str],
    run: str | os.PathLike[str],
    options: TrainingOptions | None = None,
    *,
    mode: Mode = "new",
    devices: str = "one",
    callbacks: Callbacks | None = None,
) -> TrainingResult:
    """Train a network on folders of pictures, and score the test set with it.

    Whatever ends it - a kill, a full disk - leaves a folder that `mode` "resume" goes
    on with, at the epoch where it was, to the same end.

    Args:
        data: class folders, or ``train/`` with ``test/`` and/or ``val/`` of these.
        run: the folder for what comes out, see `open_nsfw_tf.train.run_folder`.
        options: the recipe, the backbone, and all that can be chosen about them; None:
            the defaults.
        mode: "new" refuses a folder with a run in it, "resume" goes on with it,
            "overwrite" starts anew.
        devices: "one", or "all" graphics cards; see
            `open_nsfw_tf.train.learner.find_workers`.
        callbacks: called meanwhile.

    Returns:
        What was done.

    Raises:
        FileExistsError: the folder has a run in it and `mode` is "new", or other files.
        OSError: a file cannot be read or written; after a full disk, "resume" goes on.
        ValueError: the pictures are laid out otherwise, or options do not fit them, the
            run that is resumed, or one another.
        WeightsError: pretrained weights are not found.
        TrainingError: the loss is not finite any more.
    """
    options, callbacks = options or TrainingOptions(), callbacks or Callbacks()
    config = make_config(options)
    folder, chief = Path(os.fsdecode(run)), is_chief()
    run_folder.check_apart(folder, os.fsdecode(data))
    if config.start is not None:
        run_folder.check_start(folder, config.start.folder)
    with _folder(folder, mode, chief):
        found = read_data(
            data,
            validation=options.validation,
            seed=options.seed,
            max_pixels=options.max_pixels,
        )
        config = config.fitted(found.classes)
        positive = positive_classes(found.classes, options.positive)
        record = config.record(found, data)
        if mode == "resume":
            run_folder.check_config(folder, record)
        trainer = Trainer(config, found, folder, devices, mode == "resume")
        if chief:  # nothing is lost, or written, before all is ready
            if mode == "overwrite":
                run_folder.clear(folder)
            run_folder.write_config(folder, record)
        callbacks.begin(found, config, trainer.steps_left)
        for note in trainer.notes:
            callbacks.note(note)
        finished = trainer.run(callbacks)
        broken = {**dict(found.broken), **trainer.broken}
        accuracy = None
        if chief:
            columns = ["path", "error"]
            run_folder.write_rows(folder / run_folder.BROKEN, columns, broken.items())
            if not draw_curves(folder, trainer.history) and trainer.history:
                callbacks.note("no curves were drawn, as matplotlib is missing")
        if chief and finished:
            trainer.write_model(folder / run_folder.LAST)
            accuracy = score_test_set(folder, found, positive, options, callbacks.note)
    return TrainingResult(
        folder, found.classes, trainer.history, finished, accuracy, len(broken)
    )


@contextmanager
def _folder(folder: Path, mode: Mode, chief: bool) -> Iterator[None]:
    """The folder of the run, which only the first worker locks."""
    if not chief:
        yield
        return
    with run_folder.locked(folder, mode):
        yield
