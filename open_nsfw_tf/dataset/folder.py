"""The files in a folder of classes, without following any link."""

import os
import stat
from collections.abc import Iterable
from dataclasses import dataclass, field

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import Entry, PassedOver, is_litter, is_picture, walk
from open_nsfw_tf.moves import is_manifest

SIDES = {  # names of folders that hold class folders, and what they stand for
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
LINK = "a link, which is not followed"
HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    Attributes:
        path: absolute; bytes that are no text are kept as surrogates.
        name: its path below the folder.
        side: "train", "test" or "val"; None where the folder is not split.
        label: the name of its class folder; None where it lies in none.
        size: in bytes.
        mtime_ns: when it was changed last, in nanoseconds since 1970.
    """

    path: str
    name: str
    side: str | None
    label: str | None
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Found:
    """What is in a folder.

    Attributes:
        root: the folder, absolute.
        files: sorted by name, so that no file system's order matters.
        left: what was not looked at, by name, and why.
        passed_over: hidden names and files of the operating system, by kind.
    """

    root: str
    files: list[File] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)
    passed_over: PassedOver = field(default_factory=PassedOver)


def find(folder: str | os.PathLike[str], without: Iterable[str] = ()) -> Found:
    """Find the files below a folder.

    Links are not followed, neither to files nor to folders: what they point to is
    found under its own name, or lies outside. Left out as well are hidden names, files
    of the operating system, folders that cannot be read, folders with a manifest (an
    earlier command filled them), and what is no regular file.

    Args:
        folder: of classes.
        without: folders that are left out, such as the one that is moved to.

    Raises:
        OSError: the folder is missing, no folder, or cannot be read.
        ValueError: it holds no file.
    """
    root = os.path.abspath(os.fsdecode(folder))
    found = Found(root)
    left_out = {os.path.abspath(os.fsdecode(path)) for path in without}
    for entry in walk(root, lambda path: _is_entered(path, left_out, found)):
        name = _below(root, entry.path)
        if entry.path == root and entry.error is not None:
            raise entry.error
        if entry.error is not None:
            found.left[name] = entry.error.strerror or str(entry.error)
        elif not _is_passed_over(entry, found):
            _add(entry, name, found)
    found.files.sort(key=lambda file: file.name)
    if not found.files:
        raise ValueError(_nothing_in(found))
    return found


def _nothing_in(found: Found) -> str:
    text = f"{sanitize(found.root)}: expected a folder of pictures, found no file in it"
    links = [name for name, reason in found.left.items() if reason == LINK]
    if links:
        text += (
            f"; links are not followed ({sanitize(links[0])}, {len(links)} in all): name "
            "the folder that they lead to, or put the files themselves there"
        )
    if found.passed_over:
        text += f"; passed over: {found.passed_over}"
    return text


def _is_entered(path: str, left_out: set[str], found: Found) -> bool:
    """Whether a folder is looked into."""
    if path in left_out:
        return False
    if os.path.basename(path).startswith("."):
        found.passed_over.count(HIDDEN)
        return False
    try:
        filled = any(map(is_manifest, os.listdir(path)))
    except OSError:
        return True  # the walk will tell of it
    if filled:
        found.left[_below(found.root, path)] = "filled by an earlier command"
    return not filled


def _is_passed_over(entry: Entry, found: Found) -> bool:
    """Whether something is none of the files, and nobody would ask why."""
    name = os.path.basename(entry.path)
    if is_litter(name) and (name.startswith(".") or not is_picture(entry.path)):
        found.passed_over.note(name)
    elif name.startswith("."):
        found.passed_over.count(HIDDEN)
    else:
        return is_manifest(name)
    return True


def _add(entry: Entry, name: str, found: Found) -> None:
    """Add a file, or why it is none."""
    try:
        status = os.lstat(entry.path)
    except OSError as error:  # it went while we looked
        found.left[name] = error.strerror or str(error)
        return
    if stat.S_ISREG(status.st_mode):
        side, label = place_of(name)
        size, changed = status.st_size, status.st_mtime_ns
        found.files.append(File(entry.path, name, side, label, size, changed))
    else:
        is_link = stat.S_ISLNK(status.st_mode)
        found.left[name] = LINK if is_link else "no regular file"


def _below(root: str, path: str) -> str:
    return os.path.relpath(path, root)


def place_of(name: str) -> tuple[str | None, str | None]:
    """The side and the class of a file, told by its path below the folder."""
    *folders, _ = name.split(os.sep)
    side = SIDES.get(folders[0].lower()) if folders else None
    if side:
        folders = folders[1:]
    return side, folders[0] if folders else None
