"""Metrics of scores of two classes or more, calibration, and histograms."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from open_nsfw_tf.libraries import need

BINS = 15  # of equal width, for the calibration error; as in Guo et al. 2017
HISTOGRAM = 40  # bars


@dataclass(frozen=True)
class Calibration:
    """The share of positives among pictures of similar scores, in bins.

    Attributes:
        edges: float64 (BINS + 1,), 0..1; a bin holds the scores from its lower edge to
            below its upper one, the last bin also 1.
        counts: int64 (BINS,), pictures.
        scores: float64 (BINS,), their mean score; NaN in an empty bin.
        shares: float64 (BINS,), the share that is positive; NaN in an empty bin.
        error: expected calibration error, 0..1: the mean over all pictures of the
            distance between `scores` and `shares` of their bin.
    """

    edges: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


@dataclass(frozen=True)
class Histogram:
    """The distribution of the scores of each class.

    Attributes:
        edges: float64 (HISTOGRAM + 1,), 0..1.
        positives: int64 (HISTOGRAM,), pictures of the positive class.
        negatives: int64 (HISTOGRAM,), the others.
    """

    edges: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def import_metrics() -> Any:
    """Import `sklearn.metrics`, when it is first needed.

    Raises:
        ImportError: scikit-learn is not installed; the message says how to.
    """
    need("evaluate", "sklearn")
    return import_module("sklearn.metrics")


def summary(positive: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """The figures that need no threshold.

    Args:
        positive: bool (N,), N at least 1.
        scores: float64 (N,), 0..1.

    Returns:
        `roc_auc`, `average_precision`, `log_loss` (nats), `brier_score`,
        `expected_calibration_error` and `base_rate`, the share of positives. The first
        two are None if all pictures are of one class, as they compare two.
    """
    sklearn = import_metrics()
    both = bool(positive.any() and not positive.all())
    return {
        "roc_auc": float(sklearn.roc_auc_score(positive, scores)) if both else None,
        "average_precision": (
            float(sklearn.average_precision_score(positive, scores)) if both else None
        ),
        "log_loss": float(sklearn.log_loss(positive, scores, labels=[False, True])),
        "brier_score": float(np.mean((scores - positive) ** 2)),
        "expected_calibration_error": calibration(positive, scores).error,
        "base_rate": float(positive.mean()),
    }


def calibration(positive: np.ndarray, scores: np.ndarray) -> Calibration:
    """Compare scores with the share of positives, in `BINS` bins of equal width.

    Args:
        positive: bool (N,), N at least 1.
        scores: float64 (N,), 0..1.
    """
    edges = np.linspace(0, 1, BINS + 1)
    bins = np.searchsorted(edges[1:-1], scores, side="right")
    counts = np.bincount(bins, minlength=BINS)
    filled = np.where(counts, counts, np.nan)
    means = np.bincount(bins, weights=scores, minlength=BINS) / filled
    shares = np.bincount(bins, weights=positive, minlength=BINS) / filled
    error = float(np.nansum(np.abs(means - shares) * counts) / len(scores))
    return Calibration(edges, counts, means, shares, error)


def histogram(positive: np.ndarray, scores: np.ndarray) -> Histogram:
    """Count the scores of each class in bars of equal width.

    Args:
        positive: bool (N,).
        scores: float64 (N,), 0..1.
    """
    edges = np.linspace(0, 1, HISTOGRAM + 1)
    return Histogram(
        edges,
        np.histogram(scores[positive], edges)[0],
        np.histogram(scores[~positive], edges)[0],
    )


@dataclass(frozen=True)
class OneClass:
    """The metrics of one class.

    Attributes:
        name: of the class.
        rows: pictures with this label.
        precision: share of the pictures predicted as this class that have its label;
            None if there are none.
        recall: share of its pictures that are predicted as it; None if it has none.
        f1: harmonic mean of the two; None where either is undefined.
        roc_auc: of its score, this class against the rest; None where undefined.
        average_precision: the same.
    """

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class ClassMetrics:
    """The metrics of all classes; the class with the highest score is the prediction.

    Attributes:
        names: of the classes.
        confusion: int64 (K, K): rows are labels, columns predictions.
        each: the metrics of each class.
        accuracy: share of the pictures predicted correctly.
        log_loss: in nats, of the scores divided by their sum.
        brier_score: mean squared distance of those from the label's one-hot row, 0..2.
        macro_f1: mean F1 of the classes that have pictures; None if none is defined.
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    each: tuple[OneClass, ...]
    accuracy: float
    log_loss: float
    brier_score: float
    macro_f1: float | None


def confusion_matrix(
    labels: np.ndarray, predicted: np.ndarray, classes: int
) -> np.ndarray:
    """Pictures by label and prediction: int64 (K, K), rows are labels.

    Args:
        labels: int64 (N,), 0 to below K.
        predicted: int64 (N,), the same.
        classes: K.
    """
    counts = np.zeros((classes, classes), np.int64)
    np.add.at(counts, (labels, predicted), 1)
    return counts


def class_metrics(
    labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...]
) -> ClassMetrics:
    """Figures of scores with one column a class.

    Args:
        labels: int64 (N,), the column of each picture's label; N at least 1.
        scores: float64 (N, K), 0..1; in a tie the first class is predicted.
        names: of the K classes.
    """
    sklearn = import_metrics()
    columns = range(len(names))
    predicted = scores.argmax(axis=1)
    sums = scores.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, scores / np.where(sums > 0, sums, 1), 1 / len(names))
    confusion = confusion_matrix(labels, predicted, len(names))
    each = tuple(
        _one(names[k], confusion, k, labels == k, scores[:, k]) for k in columns
    )
    defined = [one.f1 for one in each if one.f1 is not None]
    one_hot = np.eye(len(names))[labels]
    return ClassMetrics(
        names,
        confusion,
        each,
        accuracy=float(np.trace(confusion) / len(labels)),
        log_loss=float(sklearn.log_loss(labels, shares, labels=list(columns))),
        brier_score=float(((shares - one_hot) ** 2).sum(axis=1).mean()),
        macro_f1=sum(defined) / len(defined) if defined else None,
    )


def _one(
    name: str, confusion: np.ndarray, column: int, is_it: np.ndarray, score: np.ndarray
) -> OneClass:
    sklearn = import_metrics()
    correct = int(confusion[column, column])
    rows, predicted = int(confusion[column].sum()), int(confusion[:, column].sum())
    both = 0 < rows < len(score)
    return OneClass(
        name,
        rows,
        precision=correct / predicted if predicted else None,
        recall=correct / rows if rows else None,
        f1=2 * correct / (rows + predicted) if rows else None,
        roc_auc=float(sklearn.roc_auc_score(is_it, score)) if both else None,
        average_precision=(
            float(sklearn.average_precision_score(is_it, score)) if both else None
        ),
    )
