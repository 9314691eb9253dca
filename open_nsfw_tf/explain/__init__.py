"""Which part of a picture its score comes from, drawn, as boxes, and covered.

The arithmetic is `open_nsfw_tf.classifier.Explanation`.
"""

import sys
from typing import NamedTuple

import numpy as np

from open_nsfw_tf import CallableModule
from open_nsfw_tf.classifier import Classifier, Explanation, default_classifier
from open_nsfw_tf.explain.cover import HOW, Covered, blur
from open_nsfw_tf.explain.overlay import heatmap, overlay, svg
from open_nsfw_tf.image import Picture

__all__ = [
    "HOW",
    "SHARE",
    "Box",
    "Classifier",
    "Covered",
    "Explanation",
    "blur",
    "boxes",
    "explain",
    "heatmap",
    "overlay",
    "svg",
]

SHARE = 0.5  # of what raises the score, that `boxes` surround


def explain(picture: Picture, of: str | None = None) -> Explanation:
    """Explain a picture's score with the default classifier: see `Classifier.explain`.

    Raises:
        ImageError: the picture cannot be read.
        WeightsError: no weights are found.
    """
    return default_classifier().explain(picture, of)


class Box(NamedTuple):
    """A rectangle around connected cells: no detector's box, but 7 x 7 cells' own.

    Attributes:
        left, top, right, bottom: shares of the picture's width and height, 0..1, from
            its stored left upper corner, whatever its EXIF orientation.
        adds: to the log-odds of the score, by all its connected cells.
        cells: how many they are.
    """

    left: float
    top: float
    right: float
    bottom: float
    adds: float
    cells: int


def boxes(explanation: Explanation, share: float = SHARE) -> list[Box]:
    """Boxes around the cells that raise the score most.

    Args:
        explanation: of a picture.
        share: the fewest cells that together add this share, above 0 to 1, of what all
            positive cells add are surrounded.

    Returns:
        A box for each group of them that touch along a side, the one that adds most
        first; none if no cell is positive.

    Raises:
        ValueError: `share` is out of range.
    """
    if not 0 < share <= 1:
        raise ValueError(f"expected a share above 0, at most 1, got {share!r:.80}")
    cells = explanation.cells.astype(np.float64)
    values = np.sort(cells[cells > 0])[::-1]
    if not len(values):
        return []
    reached = np.searchsorted(np.cumsum(values), share * values.sum() * (1 - 1e-9))
    chosen = cells >= values[min(reached, len(values) - 1)]
    found = [_box(explanation, group) for group in _groups(chosen)]
    return sorted(found, key=lambda box: -box.adds)


def _groups(chosen: np.ndarray) -> list[list[tuple[int, int]]]:
    """The true places, those that touch along a side together."""
    left = {(int(row), int(column)) for row, column in np.argwhere(chosen)}
    groups = []
    while left:
        group = [left.pop()]
        for row, column in group:  # which grows meanwhile
            around = {(row - 1, column), (row + 1, column)}
            near = left & (around | {(row, column - 1), (row, column + 1)})
            left -= near
            group += near
        groups.append(group)
    return groups


def _box(explanation: Explanation, group: list[tuple[int, int]]) -> Box:
    left, top, right, bottom = zip(*(explanation.area(*cell) for cell in group))
    adds = sum(float(explanation.cells[cell]) for cell in group)
    return Box(min(left), min(top), max(right), max(bottom), adds, len(group))


sys.modules[__name__].__class__ = CallableModule
