"""Confidence intervals of the figures by the bootstrap.

Pictures are resampled with replacement within each class, so that each replicate has as
many of each class as the data. Up to `GROUPS` distinct scores this is exact: how often
each score occurs is drawn from a multinomial distribution. More scores are first put
into `GROUPS` groups of adjacent scores, whose pictures count as equal in the
replicates; the small bias from the grouping is subtracted. A million pictures take
seconds.

The calibration error has no interval: its bootstrap is biased, as resampling only adds
to the error.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

GROUPS = 4096
REPLICATES = 1000
CHUNK = 50  # replicates in memory at once: 2 MB an array
LEVEL = 0.95
SMALLEST = 1e-15  # a probability's distance from 0 and 1, for the log loss

Intervals = dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Grouped:
    """Pictures in groups of adjacent scores, lowest first.

    Attributes:
        edges: float64 (G - 1,), rising: a group holds the scores at or above its edge.
        counts: int64 (2, G), pictures: negatives, positives.
        squares: float64 (2, G), their mean Brier loss.
        logs: float64 (2, G), their mean log loss.
    """

    edges: np.ndarray
    counts: np.ndarray
    squares: np.ndarray
    logs: np.ndarray


def edges_of(scores: np.ndarray) -> np.ndarray:
    """The lower edges of groups: every score, or `GROUPS` of them if there are more.

    Args:
        scores: float64 (N,), 0..1.
    """
    distinct = np.unique(scores)
    if len(distinct) > GROUPS:
        ranks = np.linspace(0, len(scores) - 1, GROUPS).astype(int)
        distinct = np.unique(np.sort(scores)[ranks])
    return distinct[1:]


def group(positive: np.ndarray, scores: np.ndarray, edges: np.ndarray) -> Grouped:
    """Put pictures into groups by score.

    Args:
        positive: bool (N,).
        scores: float64 (N,), 0..1.
        edges: from `edges_of`.
    """
    where = np.searchsorted(edges, scores, side="right")
    clipped = np.clip(np.where(positive, scores, 1 - scores), SMALLEST, 1)
    values = ((scores - positive) ** 2, -np.log(clipped))
    size = len(edges) + 1
    chosen = (~positive, positive)
    counts = np.stack([np.bincount(where[of], minlength=size) for of in chosen])
    means = [
        np.stack([np.bincount(where[of], value[of], size) for of in chosen])
        / np.maximum(counts, 1)
        for value in values
    ]
    return Grouped(edges, counts, *means)


def intervals(
    positive: np.ndarray,
    scores: np.ndarray,
    exact: dict[str, float | None],
    replicates: int = REPLICATES,
    seed: int = 0,
) -> Intervals:
    """95 % intervals of the figures, by the stratified percentile bootstrap.

    Args:
        positive: bool (N,), both classes present.
        scores: float64 (N,), 0..1.
        exact: the figures of the data themselves; None ones get no interval.
        replicates: how often to draw, at least 2.
        seed: of the draws.

    Returns:
        The lower and upper end, by figure.
    """
    grouped = group(positive, scores, edges_of(scores))
    rng = np.random.default_rng(seed)
    totals = grouped.counts.sum(axis=1)
    shares = grouped.counts / totals[:, np.newaxis]
    drawn: list[dict[str, np.ndarray]] = []
    for start in range(0, replicates, CHUNK):
        size = min(CHUNK, replicates - start)
        counts = [rng.multinomial(totals[of], shares[of], size) for of in (0, 1)]
        drawn.append(_figures(grouped, np.stack(counts, axis=1)))
    of_data = _figures(grouped, grouped.counts[np.newaxis])
    result = {}
    for name, value in of_data.items():
        if exact.get(name, value[0]) is None:
            continue
        shift = exact.get(name, value[0]) - value[0]
        result[name] = percentiles(np.concatenate([d[name] for d in drawn]) + shift)
    return result


def percentiles(values: np.ndarray, least: float = 0.0) -> tuple[float, float]:
    """The middle `LEVEL` of the replicates, not below a least value."""
    ends = np.quantile(values, [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return max(float(ends[0]), least), float(ends[1])


def _figures(grouped: Grouped, counts: np.ndarray) -> dict[str, np.ndarray]:
    """Every figure of replicates, each float64 (R,); `counts` is (R, 2, G)."""
    rows = counts.sum(axis=(1, 2), dtype=np.float64)
    figures = ranked(counts[:, 0], counts[:, 1])
    figures["brier_score"] = np.einsum("rcg,cg->r", counts, grouped.squares) / rows
    figures["log_loss"] = np.einsum("rcg,cg->r", counts, grouped.logs) / rows
    return figures


def rate_interval(count: int, of: int) -> tuple[float, float]:
    """The exact 95 % interval of a share: Clopper and Pearson, Biometrika 1934.

    Unlike the bootstrap's it is right for shares of 0 and 1: if none of 30 pictures is
    missed, the true share may be up to 11.6 %.

    Args:
        count: how many of them, 0 to `of`.
        of: the total, at least 1.
    """
    stats = import_module("scipy.stats")  # installed with scikit-learn
    interval = stats.binomtest(count, of).proportion_ci(LEVEL, method="exact")
    return float(interval.low), float(interval.high)


def ranked(negatives: np.ndarray, positives: np.ndarray) -> dict[str, np.ndarray]:
    """ROC AUC and average precision of counts by group.

    Args:
        negatives: int64 (R, G), in groups of rising score.
        positives: the same.

    Returns:
        `roc_auc` and `average_precision`, float64 (R,).
    """
    true = np.cumsum(positives[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
    false = np.cumsum(negatives[:, ::-1], axis=1, dtype=np.float64)[:, ::-1]
    higher = true - positives  # positives in the groups above
    pairs = np.einsum("rg,rg->r", negatives, higher + positives / 2)
    precision = true / np.maximum(true + false, 1)
    return {
        "roc_auc": pairs / (true[:, 0] * false[:, 0]),
        "average_precision": np.einsum("rg,rg->r", positives, precision) / true[:, 0],
    }
