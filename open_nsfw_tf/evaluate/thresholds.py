"""Thresholds: the errors that each one makes, and which one meets a criterion.

All curves and thresholds are computed from the same counts at each distinct score, so
they cannot contradict each other. A picture is flagged if its score is *at or above*
the threshold, as in `open-nsfw classify --threshold`. A threshold is given as the
shortest decimal number that makes the same decisions on the data, so that it can be
written down without changing a decision.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from decimal import ROUND_FLOOR, Decimal
from functools import cached_property

import numpy as np

from open_nsfw_tf.tables.decision import YAHOO_BAND, check_band

STEPS = (0.01, 0.02, *(round(0.05 * step, 2) for step in range(1, 20)), 0.98, 0.99)
ROUNDING = 1e-9  # of a rate times a count: .05 * 60 must allow 3
MIDDLE = 0.5


@dataclass(frozen=True)
class Ranking:
    """Counts at every distinct score, from the highest down.

    Attributes:
        thresholds: float64 (K + 1,), falling; the first is infinity: nothing is
            flagged.
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
        """The index in the arrays that has the decisions of a threshold."""
        rising = self.thresholds[::-1]
        return len(rising) - 1 - int(np.searchsorted(rising, threshold, side="left"))

    def both(self) -> bool:
        """Whether there are pictures of both classes, which the curves need."""
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
    """The indices of the points of a curve that a figure needs.

    Points are chosen at equal distances along the curve, so that no visible step is
    lost. The first and the last point are always included.

    Args:
        x: float64 (K,), of any finite range.
        y: the same.
        most: half the number of points to choose.

    Returns:
        int64 (M,), rising, M at most 2 * `most` + 2.
    """
    step = np.abs(np.diff(x)) / max(np.ptp(x), 1e-12)
    step += np.abs(np.diff(y)) / max(np.ptp(y), 1e-12)
    length = np.concatenate(([0.0], np.cumsum(step)))
    wanted = np.searchsorted(length, np.linspace(0, length[-1], 2 * most))
    return np.unique(np.concatenate(([0], wanted, [len(x) - 1])))


def _share(counts: np.ndarray, of: int) -> np.ndarray:
    return counts / of if of else np.full(len(counts), np.nan)


@dataclass(frozen=True)
class OperatingPoint:
    """The decisions that a threshold makes on the pictures, and their error rates.

    Attributes:
        threshold: scores at or above it are flagged, 0..1.
        fpr: share of the negatives that is flagged; None without negatives.
        fnr: share of the positives that is missed; None without positives.
        precision: share of the flagged that is positive; None if nothing is flagged.
        recall: share of the positives that is flagged; None without positives.
        f1: harmonic mean of precision and recall; None where either is undefined.
        accuracy: share of all pictures that is decided correctly.
        flagged: share of all pictures that is flagged: blocked, or sent to review.
        true_positives: flagged positives.
        false_positives: flagged negatives.
        true_negatives: negatives that pass.
        false_negatives: positives that pass.
    """

    threshold: float
    fpr: float | None
    fnr: float | None
    precision: float | None
    recall: float | None
    f1: float | None
    accuracy: float
    flagged: float
    true_positives: int
    false_positives: int
    true_negatives: int
    false_negatives: int


@dataclass(frozen=True)
class Band:
    """Two thresholds: scores below both are safe, from the upper one blocked.

    Attributes:
        low: scores from this one up to `high` are reviewed by a human.
        high: scores from this one are blocked.
        safe: share of all pictures below `low`.
        review: share of all pictures between the two.
        block: share of all pictures from `high`.
        missed: share of the positives below `low`; None without positives.
        wrongly_blocked: share of the negatives from `high`; None without negatives.
        title: how the two were chosen.
    """

    low: float
    high: float
    safe: float
    review: float
    block: float
    missed: float | None
    wrongly_blocked: float | None
    title: str


def at(ranking: Ranking, threshold: float) -> OperatingPoint:
    """The operating point of a threshold.

    Args:
        ranking: of the pictures, at least one.
        threshold: any number.
    """
    where = ranking.index(threshold)
    true, false = _counts(ranking, where)
    missed, passed = ranking.positives - true, ranking.negatives - false
    total = ranking.positives + ranking.negatives
    return OperatingPoint(
        threshold=threshold,
        fpr=_ratio(false, ranking.negatives),
        fnr=_ratio(missed, ranking.positives),
        precision=_ratio(true, true + false),
        recall=_ratio(true, ranking.positives),
        f1=_ratio(2 * true, 2 * true + false + missed) if ranking.positives else None,
        accuracy=(true + passed) / total,
        flagged=(true + false) / total,
        true_positives=true,
        false_positives=false,
        true_negatives=passed,
        false_negatives=missed,
    )


def table(ranking: Ranking) -> list[OperatingPoint]:
    """The operating points of the thresholds `STEPS`, rising."""
    return [at(ranking, threshold) for threshold in STEPS]


def by_fnr(ranking: Ranking, most: float) -> float | None:
    """The highest threshold that misses at most this share of the positives.

    Args:
        ranking: of the pictures.
        most: 0..1, 1 excluded.

    Returns:
        The threshold; None without positives.

    Raises:
        ValueError: `most` is not such a share.
    """
    _check_share(most, "a false negative rate")
    if not ranking.positives:
        return None
    missed = ranking.positives - ranking.true_positives
    fits = missed <= most * ranking.positives + ROUNDING
    return readable(ranking, int(np.argmax(fits)))


def by_fpr(ranking: Ranking, most: float) -> float | None:
    """The lowest threshold that flags at most this share of the negatives.

    Args:
        ranking: of the pictures.
        most: 0..1, 1 excluded.

    Returns:
        The threshold; None without negatives, and if even a threshold of 1 flags more,
        because so many negatives score 1.

    Raises:
        ValueError: `most` is not such a share.
    """
    _check_share(most, "a false positive rate")
    if not ranking.negatives:
        return None
    fits = ranking.false_positives <= most * ranking.negatives + ROUNDING
    return readable(ranking, int(np.flatnonzero(fits)[-1]))


def by_precision(ranking: Ranking, least: float) -> float | None:
    """The lowest threshold with at least this precision.

    Among all thresholds of at least that precision it has the highest recall.

    Returns:
        The threshold; None if no threshold has that precision.

    Raises:
        ValueError: `least` is not above 0 and at most 1.
    """
    _check_least(least, "a precision")
    flagged = ranking.true_positives + ranking.false_positives
    fits = ranking.true_positives >= least * flagged - ROUNDING
    fits &= ranking.true_positives > 0
    if not fits.any():
        return None
    # Of those with the most true positives, the first has the fewest false positives.
    best = ranking.true_positives[fits].max()
    return readable(ranking, int(np.argmax(fits & (ranking.true_positives == best))))


def by_recall(ranking: Ranking, least: float) -> float | None:
    """The highest threshold with at least this recall.

    Returns:
        The threshold; None without positives.

    Raises:
        ValueError: `least` is not above 0 and at most 1.
    """
    _check_least(least, "a recall")
    return by_fnr(ranking, 1 - least)


def by_cost(ranking: Ranking, ratio: tuple[float, float]) -> float | None:
    """The threshold with the lowest cost on this data, with its share of positives.

    Args:
        ranking: of the pictures.
        ratio: the cost of a missed positive, and of a wrongly flagged negative.

    Returns:
        The threshold, the highest of several with the same cost; None if flagging
        nothing has the lowest cost, but every threshold flags pictures that score 1.

    Raises:
        ValueError: a cost is not above 0 or not finite.
    """
    if not all(math.isfinite(cost) and cost > 0 for cost in ratio):
        raise ValueError(
            f"expected two costs above 0, such as 10:1, got {ratio[0]:g}:{ratio[1]:g}"
        )
    missed = ranking.positives - ranking.true_positives
    cost = ratio[0] * missed + ratio[1] * ranking.false_positives
    return readable(ranking, int(np.argmin(cost)))


def by_f1(ranking: Ranking) -> float | None:
    """The threshold with the highest F1; None without positives."""
    if not ranking.positives:
        return None
    both = ranking.positives + ranking.false_positives + ranking.true_positives
    return readable(ranking, int(np.argmax(2 * ranking.true_positives / both)))


CRITERIA: dict[str, Callable[[Ranking, float], float | None]] = {
    "max_fnr": by_fnr,
    "max_fpr": by_fpr,
    "min_precision": by_precision,
    "min_recall": by_recall,
}
# The operating points that are always reported; Yahoo reports FPR at a fixed FNR.
STANDARD = {
    "max_fnr": (0.01, 0.05, 0.1),
    "max_fpr": (0.001, 0.01, 0.05),
    "min_precision": (0.95,),
    "min_recall": (0.95,),
}


def standard(ranking: Ranking) -> dict[str, OperatingPoint | None]:
    """The operating points of `STANDARD`, by name, such as `max_fnr_0.05`."""
    thresholds = {
        f"{name}_{wanted:g}": CRITERIA[name](ranking, wanted)
        for name, all_wanted in STANDARD.items()
        for wanted in all_wanted
    }
    thresholds["best_f1"] = by_f1(ranking)
    return {
        name: None if threshold is None else at(ranking, threshold)
        for name, threshold in thresholds.items()
    }


def band(ranking: Ranking, low: float, high: float, title: str) -> Band:
    """Divide the pictures into safe, review and block.

    Raises:
        ValueError: the thresholds are not 0..1 and rising.
    """
    check_band((low, high))
    lower, upper = at(ranking, low), at(ranking, high)
    total = ranking.positives + ranking.negatives
    flagged = lower.true_positives + lower.false_positives
    blocked = upper.true_positives + upper.false_positives
    return Band(
        low,
        high,
        safe=(total - flagged) / total,
        review=(flagged - blocked) / total,
        block=blocked / total,
        missed=lower.fnr,
        wrongly_blocked=upper.fpr,
        title=title,
    )


def fitted_band(ranking: Ranking, max_fnr: float, max_fpr: float) -> Band | None:
    """The narrowest band that misses and wrongly blocks at most these shares.

    Returns:
        The band; its two thresholds are equal if one threshold meets both limits. None
        if one of the two is undefined.
    """
    low, high = by_fnr(ranking, max_fnr), by_fpr(ranking, max_fpr)
    if low is None or high is None:
        return None
    title = (
        f"at most {100 * max_fnr:.6g} % missed, at most {100 * max_fpr:.6g} % wrongly "
        "blocked"
    )
    # If low > high, every threshold between meets both limits: no review is needed.
    return band(ranking, min(low, high), high, title)


def readable(ranking: Ranking, index: int) -> float | None:
    """The shortest decimal number with the decisions of the threshold at an index.

    Returns:
        A number at most the threshold and above the next lower score; 0..1. None if
        nothing should be flagged, but a picture scores 1.
    """
    rising = ranking.thresholds
    low = float(rising[index + 1]) if index + 1 < len(rising) else -math.inf
    high = min(float(rising[index]), 1.0)
    if low >= high:
        return None
    exact = Decimal(repr(high))
    for digits in range(1, 18):
        candidate = float(exact.quantize(Decimal(1).scaleb(-digits), ROUND_FLOOR))
        if low < candidate <= high:
            return candidate
    return high


def _counts(ranking: Ranking, where: int) -> tuple[int, int]:
    return int(ranking.true_positives[where]), int(ranking.false_positives[where])


def _ratio(part: float, whole: float) -> float | None:
    return part / whole if whole else None


def _check_share(share: float, what: str) -> None:
    if not 0 <= share < 1:
        raise ValueError(f"expected {what} of 0 to below 1, got {share:g}")


def _check_least(share: float, what: str) -> None:
    if not 0 < share <= 1:
        raise ValueError(f"expected {what} above 0 and at most 1, got {share:g}")


@dataclass(frozen=True)
class Criterion:
    """How the threshold is chosen; at most one of the first six is given.

    Attributes:
        max_fnr: the highest threshold that misses at most this share of the positives.
        max_fpr: the lowest that flags at most this share of the negatives.
        min_precision: the lowest with at least this precision.
        min_recall: the highest with at least this recall.
        cost: of a missed positive, and of a wrongly flagged negative.
        threshold: this one.
        band: the two thresholds of safe, review and block.
    """

    max_fnr: float | None = None
    max_fpr: float | None = None
    min_precision: float | None = None
    min_recall: float | None = None
    cost: tuple[float, float] | None = None
    threshold: float | None = None
    band: tuple[float, float] = YAHOO_BAND

    def __post_init__(self) -> None:
        given = [name for name in (*TITLES, "cost") if getattr(self, name) is not None]
        if len(given) > 1:
            raise ValueError(
                f"expected one way to choose the threshold, got {' and '.join(given)}"
            )
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"expected a threshold of 0 to 1, got {self.threshold:g}")


TITLES = {
    "max_fnr": "at most {:.6g} % of the positives missed",
    "max_fpr": "at most {:.6g} % of the negatives flagged",
    "min_precision": "precision of at least {:.6g} %",
    "min_recall": "recall of at least {:.6g} %",
    "threshold": "as given",
}


def choose_threshold(
    ranking: Ranking, criterion: Criterion
) -> tuple[float | None, str, list[str]]:
    """Choose a threshold.

    Args:
        ranking: of the pictures it is chosen on.
        criterion: how.

    Returns:
        The threshold, or None if none meets the criterion; how it was chosen, for
        people; and notes on that.

    Raises:
        ValueError: a criterion out of range.
    """
    if criterion.threshold is not None:
        title = TITLES["threshold"]
        return criterion.threshold, title, []
    if criterion.cost is not None:
        missed, flagged = criterion.cost
        title = f"lowest cost, a miss at {missed:g}, a false alarm at {flagged:g}"
        return _with_note(by_cost(ranking, criterion.cost), title)
    for name, by in CRITERIA.items():
        wanted = getattr(criterion, name)
        if wanted is not None:
            return _with_note(by(ranking, wanted), TITLES[name].format(100 * wanted))
    return MIDDLE, "the middle, which recommends nothing", []


def _with_note(
    threshold: float | None, title: str
) -> tuple[float | None, str, list[str]]:
    if threshold is None:
        return None, title, [f"no threshold of 0 to 1 gives {title}"]
    return threshold, title, []
