"""Where label and prediction disagree, and which of these labels are likely wrong.

Confident learning (Northcutt et al., https://arxiv.org/abs/1911.00068), by cleanlab:
from how sure the classifier is in each class it estimates how many labels of each
class are wrong, and names the pictures that contradict their label most.
"""

import os
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from open_nsfw_tf.dataset.folder import File, ProposedMoves, Scan, propose, scan
from open_nsfw_tf.dataset.scored import ScoredFolder, as_folder, join_scores
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate.metrics import confusion_matrix
from open_nsfw_tf.libraries import need
from open_nsfw_tf.tables import Table


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A picture whose label is not its prediction.

    Attributes:
        file: of the picture.
        label: the class that its folder stands for.
        predicted: the class with the largest score.
        label_score: probability of the label, 0 to 1.
        predicted_score: probability of the prediction, 0 to 1.
        likely_error: whether confident learning takes the label for wrong.
    """

    file: File
    label: str
    predicted: str
    label_score: float
    predicted_score: float
    likely_error: bool


@dataclass(frozen=True, slots=True)
class CleanResult:
    """What was found.

    Attributes:
        scored: the pictures, their labels and scores, and what was left out.
        disagreements: likely wrong labels first, then those of which the classifier
            doubts most.
        moves: of the pictures that are likely in the wrong class.
    """

    scored: ScoredFolder
    disagreements: list[Disagreement]
    moves: ProposedMoves

    @property
    def confusion(self) -> np.ndarray:
        """Pictures by label and prediction, int64 (C, C), rows are labels."""
        labels, scores = self.scored.labels, self.scored.scores
        return confusion_matrix(labels, scores.argmax(axis=1), len(self.scored.classes))


def clean(
    folder: str | os.PathLike[str] | Scan,
    scores: str | os.PathLike[str] | Table,
    target: str | os.PathLike[str] = "mistakes",
    every: bool = False,
    names: Mapping[str, str] | None = None,
    strict: bool = False,
    apply: bool = False,
) -> CleanResult:
    """Find labels that are likely wrong, and move their pictures away.

    Args:
        folder: of classes, or a scan of it.
        scores: as for `join_scores`, from a classifier that was not trained on these
            very pictures.
        target: a folder to move to, in which each pair of classes gets one, A_as_B.
        every: move also those whose label is likely right and the prediction wrong.
        names: as for `join_scores`.
        strict: refuse whatever does not fit.
        apply: make the moves, rather than only propose them.

    Raises:
        OSError: the folder or the table cannot be read, or a file cannot be moved.
        ValueError: all pictures have one label; or as `open_nsfw_tf.dataset.scan` and
            `join_scores`.
        ImportError: cleanlab is not installed.
    """
    scored = join_scores(scan(folder, target), scores, names, strict)
    found = find_label_errors(scored)
    pairs = moves_of(found, every)
    moves = propose(pairs, scored.files, target, "move", "clean")
    if apply:
        moves.apply()
    return CleanResult(scored, found, moves)


def find_label_errors(scored: ScoredFolder) -> list[Disagreement]:
    """Find the pictures whose label and prediction disagree.

    Args:
        scored: pictures with labels and probabilities, from a classifier that was not
            trained on these very pictures.

    Returns:
        Likely wrong labels first, then those of which the classifier doubts most.

    Raises:
        ValueError: all pictures have one label.
        ImportError: cleanlab is not installed.
    """
    predicted = scored.scores.argmax(axis=1)
    likely = np.zeros(len(scored.files), bool)
    likely[_likely_errors(scored)] = True
    found = []
    for index in np.flatnonzero(predicted != scored.labels):
        label, other = scored.labels[index], predicted[index]
        found.append(
            Disagreement(
                scored.files[index],
                scored.classes[label],
                scored.classes[other],
                float(scored.scores[index, label]),
                float(scored.scores[index, other]),
                bool(likely[index]),
            )
        )
    return sorted(
        found, key=lambda one: (not one.likely_error, one.label_score, one.file.name)
    )


def _likely_errors(scored: ScoredFolder) -> np.ndarray:
    """Indices of the labels that confident learning takes for wrong."""
    present = np.unique(scored.labels)
    if len(present) < 2:
        raise ValueError(
            "expected pictures of two classes or more, all are labelled "
            f"{sanitize(scored.classes[int(present[0])])}"
        )
    need("dataset", "cleanlab")
    cleanlab = import_module("cleanlab.filter")
    with warnings.catch_warnings():
        # That a class has few pictures, or none, is known from the confusion table.
        warnings.simplefilter("ignore")
        found: np.ndarray = cleanlab.find_label_issues(
            scored.labels,
            scored.scores,
            return_indices_ranked_by="self_confidence",
            n_jobs=1,  # it takes hundredths of a second; processes would take seconds
        )
    return found


def moves_of(found: list[Disagreement], every: bool = False) -> list[tuple[str, str]]:
    """Where below a target the pictures would go: ``A_as_B/...``.

    Args:
        found: in a folder.
        every: also those whose label is likely right and the prediction wrong.
    """
    moves = []
    for one in found:
        if every or one.likely_error:
            pair = as_folder(f"{one.label}_as_{one.predicted}")
            name = os.path.basename(one.file.name)
            moves.append((one.file.path, os.path.join(pair, name)))
    return moves
