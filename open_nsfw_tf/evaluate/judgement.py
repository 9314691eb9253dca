"""Everything that can be said of some tables of scores and their labels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from open_nsfw_tf.evaluate import (
    Criterion,
    Evaluation,
    evaluate_classes,
    positive_columns,
)
from open_nsfw_tf.evaluate.bootstrap import REPLICATES
from open_nsfw_tf.evaluate.cases import Cases
from open_nsfw_tf.evaluate.compare import Comparison, compare
from open_nsfw_tf.evaluate.record import comparison_record, problem_record, record


@dataclass(frozen=True)
class Judgement:
    """Tables of scores, evaluated on the same pictures and compared.

    Attributes:
        cases: the pictures, their labels and scores, and what is wrong with the data.
        positive: bool (N,), whether each picture is of the positive class.
        scores: by table, float64 (N,), of the positive class.
        evaluations: one a table.
        comparisons: of the second table and each further one with the first.
    """

    cases: Cases
    positive: np.ndarray
    scores: dict[str, np.ndarray]
    evaluations: list[Evaluation]
    comparisons: list[Comparison]

    def mistakes(self, table: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """The pictures that the chosen threshold of a table decides wrongly.

        Returns:
            int64: the missed positives, lowest score first, and the wrongly flagged
            negatives, highest score first; none without a chosen threshold.
        """
        one = self.evaluations[table]
        if one.chosen is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        scores = self.scores[one.name]
        flagged = scores >= one.threshold
        missed = np.flatnonzero(self.positive & ~flagged)
        wrong = np.flatnonzero(~self.positive & flagged)
        return (
            missed[np.argsort(scores[missed], kind="stable")],
            wrong[np.argsort(-scores[wrong], kind="stable")],
        )

    def record(self) -> dict[str, Any]:
        """Every figure under a plain key, ready for JSON.

        The first table's figures stand on top; those of several tables also by name in
        `evaluations`, with `comparisons`. `problems` are those of the data.
        """
        records = {one.name: record(one) for one in self.evaluations}
        found = dict(next(iter(records.values())))
        found["problems"] = [problem_record(p) for p in self.cases.problems]
        if len(records) > 1:
            found["evaluations"] = records
            found["comparisons"] = [
                comparison_record(one, self.cases.paths) for one in self.comparisons
            ]
        return found


def judge_cases(
    cases: Cases,
    criterion: Criterion | None = None,
    *,
    positive: Sequence[str] = ("nsfw",),
    bootstrap: int = REPLICATES,
) -> Judgement:
    """Evaluate every table of scores, and compare each with the first.

    Args:
        cases: as `open_nsfw_tf.evaluate.join` makes them.
        criterion: how each table's threshold is chosen; None: 0.5.
        positive: the classes that are looked for.
        bootstrap: replicates for the confidence intervals; 0 leaves them out.

    Raises:
        ValueError: the positive classes are none of the data, or a criterion is out of
            range.
        ImportError: scikit-learn is not installed; the message says how to.
    """
    columns = positive_columns(cases.classes, positive)
    is_positive = np.isin(cases.labels, columns)
    evaluations = [
        evaluate_classes(
            cases.labels,
            scores,
            cases.classes,
            criterion,
            positive=positive,
            name=name,
            bootstrap=bootstrap,
        )
        for name, scores in cases.scores.items()
    ]
    scores = {
        name: np.minimum(table[:, columns].sum(axis=1), 1.0)
        for name, table in cases.scores.items()
    }
    tables = [(one.name, scores[one.name], one.threshold) for one in evaluations]
    comparisons = [
        compare(is_positive, tables[0], other, bootstrap) for other in tables[1:]
    ]
    return Judgement(cases, is_positive, scores, evaluations, comparisons)
