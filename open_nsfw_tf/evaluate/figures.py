"""Figures of a binary score: scikit-learn's, calibration, histograms."""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

BINS = 15  # of equal width, for the calibration error; as in Guo et al. 2017
HISTOGRAM = 40  # bars


@dataclass(frozen=True)
class Calibration:
    """How often pictures of about one score are positive.

    Attributes:
        edges: float64 (BINS + 1,), 0..1; a bin holds the scores from its lower edge to
            below its upper one, the last one 1 too.
        counts: int64 (BINS,), pictures.
        scores: float64 (BINS,), mean score of those pictures; NaN where there are none.
        shares: float64 (BINS,), share of them that is positive; NaN where none are.
        error: expected calibration error, 0..1: the mean distance of the two, over all
            pictures.
    """

    edges: np.ndarray
    counts: np.ndarray
    scores: np.ndarray
    shares: np.ndarray
    error: float


@dataclass(frozen=True)
class Histogram:
    """How the scores of each class are spread.

    Attributes:
        edges: float64 (HISTOGRAM + 1,), 0..1.
        positives: int64 (HISTOGRAM,), pictures of the positive class.
        negatives: int64 (HISTOGRAM,), the others.
    """

    edges: np.ndarray
    positives: np.ndarray
    negatives: np.ndarray


def metrics() -> Any:
    """`sklearn.metrics`, loaded when it is first needed.

    Raises:
        ImportError: scikit-learn is not installed; the message says how to.
    """
    if find_spec("sklearn") is None:
        raise ImportError(
            "evaluating needs scikit-learn: pip install 'open_nsfw_tf[evaluate]'"
        )
    return import_module("sklearn.metrics")


def summary(positive: np.ndarray, scores: np.ndarray) -> dict[str, float | None]:
    """The figures that need no threshold.

    Args:
        positive: bool (N,), N at least 1.
        scores: float64 (N,), 0..1.

    Returns:
        `roc_auc`, `average_precision`, `log_loss` (nats), `brier_score`,
        `expected_calibration_error` and `base_rate`, the share of positives. The first
        two are None where only one class is there: they compare classes.
    """
    sklearn = metrics()
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
    """Compare scores with how often they are right, in `BINS` bins of equal width.

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
