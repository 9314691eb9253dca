"""Comparing two tables of scores of the same pictures, with tests of significance."""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from open_nsfw_tf.evaluate.bootstrap import (
    REPLICATES,
    Intervals,
    edges_of,
    percentiles,
    ranked,
)
from open_nsfw_tf.evaluate.metrics import summary

DISAGREEMENTS = 24  # pictures
PAIRED_ROWS = 200_000_000  # rows drawn at most for a comparison, at least LEAST times
LEAST = 100
COMPARED = ("roc_auc", "average_precision", "brier_score")


@dataclass(frozen=True)
class McNemar:
    """McNemar's exact test of whether two tables' decisions are equally often right.

    Attributes:
        only_first: pictures that only the first table decides correctly.
        only_second: pictures that only the second table decides correctly.
        p_value: the two-sided probability of a split at least as uneven, if both were
            equally good.
    """

    only_first: int
    only_second: int
    p_value: float


@dataclass(frozen=True)
class Comparison:
    """A second table of scores measured against a first.

    Attributes:
        first: the name of the first table.
        second: the name of the second table.
        differences: of `COMPARED`, the second's figure minus the first's; empty if the
            pictures are all of one class.
        intervals: 95 % of the paired bootstrap, for the same figures.
        replicates: of the bootstrap.
        mcnemar: of the decisions, with each table's own threshold.
        disagreements: int64 (M,), the pictures whose scores differ most, most first.
    """

    first: str
    second: str
    differences: dict[str, float]
    intervals: Intervals
    replicates: int
    mcnemar: McNemar
    disagreements: np.ndarray


def compare(
    positive: np.ndarray,
    first: tuple[str, np.ndarray, float],
    second: tuple[str, np.ndarray, float],
    replicates: int = REPLICATES,
) -> Comparison:
    """Compare two tables' scores of the same pictures.

    Args:
        positive: bool (N,), N at least 1.
        first: its name, scores as float64 (N,), 0..1, and threshold.
        second: the same.
        replicates: of the paired bootstrap; 0 leaves it out.
    """
    scores = first[1], second[1]
    figures = [summary(positive, score) for score in scores]
    differences: dict[str, float] = {}
    ends: Intervals = {}
    drawn = 0
    if positive.any() and not positive.all():
        pairs = {name: (figures[0][name], figures[1][name]) for name in COMPARED}
        differences = {
            name: after - before
            for name, (before, after) in pairs.items()
            if before is not None and after is not None
        }
        if replicates:
            ends, drawn = paired(positive, *scores, replicates=replicates)
    right = [(score >= t) == positive for _, score, t in (first, second)]
    apart = np.abs(scores[1] - scores[0])
    most = np.argsort(-apart, kind="stable")[:DISAGREEMENTS]
    return Comparison(
        first[0],
        second[0],
        differences,
        ends,
        drawn,
        mcnemar(right[0], right[1]),
        most[apart[most] > 0],
    )


def mcnemar(first: np.ndarray, second: np.ndarray) -> McNemar:
    """McNemar's exact test of two lists of right and wrong decisions.

    Args:
        first: bool (N,), whether the first decided each picture correctly.
        second: the same for the second.
    """
    stats = import_module("scipy.stats")  # installed with scikit-learn
    only_first, only_second = int((first & ~second).sum()), int((second & ~first).sum())
    if only_first + only_second == 0:
        return McNemar(0, 0, 1.0)
    return McNemar(
        only_first,
        only_second,
        float(stats.binomtest(only_first, only_first + only_second).pvalue),
    )


def paired(
    positive: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    replicates: int = REPLICATES,
    seed: int = 0,
) -> tuple[Intervals, int]:
    """95 % intervals of the differences, the second score's figures minus the first's.

    The same pictures are drawn for both. For more than 200,000 pictures there are fewer
    replicates, down to a hundred, to bound the work.

    Args:
        positive: bool (N,), both classes present.
        first: float64 (N,), 0..1.
        second: the same.
        replicates: how often to draw, at least 2.
        seed: of the draws.

    Returns:
        The lower and upper end for `roc_auc`, `average_precision` and `brier_score`,
        and the number of replicates.
    """
    replicates = min(replicates, max(LEAST, PAIRED_ROWS // len(positive)))
    rng = np.random.default_rng(seed)
    tables = [(s, edges_of(s)) for s in (first, second)]
    groups = [
        [np.searchsorted(edges, s[of], side="right") for of in (~positive, positive)]
        for s, edges in tables
    ]
    losses = [(s - positive) ** 2 for s, _ in tables]
    gain = losses[1] - losses[0]
    gains = [gain[~positive], gain[positive]]
    drawn: dict[str, list[float]] = {}
    for _ in range(replicates):
        rows = [rng.integers(len(part), size=len(part)) for part in gains]
        figures = []
        for (_, edges), where in zip(tables, groups, strict=True):
            size = len(edges) + 1
            counts = [
                np.bincount(part[of], minlength=size)[np.newaxis]
                for part, of in zip(where, rows, strict=True)
            ]
            figures.append(ranked(*counts))
        for name, value in figures[1].items():
            drawn.setdefault(name, []).append(float(value[0] - figures[0][name][0]))
        change = sum(float(g[of].sum()) for g, of in zip(gains, rows, strict=True))
        drawn.setdefault("brier_score", []).append(change / len(positive))
    found = {name: percentiles(np.array(v), -1.0) for name, v in drawn.items()}
    return found, replicates
