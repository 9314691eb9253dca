"""What a threshold is chosen for, and choosing it."""

from dataclasses import dataclass

from open_nsfw_tf.evaluate.ranking import Ranking
from open_nsfw_tf.evaluate.thresholds import CRITERIA, YAHOO, by_cost

MIDDLE = 0.5


@dataclass(frozen=True)
class Criterion:
    """How the threshold is chosen; at most one of the first six is given.

    Attributes:
        max_fnr: the highest threshold that misses at most this share of the positives.
        max_fpr: the lowest that flags at most this share of the negatives.
        min_precision: the lowest whose flagged are this purely positive.
        min_recall: the highest that finds this share of the positives.
        cost: what a missed positive and a wrongly flagged negative cost.
        threshold: this very one.
        band: the two thresholds of safe, review and block.
    """

    max_fnr: float | None = None
    max_fpr: float | None = None
    min_precision: float | None = None
    min_recall: float | None = None
    cost: tuple[float, float] | None = None
    threshold: float | None = None
    band: tuple[float, float] = YAHOO

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
        The threshold, or None where none fits; how it was chosen, for people; and what
        is to be said of that.

    Raises:
        ValueError: a criterion out of range.
    """
    if criterion.threshold is not None:
        title = TITLES["threshold"]
        return criterion.threshold, title, []
    if criterion.cost is not None:
        missed, flagged = criterion.cost
        title = f"lowest cost, a miss at {missed:g}, a false alarm at {flagged:g}"
        return _told(by_cost(ranking, criterion.cost), title)
    for name, by in CRITERIA.items():
        wanted = getattr(criterion, name)
        if wanted is not None:
            return _told(by(ranking, wanted), TITLES[name].format(100 * wanted))
    return MIDDLE, "the middle, which recommends nothing", []


def _told(threshold: float | None, title: str) -> tuple[float | None, str, list[str]]:
    if threshold is None:
        return None, title, [f"no threshold of 0 to 1 gives {title}"]
    return threshold, title, []
