"""Class folders as lists of pictures and labels: found, checked and divided.

What is found is what `open_nsfw_tf.train.sides` says.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import MAX_PIXELS, check_max_pixels, load_rgb
from open_nsfw_tf.parallel import in_order
from open_nsfw_tf.train.sides import Side, find_classes, find_sides, read_side


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures and what they are.

    Attributes:
        paths: absolute, in an order that no file system changes; bytes that are no text
            are kept as surrogates.
        labels: int64 (N,), indices of classes.
    """

    paths: list[str]
    labels: np.ndarray

    def __len__(self) -> int:
        return len(self.paths)

    def part(self, indices: Sequence[int]) -> "Split":
        """Some of the pictures, in the order of the indices."""
        labels = self.labels[np.asarray(indices, np.int64)]
        return Split([self.paths[index] for index in indices], labels)


@dataclass(frozen=True, eq=False)
class Data:
    """A folder of classes, ready for training.

    Attributes:
        classes: their names in the order of the labels; sorted, but sfw before nsfw.
        train: what is learned from.
        validation: what is watched; empty where nothing was split off.
        test: what is judged; None where there is no ``test/``.
        broken: path and reason of every picture that cannot be read.
        ignored: how many files beside the pictures are none; hidden ones do not count.
    """

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split | None
    broken: tuple[tuple[str, str], ...] = ()
    ignored: int = 0

    def count(self, split: Split) -> dict[str, int]:
        """How many pictures of each class a split has."""
        counts = np.bincount(split.labels, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, counts), strict=True))


def read_data(
    folder: str | os.PathLike[str],
    *,
    validation: float = 0.1,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen_one: Callable[[int], None] = lambda total: None,
) -> Data:
    """Find the pictures of a folder, and decode each of them once to see that it can be.

    Where there is no ``val/``, a part of every class is split off ``train/`` by chance.
    Look-alikes may then fall on both sides: `open-nsfw dataset split` keeps them
    together, and makes the folders that are read here.

    Args:
        folder: DATA, see `open_nsfw_tf.train.sides`.
        validation: share of every class, 0 to below 1; 0: none. At least one picture of
            each class goes, and at least one stays.
        seed: of the split; the same one gives the same.
        max_pixels: larger pictures count as broken.
        threads: None: as many as there are processors.
        seen_one: called with the number of all pictures after each of them.

    Raises:
        OSError: there is no such folder, or it cannot be read.
        ValueError: it is not laid out so; a class has no picture that can be read, or too
            few to split; fewer than two classes; a class's name cannot be one.
    """
    if not os.fspath(folder):
        raise ValueError("expected a folder of pictures, got an empty name")
    root = os.path.abspath(os.fsdecode(folder))
    check_max_pixels(max_pixels)
    if not 0 <= validation < 1:
        raise ValueError(
            f"expected a share for validation of 0 to below 1, got {validation:g}"
        )
    sides = {name: read_side(path) for name, path in find_sides(root).items()}
    classes = find_classes(sides)
    broken = _drop_broken(list(sides.values()), max_pixels, threads, seen_one)
    splits = {name: _split(side, classes) for name, side in sides.items()}
    if "val" in splits:
        train, watched = splits["train"], splits["val"]
    else:
        train, watched = _divided(splits["train"], classes, validation, seed)
    return Data(
        classes,
        train,
        watched,
        splits.get("test"),
        broken,
        sum(side.ignored for side in sides.values()),
    )


def class_weights(split: Split, classes: Sequence[str]) -> dict[int, float]:
    """Weights with which rare classes count as much as frequent ones.

    Args:
        split: what is learned from; every class has pictures in it.
        classes: their names.

    Returns:
        By label: all pictures / (classes x pictures of the class), so that the mean over
        the pictures is 1. What Keras takes as `class_weight`.
    """
    counts = np.bincount(split.labels, minlength=len(classes))
    return {
        label: len(split) / (len(classes) * int(count))
        for label, count in enumerate(counts)
        if count
    }


def _drop_broken(
    sides: list[Side],
    max_pixels: int,
    threads: int | None,
    seen_one: Callable[[int], None],
) -> tuple[tuple[str, str], ...]:
    """Take out what cannot be decoded; path and reason of each."""
    paths = [path for side in sides for part in side.classes.values() for path in part]
    work = partial(_reason, max_pixels=max_pixels)
    broken = {}
    for path, reason in zip(paths, in_order(work, paths, threads), strict=True):
        if reason:
            broken[path] = reason
        seen_one(len(paths))
    for side in sides:
        for name, part in side.classes.items():
            side.classes[name] = [path for path in part if path not in broken]
            if not side.classes[name]:
                raise ValueError(
                    f"{sanitize(os.path.join(side.folder, name))}: none of its {len(part)} "
                    f"pictures can be read, the first is {broken[part[0]]}"
                )
    return tuple(sorted(broken.items()))


def _reason(path: str, max_pixels: int) -> str:
    """Why a picture cannot be decoded; "" where it can."""
    try:
        load_rgb(path, max_pixels)
    except ImageError as error:
        return str(error)
    return ""


def _split(side: Side, classes: Sequence[str]) -> Split:
    paths = [path for name in classes for path in side.classes[name]]
    counts = [len(side.classes[name]) for name in classes]
    return Split(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _divided(
    split: Split, classes: Sequence[str], share: float, seed: int
) -> tuple[Split, Split]:
    """Split a share off every class; what stays, and what goes."""
    chosen: set[int] = set()
    for label, count in sorted(Counter(split.labels.tolist()).items()) if share else ():
        if count < 2:
            raise ValueError(
                f"class {sanitize(classes[label])!r} has {count} picture: expected 2 or "
                "more to split some off for validation; add some, or fill val/"
            )
        members = np.flatnonzero(split.labels == label).tolist()
        random.Random(f"{seed} {classes[label]}").shuffle(members)
        chosen.update(members[: min(max(1, round(share * count)), count - 1)])
    stays = [index for index in range(len(split)) if index not in chosen]
    return split.part(stays), split.part(sorted(chosen))
