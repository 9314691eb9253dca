"""Figures of scores for several classes: confusion, each class, all together."""

from dataclasses import dataclass

import numpy as np

from open_nsfw_tf.evaluate.figures import metrics


@dataclass(frozen=True)
class ClassFigures:
    """What is known of one class.

    Attributes:
        name: of the class.
        rows: pictures that are of it by their label.
        precision: share of those decided for it that are of it; None if there are none.
        recall: share of its pictures decided for it; None if it has none.
        f1: harmonic mean of the two; None where either is undefined.
        roc_auc: of its score, this class against the rest; None where undefined.
        average_precision: the same.
    """

    name: str
    rows: int
    precision: float | None
    recall: float | None
    f1: float | None
    roc_auc: float | None
    average_precision: float | None


@dataclass(frozen=True)
class Classes:
    """What is known of all classes, where the one of the highest score is decided for.

    Attributes:
        names: of the classes.
        confusion: int64 (K, K): rows are labels, columns decisions.
        each: figures by class.
        accuracy: share of the pictures decided rightly.
        log_loss: in nats, of the scores divided by their sum.
        brier_score: mean squared distance of those from the label's one-hot row, 0..2.
        macro_f1: mean F1 of the classes that have pictures; None where none is defined.
    """

    names: tuple[str, ...]
    confusion: np.ndarray
    each: tuple[ClassFigures, ...]
    accuracy: float
    log_loss: float
    brier_score: float
    macro_f1: float | None


def all_classes(
    labels: np.ndarray, scores: np.ndarray, names: tuple[str, ...]
) -> Classes:
    """Figures of scores with one column a class.

    Args:
        labels: int64 (N,), the column of each picture's label; N at least 1.
        scores: float64 (N, K), 0..1; a tie is decided for the first class.
        names: of the K classes.
    """
    sklearn = metrics()
    columns = range(len(names))
    decided = scores.argmax(axis=1)
    sums = scores.sum(axis=1, keepdims=True)
    shares = np.where(sums > 0, scores / np.where(sums > 0, sums, 1), 1 / len(names))
    confusion = sklearn.confusion_matrix(labels, decided, labels=list(columns))
    each = tuple(
        _one(names[k], confusion, k, labels == k, scores[:, k]) for k in columns
    )
    defined = [one.f1 for one in each if one.f1 is not None]
    one_hot = np.eye(len(names))[labels]
    return Classes(
        names,
        confusion,
        each,
        accuracy=float(np.trace(confusion) / len(labels)),
        log_loss=float(sklearn.log_loss(labels, shares, labels=list(columns))),
        brier_score=float(((shares - one_hot) ** 2).sum(axis=1).mean()),
        macro_f1=sum(defined) / len(defined) if defined else None,
    )


def _one(
    name: str, confusion: np.ndarray, column: int, is_it: np.ndarray, score: np.ndarray
) -> ClassFigures:
    sklearn = metrics()
    right = int(confusion[column, column])
    rows, decided = int(confusion[column].sum()), int(confusion[:, column].sum())
    both = 0 < rows < len(score)
    return ClassFigures(
        name,
        rows,
        precision=right / decided if decided else None,
        recall=right / rows if rows else None,
        f1=2 * right / (rows + decided) if rows else None,
        roc_auc=float(sklearn.roc_auc_score(is_it, score)) if both else None,
        average_precision=(
            float(sklearn.average_precision_score(is_it, score)) if both else None
        ),
    )
