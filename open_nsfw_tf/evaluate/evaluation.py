"""Evaluating scores against labels: from arrays, from joined tables, or from files.

`evaluate` takes arrays, `evaluate_joined` takes tables that `join` has given labels,
and `evaluate_files` reads files. All figures are of the positive class against the
rest; a picture is flagged if its score is at or above the threshold.
"""

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate import thresholds as choose
from open_nsfw_tf.evaluate.bootstrap import (
    REPLICATES,
    Intervals,
    intervals,
    rate_interval,
)
from open_nsfw_tf.evaluate.comparison import Comparison, compare
from open_nsfw_tf.evaluate.grouping import by_path, partial_videos
from open_nsfw_tf.evaluate.join import PROBLEMS, JoinedScores, Problem, join
from open_nsfw_tf.evaluate.labels import read_labels
from open_nsfw_tf.evaluate.metrics import (
    Calibration,
    ClassMetrics,
    Histogram,
    calibration,
    class_metrics,
    histogram,
    import_metrics,
    summary,
)
from open_nsfw_tf.evaluate.thresholds import (
    MIDDLE,
    Band,
    Criterion,
    OperatingPoint,
    Ranking,
    choose_threshold,
    rank,
    thinned,
)
from open_nsfw_tf.files import class_links
from open_nsfw_tf.tables import (
    SUFFIXES,
    Table,
    positive_columns,
    positive_score,
    read_table,
)
from open_nsfw_tf.tables.decision import YAHOO_BAND
from open_nsfw_tf.video import Rule
from open_nsfw_tf.video.sampling import EVERY_SECOND

if TYPE_CHECKING:
    from open_nsfw_tf.classifier import Classifier

MAX_ERROR = 0.01  # of the fitted band, by default
MOST_REPLICATES = 100_000
ON_THE_FLY = "open_nsfw"  # the name of the scores that are computed here


@dataclass(frozen=True)
class Evaluation:
    """The evaluation of one table of scores.

    Attributes:
        name: of the table.
        positive: the name of the positive class.
        rows: pictures.
        positives: how many are of the positive class.
        negatives: how many are not.
        figures: see `open_nsfw_tf.evaluate.metrics.summary`.
        intervals: 95 % intervals of them, by the bootstrap, if it was requested and
            both classes are present; and exact ones of the chosen threshold's `fpr`,
            `fnr`, `precision` and `recall`.
        replicates: of the bootstrap.
        criterion: how the threshold was chosen, for people.
        chosen: the operating point of the chosen threshold; None if no threshold meets
            the criterion, or if all pictures are of one class and none was given.
        thresholds: the operating points of thresholds in steps, rising.
        operating_points: by name; None where no threshold meets the criterion.
        bands: the given one, and the narrowest with few errors, if there is one.
        ranking: the counts that ROC, precision-recall and DET curves are drawn from.
        calibration: the share of positives among pictures of similar scores.
        histogram: the distribution of the scores of each class.
        classes: figures of every class, if there are more than two.
        notes: what the reader must know, one line each.
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
    classes: ClassMetrics | None = None
    notes: tuple[str, ...] = field(default_factory=tuple)

    @property
    def threshold(self) -> float:
        """The chosen threshold, or 0.5 if there is none."""
        return MIDDLE if self.chosen is None else self.chosen.threshold


def evaluate(
    positive: np.ndarray,
    scores: np.ndarray,
    criterion: Criterion | None = None,
    *,
    name: str = "scores",
    positive_name: str = "nsfw",
    classes: ClassMetrics | None = None,
    bootstrap: int = REPLICATES,
) -> Evaluation:
    """Measure how well scores tell the positive class from the rest.

    Args:
        positive: bool (N,), whether each picture is of the positive class.
        scores: float (N,), its score, 0..1.
        criterion: how to choose the threshold; None: 0.5, which is no recommendation.
        name: of the scores, for people.
        positive_name: of the positive class.
        classes: figures of several classes, which the result will contain.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.

    Raises:
        ValueError: no pictures, arrays of different lengths or other dtypes, scores
            that are NaN or not between 0 and 1, or a criterion out of range.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    positive, scores = _checked(positive, scores)
    if bootstrap != 0 and not 2 <= bootstrap <= MOST_REPLICATES:
        raise ValueError(
            f"expected 2 to {MOST_REPLICATES} replicates, or 0, got {bootstrap}"
        )
    criterion = criterion or Criterion()
    import_metrics()  # a missing library is named before any work
    ranking = rank(positive, scores)
    threshold, title, notes = choose_threshold(ranking, criterion)
    if not ranking.both() and criterion.threshold is None:
        threshold = None  # with one class, any criterion is met by a useless threshold
    chosen = None if threshold is None else choose.at(ranking, threshold)
    figures = summary(positive, scores)
    found: Intervals = {}
    if not ranking.both():
        only = positive_name if ranking.positives else f"not {positive_name}"
        notes.append(
            f"every picture is {only}: ROC and average precision are undefined, and no "
            "threshold can be chosen; add pictures of the other class"
        )
    elif bootstrap:
        found = intervals(positive, scores, figures, bootstrap)
    bands = _bands(ranking, criterion)
    if ranking.both() and len(bands) == 1:
        notes.append(
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
        notes=tuple(notes),
    )


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
        positive: the positive classes; the scores of several are added up.
        name: of the scores, for people.
        bootstrap: replicates; 0 leaves the confidence intervals out.

    Raises:
        ValueError: as `evaluate` and `positive_columns`.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    columns = positive_columns(classes, positive)
    score = positive_score(scores, columns)
    several = len(classes) > 2 and len(scores) > 0
    return evaluate(
        np.isin(labels, columns),
        score,
        criterion,
        name=name,
        positive_name=" + ".join(classes[column] for column in columns),
        classes=class_metrics(labels, scores, tuple(classes)) if several else None,
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
    """Exact intervals of the rates of an operating point, if there is one."""
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
    title = "Yahoo's orientation" if criterion.band == YAHOO_BAND else "as given"
    bands: list[Band | None] = [choose.band(ranking, *criterion.band, title)]
    max_fnr = MAX_ERROR if criterion.max_fnr is None else criterion.max_fnr
    max_fpr = MAX_ERROR if criterion.max_fpr is None else criterion.max_fpr
    bands.append(choose.fitted_band(ranking, max_fnr, max_fpr))
    return [band for band in bands if band is not None]


@dataclass(frozen=True)
class EvaluationReport:
    """Tables of scores, evaluated on the same pictures and compared.

    Attributes:
        joined: the pictures, their labels and scores, and the problems of the data.
        positive: bool (N,), whether each picture is of the positive class.
        scores: by table, float64 (N,), of the positive class.
        evaluations: one a table.
        comparisons: of the second table and each further one with the first.
    """

    joined: JoinedScores
    positive: np.ndarray
    scores: dict[str, np.ndarray]
    evaluations: list[Evaluation]
    comparisons: list[Comparison]

    def mistakes(self, table: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The pictures that are misclassified with the chosen threshold of a table.

        Returns:
            int64: the missed positives, lowest score first, and the wrongly flagged
            negatives, highest score first; none without a chosen threshold.
        """
        evaluation = self.evaluations[table]
        if evaluation.chosen is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        scores = self.scores[evaluation.name]
        flagged = scores >= evaluation.threshold
        missed = np.flatnonzero(self.positive & ~flagged)
        wrong = np.flatnonzero(~self.positive & flagged)
        return (
            missed[np.argsort(scores[missed], kind="stable")],
            wrong[np.argsort(-scores[wrong], kind="stable")],
        )

    def to_dict(self) -> dict[str, Any]:
        """Every figure under a plain key, ready for JSON.

        The first table's figures stand on top; those of several tables also by name in
        `evaluations`, with `comparisons`. `problems` are those of the data.
        """
        all_figures = {one.name: evaluation_dict(one) for one in self.evaluations}
        result = dict(next(iter(all_figures.values())))
        result["problems"] = [problem_dict(p) for p in self.joined.problems]
        if len(all_figures) > 1:
            result["evaluations"] = all_figures
            result["comparisons"] = [
                comparison_dict(one, self.joined.paths) for one in self.comparisons
            ]
        return result


def evaluate_joined(
    joined: JoinedScores,
    criterion: Criterion | None = None,
    *,
    positive: Sequence[str] = ("nsfw",),
    bootstrap: int = REPLICATES,
) -> EvaluationReport:
    """Evaluate every table of scores, and compare each with the first.

    Args:
        joined: the result of `open_nsfw_tf.evaluate.join`.
        criterion: how each table's threshold is chosen; None: 0.5.
        positive: the positive classes.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.

    Raises:
        ValueError: a positive class is not a class of the data, or a criterion is out
            of range.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    columns = positive_columns(joined.classes, positive)
    is_positive = np.isin(joined.labels, columns)
    evaluations = [
        evaluate_classes(
            joined.labels,
            scores,
            joined.classes,
            criterion,
            positive=positive,
            name=name,
            bootstrap=bootstrap,
        )
        for name, scores in joined.scores.items()
    ]
    scores = {
        name: np.minimum(table[:, columns].sum(axis=1), 1.0)
        for name, table in joined.scores.items()
    }
    tables = [(one.name, scores[one.name], one.threshold) for one in evaluations]
    comparisons = [
        compare(is_positive, tables[0], other, bootstrap) for other in tables[1:]
    ]
    return EvaluationReport(joined, is_positive, scores, evaluations, comparisons)


def evaluation_dict(evaluation: Evaluation) -> dict[str, Any]:
    """Every figure of an evaluation under a plain key; undefined ones are None.

    Returns:
        `roc_auc`, `average_precision` and the other figures, `intervals`, the chosen
        `threshold` with its rates (`fpr`, `fnr`, `precision`, ..., and
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
        "notes": list(evaluation.notes),
    }


def comparison_dict(comparison: Comparison, paths: list[str]) -> dict[str, Any]:
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


def problem_dict(problem: Problem) -> dict[str, Any]:
    """A problem of the data, with its title."""
    return {**asdict(problem), "title": PROBLEMS[problem.kind]}


def _curves(evaluation: Evaluation) -> dict[str, list[float]] | None:
    """One row of points for ROC, precision-recall and DET; infinity becomes None."""
    ranking = evaluation.ranking
    if not ranking.both():
        return None
    indices = np.union1d(
        thinned(ranking.fpr, ranking.tpr, 200),
        thinned(ranking.tpr, ranking.precision, 200),
    )
    return _numbers(
        {
            "threshold": ranking.thresholds[indices],
            "fpr": ranking.fpr[indices],
            "tpr": ranking.tpr[indices],
            "fnr": ranking.fnr[indices],
            "precision": ranking.precision[indices],
        }
    )


def _classes(classes: ClassMetrics) -> dict[str, Any]:
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
    """Arrays as lists; infinity and NaN, which JSON does not have, as None."""
    return {
        name: [None if not np.isfinite(v) else v for v in value.tolist()]
        if isinstance(value, np.ndarray)
        else value
        for name, value in values.items()
    }


def evaluate_files(
    scores: Sequence[str | os.PathLike[str]],
    labels: str | os.PathLike[str],
    criterion: Criterion | None = None,
    *,
    positive: Sequence[str] = ("nsfw",),
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    bootstrap: int = REPLICATES,
    classifier: "Callable[[], Classifier] | None" = None,
    rule: Rule | str | None = None,
) -> EvaluationReport:
    """Evaluate scores against labels.

    `open_nsfw_tf.report` writes the result as a page or as JSON.

    Args:
        scores: tables as `open_nsfw_tf.tables.read_table` takes them, one evaluation
            each, all on the pictures that every table has; or pictures, folders and
            archives of them, which are scored now and make one table together.
        labels: as `open_nsfw_tf.evaluate.read_labels` takes them.
        criterion: how the threshold is chosen; None: 0.5, which is no recommendation.
        positive: the positive classes.
        names: by label, the class that it stands for, if that has another name.
        strict: whether problems of the data are an error.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.
        classifier: makes the classifier, if there are pictures to be scored; None: the
            usual one.
        rule: rows of one path are the frames of a video, which count once, with the
            score that this `open_nsfw_tf.video.Rule` gives them; then videos are scored
            now, too, each second. None: each path has one row.

    Raises:
        OSError: a file cannot be read.
        ValueError: tables, labels or options are wrong, see `join`.
        ImportError: a package is missing; the message says how to install it.
    """
    rule = Rule.parse(rule) if isinstance(rule, str) else rule
    known = read_labels(labels, videos=rule is not None)
    sources = [*_linked_classes(scores, labels), *scores]
    tables = read_scores(sources, classifier, videos=rule is not None)
    partial: list[Problem] = []
    if rule is not None:
        several = len(tables) > 1
        for name, table in tables.items():
            partial += partial_videos(table, name if several else "")
        tables = {n: by_path(table, rule, positive) for n, table in tables.items()}
    joined = join(tables, known, names, strict, found=partial)
    return evaluate_joined(joined, criterion, positive=positive, bootstrap=bootstrap)


def _linked_classes(
    scores: Iterable[str | os.PathLike[str]], labels: str | os.PathLike[str]
) -> list[str]:
    """The class folders of `labels` that are links below a folder to be scored.

    Labels are read through these links, which scoring does not follow by itself.
    """
    root = os.fsdecode(labels)
    inside = Path(os.path.realpath(root))
    folders = [os.path.realpath(path) for path in scores if os.path.isdir(path)]
    is_scored = any(inside.is_relative_to(folder) for folder in folders)
    return class_links(root) if is_scored and os.path.isdir(root) else []


def read_scores(
    sources: Iterable[str | os.PathLike[str]],
    classifier: "Callable[[], Classifier] | None" = None,
    videos: bool = False,
) -> dict[str, Table]:
    """Read tables of scores, and score all other sources, as `score_batch` would.

    Args:
        sources: tables, and pictures, folders and archives of them.
        classifier: makes the classifier, if there are pictures to be scored; None: the
            usual one.
        videos: whether to score a frame a second of videos and animations, too.

    Returns:
        By name: a table's file name without its suffix, or its whole path if two files
        have the same name; `ON_THE_FLY` for the pictures.

    Raises:
        OSError, ValueError, ImportError: as `read_table`, `score_batch`, `Classifier`.
        ValueError: a table is given twice, which would compare it with itself.
    """
    named = list(map(os.fsdecode, sources))
    files = [name for name in named if _is_table(name)]
    _check_twice(files)
    names = list(dict.fromkeys(named))
    stems = [Path(name).stem for name in files]
    tables = {}
    for name, stem in zip(files, stems, strict=True):
        alike = stems.count(stem) > 1 or stem == ON_THE_FLY
        tables[name if alike else stem] = read_table(name, any_number=True)
    pictures = [name for name in names if name not in files]
    if pictures:
        tables[ON_THE_FLY] = _score(classifier, pictures, videos)
    return tables


def _check_twice(files: Iterable[str]) -> None:
    seen = set()
    for name in files:
        real = os.path.realpath(name)
        if real in seen:
            raise ValueError(
                f"{sanitize(name)}: this table is given twice: leave one of them out"
            )
        seen.add(real)


def _is_table(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES and not os.path.isdir(name)


def _score(
    make_classifier: "Callable[[], Classifier] | None",
    sources: list[str],
    videos: bool,
) -> Table:
    # Imported late: tables are evaluated without what scores pictures.
    from open_nsfw_tf.batch import BatchOptions, score_batch
    from open_nsfw_tf.classifier import Classifier

    classifier = (make_classifier or Classifier)()
    with TemporaryDirectory(prefix="open_nsfw_tf-") as folder:
        output = Path(folder) / "scores.csv"
        options = BatchOptions(videos=EVERY_SECOND if videos else None)
        done = score_batch(classifier, sources, output, options=options)
        if not done.rows:
            listed = ", ".join(map(sanitize, sources[:3]))
            others = f" ({done.passed_over} passed over)" * bool(done.passed_over)
            raise ValueError(
                f"{listed}: expected pictures to score, found none{others}"
            )
        return read_table(output)
