"""Pictures by how right the classifier was: tp, tn, fp, fn, or by class and prediction."""

import os
from collections.abc import Callable
from dataclasses import dataclass

from open_nsfw_tf.dataset.folder import File
from open_nsfw_tf.dataset.judged import Judged
from open_nsfw_tf.dataset.mistakes import as_folder
from open_nsfw_tf.files import fitting

THRESHOLD = 0.5
POSITIVE = "nsfw"


@dataclass(frozen=True, slots=True)
class Sorted:
    """A picture and its place.

    Attributes:
        file: of the picture.
        folder: it belongs in.
        name: it gets there: score, label, prediction, and its own.
        score: of the positive class, 0 to 1.
    """

    file: File
    folder: str
    name: str
    score: float


def _outcome(label: str, predicted: str, positive: str) -> str:
    right = "t" if label == predicted else "f"
    return right + ("p" if predicted == positive else "n")


def _pair(label: str, predicted: str, positive: str) -> str:
    return as_folder(f"{label}_{predicted}")


BY: dict[str, Callable[[str, str, str], str]] = {"outcome": _outcome, "class": _pair}


def sort(
    judged: Judged,
    threshold: float = THRESHOLD,
    positive: str = POSITIVE,
    by: str = "outcome",
) -> list[Sorted]:
    """Give every picture its place.

    Args:
        judged: pictures with labels and probabilities.
        threshold: from which score of the positive class on a picture is called so;
            with more than two classes, and `by` "class", the largest score decides.
        positive: the class that is looked for.
        by: "outcome": tp, tn, fp, fn; "class": ``label_predicted``.

    Returns:
        All pictures, within each folder the highest score first.

    Raises:
        ValueError: no such class or way, a threshold out of range, or outcomes of more
            than two classes.
    """
    if by not in BY:
        raise ValueError(f"expected one of {', '.join(BY)}, got {by!r:.80}")
    many = len(judged.classes) > 2 and by == "class"
    predicted = judged.predicted(None if many else positive, threshold)
    columns = predicted if many else [judged.index(positive)] * len(predicted)
    made = []
    for index, file in enumerate(judged.files):
        label = judged.classes[judged.labels[index]]
        other = judged.classes[predicted[index]]
        score = float(judged.scores[index, columns[index]])
        own, suffix = os.path.splitext(os.path.basename(file.name))
        name = fitting(as_folder(f"{score:.4f}_{label}_as_{other}_{own}"), suffix)
        made.append(Sorted(file, BY[by](label, other, positive), name, score))
    return sorted(made, key=lambda one: (one.folder, -one.score, one.file.name))


def moves_of(places: list[Sorted], target: str) -> list[tuple[str, str]]:
    """Where the pictures would go: ``target/folder/name``."""
    root = os.path.abspath(target)
    return [
        (place.file.path, os.path.join(root, place.folder, place.name))
        for place in places
    ]
