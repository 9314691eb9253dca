"""The results of a run: its curves, its TensorBoard log, and the scores of the test set.

The test set is scored as any user would score it, with the model that was written.
"""

import itertools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.batch import score_batch
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.evaluate import evaluate_files
from open_nsfw_tf.evaluate.metrics import confusion_matrix
from open_nsfw_tf.files import replacing
from open_nsfw_tf.libraries import disk_errors, import_tensorflow
from open_nsfw_tf.report import write_json, write_report
from open_nsfw_tf.report.plots import FAINT, INK, LINE, SERIES, as_file, figure
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.train import run_folder
from open_nsfw_tf.train.config import TrainingOptions
from open_nsfw_tf.train.data import Data
from open_nsfw_tf.train.recipes import Row, best_row

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


def draw_curves(folder: Path, history: Sequence[Row]) -> bool:
    """Write the curves if matplotlib is installed, and tell whether it is.

    Raises:
        OSError: the file cannot be written.
    """
    if not history or find_spec("matplotlib") is None:
        return False
    with replacing(folder / run_folder.CURVES) as unfinished:
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
    run_folder.write_rows(
        folder / run_folder.LABELS,
        ["path", "label"],
        zip(split.paths, names, strict=True),
    )
    score_batch(
        Classifier(model=folder, max_pixels=options.max_pixels),
        split.paths,
        folder / run_folder.SCORES,
        mode="overwrite",
        select="all",
    )
    accuracy = _confusion(
        folder, data.classes, dict(zip(split.paths, split.labels, strict=True))
    )
    missing = [package for package in NEEDED.values() if find_spec(package) is None]
    if missing:
        note(f"no report was written, as {', '.join(missing)} is missing: {INSTALL}")
        return accuracy
    found = evaluate_files(
        [folder / run_folder.SCORES],
        folder / run_folder.LABELS,
        positive=positive,
        bootstrap=options.bootstrap,
    )
    write_report(folder / run_folder.REPORT, found)
    write_json(folder / run_folder.EVALUATION, found)
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
    table = read_table(folder / run_folder.SCORES)
    scores = np.stack([table.columns[name] for name in classes], axis=1)
    scored = ~np.isnan(scores).any(axis=1)
    wanted = np.array([labels[path] for path in table.paths])[scored]
    matrix = confusion_matrix(wanted, scores[scored].argmax(axis=1), len(classes))
    rows = (
        [name, *counts] for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    run_folder.write_rows(folder / run_folder.CONFUSION, ["label", *classes], rows)
    return float(np.trace(matrix) / max(matrix.sum(), 1))
