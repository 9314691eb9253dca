"""RUN/, the folder of a training run: who may write to it, and what is in it.

``config.json`` has the options; ``checkpoint.safetensors`` has the state to resume
from; ``history.csv``, ``curves.svg`` and ``logs/`` (TensorBoard's) show the course of
the run; ``classes.txt`` and ``broken.csv`` are about the data. ``model.json`` and
``model.safetensors`` are the best model, those in ``last/`` the last one.
``scores.csv``, ``labels.csv``, ``confusion.csv``, ``report.html`` and
``evaluation.json`` are about the test set, which is scored as any user would score it,
with that model.

A checkpoint has all arrays, of the network and of the optimizer, and the history in one
safetensors file, which is moved into place when it is whole: a kill, or a full disk,
leaves the one before. Nothing in it can run code.
"""

import csv
import io
import itertools
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.backbones.trained import ARRAYS, MODEL
from open_nsfw_tf.batch import BatchOptions, score_batch
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.errors import TrainingError, one_line, sanitize
from open_nsfw_tf.evaluate import evaluate_files
from open_nsfw_tf.evaluate.metrics import confusion_matrix
from open_nsfw_tf.files import lock, made_folder, replacing
from open_nsfw_tf.formats import PARSE_ERRORS
from open_nsfw_tf.libraries import disk_errors, import_tensorflow
from open_nsfw_tf.report import write_json, write_report
from open_nsfw_tf.report.plots import FAINT, INK, LINE, SERIES, as_file, figure
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.train.config import TrainingOptions
from open_nsfw_tf.train.data import Data, find_splits
from open_nsfw_tf.train.recipes import Row, best_row

CONFIG, LOCK, CLASSES = "config.json", ".lock", "classes.txt"
HISTORY, CURVES, BROKEN = "history.csv", "curves.svg", "broken.csv"
LAST, LOGS, FEATURES = "last", "logs", "features"
CHECKPOINT = "checkpoint.safetensors"
SCORES, TEST_LABELS, CONFUSION = "scores.csv", "labels.csv", "confusion.csv"
REPORT, EVALUATION = "report.html", "evaluation.json"
_RESULTS = (SCORES, TEST_LABELS, CONFUSION, REPORT, EVALUATION)
# The config is the first, as `clear` removes files from the end.
FILES = (CONFIG, CLASSES, HISTORY, CURVES, BROKEN, CHECKPOINT, MODEL, ARRAYS, *_RESULTS)
FOLDERS = (LAST, LOGS)
LONGEST = 1 << 20  # bytes of a config
MAY_CHANGE = ("epochs", "written_by")  # when a run is resumed
NEEDED = {"report": "sklearn", "figures": "matplotlib", "page": "jinja2"}
INSTALL = "pip install 'open_nsfw_tf[train]'"
PANELS = {  # of the curves: title, and of each line: column, name, dash
    "loss": (("loss", "training", "--"), ("val_loss", "validation", "-")),
    "accuracy": (("accuracy", "training", "--"), ("val_accuracy", "validation", "-")),
    "learning rate": (("learning_rate", "", "-"),),
}
SIZE = (6.0, 7.0)  # of the curves, inches
TAGS = {  # column of the history, and its tag in TensorBoard
    "loss": "loss/training",
    "val_loss": "loss/validation",
    "accuracy": "accuracy/training",
    "val_accuracy": "accuracy/validation",
    "learning_rate": "learning_rate",
}


@contextmanager
def locked(folder: Path, mode: Mode) -> Iterator[None]:
    """Make the folder, and keep other runs out of it.

    Args:
        folder: of the run.
        mode: "new" refuses one with a run in it; "resume" and "overwrite" accept it.

    Raises:
        FileExistsError: there is a run and `mode` is "new"; or the folder has files,
            and no run.
        ValueError: another run writes to it now.
        OSError: it cannot be written to.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(made_folder(folder))
        except (FileExistsError, NotADirectoryError) as error:
            raise type(error)(
                f"{sanitize(folder)}: expected a folder for a run, got a file or what "
                "lies below one: name another"
            ) from error
        names = {name for name in os.listdir(folder) if not name.startswith(".")}
        if CONFIG not in names and names - {*FILES, FEATURES}:
            raise FileExistsError(
                f"{sanitize(folder)}: expected a folder for a run, it has other files: "
                "name one that is empty or not there yet"
            )
        stack.callback(lock(folder / LOCK, folder))
        if mode == "new" and (folder / CONFIG).exists():
            raise FileExistsError(
                f"{sanitize(folder)} has a run in it: go on with it with --resume, or "
                "begin anew with --overwrite"
            )
        _sweep(folder)
        yield


def check_apart(folder: Path, data: str) -> None:
    """Refuse a run that would lie among the pictures, where it became a class.

    Args:
        folder: of the run.
        data: DATA, see `open_nsfw_tf.train.data`.

    Raises:
        OSError: DATA is no folder.
        ValueError: the run lies in a folder of class folders; or DATA is laid out
            otherwise.
    """
    run = os.path.realpath(folder)
    for split in find_splits(data).values():
        if run.startswith(os.path.join(os.path.realpath(split), "")):
            raise ValueError(
                f"{sanitize(folder)}: expected a folder for a run outside of the "
                f"pictures in {sanitize(split)}, where it would be read as a class: "
                "name another"
            )


def check_start(folder: Path, start: str) -> None:
    """Refuse a run that would write over the trained model that it begins with.

    Raises:
        ValueError: the model lies in the folder of the run.
    """
    run, model = os.path.realpath(folder), os.path.realpath(start)
    if os.path.join(model, "").startswith(os.path.join(run, "")):
        raise ValueError(
            f"{sanitize(folder)}: expected another folder for a run than that of the "
            "model that it begins with: name another, or go on with the run that is "
            "there with --resume, without --init RUN"
        )


def clear(folder: Path) -> None:
    """Remove what an earlier run wrote, but for cached features, and nothing else.

    The config goes last: as long as it is there, `locked` accepts the folder.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in reversed(FILES):
        (folder / name).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove files that a killed run left unfinished."""
    unfinished = tuple(f".{name}." for name in FILES)
    for name in os.listdir(folder):
        if name.startswith(unfinished):
            (folder / name).unlink(missing_ok=True)


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Compare a config with the one that the run was started with, if there is one.

    Args:
        folder: of the run.
        config: JSON.

    Raises:
        ValueError: the run was started with another one; the error names the first
            differences.
    """
    if not (folder / CONFIG).exists():
        return
    differences = list(_differences(_read(folder / CONFIG), config))
    if differences:
        raise ValueError(
            f"{sanitize(folder)}: this run was begun with "
            f"{'; '.join(differences[:3])}: give the same options to go on with it, or "
            "name another folder"
        )


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write the config, and the list of classes.

    Raises:
        OSError: a file cannot be written.
    """
    with replacing(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / CLASSES) as unfinished:
        unfinished.write_text("\n".join(config["classes"]) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(LONGEST))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{sanitize(path)}: expected what `open-nsfw train` wrote "
            f"({one_line(error)}): begin anew with --overwrite"
        ) from error


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs, in words; a list counts as one value unless it has dicts in it."""
    if name.rpartition(".")[2] in MAY_CHANGE or before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(before.get(key), now.get(key), inner)
    elif _has_dicts(before) and _has_dicts(now) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{name}.{index}")
    else:
        name = name.removeprefix("hyperparameters.")
        yield f"{name} {sanitize(before, 60)}, this asks for {sanitize(now, 60)}"


def _has_dicts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


# -- the state of a run


@dataclass
class State:
    """How far a run is, beside its arrays.

    Attributes:
        history: a row for each epoch that is done.
        stage: the one that the optimizer's arrays belong to, from 0.
        step: how many steps of the next epoch are done.
        sums: over those steps: of losses, of right answers, of pictures.
        seconds: that those steps took.
    """

    history: list[Row] = field(default_factory=list)
    stage: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0


def write_checkpoint(
    folder: Path, model: Any, optimizer: dict[str, Any], state: State
) -> None:
    """Write a checkpoint; the one before stays until the new one is whole.

    Args:
        folder: of the run.
        model: the network.
        optimizer: its variables by name.
        state: how far the run is.

    Raises:
        TrainingError: an array holds what is not finite; the checkpoint before is kept.
        OSError: it cannot be written, as on a full disk; likewise.
    """
    from safetensors.numpy import save

    arrays = {
        name: np.asarray(one.numpy()) for name, one in _variables(model, optimizer)
    }
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise TrainingError(f"{name} holds values that are not finite")
    path = folder / CHECKPOINT
    try:
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            file.write(save(arrays, metadata={"state": json.dumps(asdict(state))}))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OSError(
            f"{sanitize(path)}: {reason}; the checkpoint before is whole: make room, "
            "then go on with --resume"
        ) from error


def read_state(folder: Path) -> State | None:
    """How far a run is; None where no checkpoint was written yet.

    Raises:
        TrainingError: the checkpoint is broken.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    return _read_checkpoint(folder)[0]


def restore_checkpoint(folder: Path, model: Any, optimizer: dict[str, Any]) -> None:
    """Give the variables the values of the checkpoint.

    Args:
        folder: of the run.
        model: the network.
        optimizer: its variables by name; empty: those in the checkpoint are not used.

    Raises:
        TrainingError: the checkpoint is broken, or another network's.
    """
    arrays = _read_checkpoint(folder)[1]
    for name, variable in _variables(model, optimizer):
        array = arrays.get(name)
        if array is None or array.shape != tuple(variable.shape):
            found = "nothing" if array is None else array.shape
            raise TrainingError(
                f"{sanitize(folder / CHECKPOINT)}: expected {name} of shape "
                f"{tuple(variable.shape)}, got {found}: this checkpoint is another "
                "network's; begin anew with --overwrite"
            )
        variable.assign(array)


def _variables(model: Any, optimizer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All variables, by names that are the same in every process."""
    for layer in model.layers:
        for number, variable in enumerate(layer.variables):
            yield f"model/{layer.name}/{number}", variable
    for name, variable in optimizer.items():
        yield f"optimizer/{name}", variable


def _read_checkpoint(folder: Path) -> tuple[State, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="numpy") as file:
            state = State(**json.loads(file.metadata()["state"]))
            return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (*PARSE_ERRORS, OSError, SafetensorError) as error:
        raise TrainingError(
            f"{sanitize(path)}: this checkpoint cannot be read ({one_line(error)}): "
            "begin anew with --overwrite"
        ) from error


# -- its course


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """Write the table of epochs anew.

    Raises:
        OSError: it cannot be written.
    """
    if history:
        rows = ([row[name] for name in history[0]] for row in history)
        write_rows(folder / HISTORY, list(history[0]), rows)


def draw_curves(folder: Path, history: Sequence[Row]) -> bool:
    """Write the curves if matplotlib is installed, and tell whether it is.

    Raises:
        OSError: the file cannot be written.
    """
    if not history or find_spec("matplotlib") is None:
        return False
    with replacing(folder / CURVES) as unfinished:
        unfinished.write_text(curves(history), encoding="utf-8")
    return True


def curves(history: Sequence[Row]) -> str:
    """Draw the history.

    Args:
        history: a row or more.

    Returns:
        An SVG file; the best epoch is marked, stages are divided by lines.

    Raises:
        ImportError: matplotlib is not installed.
    """
    epochs = [row["epoch"] for row in history]
    best = best_row(history)
    with figure("curves", "Training: loss, accuracy, learning rate") as (axes, done):
        drawing = axes.figure
        axes.remove()
        drawing.set_size_inches(*SIZE)
        for panel, (title, lines) in zip(
            drawing.subplots(len(PANELS), sharex=True), PANELS.items(), strict=True
        ):
            for number, (column, name, dash) in enumerate(lines):
                values = [row[column] for row in history]
                style = {"linestyle": dash, "color": SERIES[number], "label": name}
                panel.plot(epochs, values, marker=".", linewidth=1.6, **style)
            for before, after in itertools.pairwise(history):
                if before["stage"] != after["stage"]:
                    panel.axvline(before["epoch"] + 0.5, color=FAINT, linewidth=1)
            if best is not None:
                panel.axvline(best["epoch"], color=INK, linewidth=1, linestyle=":")
            panel.set_ylabel(title)
            panel.grid(color=LINE)
            if len(lines) > 1:
                panel.legend()
        panel.set_yscale("log")
        panel.set_xlabel("epoch; dotted: the best one")
        panel.xaxis.get_major_locator().set_params(integer=True)
    return as_file(done[0])


class TensorBoard:
    """Writes a row an epoch, for `tensorboard --logdir RUN/logs`.

    `tf.summary.scalar` needs the package tensorboard, which TensorFlow 2.21 does not
    install any more; `tf.summary.write` with a scalar's metadata does not.

    Args:
        folder: where its files go; made when the first row is written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._writer: Any = None

    def write(self, row: Row) -> None:
        """Add an epoch.

        Raises:
            OSError: it cannot be written.
        """
        tf = import_tensorflow()
        scalar = tf.compat.v1.SummaryMetadata()
        scalar.plugin_data.plugin_name = "scalars"
        scalar.data_class = 1  # DATA_CLASS_SCALAR of TensorFlow's summary.proto
        with disk_errors():
            if self._writer is None:
                self._writer = tf.summary.create_file_writer(str(self._folder))
            with self._writer.as_default(step=row["epoch"]):
                for column, tag in TAGS.items():
                    tf.summary.write(tag, float(row[column]), metadata=scalar)
            self._writer.flush()


# -- its test set


def score_test_set(
    folder: Path,
    data: Data,
    positive: Sequence[str],
    options: TrainingOptions,
    note: Callable[[str], None],
) -> float:
    """Score the test set with the best model, and write what comes out.

    Args:
        folder: of the run, with its model.
        data: with the test set; the validation pictures are scored if there is none.
        positive: the classes that the report looks for.
        options: of the run; its `max_pixels` and `bootstrap` hold here too.
        note: called with what the user should know.

    Returns:
        The share of the pictures whose highest score is their class's.

    Raises:
        OSError: a file cannot be written.
    """
    split = data.test or data.validation
    if data.test is None:
        note(
            "there is no test/: the validation pictures were scored instead, by which "
            "the best epoch was chosen, so expect a little less of new pictures"
        )
    names = [data.classes[label] for label in split.labels]
    write_rows(
        folder / TEST_LABELS,
        ["path", "label"],
        zip(split.paths, names, strict=True),
    )
    score_batch(
        Classifier(model=folder, max_pixels=options.max_pixels),
        split.paths,
        folder / SCORES,
        mode="overwrite",
        options=BatchOptions(select="all"),
    )
    accuracy = _confusion(
        folder, data.classes, dict(zip(split.paths, split.labels, strict=True))
    )
    missing = [package for package in NEEDED.values() if find_spec(package) is None]
    if missing:
        note(f"no report was written, as {', '.join(missing)} is missing: {INSTALL}")
        return accuracy
    found = evaluate_files(
        [folder / SCORES],
        folder / TEST_LABELS,
        positive=positive,
        bootstrap=options.bootstrap,
    )
    write_report(folder / REPORT, found)
    write_json(folder / EVALUATION, found)
    return accuracy


def positive_classes(classes: Sequence[str], given: Sequence[str] | None) -> list[str]:
    """The classes that the report looks for: the ones given, nsfw, or the last one.

    Raises:
        ValueError: there is no such class.
    """
    unknown = [name for name in given or () if name not in classes]
    if unknown:
        raise ValueError(
            f"no class is called {unknown[0]!r:.80}: expected of {', '.join(classes)}"
        )
    if given:
        return list(given)
    return ["nsfw" if "nsfw" in classes else classes[-1]]


def _confusion(
    folder: Path, classes: Sequence[str], labels: dict[str, np.int64]
) -> float:
    """Write the confusion matrix, a row for each label; the accuracy."""
    table = read_table(folder / SCORES)
    scores = np.stack([table.columns[name] for name in classes], axis=1)
    scored = ~np.isnan(scores).any(axis=1)
    wanted = np.array([labels[path] for path in table.paths])[scored]
    matrix = confusion_matrix(wanted, scores[scored].argmax(axis=1), len(classes))
    rows = (
        [name, *counts] for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    write_rows(folder / CONFUSION, ["label", *classes], rows)
    return float(np.trace(matrix) / max(matrix.sum(), 1))


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a small CSV file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with replacing(path) as unfinished:
        data = text.getvalue().encode("utf-8", "surrogateescape")
        unfinished.write_bytes(data)
