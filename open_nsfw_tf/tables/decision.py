"""From the scores of the classes to one score, and from that to a decision."""

from collections.abc import Sequence

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import name_key

ACCEPT, REVIEW, BLOCK, ERROR = "accept", "review", "block", "error"
YAHOO_BAND = (0.2, 0.8)  # likely safe below, highly probably NSFW above: their README


def positive_columns(
    classes: Sequence[str], positive: Sequence[str] = ("nsfw",)
) -> list[int]:
    """The columns of the positive class, whose scores are added up, each once.

    Args:
        classes: the names of all columns.
        positive: one name or more; upper and lower case do not matter.

    Raises:
        ValueError: a name is not a class, or all classes are named.
    """
    wanted = {name_key(name) for name in positive}
    columns = [i for i, name in enumerate(classes) if name_key(name) in wanted]
    if len(columns) < len(wanted) or not 0 < len(columns) < len(classes):
        raise ValueError(
            f"expected as positive some of the classes {', '.join(classes)}, got "
            f"{sanitize(', '.join(positive)) or 'none'}: name them, such as "
            f"--positive {classes[-1]}"
        )
    return columns


def positive_score(scores: np.ndarray, columns: Sequence[int]) -> np.ndarray:
    """The score of the positive class: the sum of its columns.

    Args:
        scores: float (..., K), one column a class.
        columns: of `positive_columns`.

    Returns:
        float (...); of several columns at most 1, which a sum of probabilities exceeds
        only by rounding.
    """
    total: np.ndarray = scores[..., list(columns)].sum(axis=-1)
    return total if len(columns) == 1 else np.minimum(total, 1.0)


def check_band(band: Sequence[float]) -> None:
    """Raise a `ValueError` for a band whose two scores are not 0..1 and rising."""
    low, high = band
    if not 0 <= low <= high <= 1:
        raise ValueError(
            f"expected a band LOW:HIGH with 0 <= LOW <= HIGH <= 1, got {low:g}:{high:g}"
        )


def decide(score: float, band: Sequence[float]) -> str:
    """`ACCEPT` below the band's first score, `BLOCK` from the second, else `REVIEW`."""
    low, high = band
    return ACCEPT if score < low else REVIEW if score < high else BLOCK
