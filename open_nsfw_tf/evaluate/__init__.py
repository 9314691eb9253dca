"""How good scores are, and which threshold to take.

Yahoo's advice is to fit a ROC curve on your own data and choose a threshold. `evaluate`
does that for scores and labels; `read_labels` and `join` bring the two together. All
figures are of the positive class against the rest; a picture is flagged if its score is
at or above the threshold. Needs the extra `evaluate`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from open_nsfw_tf.evaluate import thresholds as choose
from open_nsfw_tf.evaluate.bootstrap import (
    REPLICATES,
    Intervals,
    intervals,
    rate_interval,
)
from open_nsfw_tf.evaluate.cases import Cases, Problem, join
from open_nsfw_tf.evaluate.classes import Classes, all_classes
from open_nsfw_tf.evaluate.compare import Comparison, compare
from open_nsfw_tf.evaluate.criterion import MIDDLE, Criterion, choose_threshold
from open_nsfw_tf.evaluate.figures import (
    Calibration,
    Histogram,
    calibration,
    histogram,
    metrics,
    summary,
)
from open_nsfw_tf.evaluate.labels import Labels, read_labels
from open_nsfw_tf.evaluate.ranking import Ranking, rank
from open_nsfw_tf.evaluate.thresholds import YAHOO, Band, OperatingPoint
from open_nsfw_tf.filetype import name_key

__all__ = [
    "Calibration",
    "Cases",
    "Classes",
    "Comparison",
    "Criterion",
    "Evaluation",
    "Histogram",
    "Labels",
    "OperatingPoint",
    "Problem",
    "compare",
    "evaluate",
    "evaluate_classes",
    "join",
    "positive_columns",
    "read_labels",
]
MAX_ERROR = 0.01  # of the fitted band, where nothing else is asked for
MOST_REPLICATES = 100_000


@dataclass(frozen=True)
class Evaluation:
    """What one table of scores is worth.

    Attributes:
        name: of the table.
        positive: the class that is looked for.
        rows: pictures.
        positives: how many are of the positive class.
        negatives: how many are not.
        figures: see `open_nsfw_tf.evaluate.figures.summary`.
        intervals: 95 % of them, by the bootstrap, none if it was not asked for or only
            one class is there; and exact ones of the chosen threshold's `fpr`, `fnr`,
            `precision` and `recall`.
        replicates: of the bootstrap.
        criterion: how the threshold was chosen, for people.
        chosen: what the chosen threshold does; None if no threshold fits, or if only
            one class is there and none was given.
        thresholds: what thresholds in steps do, rising.
        operating_points: by name; None where no threshold fits.
        bands: the given one, and the narrowest with few errors, where there is one.
        ranking: the counts that ROC, precision-recall and DET curves are drawn from.
        calibration: how often pictures of about one score are positive.
        histogram: how the scores of each class are spread.
        classes: figures of every class, where there are more than two.
        said: what the reader must know, a line each.
    """

    name: str
    positive: str
    rows: int
    positives: int
    negatives: int
    figures: dict[str, float | None]
    intervals: Intervals
    replicates: int
    criterion: str
    chosen: OperatingPoint | None
    thresholds: list[OperatingPoint]
    operating_points: dict[str, OperatingPoint | None]
    bands: list[Band]
    ranking: Ranking
    calibration: Calibration
    histogram: Histogram
    classes: Classes | None = None
    said: tuple[str, ...] = field(default_factory=tuple)

    @property
    def threshold(self) -> float:
        """The chosen threshold, or the middle where none fits."""
        return MIDDLE if self.chosen is None else self.chosen.threshold


def evaluate(
    positive: np.ndarray,
    scores: np.ndarray,
    criterion: Criterion | None = None,
    *,
    name: str = "scores",
    positive_name: str = "nsfw",
    classes: Classes | None = None,
    bootstrap: int = REPLICATES,
) -> Evaluation:
    """Measure how well scores tell the positive class from the rest.

    Args:
        positive: bool (N,), whether each picture is of the positive class.
        scores: float (N,), its score, 0..1.
        criterion: how to choose the threshold; None: 0.5, which is no recommendation.
        name: of the scores, for people.
        positive_name: of the positive class.
        classes: figures of several classes, to be carried along.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.

    Raises:
        ValueError: no pictures, arrays that do not fit, scores that are NaN or not
            between 0 and 1, or a criterion out of range.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    positive, scores = _checked(positive, scores)
    if bootstrap != 0 and not 2 <= bootstrap <= MOST_REPLICATES:
        raise ValueError(
            f"expected 2 to {MOST_REPLICATES} replicates, or 0, got {bootstrap}"
        )
    criterion = criterion or Criterion()
    metrics()  # a missing library is told at once
    ranking = rank(positive, scores)
    threshold, title, said = choose_threshold(ranking, criterion)
    if not ranking.both() and criterion.threshold is None:
        threshold = None  # whatever the criterion gives, the other class has no say
    chosen = None if threshold is None else choose.at(ranking, threshold)
    figures = summary(positive, scores)
    found: Intervals = {}
    if not ranking.both():
        only = positive_name if ranking.positives else f"not {positive_name}"
        said.append(
            f"every picture is {only}: ROC and average precision are undefined, and no "
            "threshold can be chosen; add pictures of the other class"
        )
    elif bootstrap:
        found = intervals(positive, scores, figures, bootstrap)
    bands = _bands(ranking, criterion)
    if ranking.both() and len(bands) == 1:
        said.append(
            "no band of review keeps both shares of errors: too many pictures of the "
            "other class score 1; allow more with --max-fpr"
        )
    return Evaluation(
        name=name,
        positive=positive_name,
        rows=len(scores),
        positives=ranking.positives,
        negatives=ranking.negatives,
        figures=figures,
        intervals=found | _rates(chosen),
        replicates=bootstrap if ranking.both() else 0,
        criterion=title,
        chosen=chosen,
        thresholds=choose.table(ranking),
        operating_points=choose.standard(ranking),
        bands=bands,
        ranking=ranking,
        calibration=calibration(positive, scores),
        histogram=histogram(positive, scores),
        classes=classes,
        said=tuple(said),
    )


def positive_columns(
    classes: Sequence[str], positive: Sequence[str] = ("nsfw",)
) -> list[int]:
    """The columns of the positive class, whose scores are added up.

    Args:
        classes: the names of all columns.
        positive: one name or more; upper and lower case do not matter.

    Raises:
        ValueError: a name is no class, or all classes are named.
    """
    wanted = {name_key(name) for name in positive}
    columns = [i for i, name in enumerate(classes) if name_key(name) in wanted]
    if len(columns) < len(wanted) or not 0 < len(columns) < len(classes):
        raise ValueError(
            f"expected as positive some of the classes {', '.join(classes)}, got "
            f"{', '.join(positive)}: name them, such as --positive {classes[-1]}"
        )
    return columns


def evaluate_classes(
    labels: np.ndarray,
    scores: np.ndarray,
    classes: Sequence[str],
    criterion: Criterion | None = None,
    *,
    positive: Sequence[str] = ("nsfw",),
    name: str = "scores",
    bootstrap: int = REPLICATES,
) -> Evaluation:
    """Measure scores that have one column a class.

    Args:
        labels: int (N,), the column of each picture's label.
        scores: float (N, K), 0..1.
        classes: the K names.
        criterion: how to choose the threshold of the positive class.
        positive: the classes that are looked for; of several the scores are added up.
        name: of the scores, for people.
        bootstrap: replicates; 0 leaves the confidence intervals out.

    Raises:
        ValueError: as `evaluate`, and where the positive classes are none of the names.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    columns = positive_columns(classes, positive)
    score = scores[:, columns].sum(axis=1)
    if len(columns) > 1:  # shares of one whole: what exceeds it is rounding
        score = np.minimum(score, 1.0)
    several = len(classes) > 2 and len(scores) > 0
    return evaluate(
        np.isin(labels, columns),
        score,
        criterion,
        name=name,
        positive_name=" + ".join(classes[column] for column in columns),
        classes=all_classes(labels, scores, tuple(classes)) if several else None,
        bootstrap=bootstrap,
    )


def _checked(positive: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    positive, scores = np.asarray(positive), np.asarray(scores, np.float64)
    if positive.dtype != bool or positive.ndim != 1 or positive.shape != scores.shape:
        raise ValueError(
            "expected bool labels and as many scores, got "
            f"{positive.dtype} {positive.shape} and {scores.dtype} {scores.shape}"
        )
    if not len(scores):
        raise ValueError("no pictures: expected scores and labels of at least one")
    bad = np.flatnonzero(~((scores >= 0) & (scores <= 1)))
    if len(bad):
        raise ValueError(
            f"expected scores of 0 to 1, got {scores[bad[0]]:g} in row {bad[0]} and "
            f"{len(bad) - 1} more like it"
        )
    return positive, scores


def _rates(point: OperatingPoint | None) -> Intervals:
    """Exact intervals of what a threshold does, where it is defined."""
    if point is None:
        return {}
    flagged = point.true_positives + point.false_positives
    positives = point.true_positives + point.false_negatives
    negatives = point.false_positives + point.true_negatives
    counts = {
        "fpr": (point.false_positives, negatives),
        "fnr": (point.false_negatives, positives),
        "precision": (point.true_positives, flagged),
        "recall": (point.true_positives, positives),
    }
    return {name: rate_interval(part, of) for name, (part, of) in counts.items() if of}


def _bands(ranking: Ranking, criterion: Criterion) -> list[Band]:
    title = "Yahoo's orientation" if criterion.band == YAHOO else "as given"
    bands: list[Band | None] = [choose.band(ranking, *criterion.band, title)]
    max_fnr = MAX_ERROR if criterion.max_fnr is None else criterion.max_fnr
    max_fpr = MAX_ERROR if criterion.max_fpr is None else criterion.max_fpr
    bands.append(choose.fitted_band(ranking, max_fnr, max_fpr))
    return [band for band in bands if band is not None]
