"""A folder of classes beside a table of scores: the pictures that have both.

What keeps a picture out is found by `open_nsfw_tf.evaluate.join`, counted and named.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from open_nsfw_tf.dataset.folder import File, Scan
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate.join import Problem, join
from open_nsfw_tf.evaluate.labels import Labels
from open_nsfw_tf.files import is_picture
from open_nsfw_tf.tables import Table, read_table


@dataclass(frozen=True, slots=True)
class ScoredFolder:
    """Pictures of a folder with a label and scores.

    Attributes:
        files: N pictures, by name.
        classes: names of the C classes, the columns of the table.
        labels: int64 (N,), 0..C-1.
        scores: float64 (N, C), 0..1.
        problems: what was left out.
    """

    files: list[File]
    classes: tuple[str, ...]
    labels: np.ndarray
    scores: np.ndarray
    problems: tuple[Problem, ...] = ()


def join_scores(
    found: Scan,
    scores: str | os.PathLike[str] | Table,
    names: Mapping[str, str] | None = None,
    strict: bool = False,
) -> ScoredFolder:
    """Join the pictures of a folder with their scores.

    Args:
        found: a folder of classes.
        scores: a table, or the path of one, with a column of probabilities for each
            class, or nsfw alone, which counts as sfw and nsfw; its paths are absolute,
            relative to the current folder, or relative to the folder of classes.
        names: the class that a folder stands for, where it is called otherwise; upper
            and lower case do not matter.
        strict: refuse whatever does not fit.

    Returns:
        The pictures that have both a label and scores of the file as it is now.

    Raises:
        OSError: the table cannot be read.
        ValueError: it is broken, nothing fits, or `strict` and something does not; see
            `open_nsfw_tf.tables.read_table` and `open_nsfw_tf.evaluate.join`.
    """
    if isinstance(scores, Table):
        name, table = "scores", scores
    else:
        name, table = os.fsdecode(scores), read_table(scores, any_number=True)
    table = replace(table, paths=_names_in(found, table.paths))
    scored = set(table.paths)
    # Notes and the like, which nothing was to score, are no pictures without a score.
    files = [f for f in found.files if f.name in scored or is_picture(f.path)]
    if not files:
        raise ValueError(f"{sanitize(found.root)}: expected pictures, found none")
    stamps = np.array([(file.size, file.mtime_ns) for file in files], np.int64)
    labels = Labels(
        [file.name for file in files],
        [file.label or "" for file in files],
        found.root,
        found.root,
        stamps,
    )
    joined = join({name: table}, labels, names, strict, leave_out_doubtful=True)
    order = np.argsort(joined.label_rows)
    return ScoredFolder(
        [files[row] for row in joined.label_rows[order].tolist()],
        joined.classes,
        joined.labels[order],
        joined.scores[name][order],
        joined.problems,
    )


def _names_in(found: Scan, paths: list[str]) -> list[str]:
    """Paths as names below a folder, where they are those of its files."""
    real = os.path.realpath(found.root)
    name_of = {os.path.join(real, file.name): file.name for file in found.files}
    name_of |= {file.path: file.name for file in found.files}
    names = []
    for path in paths:
        below = os.path.normpath(os.path.join(found.root, path))
        name = name_of.get(os.path.abspath(path)) or name_of.get(below)
        names.append(name or path)
    return names


def as_folder(name: str) -> str:
    """A name as that of one folder: class names come from strangers' tables."""
    safe = name.replace("\0", "_").replace(os.sep, "_")
    return f"_{safe}" if safe in ("", ".", "..") else safe
