"""Scores joined with labels: the pictures that can be judged, and what is wrong.

Nothing is dropped in silence: whatever keeps a picture out is counted and named.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from open_nsfw_tf.evaluate.labels import Labels
from open_nsfw_tf.messages import shown
from open_nsfw_tf.tables import Table

NAMED = 20  # examples that a problem keeps
SUM_TOLERANCE = 0.01  # of a row's scores from 1: tables may be rounded
PROBLEMS = {
    "unlabelled": "scores without a label (left out)",
    "unscored": "labels without a score (left out)",
    "failed": "pictures that could not be scored (left out)",
    "no_score": "rows with neither score nor error (left out)",
    "out_of_range": "scores that are not between 0 and 1 (left out)",
    "sum": "rows whose scores do not add up to 1 (used as they are)",
    "duplicate": "paths scored twice (the first row is used)",
    "duplicate_label": "paths labelled twice alike (used once)",
    "conflict": "paths with two different labels (left out)",
    "not_in_all": "pictures that not every table has scored (left out)",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data.

    Attributes:
        kind: a key of `PROBLEMS`.
        count: how often it occurs.
        examples: the first of them: a path, with the reason where there is one.
        table: which table of scores it is in; "" where there is one, or it is none.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    table: str = ""

    def __str__(self) -> str:
        where = f"{shown(self.table)}: " if self.table else ""
        return (
            f"{where}{PROBLEMS[self.kind]}: {self.count:,}, "
            f"such as {shown(self.examples[0])}"
        )


@dataclass(frozen=True)
class Cases:
    """Pictures with a label and, from each table, scores: what can be evaluated.

    Attributes:
        paths: of the N pictures, as the first table names them.
        labels: int64 (N,), an index into `classes`.
        classes: the K names, as the tables' columns.
        scores: by table, float64 (N, K), 0..1.
        problems: what was found wrong.
        root: the folder of the labels, where relative paths may start.
    """

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: dict[str, np.ndarray]
    problems: tuple[Problem, ...]
    root: str


@dataclass(frozen=True)
class _Rows:
    """A table's usable rows by key, and all keys it has."""

    where: dict[str, int]
    scores: np.ndarray  # float64, of the whole table
    keys: set[str]


# How paths are compared: a label's and its folder to a key, a score's to the same.
WAYS: tuple[tuple[Callable[[str, str], str], Callable[[str], str]], ...] = (
    (lambda root, path: path, lambda path: path),
    (lambda root, path: os.path.normpath(os.path.join(root, path)), os.path.normpath),
    (lambda root, path: os.path.abspath(os.path.join(root, path)), os.path.abspath),
    (lambda root, path: os.path.abspath(path), os.path.abspath),
)


def join(
    tables: Mapping[str, Table],
    labels: Labels,
    names: Mapping[str, str] | None = None,
    strict: bool = False,
) -> Cases:
    """Give every scored picture its label.

    Paths are compared as they are written. If that does not find every score, other
    ways are tried, and the one that finds most is taken: with the labels' folder before
    the labels' paths; as absolute paths, from that folder or the working directory.

    Args:
        tables: of scores, by name; all with the same classes. A single column nsfw
            counts as sfw and nsfw.
        labels: of the pictures; upper and lower case do not matter.
        names: the class that a label stands for, where it is called otherwise.
        strict: whether a problem of the data is an error.

    Raises:
        ValueError: a label that is no class, tables with different classes, no picture
            with both a label and a score, or with `strict` any problem.
    """
    classes = _classes(tables)
    indices = _indices(labels, classes, names or {})
    label_keys, table_keys = _keys(labels, tables)
    problems: list[Problem] = []
    known = _known(label_keys, [indices[label] for label in labels.labels], problems)
    rows = {}
    for name, table in tables.items():
        found: list[Problem] = []
        rows[name] = _usable(table, table_keys[name], classes, found)
        _compare(rows[name], known, found)
        several = name if len(tables) > 1 else ""
        problems += [Problem(p.kind, p.count, p.examples, several) for p in found]
    first = next(iter(tables))
    judged = [key for key in rows[first].where if known.get(key, -1) >= 0]
    common = [key for key in judged if all(key in r.where for r in rows.values())]
    everywhere = set(common)
    _add(problems, "not_in_all", [key for key in judged if key not in everywhere])
    if not common:
        raise ValueError(_nothing(labels, tables, problems))
    if strict and problems:
        raise ValueError(f"strict: {'; '.join(map(str, problems))}")
    return Cases(
        [tables[first].paths[rows[first].where[key]] for key in common],
        np.array([known[key] for key in common], np.int64),
        classes,
        {name: r.scores[[r.where[key] for key in common]] for name, r in rows.items()},
        tuple(problems),
        labels.root,
    )


def _classes(tables: Mapping[str, Table]) -> tuple[str, ...]:
    if not tables:
        raise ValueError("expected at least one table of scores, got none")
    found = {name: tuple(table.columns) for name, table in tables.items()}
    classes = [("sfw", "nsfw") if c == ("nsfw",) else c for c in found.values()]
    if any(set(other) != set(classes[0]) for other in classes):
        columns = (f"{shown(name)}: {', '.join(c)}" for name, c in found.items())
        raise ValueError(
            f"expected tables with the same classes, got {'; '.join(columns)}"
        )
    if len(classes[0]) == 1:
        raise ValueError(
            f"expected a column nsfw, or one for each class, got {shown(classes[0][0])}"
        )
    return classes[0]


def _indices(
    labels: Labels, classes: tuple[str, ...], names: Mapping[str, str]
) -> dict[str, int]:
    """The class's index of every label that occurs."""
    by_name = {name.casefold(): index for index, name in enumerate(classes)}
    meant = {label.casefold(): name for label, name in names.items()}
    found = {}
    for label in Counter(labels.labels):
        plain = label.strip().casefold()
        found[label] = by_name.get(meant.get(plain, plain).casefold(), -1)
    unknown = [label for label, index in found.items() if index < 0]
    if unknown:
        listed = ", ".join(repr(shown(label, 40)) for label in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        raise ValueError(
            f"{shown(labels.source)}: {listed}{more}: no such class in the scores, "
            f"which have {', '.join(shown(name, 40) for name in classes)}; say what a "
            "label stands for, such as --map porn=nsfw"
        )
    return found


def _keys(
    labels: Labels, tables: Mapping[str, Table]
) -> tuple[list[str], dict[str, list[str]]]:
    """The paths of labels and of tables, in the way that finds most scores a label."""
    best, most = None, -1
    rows = sum(map(len, tables.values()))
    for of_label, of_score in WAYS:
        label_keys = [of_label(labels.root, path) for path in labels.paths]
        table_keys = {
            name: [of_score(path) for path in table.paths]
            for name, table in tables.items()
        }
        known = set(label_keys)
        hits = sum(key in known for keys in table_keys.values() for key in keys)
        if hits > most:
            best, most = (label_keys, table_keys), hits
        if hits == rows:
            break
    assert best is not None  # there is at least one way
    return best


def _known(
    keys: Sequence[str], indices: Sequence[int], problems: list[Problem]
) -> dict[str, int]:
    """The class of every path; -1 where it has several."""
    known = dict(zip(keys, indices, strict=True))
    if len(known) < len(keys):
        conflicts = {
            key: None
            for key, index in zip(keys, indices, strict=True)
            if known[key] != index
        }
        alike = [k for k, n in Counter(keys).items() if n > 1 and k not in conflicts]
        _add(problems, "duplicate_label", alike)
        _add(problems, "conflict", list(conflicts))
        known.update(dict.fromkeys(conflicts, -1))
    return known


def _usable(
    table: Table,
    keys: list[str],
    classes: tuple[str, ...],
    problems: list[Problem],
) -> _Rows:
    columns = dict(table.columns)
    if len(columns) == 1:
        columns["sfw"] = 1 - columns["nsfw"]
    scores = np.stack([columns[name] for name in classes], axis=1)
    failed = np.array([error is not None for error in table.errors], bool)
    missing = np.isnan(scores).any(axis=1) & ~failed
    odd = ((scores < 0) | (scores > 1)).any(axis=1) & ~failed & ~missing
    good = ~failed & ~missing & ~odd
    sums = good & (np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE)
    reasons = (_reason(keys[i], table.errors[i]) for i in np.flatnonzero(failed))
    _add(problems, "failed", reasons, int(failed.sum()))
    for kind, chosen in (("no_score", missing), ("out_of_range", odd), ("sum", sums)):
        _add(
            problems,
            kind,
            (keys[i] for i in np.flatnonzero(chosen)),
            int(chosen.sum()),
        )
    where: dict[str, int] = {}
    for row in np.flatnonzero(good).tolist():
        where.setdefault(keys[row], row)
    everything = set(keys)
    if len(everything) < len(keys):
        twice = [key for key, n in Counter(keys).items() if n > 1]
        _add(problems, "duplicate", twice)
    return _Rows(where, scores, everything)


def _reason(path: str, error: str | None) -> str:
    return error if error and path in error else f"{path}: {error}"


def _compare(rows: _Rows, known: Mapping[str, int], problems: list[Problem]) -> None:
    _add(problems, "unlabelled", [key for key in rows.where if key not in known])
    _add(problems, "unscored", [key for key in known if key not in rows.keys])


def _add(
    problems: list[Problem], kind: str, found: Iterable[str], count: int | None = None
) -> None:
    if count is None:
        found = list(found)
        count = len(found)
    if count:
        examples = tuple(shown(item) for item in islice(found, NAMED))
        problems.append(Problem(kind, count, examples))


def _nothing(
    labels: Labels, tables: Mapping[str, Table], problems: list[Problem]
) -> str:
    name, table = next(iter(tables.items()))
    score = shown(table.paths[0]) if table.paths else "no rows at all"
    said = "; ".join(str(p) for p in problems if p.kind not in ("unscored",))
    return (
        f"no picture has both a score and a label: {shown(name)} has paths such as "
        f"{score}, {shown(labels.source)} such as {shown(labels.paths[0])}; "
        f"score the pictures that are labelled{f' ({said})' if said else ''}"
    )
