"""Train and test sets of every class, with look-alikes kept in one split.

A picture whose copy the network was trained on proves nothing: all that are connected
by near duplicates go to one split, as a whole.
"""

import os
import random
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from open_nsfw_tf.dataset.duplicates import DISTANCE, hash_buckets
from open_nsfw_tf.dataset.fingerprints import READ_DEFAULTS, ReadOptions, fingerprints
from open_nsfw_tf.dataset.folder import File, ProposedMoves, Scan, propose, scan
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import check_distinct

SHARES = {"train": 0.9, "val": 0.0, "test": 0.1}
ROUNDING = 1e-6  # of the sum of the shares
ROUNDED = 0.5  # pictures of a class that a split may get above its share
Labels = Counter[str | None]


@dataclass(slots=True)
class SplitResult:
    """Which picture goes where.

    Attributes:
        splits: by name, the files of each.
        clusters: how many groups of look-alikes were kept together.
        largest: how many pictures the largest of them has.
        unreadable: name and reason; they go nowhere.
        unlabelled: names of pictures in no class folder; they go nowhere.
        moves: into the splits; None before they are planned.
    """

    splits: dict[str, list[File]]
    clusters: int = 0
    largest: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)
    moves: ProposedMoves | None = None

    def count(self, split: str, label: str | None) -> int:
        """How many pictures of a class a split has."""
        return sum(file.label == label for file in self.splits[split])


def split(
    folder: str | os.PathLike[str] | Scan,
    target: str | os.PathLike[str] | None = None,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    distance: int = DISTANCE,
    action: str = "move",
    reading: ReadOptions = READ_DEFAULTS,
    apply: bool = False,
) -> SplitResult:
    """Divide the pictures of every class.

    Args:
        folder: of classes, which is not divided yet, or a scan of it.
        target: where the splits go; None: into the folder itself.
        shares: of every split, such as train: .9, test: .1; they sum to 1.
        seed: another one gives another division; the same one the same.
        distance: bits of 64 in which the perceptual hashes of look-alikes differ at
            most.
        action: a key of `open_nsfw_tf.moves.ACTIONS`; only "move" goes into the folder
            itself.
        reading: how the pictures are read.
        apply: make the moves, rather than only propose them.

    Raises:
        OSError: the folder cannot be read, or a file cannot be moved.
        ValueError: the shares do not sum to 1, the folder is divided already, or has
            no class folders, or two that differ only in upper and lower case or the
            like.
        ImportError: a package of the extra `dataset` is missing.
    """
    _check_shares(shares)
    if target is None and action != "move":
        raise ValueError(f"to {action} needs a target, a folder for the splits")
    found = scan(folder, target, into_itself=True)
    result = divide(found, shares, seed, distance, reading)
    target = found.root if target is None else target
    pairs = moves_of(result)
    result.moves = propose(pairs, found.files, target, action, "split")
    if apply:
        result.moves.apply()
    return result


def divide(
    found: Scan,
    shares: Mapping[str, float] = SHARES,
    seed: int = 0,
    distance: int = DISTANCE,
    reading: ReadOptions = READ_DEFAULTS,
) -> SplitResult:
    """Say which pictures of every class go to which split; see `split`."""
    _check_shares(shares)
    divided = {file.split for file in found.files if file.split}
    if divided:
        raise ValueError(
            f"{sanitize(found.root)}: expected a folder of classes, this one is "
            f"divided already: it has {', '.join(sorted(divided))}"
        )
    labelled = [file for file in found.files if file.label]
    if not labelled:
        raise ValueError(
            f"{sanitize(found.root)}: expected pictures in folders that are named by "
            "their class"
        )
    check_distinct(sorted({file.label for file in labelled if file.label}))
    pictures = fingerprints(labelled, reading)
    clusters = hash_buckets(pictures.prints, distance).clusters()
    result = SplitResult({split: [] for split, share in shares.items() if share})
    result.unreadable = pictures.unreadable
    result.unlabelled = [file.name for file in found.files if not file.label]
    result.clusters = sum(len(cluster) > 1 for cluster in clusters)
    result.largest = max(map(len, clusters), default=0)
    chance = random.Random(seed)
    chance.shuffle(clusters)
    clusters.sort(
        key=len, reverse=True
    )  # stable; large ones first, while there is room
    together = [[pictures.files[index] for index in cluster] for cluster in clusters]
    _fill(result, together, shares, chance)
    return result


def _check_shares(shares: Mapping[str, float]) -> None:
    total = sum(shares.values())
    fit = all(0 <= share <= 1 for share in shares.values())
    if not fit or not abs(total - 1) <= ROUNDING:
        given = ", ".join(f"{split} {share:g}" for split, share in shares.items())
        raise ValueError(f"expected shares of 0 to 1 that sum to 1, got {given}")


def _fill(
    result: SplitResult,
    groups: list[list[File]],
    shares: Mapping[str, float],
    chance: random.Random,
) -> None:
    """Give every group to a split with room for it, by chance and by how much room."""
    totals = Labels(file.label for group in groups for file in group)
    lacks = {
        split: {label: shares[split] * count for label, count in totals.items()}
        for split in result.splits
    }
    for group in groups:
        labels = Labels(file.label for file in group)
        room = {
            split: sum(lacks[split][label] / totals[label] for label in labels)
            for split in result.splits
            if all(lacks[split][label] > n - ROUNDED for label, n in labels.items())
        }
        if room:
            split = chance.choices(list(room), list(room.values()))[0]
        else:  # it fits nowhere: where most is lacking
            split = max(
                result.splits, key=lambda split: sum(lacks[split][x] for x in labels)
            )
        result.splits[split] += group
        for label, count in labels.items():
            lacks[split][label] -= count
    for files in result.splits.values():
        files.sort(key=lambda file: file.name)


def moves_of(result: SplitResult) -> list[tuple[str, str]]:
    """Where below a target the pictures would go: ``split/class/...``."""
    return [
        (file.path, os.path.join(split, file.name))
        for split, files in result.splits.items()
        for file in files
    ]
