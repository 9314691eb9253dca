"""Scores in order, and how many pictures of each class lie above each of them.

Every curve and every threshold is read off these counts, so they cannot contradict each
other. Everywhere a picture is flagged if its score is *at or above* the threshold, as in
`open-nsfw classify --threshold`.
"""

from dataclasses import dataclass
from functools import cached_property

import numpy as np


@dataclass(frozen=True)
class Ranking:
    """Counts at every distinct score, from the highest down.

    Attributes:
        thresholds: float64 (K + 1,), falling; the first is infinity: nothing is flagged.
        true_positives: int64 (K + 1,), positives that score at or above the threshold.
        false_positives: int64 (K + 1,), negatives that do.
    """

    thresholds: np.ndarray
    true_positives: np.ndarray
    false_positives: np.ndarray

    @property
    def positives(self) -> int:
        """How many pictures are of the positive class."""
        return int(self.true_positives[-1])

    @property
    def negatives(self) -> int:
        """How many pictures are of the other classes."""
        return int(self.false_positives[-1])

    @cached_property
    def fpr(self) -> np.ndarray:
        """Share of the negatives that is flagged, float64 (K + 1,); NaN without any."""
        return _share(self.false_positives, self.negatives)

    @cached_property
    def tpr(self) -> np.ndarray:
        """Share of the positives that is flagged: recall; NaN without any."""
        return _share(self.true_positives, self.positives)

    @cached_property
    def fnr(self) -> np.ndarray:
        """Share of the positives that is missed; NaN without any."""
        return _share(self.positives - self.true_positives, self.positives)

    @cached_property
    def precision(self) -> np.ndarray:
        """Share of the flagged that is positive; 1 where nothing is flagged."""
        flagged = self.true_positives + self.false_positives
        return np.where(flagged, self.true_positives / np.maximum(flagged, 1), 1.0)

    def index(self, threshold: float) -> int:
        """Where in the arrays the decisions of any threshold stand."""
        rising = self.thresholds[::-1]
        return len(rising) - 1 - int(np.searchsorted(rising, threshold, side="left"))

    def both(self) -> bool:
        """Whether there are pictures of both classes: without, no curve is defined."""
        return bool(self.positives and self.negatives)


def rank(positive: np.ndarray, scores: np.ndarray) -> Ranking:
    """Count the classes at every distinct score.

    Args:
        positive: bool (N,), whether a picture is of the positive class; N at least 1.
        scores: float64 (N,), higher for the positive class.
    """
    order = np.argsort(scores)[::-1]
    ordered, hits = scores[order], positive[order]
    last = np.append(np.flatnonzero(np.diff(ordered)), len(ordered) - 1)
    true = np.cumsum(hits, dtype=np.int64)[last]
    return Ranking(
        np.concatenate(([np.inf], ordered[last])),
        np.concatenate(([0], true)),
        np.concatenate(([0], last + 1 - true)),
    )


def thinned(x: np.ndarray, y: np.ndarray, most: int = 500) -> np.ndarray:
    """The indices of the points that a figure needs to show a curve.

    Points are kept where the curve has moved on by a part of `most`: no steps are lost
    that an eye could see. First and last are always kept.

    Args:
        x: float64 (K,), of any finite range.
        y: the same.
        most: parts that the way along the curve is cut into.

    Returns:
        int64 (M,), rising, M at most 2 * `most` + 2.
    """
    step = np.abs(np.diff(x)) / max(np.ptp(x), 1e-12)
    step += np.abs(np.diff(y)) / max(np.ptp(y), 1e-12)
    way = np.concatenate(([0.0], np.cumsum(step)))
    wanted = np.searchsorted(way, np.linspace(0, way[-1], 2 * most))
    return np.unique(np.concatenate(([0], wanted, [len(x) - 1])))


def _share(counts: np.ndarray, of: int) -> np.ndarray:
    return counts / of if of else np.full(len(counts), np.nan)
