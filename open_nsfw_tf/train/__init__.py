"""Training on folders of pictures: the original, or a backbone of one's own.

The parts: `recipes` are tables, `settings` change their numbers; `plan` settles what a
run does and `run` owns its folder. `data` finds and checks the pictures, `augment` varies
them, `pixels` keeps them decoded, `inputs` makes batches of them, `features` are those of
a frozen body and `kept` makes batches of these. A `session` has all that a plan needs,
and `fit` is its loop: `learner` takes a step with the `optimizer`, on the devices of
`workers`; `schedule` decides by the history, `checkpoints` keep it. `outcome` judges what
came out, `curves` and `board` show how it went.
"""

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from open_nsfw_tf.image import MAX_PIXELS
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.train import run as runs
from open_nsfw_tf.train.data import Data, read_data
from open_nsfw_tf.train.fit import Watch
from open_nsfw_tf.train.outcome import draw, judge_run, positive_classes
from open_nsfw_tf.train.plan import Plan, make_plan
from open_nsfw_tf.train.recipes import Recipe
from open_nsfw_tf.train.schedule import Row, best
from open_nsfw_tf.train.session import Session
from open_nsfw_tf.train.workers import is_chief

__all__ = ["Told", "TrainingResult", "train"]

REDRAWN = 30.0  # seconds after which the curves are drawn anew
BOOTSTRAP = 200  # replicates for the confidence intervals of the report


@dataclass(frozen=True)
class TrainingResult:
    """What a run did.

    Attributes:
        run: its folder.
        classes: in the order of the scores.
        history: a row for each epoch, also of the runs that this one went on with.
        finished: whether it came to its end; False after `stop`.
        accuracy: of the test set; None where it was not judged.
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
        """The epoch that the model is of; None where none was finished."""
        return best(self.history)


@dataclass(frozen=True)
class Told:
    """What a run tells, and asks.

    Attributes:
        begin: called with what was found, the plan, and the steps of all epochs that are
            to come at most.
        step: called with the number of steps that were taken.
        epoch: called with the row of an epoch that is done.
        say: called with what the user should know.
        stop: asked after each step; True ends the run, which can be gone on with.
    """

    begin: Callable[[Data, Plan, int], None] = lambda data, plan, steps: None
    step: Callable[[int], None] = lambda count: None
    epoch: Callable[[Row], None] = lambda row: None
    say: Callable[[str], None] = lambda text: None
    stop: Callable[[], bool] = lambda: False


def train(
    data: str | os.PathLike[str],
    run: str | os.PathLike[str],
    *,
    recipe: str | Recipe = "yahoo",
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
    positive: Sequence[str] | None = None,
    devices: str = "one",
    mode: Mode = "new",
    max_pixels: int = MAX_PIXELS,
    bootstrap: int = BOOTSTRAP,
    told: Told = Told(),
) -> TrainingResult:
    """Train a network on folders of pictures, and judge it.

    Whatever ends it - a kill, a full disk - leaves a folder that `mode` "resume" goes on
    with, at the epoch where it was, to the same end.

    Args:
        data: class folders, or ``train/`` with ``test/`` and/or ``val/`` of these.
        run: the folder for what comes out, see `open_nsfw_tf.train.run`.
        recipe: a key of `open_nsfw_tf.train.recipes.RECIPES`, or a recipe of one's own.
        backbone: a key of `open_nsfw_tf.backbones.BACKBONES`; None: the recipe's.
        settings: numbers of the recipe to set otherwise, see `settings.changed`.
        epochs: of every stage; or one number for each of them.
        learning_rate: of the first stage; those of others change in proportion.
        size: pixels a side of the network's input; None: the backbone's.
        weights: a file with pretrained weights, instead of looking for them.
        freeze_body: train the head alone, on features that are computed once; without
            augmentation, and only the recipe's first stage.
        precision: "float32"; "bfloat16" or "float16", which are faster on some
            processors and graphics cards, and less exact. The model is float32.
        validation: share of the pictures for validation, where there is no ``val/``.
        seed: of all chance: the same one gives the same.
        positive: the classes that are looked for, in the report; None: nsfw, or the last.
        devices: "one", or "all" graphics cards; see `open_nsfw_tf.train.workers`.
        mode: "new" refuses a folder with a run in it, "resume" goes on with it,
            "overwrite" begins anew.
        max_pixels: larger pictures count as broken.
        bootstrap: replicates for the report's confidence intervals; 0: none.
        told: what is called meanwhile.

    Returns:
        What was done.

    Raises:
        FileExistsError: the folder has a run in it and `mode` is "new", or other files.
        OSError: a file cannot be read or written; after a full disk, "resume" goes on.
        ValueError: the pictures are laid out otherwise, or arguments do not fit them, the
            run that is gone on with, or one another.
        WeightsError: pretrained weights are not found.
        TrainingError: the loss is no number any more.
    """
    plan = make_plan(
        recipe,
        backbone=backbone,
        settings=settings,
        epochs=epochs,
        learning_rate=learning_rate,
        size=size,
        weights=weights,
        freeze_body=freeze_body,
        precision=precision,
        validation=validation,
        seed=seed,
    )
    folder, chief = Path(os.fsdecode(run)), is_chief()
    runs.check_apart(folder, os.fsdecode(data))
    with _folder(folder, mode, chief):
        found = read_data(data, validation=validation, seed=seed, max_pixels=max_pixels)
        chosen = positive_classes(found.classes, positive)
        config, resume = plan.config(found, data), mode == "resume"
        if resume:
            runs.check_config(folder, config)
        session = Session(plan, found, folder, devices, max_pixels, resume)
        if chief:  # nothing is lost, or begun, before all is ready
            if mode == "overwrite":
                runs.clear(folder)
            runs.write_config(folder, config)
        told.begin(found, plan, session.steps_left)
        for note in session.notes:
            told.say(note)
        finished = session.run(_watch(folder, session, told, chief))
        history = session.history
        broken = {**dict(found.broken), **session.broken}
        accuracy = None
        if chief:
            runs.write_rows(folder / runs.BROKEN, ["path", "error"], broken.items())
            if not draw(folder, history) and history:
                told.say("no curves were drawn, as matplotlib is missing")
        if chief and finished:
            session.write(folder / runs.LAST)
            accuracy = judge_run(folder, found, chosen, bootstrap, max_pixels, told.say)
    return TrainingResult(
        folder, found.classes, history, finished, accuracy, len(broken)
    )


@contextmanager
def _folder(folder: Path, mode: Mode, chief: bool) -> Iterator[None]:
    """The folder of the run, which only the first worker holds."""
    if not chief:
        yield
        return
    with runs.held(folder, mode):
        yield


def _watch(folder: Path, session: Session, told: Told, chief: bool) -> Watch:
    """What is done after every epoch."""
    drawn = time.monotonic()

    def epoch(history: list[Row]) -> None:
        nonlocal drawn
        if chief:
            runs.write_history(folder, history)
            session.board.write(history[-1])
        if chief and time.monotonic() - drawn > REDRAWN:
            draw(folder, history)
            drawn = time.monotonic()
        told.epoch(history[-1])

    return Watch(told.step, epoch, lambda: session.write(folder), told.stop)
