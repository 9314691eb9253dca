"""Where the pictures of classes lie: which folders stand for what.

DATA holds one folder a class, or ``train/`` with ``test/`` and/or ``val/`` that do (the
other names of `open_nsfw_tf.evaluate.labels.SPLITS` do as well). Pictures lie in a class's
folder or deeper. What is found is what `open_nsfw_tf.evaluate.labels` finds in the same
folder: hidden names are left out, links to files are followed and links to folders are
not, but for those of the classes themselves.
"""

import os
from dataclasses import dataclass, field

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate.labels import SPLITS, files_below
from open_nsfw_tf.files import check_distinct, is_picture, name_key
from open_nsfw_tf.moves import is_manifest
from open_nsfw_tf.tables import NOT_SCORES
from open_nsfw_tf.trained import MAX_CLASSES

ORDERS = (("sfw", "nsfw"),)  # of classes that are not sorted, in any case of letters
EXPECTED = (
    "expected a folder of class folders, or train/ with test/ and/or val/ of them"
)


@dataclass(slots=True)
class Side:
    """What is in one folder of class folders: paths by class."""

    folder: str
    classes: dict[str, list[str]] = field(default_factory=dict)
    ignored: int = 0


def find_sides(root: str) -> dict[str, str]:
    """The folders of class folders: train, val, test; the root alone is train."""
    try:
        folders, _ = _listed(root)
    except (FileNotFoundError, NotADirectoryError) as error:
        got = "a file" if os.path.exists(root) else "nothing there"
        raise type(error)(f"{sanitize(root)}: {EXPECTED}; got {got}") from error
    sides: dict[str, str] = {}
    for name in folders:
        side = SPLITS.get(name.lower())
        if side in sides:
            raise ValueError(
                f"{sanitize(root)}: expected one folder for {side}, got "
                f"{sanitize(os.path.basename(sides[side]))} and {sanitize(name)}"
            )
        if side:
            sides[side] = os.path.join(root, name)
    others = [name for name in folders if name.lower() not in SPLITS]
    if "train" not in sides:
        if not sides or others:
            return {"train": root}
        raise ValueError(f"{sanitize(root)}: {EXPECTED}; train/ is missing")
    for name in [*others, ""]:  # the root itself is the last
        _refuse_pictures(root, name, f"beside {sanitize(sides['train'])}")
    return sides


def _refuse_pictures(root: str, name: str, where: str) -> None:
    folder = os.path.join(root, name)
    names = files_below(folder) if name else _listed(root)[1]
    for below in names:
        if is_picture(os.path.join(folder, below)):
            raise ValueError(
                f"{sanitize(os.path.join(folder, below))}: {EXPECTED}; this picture lies "
                f"{where}: move or remove it"
            )


def _listed(folder: str) -> tuple[list[str], list[str]]:
    """The names of folders and of files in a folder, without hidden ones; sorted.

    A link to a folder that the link lies in is none of the folders.
    """
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.startswith("."):
                continue
            if not entry.is_dir():
                files.append(entry.name)
            elif not (entry.is_symlink() and _holds(entry.path, folder)):
                folders.append(entry.name)
    return sorted(folders), sorted(files)


def _holds(link: str, folder: str) -> bool:
    outer = os.path.realpath(link)
    return os.path.commonpath([outer, os.path.realpath(folder)]) == outer


def read_side(folder: str) -> Side:
    """The files of class folders that are pictures.

    Raises:
        ValueError: pictures lie beside the class folders, or a class has none.
    """
    side = Side(folder)
    folders, files = _listed(folder)
    _refuse_pictures(folder, "", "in no class folder")
    side.ignored = len(files)
    for name in folders:
        below = _files(os.path.join(folder, name))
        if below is None:
            continue
        pictures = [path for path in below if is_picture(path)]
        side.ignored += len(below) - len(pictures)
        side.classes[name] = pictures
        if not pictures:
            raise ValueError(
                f"{sanitize(os.path.join(folder, name))}: expected pictures of the class, "
                f"found none in {len(below)} files: fill the folder or remove it"
            )
    return side


def _files(folder: str) -> list[str] | None:
    """The files of a class, sorted; None where they are of no class.

    What `open-nsfw dataset` moved away, out of the classes, lies beside its manifest.
    """
    files = sorted(os.path.join(folder, name) for name in files_below(folder))
    filled = {
        os.path.dirname(path) for path in files if is_manifest(os.path.basename(path))
    }
    if folder in filled:
        return None
    taken_out = tuple(os.path.join(path, "") for path in filled)
    return [path for path in files if not path.startswith(taken_out)]


def find_classes(sides: dict[str, Side]) -> tuple[str, ...]:
    """The classes in their order.

    Raises:
        ValueError: they are too few or too many, cannot be called so, or are not the
            same on all sides.
    """
    found = set(sides["train"].classes)
    if not 2 <= len(found) <= MAX_CLASSES:
        names = ", ".join(sanitize(name, 40) for name in sorted(found)[:3]) or "none"
        raise ValueError(
            f"{sanitize(sides['train'].folder)}: expected 2 to {MAX_CLASSES} class folders, "
            f"found {len(found)} ({names}); {EXPECTED}"
        )
    for name in sorted(found):
        _check_name(name)
    check_distinct(sorted(found))
    for side in sides.values():
        strange = sorted(found ^ set(side.classes))
        if strange:
            key = name_key(strange[0])
            which = "no" if strange[0] in found else "a"
            twins = [name for name in strange[1:] if name_key(name) == key]
            raise ValueError(
                f"{sanitize(side.folder)}: expected the classes of "
                f"{sanitize(sides['train'].folder)}, it has {which} folder "
                f"{sanitize(strange[0])!r}"
                + (f", but for {twins[0]!a}: rename one" if twins else "")
            )
    for order in ORDERS:
        if {name.lower() for name in found} == set(order) and len(found) == len(order):
            return tuple(sorted(found, key=lambda name: order.index(name.lower())))
    return tuple(sorted(found))


def _check_name(name: str) -> None:
    if name in NOT_SCORES:
        raise ValueError(
            f"no class can be called {name!r}, a column of score tables is: rename the "
            f"folder; reserved are {', '.join(NOT_SCORES)}"
        )
    if not name.isprintable():
        raise ValueError(
            f"class folder {sanitize(name)!r}: expected a name of printable characters, as "
            "it becomes a label: rename the folder"
        )
