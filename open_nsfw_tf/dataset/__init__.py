"""Pictures in class folders: checked, without duplicates, split, and with true labels.

A folder holds ``<class>/...``, or ``train/<class>/...``, ``test/<class>/...`` and
``val/<class>/...``. One function for each job: it finds, and proposes moves; with
``apply=True`` it makes them. Nothing here deletes a picture: the moves are written down
before the first of them, and `open_nsfw_tf.undo` takes them back. Needs the extra
`dataset`.
"""

from open_nsfw_tf.dataset.check import CheckResult, FileProblem, check
from open_nsfw_tf.dataset.duplicates import DedupeResult, dedupe
from open_nsfw_tf.dataset.fingerprints import ReadOptions
from open_nsfw_tf.dataset.folder import File, ProposedMoves, Scan, scan
from open_nsfw_tf.dataset.label_errors import CleanResult, clean
from open_nsfw_tf.dataset.scored import ScoredFolder, join_scores
from open_nsfw_tf.dataset.sort import SheetOptions, SortOptions, SortResult, sort
from open_nsfw_tf.dataset.split import SplitResult, split

__all__ = [
    "CheckResult",
    "CleanResult",
    "DedupeResult",
    "File",
    "FileProblem",
    "ProposedMoves",
    "ReadOptions",
    "Scan",
    "ScoredFolder",
    "SheetOptions",
    "SortOptions",
    "SortResult",
    "SplitResult",
    "check",
    "clean",
    "dedupe",
    "join_scores",
    "scan",
    "sort",
    "split",
]
