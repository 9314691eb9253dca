"""One row for each video of a table that has a row for each frame.

A rule of `open_nsfw_tf.video` makes one score of all frames' scores. That score is the
one of some frame, so the row of that frame stands for the video: a threshold flags the
row if, and only if, the rule flags the video at that threshold.
"""

from collections.abc import Sequence

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate.join import NAMED, Problem
from open_nsfw_tf.tables import Table, in_range, positive_columns, positive_score
from open_nsfw_tf.video import Rule

GROUPS = ("path",)  # what rows can be grouped by


def by_path(table: Table, rule: Rule, positive: Sequence[str]) -> Table:
    """A table with one row for each path, in the order of their first rows.

    Args:
        table: of frames. Pictures, which have one row, stay as they are.
        rule: how the scores of a video's frames become one.
        positive: the classes whose scores are added up.

    Returns:
        The rows that decide. A video of which no frame has a score has its error; where
        only some could be read, those count.

    Raises:
        ValueError: the rule needs seconds, and frames have none; or as
            `positive_columns`.
    """
    columns = dict(table.columns)
    if tuple(columns) == LABELS[1:]:  # nsfw alone
        columns = {LABELS[0]: 1 - columns["nsfw"], **columns}
    chosen = positive_columns(list(columns), positive)
    every = np.stack(list(columns.values()), axis=1)
    scores = positive_score(every, chosen)
    scores[~in_range(every[:, chosen]).all(axis=1)] = np.nan  # no frame's score
    groups: dict[str, list[int]] = {}
    for row, path in enumerate(table.paths):
        groups.setdefault(path, []).append(row)
    rows = [
        found[0] if len(found) == 1 else _deciding(table, scores, np.array(found), rule)
        for found in groups.values()
    ]
    stamps = table.stamps
    if stamps is not None:  # the last row of a video has its file's
        stamps = stamps[[found[-1] for found in groups.values()]]
    return Table(
        [table.paths[row] for row in rows],
        {name: values[rows] for name, values in table.columns.items()},
        [table.errors[row] for row in rows],
        None if table.labels is None else [table.labels[row] for row in rows],
        stamps,
    )


def partial_videos(table: Table, name: str = "") -> list[Problem]:
    """The videos that have scores and an error: they were not read to their end.

    Args:
        table: of frames.
        name: of the table, for people; "" if there is only one.
    """
    rows = list(zip(table.paths, table.errors, strict=True))
    scored = {path for path, error in rows if error is None}
    found = [
        sanitize(f"{path}: {error}")
        for path, error in rows
        if error is not None and path in scored
    ]
    return [Problem("partial", len(found), tuple(found[:NAMED]), name)] if found else []


def _deciding(table: Table, scores: np.ndarray, rows: np.ndarray, rule: Rule) -> int:
    """The row whose score is the rule's score of these rows."""
    known = rows[in_range(scores[rows])]
    if not len(known):
        return int(rows[0])
    seconds = np.zeros(len(known))
    if table.seconds is not None:
        seconds = table.seconds[known]
        known, seconds = known[np.argsort(seconds, kind="stable")], np.sort(seconds)
    if rule.kind == "run" and (table.seconds is None or np.isnan(seconds).any()):
        raise ValueError(
            f"{sanitize(table.paths[rows[0]])}: the rule {rule} needs the seconds of "
            "each frame: score with `open-nsfw batch --videos`"
        )
    score = rule.score(seconds, scores[known])
    return int(known[np.flatnonzero(scores[known] == score)[0]])
