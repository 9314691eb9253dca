"""One row for each video of a table that has a row for each frame.

A rule of `open_nsfw_tf.video` makes one score of all frames' scores. That score is the
one of some frame, so the row of that frame stands for the video: a threshold flags the
row if, and only if, the rule flags the video at that threshold.
"""

from collections.abc import Sequence

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.tables import Table, in_range
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
        ValueError: the rule needs seconds, and frames have none; or a class is missing.
    """
    for name in positive:
        if name not in table.columns:
            raise ValueError(
                f"no column {sanitize(name, 40)!r} of scores; there are "
                f"{sanitize(', '.join(table.columns))}"
            )
    scores = np.sum([table.columns[name] for name in positive], axis=0)
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
