"""Evaluations as plain dicts of numbers and text, ready for JSON."""

from dataclasses import asdict, fields
from typing import Any

import numpy as np

from open_nsfw_tf.evaluate import Evaluation
from open_nsfw_tf.evaluate.cases import PROBLEMS, Problem
from open_nsfw_tf.evaluate.classes import Classes
from open_nsfw_tf.evaluate.compare import Comparison
from open_nsfw_tf.evaluate.ranking import thinned
from open_nsfw_tf.evaluate.thresholds import OperatingPoint


def record(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure of an evaluation under a plain key; None where one is undefined.

    Returns:
        `roc_auc`, `average_precision` and the other figures, `intervals`, the chosen
        `threshold` with what it does (`fpr`, `fnr`, `precision`, ..., and
        `confusion_matrix`: rows are labels, columns decisions, negatives first),
        `thresholds` in steps, `operating_points`, `bands`, `curves` of at most a
        thousand points, `calibration`, `histogram`, `classes`, `notes`.
    """
    chosen = None if evaluation.chosen is None else asdict(evaluation.chosen)
    nothing = dict.fromkeys(one.name for one in fields(OperatingPoint))
    return {
        "name": evaluation.name,
        "positive": evaluation.positive,
        "rows": evaluation.rows,
        "positives": evaluation.positives,
        "negatives": evaluation.negatives,
        **evaluation.figures,
        "intervals": {name: list(ends) for name, ends in evaluation.intervals.items()},
        "bootstrap_replicates": evaluation.replicates,
        "criterion": evaluation.criterion,
        **(chosen or nothing),
        "confusion_matrix": chosen
        and [
            [chosen["true_negatives"], chosen["false_positives"]],
            [chosen["false_negatives"], chosen["true_positives"]],
        ],
        "thresholds": [asdict(point) for point in evaluation.thresholds],
        "operating_points": {
            name: None if point is None else asdict(point)
            for name, point in evaluation.operating_points.items()
        },
        "bands": [asdict(band) for band in evaluation.bands],
        "curves": _curves(evaluation),
        "calibration": _numbers(vars(evaluation.calibration)),
        "histogram": _numbers(vars(evaluation.histogram)),
        "classes": None if evaluation.classes is None else _classes(evaluation.classes),
        "notes": list(evaluation.said),
    }


def comparison_record(comparison: Comparison, paths: list[str]) -> dict[str, Any]:
    """A comparison as plain figures.

    Args:
        comparison: of two tables.
        paths: of the compared pictures.
    """
    return {
        "first": comparison.first,
        "second": comparison.second,
        "differences": comparison.differences,
        "intervals": {name: list(ends) for name, ends in comparison.intervals.items()},
        "bootstrap_replicates": comparison.replicates,
        "mcnemar": asdict(comparison.mcnemar),
        "disagreements": [paths[i] for i in comparison.disagreements],
    }


def problem_record(problem: Problem) -> dict[str, Any]:
    """A problem of the data, with its title."""
    return {**asdict(problem), "title": PROBLEMS[problem.kind]}


def _curves(evaluation: Evaluation) -> dict[str, list[float]] | None:
    """One row of points for ROC, precision-recall and DET; infinity becomes None."""
    ranking = evaluation.ranking
    if not ranking.both():
        return None
    kept = np.union1d(
        thinned(ranking.fpr, ranking.tpr, 200),
        thinned(ranking.tpr, ranking.precision, 200),
    )
    return _numbers(
        {
            "threshold": ranking.thresholds[kept],
            "fpr": ranking.fpr[kept],
            "tpr": ranking.tpr[kept],
            "fnr": ranking.fnr[kept],
            "precision": ranking.precision[kept],
        }
    )


def _classes(classes: Classes) -> dict[str, Any]:
    return {
        "names": list(classes.names),
        "confusion_matrix": classes.confusion.tolist(),
        "each": [asdict(one) for one in classes.each],
        "accuracy": classes.accuracy,
        "log_loss": classes.log_loss,
        "brier_score": classes.brier_score,
        "macro_f1": classes.macro_f1,
    }


def _numbers(values: dict[str, Any]) -> dict[str, Any]:
    """Arrays as lists, and what JSON has no number for as None."""
    return {
        name: [None if not np.isfinite(v) else v for v in value.tolist()]
        if isinstance(value, np.ndarray)
        else value
        for name, value in values.items()
    }
