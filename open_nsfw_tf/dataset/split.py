"""Train and test sets of every class, with look-alikes kept on one side.

A picture whose copy the network was trained on proves nothing: all that hangs together
by near duplicates goes to one side, as a whole.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from open_nsfw_tf.dataset.cells import THRESHOLD, cells, clusters
from open_nsfw_tf.dataset.fingerprints import fingerprints
from open_nsfw_tf.dataset.folder import File, Found
from open_nsfw_tf.files import check_distinct
from open_nsfw_tf.image import MAX_PIXELS

ROUNDING = 1e-6  # of the sum of the shares
ROUNDED = 0.5  # pictures of a class that a side may get above its share
Labels = Counter[str | None]


@dataclass(slots=True)
class Split:
    """Which picture goes where.

    Attributes:
        sides: by name, the files of each.
        clusters: how many groups of look-alikes were kept together.
        largest: how many pictures the largest of them has.
        unreadable: name and reason; they go nowhere.
        unlabelled: names of pictures in no class folder; they go nowhere.
    """

    sides: dict[str, list[File]]
    clusters: int = 0
    largest: int = 0
    unreadable: dict[str, str] = field(default_factory=dict)
    unlabelled: list[str] = field(default_factory=list)

    def count(self, side: str, label: str | None) -> int:
        """How many pictures of a class a side has."""
        return sum(file.label == label for file in self.sides[side])


def split(
    found: Found,
    shares: Mapping[str, float],
    seed: int = 0,
    threshold: int = THRESHOLD,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen_one: Callable[[], None] = lambda: None,
) -> Split:
    """Divide the pictures of every class.

    Args:
        found: a folder of classes, which is not divided yet.
        shares: of every side, such as train: .9, test: .1; they sum to 1.
        seed: another one gives another division; the same one the same.
        threshold: bits of 64 in which the perceptual hashes of look-alikes differ.
        max_pixels: larger pictures count as unreadable.
        threads: None: as many as there are processors.
        seen_one: called after every file, for a progress bar.

    Raises:
        ValueError: the shares do not sum to 1, the folder is divided already, or has
            no class folders, or two that differ only in upper and lower case or the
            like.
        ImportError: a package of the extra `dataset` is missing.
    """
    _check_shares(shares)
    divided = {file.side for file in found.files if file.side}
    if divided:
        raise ValueError(
            f"expected a folder of classes, this one is divided already: it has "
            f"{', '.join(sorted(divided))}"
        )
    labelled = [file for file in found.files if file.label]
    if not labelled:
        raise ValueError("expected pictures in folders that are named by their class")
    check_distinct(sorted({file.label for file in labelled if file.label}))
    seen = fingerprints(labelled, max_pixels, threads, seen_one)
    groups = clusters(cells(seen.prints, threshold))
    done = Split({side: [] for side, share in shares.items() if share})
    done.unreadable = seen.unreadable
    done.unlabelled = [file.name for file in found.files if not file.label]
    done.clusters = sum(len(group) > 1 for group in groups)
    done.largest = max(map(len, groups), default=0)
    chance = random.Random(seed)
    chance.shuffle(groups)
    groups.sort(key=len, reverse=True)  # stable; large ones first, while there is room
    together = [[seen.files[index] for index in group] for group in groups]
    _fill(done, together, shares, chance)
    return done


def _check_shares(shares: Mapping[str, float]) -> None:
    total = sum(shares.values())
    fit = all(0 <= share <= 1 for share in shares.values())
    if not fit or not abs(total - 1) <= ROUNDING:
        given = ", ".join(f"{side} {share:g}" for side, share in shares.items())
        raise ValueError(f"expected shares of 0 to 1 that sum to 1, got {given}")


def _fill(
    done: Split,
    groups: list[list[File]],
    shares: Mapping[str, float],
    chance: random.Random,
) -> None:
    """Give every group to a side with room for it, by chance and by how much room."""
    totals = Labels(file.label for group in groups for file in group)
    lacks = {
        side: {label: shares[side] * count for label, count in totals.items()}
        for side in done.sides
    }
    for group in groups:
        labels = Labels(file.label for file in group)
        room = {
            side: sum(lacks[side][label] / totals[label] for label in labels)
            for side in done.sides
            if all(lacks[side][label] > n - ROUNDED for label, n in labels.items())
        }
        if room:
            side = chance.choices(list(room), list(room.values()))[0]
        else:  # it fits nowhere: where most is lacking
            side = max(done.sides, key=lambda side: sum(lacks[side][x] for x in labels))
        done.sides[side] += group
        for label, count in labels.items():
            lacks[side][label] -= count
    for files in done.sides.values():
        files.sort(key=lambda file: file.name)


def moves_of(done: Split, target: str) -> list[tuple[str, str]]:
    """Where the pictures would go: ``target/side/class/...``."""
    root = os.path.abspath(target)
    return [
        (file.path, os.path.join(root, side, file.name))
        for side, files in done.sides.items()
        for file in files
    ]
