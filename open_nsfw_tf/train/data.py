"""Pictures and labels: class folders are found, checked and split.

DATA holds one folder a class, or ``train/`` with ``test/`` and/or ``val/`` that do (the
other names of `open_nsfw_tf.files.SPLITS` do as well). Pictures lie in a class's
folder or deeper. The pictures are those that `open_nsfw_tf.evaluate.labels` finds in
the same folder: hidden names are left out, links to files are followed and links to
folders are not, but for those of the classes themselves.
"""

import os
import random
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.backbones.trained import MAX_CLASSES, check_classes
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import (
    SPLITS,
    PassedOver,
    check_distinct,
    entries,
    files_below,
    is_picture,
    leads_elsewhere,
    name_key,
)
from open_nsfw_tf.image import MAX_PIXELS, check_max_pixels, load_rgb
from open_nsfw_tf.moves import is_manifest
from open_nsfw_tf.parallel import check_count, in_order

EXPECTED = (
    "expected a folder of class folders, or train/ with test/ and/or val/ of them"
)


@dataclass(frozen=True, eq=False)
class Split:
    """Pictures and what they are.

    Attributes:
        paths: absolute, in the same order on every file system; bytes that are not text
            become surrogates.
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
        train: the training pictures.
        validation: the validation pictures; empty where nothing was split off.
        test: the test set; None where there is no ``test/``.
        broken: path and reason of every picture that cannot be read.
        passed_over: the other files there are, by kind; hidden ones do not count.
    """

    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split | None
    broken: tuple[tuple[str, str], ...] = ()
    passed_over: PassedOver = field(default_factory=PassedOver)

    def count(self, split: Split) -> dict[str, int]:
        """How many pictures of each class a split has."""
        counts = np.bincount(split.labels, minlength=len(self.classes))
        return dict(zip(self.classes, map(int, counts), strict=True))


@dataclass(slots=True)
class SplitFolder:
    """What is in the folder of a split: paths by class."""

    folder: str
    classes: dict[str, list[str]] = field(default_factory=dict)
    passed_over: PassedOver = field(default_factory=PassedOver)


def read_data(
    folder: str | os.PathLike[str],
    *,
    validation: float = 0.1,
    seed: int = 0,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    progress: Callable[[int], None] = lambda total: None,
) -> Data:
    """Find the pictures of a folder, and decode each once to see that it can be.

    Where there is no ``val/``, a part of every class is split off ``train/`` at random.
    Similar pictures may then be in both: `open-nsfw dataset split` keeps them together,
    and makes the folders that are read here.

    Args:
        folder: DATA, see this module.
        validation: share of every class, 0 to below 1; 0: none. At least one picture of
            each class goes, and at least one stays.
        seed: of the split; the same one gives the same.
        max_pixels: larger pictures count as broken.
        threads: None: as many as there are processors.
        progress: called after each picture, with the number of all pictures.

    Raises:
        OSError: there is no such folder, or it cannot be read.
        ValueError: it has another layout; a class has no picture that can be read, or
            too few to split; fewer than two classes; a class's name cannot be one.
    """
    if not os.fspath(folder):
        raise ValueError("expected a folder of pictures, got an empty name")
    root = os.path.abspath(os.fsdecode(folder))
    check_max_pixels(max_pixels)
    if not 0 <= validation < 1:
        raise ValueError(
            f"expected a share for validation of 0 to below 1, got {validation:g}"
        )
    check_count(threads, "thread")
    folders = {name: read_split(path) for name, path in find_splits(root).items()}
    classes = find_classes(folders)
    passed_over = PassedOver()
    for each in folders.values():
        passed_over.update(each.passed_over)
    broken = _drop_broken(list(folders.values()), max_pixels, threads, progress)
    splits = {name: _split(folder, classes) for name, folder in folders.items()}
    if "val" in splits:
        train, validated = splits["train"], splits["val"]
    else:
        train, validated = _divided(splits["train"], classes, validation, seed)
    return Data(
        classes,
        train,
        validated,
        splits.get("test"),
        broken,
        passed_over,
    )


def class_weights(split: Split, classes: Sequence[str]) -> dict[int, float]:
    """Weights with which rare classes count as much as frequent ones.

    Args:
        split: what is learned from; every class has pictures in it.
        classes: their names.

    Returns:
        By label: all pictures / (classes x pictures of the class), so that the mean
        over the pictures is 1. What Keras takes as `class_weight`.
    """
    counts = np.bincount(split.labels, minlength=len(classes))
    return {
        label: len(split) / (len(classes) * int(count))
        for label, count in enumerate(counts)
        if count
    }


def _drop_broken(
    folders: list[SplitFolder],
    max_pixels: int,
    threads: int | None,
    progress: Callable[[int], None],
) -> tuple[tuple[str, str], ...]:
    """Remove the pictures that cannot be decoded; path and reason of each."""
    paths = [path for one in folders for part in one.classes.values() for path in part]
    reasons = in_order(lambda path: _reason(path, max_pixels), paths, threads)
    broken = {}
    for path, reason in zip(paths, reasons, strict=True):
        if reason:
            broken[path] = reason
        progress(len(paths))
    for folder in folders:
        for name, part in folder.classes.items():
            folder.classes[name] = [path for path in part if path not in broken]
            if not folder.classes[name]:
                raise ValueError(
                    f"{sanitize(os.path.join(folder.folder, name))}: none of its "
                    f"{len(part)} pictures can be read, the first is {broken[part[0]]}"
                )
    return tuple(sorted(broken.items()))


def _reason(path: str, max_pixels: int) -> str:
    """Why a picture cannot be decoded; "" where it can."""
    try:
        load_rgb(path, max_pixels)
    except ImageError as error:
        return str(error)
    return ""


def _split(folder: SplitFolder, classes: Sequence[str]) -> Split:
    paths = [path for name in classes for path in folder.classes[name]]
    counts = [len(folder.classes[name]) for name in classes]
    return Split(paths, np.repeat(np.arange(len(classes), dtype=np.int64), counts))


def _divided(
    split: Split, classes: Sequence[str], share: float, seed: int
) -> tuple[Split, Split]:
    """Split a share off every class: what stays, and what goes."""
    chosen: set[int] = set()
    for label, count in sorted(Counter(split.labels.tolist()).items()) if share else ():
        if count < 2:
            raise ValueError(
                f"class {sanitize(classes[label])!r} has {count} picture: expected 2 "
                "or more to split some off for validation; add some, or fill val/"
            )
        members = np.flatnonzero(split.labels == label).tolist()
        random.Random(f"{seed} {classes[label]}").shuffle(members)
        chosen.update(members[: min(max(1, round(share * count)), count - 1)])
    stays = [index for index in range(len(split)) if index not in chosen]
    return split.part(stays), split.part(sorted(chosen))


def find_splits(root: str) -> dict[str, str]:
    """The folders of the splits: train, val, test; without these, the root is train."""
    try:
        folders, _ = _listed(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        got = "a file" if os.path.exists(root) else "nothing there"
        raise type(error)(f"{sanitize(root)}: {EXPECTED}; got {got}") from error
    splits: dict[str, str] = {}
    for name in folders:
        split = SPLITS.get(name.lower())
        if split in splits:
            raise ValueError(
                f"{sanitize(root)}: expected one folder for {split}, got "
                f"{sanitize(os.path.basename(splits[split]))} and {sanitize(name)}"
            )
        if split:
            splits[split] = os.path.join(root, name)
    others = [name for name in folders if name.lower() not in SPLITS]
    if "train" not in splits:
        if not splits or others:
            return {"train": root}
        raise ValueError(f"{sanitize(root)}: {EXPECTED}; train/ is missing")
    for name in [*others, ""]:  # the root itself is the last
        _refuse_pictures(root, name, f"beside {sanitize(splits['train'])}")
    return splits


def _refuse_pictures(root: str, name: str, where: str) -> None:
    folder = os.path.join(root, name)
    names = files_below(folder) if name else _listed(root)[1]
    for below in names:
        if is_picture(os.path.join(folder, below)):
            raise ValueError(
                f"{sanitize(os.path.join(folder, below))}: {EXPECTED}; this picture "
                f"lies {where}: move or remove it"
            )


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The names of folders and of files in a folder, without hidden ones; sorted.

    A link to a folder that contains the link is not one of the folders.
    """
    folders, files = [], []
    for path, kind in entries(folder):
        name = os.path.basename(path)
        if name.startswith("."):
            continue
        if kind == "file":
            files.append(name)
        elif kind == "folder" or leads_elsewhere(path):
            folders.append(name)
    return folders, files


def read_split(folder: str) -> SplitFolder:
    """Read the class folders of a split: their files that are pictures.

    Raises:
        ValueError: pictures lie beside the class folders, or a class has none.
    """
    split = SplitFolder(folder)
    folders, files = _listed(folder)
    _refuse_pictures(folder, "", "in no class folder")
    for name in files:
        split.passed_over.note(name)
    for name in folders:
        below = _files(os.path.join(folder, name))
        if below is None:
            continue
        pictures, others = [], PassedOver()
        for path in below:
            if is_picture(path):
                pictures.append(path)
            else:
                others.note(path)
        split.passed_over.update(others)
        split.classes[name] = pictures
        if not pictures:
            raise ValueError(
                f"{sanitize(os.path.join(folder, name))}: expected pictures of the "
                f"class, found none in {len(below)} files: fill the folder or remove it"
                + f"; passed over: {others}"
                * bool(others)
            )
    return split


def _files(folder: str) -> list[str] | None:
    """The files of a class, sorted; None for a folder that is not of a class.

    What `open-nsfw dataset` moved out of the classes lies beside its manifest.
    """
    files = sorted(os.path.join(folder, name) for name in files_below(folder))
    filled = {
        os.path.dirname(path) for path in files if is_manifest(os.path.basename(path))
    }
    if folder in filled:
        return None
    taken_out = tuple(os.path.join(path, "") for path in filled)
    return [path for path in files if not path.startswith(taken_out)]


def find_classes(splits: dict[str, SplitFolder]) -> tuple[str, ...]:
    """The classes in their order.

    Raises:
        ValueError: they are too few or too many, have names that cannot be used, or are
            not the same in all splits.
    """
    found = set(splits["train"].classes)
    if not 2 <= len(found) <= MAX_CLASSES:
        names = ", ".join(sanitize(name, 40) for name in sorted(found)[:3]) or "none"
        raise ValueError(
            f"{sanitize(splits['train'].folder)}: expected 2 to {MAX_CLASSES} class "
            f"folders, found {len(found)} ({names}); {EXPECTED}"
        )
    try:
        check_classes(sorted(found))
    except ValueError as error:
        folder = sanitize(splits["train"].folder)
        raise ValueError(f"{folder}: {error}: rename its folder") from error
    check_distinct(sorted(found))
    for split in splits.values():
        strange = sorted(found ^ set(split.classes))
        if strange:
            key = name_key(strange[0])
            which = "no" if strange[0] in found else "a"
            twins = [name for name in strange[1:] if name_key(name) == key]
            raise ValueError(
                f"{sanitize(split.folder)}: expected the classes of "
                f"{sanitize(splits['train'].folder)}, it has {which} folder "
                f"{sanitize(strange[0])!r}"
                + (
                    f"; {twins[0]!a} differs from it only in upper and lower case, or "
                    "in how Unicode writes its accents: rename one"
                    if twins
                    else ""
                )
            )
    if sorted(name.lower() for name in found) == sorted(LABELS):
        return tuple(sorted(found, key=lambda name: LABELS.index(name.lower())))
    return tuple(sorted(found))
