"""The files in a folder of classes, without following any link."""

import os
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from open_nsfw_tf.errors import sanitize

SIDES = {  # names of folders that hold class folders, and what they stand for
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
MANIFEST = "undo-"  # how the names of manifests begin
MANIFEST_SUFFIX = ".jsonl"


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
    """

    root: str
    files: list[File] = field(default_factory=list)
    left: dict[str, str] = field(default_factory=dict)


def find(folder: str | os.PathLike[str], without: Iterable[str] = ()) -> Found:
    """Find the files below a folder.

    Links are not followed, neither to files nor to folders: what they point to is
    found under its own name, or lies outside. Left out as well are hidden names,
    folders that cannot be read, folders with a manifest (an earlier command filled
    them), and what is no regular file.

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
    waiting = [root]
    while waiting:
        current = waiting.pop()
        if current in left_out and current != root:
            continue
        try:
            with os.scandir(current) as scan:
                entries = list(scan)
        except OSError as error:
            if current == root:
                raise
            found.left[_below(root, current)] = error.strerror or str(error)
            continue
        if current != root and any(is_manifest(entry.name) for entry in entries):
            found.left[_below(root, current)] = "filled by an earlier command"
            continue
        waiting += _sort_out(entries, found)
    found.files.sort(key=lambda file: file.name)
    if not found.files:
        raise ValueError(
            f"{sanitize(root)}: expected a folder of pictures, found no file in it"
        )
    return found


def is_manifest(name: str) -> bool:
    """Whether a file's name is that of a manifest, which no picture has."""
    return name.startswith(MANIFEST) and name.endswith(MANIFEST_SUFFIX)


def _sort_out(entries: Iterable[os.DirEntry[str]], found: Found) -> Iterator[str]:
    """Add files to `found`; the folders among the entries."""
    for entry in entries:
        if entry.name.startswith(".") or is_manifest(entry.name):
            continue
        name = _below(found.root, entry.path)
        try:
            status = entry.stat(follow_symlinks=False)
        except OSError as error:  # it went while we looked
            found.left[name] = error.strerror or str(error)
            continue
        if stat.S_ISDIR(status.st_mode):
            yield entry.path
        elif stat.S_ISREG(status.st_mode):
            side, label = place_of(name)
            found.files.append(
                File(entry.path, name, side, label, status.st_size, status.st_mtime_ns)
            )
        elif stat.S_ISLNK(status.st_mode):
            found.left[name] = "a link, which is not followed"
        else:
            found.left[name] = "no regular file"


def _below(root: str, path: str) -> str:
    return os.path.relpath(path, root)


def place_of(name: str) -> tuple[str | None, str | None]:
    """The side and the class of a file, told by its path below the folder."""
    *folders, _ = name.split(os.sep)
    side = SIDES.get(folders[0].lower()) if folders else None
    if side:
        folders = folders[1:]
    return side, folders[0] if folders else None
