"""A table of scores and a folder of classes, joined; what does not fit is named."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from open_nsfw_tf.dataset.folder import File, Found
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import check_distinct, is_picture, name_key
from open_nsfw_tf.tables import Table

SUM_TOLERANCE = 1e-3  # of a row's probabilities
TROUBLE = {
    "no picture": "scores without a picture in the folder",
    "no score": "pictures without a row in the table",
    "changed": "pictures that have changed since they were scored",
    "error": "pictures whose row has an error instead of scores",
    "bad score": "rows that are not whole, NaN, not 0 to 1, or do not sum to 1",
    "again": "rows that repeat the scores of a picture",
    "contradiction": "pictures with two rows that differ",
    "unknown class": "pictures in a folder that is called like no class of the table",
    "no class": "pictures in no class folder",
}


@dataclass(slots=True)
class Judged:
    """Pictures with a label and scores.

    Attributes:
        files: N pictures, by name.
        classes: names of the C classes, the columns of the table.
        labels: int64 (N,), 0..C-1.
        scores: float64 (N, C), probabilities.
        trouble: by key of `TROUBLE`, the names of what was left out.
    """

    files: list[File]
    classes: list[str]
    labels: np.ndarray
    scores: np.ndarray
    trouble: dict[str, list[str]] = field(default_factory=dict)

    def predicted(
        self, positive: str | None = None, threshold: float = 0.5
    ) -> np.ndarray:
        """The class of every picture, int64 (N,): by threshold, or the likeliest.

        Args:
            positive: of two classes, the one that a score of at least `threshold`
                means; None: the class with the largest score.
            threshold: 0 to 1.

        Raises:
            ValueError: there is no such class, or there are more than two.
        """
        if positive is None:
            likeliest: np.ndarray = self.scores.argmax(axis=1)
            return likeliest
        index = self.index(positive)
        if len(self.classes) != 2:
            raise ValueError(
                f"a threshold needs two classes, the table has {len(self.classes)}: "
                f"{', '.join(map(sanitize, self.classes))}"
            )
        if not 0 <= threshold <= 1:
            raise ValueError(f"expected a threshold of 0 to 1, got {threshold}")
        return np.where(self.scores[:, index] >= threshold, index, 1 - index)

    def index(self, name: str) -> int:
        """The column of a class.

        Raises:
            ValueError: there is no such class.
        """
        if name not in self.classes:
            known = ", ".join(map(sanitize, self.classes))
            raise ValueError(f"no class {sanitize(name)!r}: the table has {known}")
        return self.classes.index(name)


def judge(
    found: Found,
    table: Table,
    names: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Judged:
    """Join the pictures of a folder with their scores.

    Args:
        found: a folder of classes.
        table: one column of probabilities for each class, or nsfw alone, which counts
            as sfw and nsfw; its paths are absolute, relative to the current folder, or
            relative to the folder of classes.
        names: which column a class folder stands for, where they are called
            differently; upper and lower case do not matter.
        strict: refuse whatever does not fit.

    Returns:
        The pictures that have both a label and scores.

    Raises:
        ValueError: there are less than two classes, or two that differ only in upper
            and lower case, a name in `names` is no column, nothing fits, or `strict` and something does not.
    """
    columns = dict(table.columns)
    if list(columns) == ["nsfw"]:
        columns = {"sfw": 1 - columns["nsfw"], **columns}
    classes = list(columns)
    if len(classes) < 2:
        raise ValueError(
            f"expected a column of scores for each of two classes or more, got "
            f"{', '.join(map(sanitize, classes))}"
        )
    indices = _indices(found, classes, names or {})
    trouble: dict[str, list[str]] = {kind: [] for kind in TROUBLE}
    scores = np.stack([columns[name] for name in classes], axis=1)
    rows = _rows(found, table, scores, trouble)
    files, labels, kept = [], [], []
    for index, file in enumerate(found.files):
        if index not in rows and not is_picture(file.path):
            continue  # notes and the like, which nothing was to score
        label = indices.get(file.label)
        kind = _misfit(file, rows.get(index), scores, table, label)
        if kind:
            trouble[kind].append(file.name)
        else:
            files.append(file)
            labels.append(label)
            kept.append(rows[index])
    if strict and any(trouble.values()):
        raise ValueError("; ".join(trouble_lines(trouble, shown_names=1)))
    if not files:
        raise ValueError(
            "no picture has both a label and scores: "
            + "; ".join(trouble_lines(trouble, shown_names=1))
        )
    return Judged(files, classes, np.array(labels, np.int64), scores[kept], trouble)


def _indices(
    found: Found, classes: list[str], names: Mapping[str, str]
) -> dict[str | None, int]:
    """The class's index of every class folder that stands for one."""
    check_distinct(classes)
    plain = {name_key(name): index for index, name in enumerate(classes)}
    for folder, column in names.items():
        if name_key(column) not in plain:
            raise ValueError(
                f"{sanitize(folder)} = {sanitize(column)}: the table's classes are "
                f"{', '.join(map(sanitize, classes))}"
            )
    meant = {name_key(folder): name_key(name) for folder, name in names.items()}
    indices: dict[str | None, int] = {}
    for label in {file.label for file in found.files if file.label is not None}:
        name = meant.get(name_key(label), name_key(label))
        if name in plain:
            indices[label] = plain[name]
    return indices


def trouble_lines(trouble: Mapping[str, list[str]], shown_names: int = 3) -> list[str]:
    """One line for each kind of trouble: how many, and the first of them."""
    lines = []
    for kind, names in trouble.items():
        if names:
            first = ", ".join(sanitize(name) for name in names[:shown_names])
            more = ", ..." if len(names) > shown_names else ""
            lines.append(f"{len(names)} {TROUBLE[kind]}: {first}{more}")
    return lines


def _rows(
    found: Found, table: Table, scores: np.ndarray, trouble: dict[str, list[str]]
) -> dict[int, int]:
    """By index of the file, its row; -1 where two rows contradict each other."""
    real = os.path.realpath(found.root)
    index_of = {os.path.join(real, file.name): i for i, file in enumerate(found.files)}
    index_of |= {file.path: i for i, file in enumerate(found.files)}
    rows: dict[int, int] = {}
    for row, path in enumerate(table.paths):
        below = os.path.normpath(os.path.join(found.root, path))
        index = index_of.get(os.path.abspath(path), index_of.get(below))
        if index is None:
            trouble["no picture"].append(path)
        elif index not in rows:
            rows[index] = row
        elif rows[index] < 0 or np.array_equal(
            scores[rows[index]], scores[row], equal_nan=True
        ):
            trouble["again"].append(path)
        else:
            rows[index] = -1
    return rows


def _misfit(
    file: File,
    row: int | None,
    scores: np.ndarray,
    table: Table,
    label: int | None,
) -> str | None:
    """The kind of trouble with a picture, if any."""
    if row is None:
        return "no score"
    if row < 0:
        return "contradiction"
    if table.stamp(row) not in (None, (file.size, file.mtime_ns)):
        return "changed"
    values = scores[row]
    if table.errors[row] and not np.isfinite(values).all():
        return "error"
    fit = bool(((values >= 0) & (values <= 1)).all())
    if not fit or abs(values.sum() - 1) > SUM_TOLERANCE:
        return "bad score"
    if file.label is None:
        return "no class"
    return "unknown class" if label is None else None
