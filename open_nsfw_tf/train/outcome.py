"""What a finished run says of itself: the test set, scored as any user would score it."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from open_nsfw_tf.batch import score_batch
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.evaluate import evaluate_files
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.report import write_json, write_report
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.train import run as runs
from open_nsfw_tf.train.data import Data
from open_nsfw_tf.train.schedule import Row

NEEDED = {"report": "sklearn", "figures": "matplotlib", "page": "jinja2"}
INSTALL = "pip install 'open_nsfw_tf[train]'"


def draw(folder: Path, history: Sequence[Row]) -> bool:
    """Write the curves, where matplotlib is installed; whether they were.

    Raises:
        OSError: the file cannot be written.
    """
    if not history or find_spec("matplotlib") is None:
        return False
    from open_nsfw_tf.train.curves import curves

    with replacing(folder / runs.CURVES) as unfinished:
        unfinished.write_text(curves(history), encoding="utf-8")
    return True


def judge_run(
    folder: Path,
    data: Data,
    positive: Sequence[str],
    bootstrap: int,
    max_pixels: int,
    say: Callable[[str], None],
) -> float:
    """Score the test set with the best model, and write what comes out.

    Args:
        folder: of the run, with its model.
        data: whose test set is scored; where there is none, the validation pictures.
        positive: the classes that are looked for, for the report.
        bootstrap: replicates for the report's confidence intervals.
        max_pixels: larger pictures are not scored; that of the training.
        say: called with what the user should know.

    Returns:
        The share of the pictures whose highest score is their class's.

    Raises:
        OSError: a file cannot be written.
    """
    split = data.test or data.validation
    if data.test is None:
        say(
            "there is no test/: the validation pictures were judged instead, by which "
            "the best epoch was chosen, so expect a little less of new pictures"
        )
    names = [data.classes[label] for label in split.labels]
    runs.write_rows(
        folder / runs.LABELS, ["path", "label"], zip(split.paths, names, strict=True)
    )
    score_batch(
        Classifier(model=folder, max_pixels=max_pixels),
        split.paths,
        folder / runs.SCORES,
        mode="overwrite",
        select="all",
    )
    accuracy = _confusion(
        folder, data.classes, dict(zip(split.paths, split.labels, strict=True))
    )
    missing = [package for package in NEEDED.values() if find_spec(package) is None]
    if missing:
        say(f"no report was written, as {', '.join(missing)} is missing: {INSTALL}")
        return accuracy
    found = evaluate_files(
        [folder / runs.SCORES],
        folder / runs.LABELS,
        positive=positive,
        bootstrap=bootstrap,
    )
    write_report(folder / runs.REPORT, found)
    write_json(folder / runs.EVALUATION, found)
    return accuracy


def positive_classes(classes: Sequence[str], asked: Sequence[str] | None) -> list[str]:
    """The classes that are looked for: those asked for, nsfw, or the last one.

    Raises:
        ValueError: there is no such class.
    """
    strange = [name for name in asked or () if name not in classes]
    if strange:
        raise ValueError(
            f"no class is called {strange[0]!r:.80}: expected of {', '.join(classes)}"
        )
    if asked:
        return list(asked)
    return ["nsfw" if "nsfw" in classes else classes[-1]]


def _confusion(
    folder: Path, classes: Sequence[str], labels: dict[str, np.int64]
) -> float:
    """Write the confusion matrix, a row a label; the share that was decided rightly."""
    table = read_table(folder / runs.SCORES)
    scores = np.stack([table.columns[name] for name in classes], axis=1)
    scored = ~np.isnan(scores).any(axis=1)
    wanted = np.array([labels[path] for path in table.paths])[scored]
    matrix = np.zeros((len(classes), len(classes)), np.int64)
    np.add.at(matrix, (wanted, scores[scored].argmax(axis=1)), 1)
    rows = (
        [name, *counts] for name, counts in zip(classes, matrix.tolist(), strict=True)
    )
    runs.write_rows(folder / runs.CONFUSION, ["label", *classes], rows)
    return float(np.trace(matrix) / max(matrix.sum(), 1))
