"""Where label and prediction disagree, and which of these labels are likely wrong.

Confident learning (Northcutt et al., https://arxiv.org/abs/1911.00068), by cleanlab:
from how sure the classifier is in each class it estimates how many labels of each
class are wrong, and names the pictures that contradict their label most.
"""

import os
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from open_nsfw_tf.dataset import need
from open_nsfw_tf.dataset.folder import File
from open_nsfw_tf.dataset.judged import Judged
from open_nsfw_tf.errors import sanitize


@dataclass(frozen=True, slots=True)
class Mistake:
    """A picture whose label is not its prediction.

    Attributes:
        file: of the picture.
        label: what its folder says.
        predicted: the class with the largest score.
        label_score: probability of the label, 0 to 1.
        predicted_score: probability of the prediction, 0 to 1.
        likely: whether confident learning takes the label for wrong.
    """

    file: File
    label: str
    predicted: str
    label_score: float
    predicted_score: float
    likely: bool


def find_mistakes(judged: Judged) -> list[Mistake]:
    """Find the pictures whose label and prediction disagree.

    Args:
        judged: pictures with labels and probabilities, from a classifier that was not
            trained on these very pictures.

    Returns:
        Likely wrong labels first, then those of which the classifier doubts most.

    Raises:
        ValueError: all pictures have one label.
        ImportError: cleanlab is not installed.
    """
    predicted = judged.predicted()
    likely = np.zeros(len(judged.files), bool)
    likely[_likely_errors(judged)] = True
    mistakes = []
    for index in np.flatnonzero(predicted != judged.labels):
        label, other = judged.labels[index], predicted[index]
        mistakes.append(
            Mistake(
                judged.files[index],
                judged.classes[label],
                judged.classes[other],
                float(judged.scores[index, label]),
                float(judged.scores[index, other]),
                bool(likely[index]),
            )
        )
    return sorted(mistakes, key=lambda m: (not m.likely, m.label_score, m.file.name))


def _likely_errors(judged: Judged) -> np.ndarray:
    """Indices of the labels that confident learning takes for wrong."""
    present = np.unique(judged.labels)
    if len(present) < 2:
        raise ValueError(
            "expected pictures of two classes or more, all are labelled "
            f"{sanitize(judged.classes[int(present[0])])}"
        )
    need("cleanlab")
    cleanlab = import_module("cleanlab.filter")
    with warnings.catch_warnings():
        # That a class has few pictures, or none, is known from the confusion table.
        warnings.simplefilter("ignore")
        found: np.ndarray = cleanlab.find_label_issues(
            judged.labels,
            judged.scores,
            return_indices_ranked_by="self_confidence",
            n_jobs=1,  # it takes hundredths of a second; processes would take seconds
        )
    return found


def confusion(judged: Judged) -> np.ndarray:
    """Pictures by label and prediction, int64 (C, C), rows are labels."""
    counts = np.zeros((len(judged.classes),) * 2, np.int64)
    np.add.at(counts, (judged.labels, judged.predicted()), 1)
    return counts


def moves_of(
    mistakes: list[Mistake], target: str, every: bool = False
) -> list[tuple[str, str]]:
    """Where the pictures would go: ``target/A_as_B/...``.

    Args:
        mistakes: found in a folder.
        target: a folder, in which each pair of classes gets one.
        every: also those whose label is likely right and the prediction wrong.
    """
    return list(_moves(mistakes, os.path.abspath(target), every))


def _moves(
    mistakes: list[Mistake], target: str, every: bool
) -> Iterator[tuple[str, str]]:
    for mistake in mistakes:
        if every or mistake.likely:
            pair = as_folder(f"{mistake.label}_as_{mistake.predicted}")
            name = os.path.basename(mistake.file.name)
            yield mistake.file.path, os.path.join(target, pair, name)


def as_folder(name: str) -> str:
    """A name as that of one folder: class names come from strangers' tables."""
    safe = name.replace("\0", "_").replace(os.sep, "_")
    return f"_{safe}" if safe in ("", ".", "..") else safe
