"""Scores joined with labels: the pictures that have both, and the problems of the data.

No picture is left out silently: every reason is counted, with examples.
"""

import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice, repeat

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate.labels import Labels
from open_nsfw_tf.files import SPLITS, check_distinct, name_key
from open_nsfw_tf.tables import Table

MAX_CLASSES = 200  # the largest confusion matrix that a page can show
NAMED = 20  # examples of a problem
SUM_TOLERANCE = 0.01  # how far a row's sum may be from 1: tables may be rounded
PROBLEMS = {
    "unlabelled": "scores without a label (left out)",
    "unscored": "labels without a score (left out)",
    "changed": "pictures that have changed since they were scored (left out)",
    "failed": "pictures that could not be scored (left out)",
    "partial": "videos that were not read to their end (used as they are)",
    "no_score": "rows with NaN or no score, and no error (left out)",
    "out_of_range": "scores that are not between 0 and 1 (left out)",
    "sum": "rows whose scores do not add up to 1 (used as they are)",
    "duplicate": "paths scored twice (the first row is used)",
    "duplicate_label": "paths labelled twice alike (used once)",
    "conflict": "paths with two different labels (left out)",
    "not_in_all": "pictures that not every table has scored (left out)",
    # Only if doubtful rows are left out, as before files are moved by their scores:
    "doubtful_sum": "rows whose scores do not add up to 1 (left out)",
    "contradiction": "pictures with two rows that differ (left out)",
    "unknown_label": "pictures whose label is no class of the table (left out)",
    "no_label": "pictures in no class folder (left out)",
}


@dataclass(frozen=True)
class Problem:
    """Something wrong with the data.

    Attributes:
        kind: a key of `PROBLEMS`.
        count: how often it occurs.
        examples: the first ones: a path, with the reason if there is one.
        table: the table of scores that has it; "" if there is only one table, or the
            problem is in the labels.
    """

    kind: str
    count: int
    examples: tuple[str, ...]
    table: str = ""

    def __str__(self) -> str:
        return self.line()

    def line(self, examples: int = 1) -> str:
        """The problem in one line, with the first of its examples."""
        where = f"{sanitize(self.table)}: " if self.table else ""
        named = ", ".join(map(sanitize, self.examples[:examples]))
        return f"{where}{PROBLEMS[self.kind]}: {self.count:,}, such as {named}"


@dataclass(frozen=True)
class JoinedScores:
    """Pictures with a label and, from each table, scores.

    Attributes:
        paths: of the N pictures, as in the first table.
        labels: int64 (N,), an index into `classes`.
        classes: the K names of the tables' columns.
        scores: by table, float64 (N, K), 0..1.
        problems: of the data.
        root: the folder of the labels, which relative paths may start from.
        label_rows: int64 (N,), the row of each picture in the labels.
    """

    paths: list[str]
    labels: np.ndarray
    classes: tuple[str, ...]
    scores: dict[str, np.ndarray]
    problems: tuple[Problem, ...]
    root: str
    label_rows: np.ndarray


@dataclass(frozen=True)
class _Rows:
    """One table's rows with their labels."""

    keys: list[str]  # the paths in the form in which they are compared
    classes: np.ndarray  # int64, of every row; UNKNOWN, or CONFLICT
    scores: np.ndarray  # float64, of every row and class
    usable: np.ndarray  # int64, the rows that have scores and one label, each path once


UNKNOWN, CONFLICT, NO_CLASS, NO_LABEL = -2, -1, -3, -4
# How paths are compared: a function of a label's folder and path, and one of a score's
# path, which give the same key for the same picture.
Spelling = tuple[Callable[[str, str], str] | None, Callable[[str], str] | None]
AS_WRITTEN: Spelling = (None, None)
NORMALIZED: Spelling = (lambda root, path: os.path.normpath(path), os.path.normpath)
SPELLINGS: tuple[Spelling, ...] = (
    (lambda root, path: os.path.normpath(os.path.join(root, path)), os.path.normpath),
    (lambda root, path: os.path.abspath(os.path.join(root, path)), os.path.abspath),
    (lambda root, path: os.path.abspath(path), os.path.abspath),
    (
        lambda root, path: os.path.normpath(os.path.join(os.path.realpath(root), path)),
        os.path.abspath,
    ),
)


def join(
    tables: Mapping[str, Table],
    labels: Labels,
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    leave_out_doubtful: bool = False,
    found: Sequence[Problem] = (),
) -> JoinedScores:
    """Give every scored picture its label.

    Paths are compared as they are written, except for `./` and the like. If some scores
    have no label then, other spellings are tried, and the one that matches most is
    used: the labels' paths below the labels' folder, or absolute paths, from that
    folder or from the working directory.

    Args:
        tables: of scores, by name; all with the same classes. A single column nsfw
            counts as sfw and nsfw.
        labels: of the pictures; upper and lower case do not matter.
        names: by label, the class that it stands for, if that has another name.
        strict: whether a problem of the data is an error.
        leave_out_doubtful: leave out pictures whose rows contradict each other or do
            not add up to 1, or whose label is empty or not a class, as is right before
            files are moved by their scores. Otherwise the first row is used, and a
            label that is not a class is an error.
        found: problems that are known before.

    Raises:
        ValueError: a label is not a class, tables have different classes, no picture
            has both a label and a score, or with `strict` there is a problem.
    """
    classes = _classes(tables)
    indices = _indices(labels, classes, names or {}, leave_out_doubtful)
    known, label_keys, matches = _matched(labels, indices, tables)
    problems = list(found)
    if len(known) < len(label_keys):
        _settle(
            known, label_keys, [indices[label] for label in labels.labels], problems
        )
        matches = {
            name: (keys, _look_up(known, keys)) for name, (keys, _) in matches.items()
        }
    row_of = {key: row for row, key in enumerate(label_keys)}
    rows = {}
    for name, table in tables.items():
        problems_of_table: list[Problem] = []
        changed = _changed(table, matches[name][0], labels, row_of)
        rows[name] = _rows(
            table,
            *matches[name],
            changed,
            classes,
            problems_of_table,
            leave_out_doubtful,
        )
        _add_unscored(rows[name], known, problems_of_table)
        several = name if len(tables) > 1 else ""
        problems += [
            Problem(p.kind, p.count, p.examples, several) for p in problems_of_table
        ]
    chosen = _common(list(rows.values()), problems)
    first = next(iter(tables))
    if not len(chosen[0]):
        raise ValueError(_nothing(labels, tables, problems))
    if strict and problems:
        raise ValueError(f"strict: {'; '.join(map(str, problems))}")
    pairs = zip(rows.items(), chosen, strict=True)
    return JoinedScores(
        [tables[first].paths[row] for row in chosen[0].tolist()],
        rows[first].classes[chosen[0]],
        classes,
        {name: one.scores[which] for (name, one), which in pairs},
        tuple(problems),
        labels.root,
        np.array(
            [row_of[rows[first].keys[row]] for row in chosen[0].tolist()], np.int64
        ),
    )


def _classes(tables: Mapping[str, Table]) -> tuple[str, ...]:
    if not tables:
        raise ValueError("expected at least one table of scores, got none")
    found = {name: tuple(table.columns) for name, table in tables.items()}
    classes = [LABELS if c == ("nsfw",) else c for c in found.values()]
    if any(set(other) != set(classes[0]) for other in classes):
        columns = (f"{sanitize(name)}: {', '.join(c)}" for name, c in found.items())
        raise ValueError(
            f"expected tables with the same classes, got {'; '.join(columns)}"
        )
    if len(classes[0]) > MAX_CLASSES:
        raise ValueError(
            f"expected at most {MAX_CLASSES} classes, got {len(classes[0])}"
        )
    check_distinct(classes[0])
    if len(classes[0]) == 1:
        raise ValueError(
            "expected a column nsfw, or one for each class, got "
            f"{sanitize(classes[0][0])}"
        )
    return classes[0]


def _indices(
    labels: Labels,
    classes: tuple[str, ...],
    names: Mapping[str, str],
    leave_out_unknown: bool,
) -> dict[str, int]:
    """The class's index of every label that occurs."""
    by_name = {name_key(name): index for index, name in enumerate(classes)}
    for label, name in names.items():
        if leave_out_unknown and name_key(name) not in by_name:
            raise ValueError(
                f"{sanitize(label)} = {sanitize(name)}: the table's classes are "
                f"{', '.join(map(sanitize, classes))}"
            )
    renamed = {name_key(label): name for label, name in names.items()}
    found = {}
    for label in Counter(labels.labels):
        plain = name_key(label.strip())
        found[label] = by_name.get(name_key(renamed.get(plain, plain)), NO_CLASS)
    if leave_out_unknown:
        return {label: index if label else NO_LABEL for label, index in found.items()}
    unknown = [label for label, index in found.items() if index < 0]
    if unknown:
        listed = ", ".join(repr(sanitize(label, 40)) for label in unknown[:8])
        more = f" and {len(unknown) - 8} more" if len(unknown) > 8 else ""
        part = next((label for label in unknown if label.casefold() in SPLITS), None)
        hint = "say what a label stands for, such as --map porn=nsfw"
        if part and os.path.isdir(os.path.join(labels.source, part)):
            folder = os.path.join(labels.source, part)
            hint = (
                f"{part} is a split of the pictures, no class: name {sanitize(folder)}"
            )
        raise ValueError(
            f"{sanitize(labels.source)}: {listed}{more}: no such class in the scores, "
            f"which have {', '.join(sanitize(name, 40) for name in classes)}; {hint}"
        )
    return found


Found = dict[str, tuple[list[str], np.ndarray]]


def _matched(
    labels: Labels, indices: dict[str, int], tables: Mapping[str, Table]
) -> tuple[dict[str, int], list[str], Found]:
    """The class of every labelled path, and of every table's rows.

    Paths are compared in the spelling that gives most rows a class.

    Returns:
        The class by the labels' keys; these keys, one for each label; and for each
        table its keys and the classes of its rows.
    """
    best, most = None, -1
    of_labels = [indices[label] for label in labels.labels]
    # ./a.jpg is a.jpg; most paths need not be normalized, which takes 1 s a million.
    odd = any(map(_is_odd, chain(labels.paths, *(t.paths for t in tables.values()))))
    for of_label, of_score in (NORMALIZED if odd else AS_WRITTEN, *SPELLINGS):
        keys = labels.paths
        if of_label:
            keys = [of_label(labels.root, path) for path in keys]
        known = dict(zip(keys, of_labels, strict=True))
        found, hits = {}, 0
        for name, table in tables.items():
            paths = list(map(of_score, table.paths)) if of_score else table.paths
            found[name] = paths, _look_up(known, paths)
            hits += int((found[name][1] != UNKNOWN).sum())
        if hits > most:
            best, most = (known, keys, found), hits
        if hits == sum(map(len, tables.values())):
            break
    assert best is not None  # there is at least one spelling
    return best


def _is_odd(path: str) -> bool:
    return path.startswith("./") or "//" in path or "/." in path


def _look_up(known: dict[str, int], keys: list[str]) -> np.ndarray:
    return np.fromiter(map(known.get, keys, repeat(UNKNOWN)), np.int64, len(keys))


def _settle(
    known: dict[str, int],
    keys: Sequence[str],
    indices: Sequence[int],
    problems: list[Problem],
) -> None:
    """Find the paths that are labelled twice; those with two labels get `CONFLICT`."""
    pairs = zip(keys, indices, strict=True)
    conflicts = {key: CONFLICT for key, index in pairs if known[key] != index}
    alike = [k for k, n in Counter(keys).items() if n > 1 and k not in conflicts]
    _add(problems, "duplicate_label", alike)
    _add(problems, "conflict", conflicts)
    known.update(conflicts)


def _changed(
    table: Table, keys: list[str], labels: Labels, row_of: dict[str, int]
) -> np.ndarray:
    """Which rows are scores of what was a labelled file before, bool (rows,)."""
    if labels.stamps is None or table.stamps is None:
        return np.zeros(len(table), bool)
    rows = _look_up(row_of, keys)
    known = (rows != UNKNOWN) & (table.stamps[:, 0] >= 0)
    differ = table.stamps != labels.stamps[np.where(known, rows, 0)]
    changed: np.ndarray = known & differ.any(axis=1)
    return changed


def _rows(
    table: Table,
    keys: list[str],
    found: np.ndarray,
    changed: np.ndarray,
    classes: tuple[str, ...],
    problems: list[Problem],
    leave_out_doubtful: bool,
) -> _Rows:
    columns = dict(table.columns)
    if len(columns) == 1:
        columns["sfw"] = 1 - columns["nsfw"]
    scores = np.stack([columns[name] for name in classes], axis=1)
    failed = ~changed & np.array([error is not None for error in table.errors], bool)
    rest = ~changed & ~failed
    missing = np.isnan(scores).any(axis=1) & rest
    odd = ((scores < 0) | (scores > 1)).any(axis=1) & rest & ~missing
    good = rest & ~missing & ~odd
    with np.errstate(invalid="ignore"):  # infinite scores are in `odd` already
        sums = good & (np.abs(scores.sum(axis=1) - 1) > SUM_TOLERANCE)
    if leave_out_doubtful:
        good &= ~sums
    reasons = (_reason(keys[i], table.errors[i]) for i in np.flatnonzero(failed))
    _add(problems, "failed", reasons, int(failed.sum()))
    kinds = {
        "changed": changed,
        "no_score": missing,
        "out_of_range": odd,
        "doubtful_sum" if leave_out_doubtful else "sum": sums,
        "unlabelled": good & (found == UNKNOWN),
        "unknown_label": ~changed & (found == NO_CLASS),
        "no_label": ~changed & (found == NO_LABEL),
    }
    for kind, which in kinds.items():
        where = np.flatnonzero(which)
        _add(problems, kind, (keys[i] for i in where[:NAMED]), len(where))
    usable = np.flatnonzero(good & (found >= 0))
    if len(set(keys)) < len(keys):
        twice = [key for key, n in Counter(keys).items() if n > 1]
        _add(problems, "duplicate", twice)
        first: dict[str, int] = {}
        contradictions: dict[str, None] = {}
        for row in usable.tolist():
            other = first.setdefault(keys[row], row)
            if other != row and not np.array_equal(scores[other], scores[row]):
                contradictions[keys[row]] = None
        if leave_out_doubtful:
            _add(problems, "contradiction", contradictions)
            first = {
                key: row for key, row in first.items() if key not in contradictions
            }
        usable = np.array(list(first.values()), np.int64)
    return _Rows(keys, found, scores, usable)


def _common(rows: list[_Rows], problems: list[Problem]) -> list[np.ndarray]:
    """For every table the rows of the pictures that are in all tables."""
    if len(rows) == 1:
        return [rows[0].usable]
    by_key = [{one.keys[row]: row for row in one.usable.tolist()} for one in rows]
    everyone = dict.fromkeys(key for table in by_key for key in table)
    common = [key for key in everyone if all(key in table for table in by_key)]
    shared = set(common)
    _add(problems, "not_in_all", [key for key in everyone if key not in shared])
    return [np.array([table[key] for key in common], np.int64) for table in by_key]


def _reason(path: str, error: str | None) -> str:
    return error if error and path in error else f"{path}: {error}"


def _add_unscored(
    rows: _Rows, known: Mapping[str, int], problems: list[Problem]
) -> None:
    scored = set(rows.keys)
    _add(problems, "unscored", [key for key in known if key not in scored])


def _add(
    problems: list[Problem], kind: str, found: Iterable[str], count: int | None = None
) -> None:
    if count is None:
        found = list(found)
        count = len(found)
    if count:
        examples = tuple(sanitize(item) for item in islice(found, NAMED))
        problems.append(Problem(kind, count, examples))


def _nothing(
    labels: Labels, tables: Mapping[str, Table], problems: list[Problem]
) -> str:
    name, table = next(iter(tables.items()))
    score = sanitize(table.paths[0]) if table.paths else "no rows at all"
    others = "; ".join(str(p) for p in problems if p.kind != "unscored")
    return (
        f"no picture has both a score and a label: {sanitize(name)} has paths such as "
        f"{score}, {sanitize(labels.source)} such as {sanitize(labels.paths[0])}; "
        f"score the pictures that are labelled{f' ({others})' if others else ''}"
    )
