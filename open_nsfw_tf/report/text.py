"""The report of an evaluation as lines for a terminal."""

from collections.abc import Iterator

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate import Evaluation, EvaluationReport

FIGURES = {
    "roc_auc": "ROC AUC",
    "average_precision": "average precision",
    "log_loss": "log loss",
    "brier_score": "Brier score",
    "expected_calibration_error": "calibration error",
}
RATES = {
    "fpr": "false positive rate",
    "fnr": "false negative rate",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "accuracy",
    "flagged": "share flagged",
}


def lines(report: EvaluationReport) -> Iterator[str]:
    """The summary: data, figures, threshold, band, comparison, problems."""
    first = report.evaluations[0]
    yield (
        f"{first.rows:,} pictures: {first.positives:,} {sanitize(first.positive)}, "
        f"{first.negatives:,} not"
    )
    for problem in report.joined.problems:
        yield f"problem: {problem}"
    for one in report.evaluations:
        yield ""
        if len(report.evaluations) > 1:
            yield sanitize(one.name)
        yield from _figures(one)
    for comparison in report.comparisons:
        yield ""
        yield f"{sanitize(comparison.second)} against {sanitize(comparison.first)}"
        for name, difference in comparison.differences.items():
            ends = comparison.intervals.get(name)
            among = f" ({ends[0]:+.4f} to {ends[1]:+.4f})" if ends else ""
            yield f"{FIGURES[name]:20} {difference:+.4f}{among}"
        test = comparison.mcnemar
        yield (
            f"{'McNemar':20} p = {test.p_value:.3g}: {test.only_second:,} pictures "
            f"only it decides rightly, {test.only_first:,} only the other"
        )


def _figures(one: Evaluation) -> Iterator[str]:
    for name, title in FIGURES.items():
        value = one.figures[name]
        ends = one.intervals.get(name)
        among = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
        yield f"{title:20} {'undefined' if value is None else f'{value:.4f}{among}'}"
    if one.classes is not None:
        yield f"{'accuracy, all classes':20} {one.classes.accuracy:.4f}"
    if one.chosen is None:
        yield f"{'threshold':20} none"
    else:
        yield f"{'threshold':20} {one.chosen.threshold!r} ({one.criterion})"
        for name, title in RATES.items():
            value = getattr(one.chosen, name)
            ends = one.intervals.get(name)
            among = f" ({ends[0]:.4f} to {ends[1]:.4f})" if ends else ""
            shown_as = "undefined" if value is None else f"{value:.4f}{among}"
            yield f"  {title:18} {shown_as}"
    for band in one.bands:
        yield (
            f"{'band':20} {band.low!r}:{band.high!r} safe {band.safe:.1%}, review "
            f"{band.review:.1%}, block {band.block:.1%} ({band.title})"
        )
    for line in one.notes:
        yield f"note: {line}"
