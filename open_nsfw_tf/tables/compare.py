"""Two tables of scores of the same pictures: how far apart are they?"""

from dataclasses import dataclass

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.tables.read import Table

NAMED = 3  # pictures that an error names


@dataclass(frozen=True)
class Difference:
    """How two columns of scores differ, over the pictures that have both.

    Attributes:
        count: of pictures.
        min, max, mean, median, std: of the absolute differences, 0..1.
        correlation: Pearson's, of the scores; NaN where one of them never changes.
        largest: path, first and second score, the largest difference first.
    """

    count: int
    min: float
    max: float
    mean: float
    median: float
    std: float
    correlation: float
    largest: list[tuple[str, float, float]]


def compare(
    first: Table, second: Table, *, common: bool = False, top: int = 10
) -> dict[str, Difference]:
    """Compare the scores of two tables, picture by picture, by path.

    Args:
        first: of scores.
        second: of scores, in any order.
        common: leave out pictures that one table lacks, or has no score for; without
            it they are an error.
        top: how many of the largest differences are given.

    Returns:
        A `Difference` for each column that both have.

    Raises:
        ValueError: the tables have different pictures (and `common` is false), one
            has a picture twice, or they share no column or no scored picture.
    """
    names = [name for name in first.columns if name in second.columns]
    if not names:
        raise ValueError(
            "the tables share no column of scores: "
            f"{sanitize(', '.join(first.columns))} and "
            f"{sanitize(', '.join(second.columns))}"
        )
    here, there = _rows(first, "first"), _rows(second, "second")
    if not common:
        _check_same(first, second, here, there)
    pairs = [(row, there[path]) for path, row in here.items() if path in there]
    left, right = np.array(pairs, np.intp).reshape(-1, 2).T
    return {
        name: _difference(
            name,
            first.paths,
            left,
            first.columns[name][left],
            second.columns[name][right],
            top,
        )
        for name in names
    }


def _rows(table: Table, which: str) -> dict[str, int]:
    rows = {path: index for index, path in enumerate(table.paths)}
    if len(rows) < len(table):
        twice = next(p for i, p in enumerate(table.paths) if rows[p] != i)
        raise ValueError(f"the {which} table has {sanitize(twice)} more than once")
    return rows


def _check_same(
    first: Table, second: Table, here: dict[str, int], there: dict[str, int]
) -> None:
    for lacking, paths, rows in (("second", here, there), ("first", there, here)):
        missing = [path for path in paths if path not in rows]
        if missing:
            raise ValueError(
                f"the {lacking} table lacks {len(missing)} of {len(paths)} pictures, "
                f"such as {_named(missing)}; --common compares those that both have"
            )
    for which, table in (("first", first), ("second", second)):
        scores = np.stack(list(table.columns.values()))
        missing = [table.paths[i] for i in np.flatnonzero(np.isnan(scores).any(0))]
        if missing:
            raise ValueError(
                f"the {which} table has no score for {len(missing)} pictures, such as "
                f"{_named(missing)}; --common leaves them out"
            )


def _named(paths: list[str]) -> str:
    return ", ".join(sanitize(path, 80) for path in paths[:NAMED])


def _difference(
    name: str,
    paths: list[str],
    rows: np.ndarray,
    one: np.ndarray,
    other: np.ndarray,
    top: int,
) -> Difference:
    scored = ~(np.isnan(one) | np.isnan(other))
    rows, one, other = rows[scored], one[scored], other[scored]
    if not len(rows):
        raise ValueError(f"no picture has a score {sanitize(name, 40)} in both tables")
    delta = np.abs(one - other)
    order = np.argsort(-delta, kind="stable")[:top]
    varied = one.std() > 0 and other.std() > 0
    return Difference(
        count=len(delta),
        min=float(delta.min()),
        max=float(delta.max()),
        mean=float(delta.mean()),
        median=float(np.median(delta)),
        std=float(delta.std()),
        correlation=float(np.corrcoef(one, other)[0, 1]) if varied else float("nan"),
        largest=[(paths[rows[i]], float(one[i]), float(other[i])) for i in order],
    )
