"""The files in a folder of classes, without following links, and where they may go."""

import os
import stat
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import (
    SPLITS,
    Entry,
    PassedOver,
    is_picture,
    is_system_file,
    walk,
)
from open_nsfw_tf.moves import Journal, Move, Plan, is_manifest, plan

LINK = "a link, which is not followed"
HIDDEN = "hidden"


@dataclass(frozen=True, slots=True)
class File:
    """A regular file.

    Attributes:
        path: absolute; bytes that are no text stand as surrogates.
        name: its path below the folder.
        split: "train", "test" or "val"; None where the folder is not split.
        label: the name of its class folder; None where it lies in none.
        size: in bytes.
        mtime_ns: when it was changed last, in nanoseconds since 1970.
    """

    path: str
    name: str
    split: str | None
    label: str | None
    size: int
    mtime_ns: int


@dataclass(slots=True)
class Scan:
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


def scan(
    folder: str | os.PathLike[str] | Scan,
    target: str | os.PathLike[str] | None = None,
    into_itself: bool = False,
) -> Scan:
    """Find the files below a folder.

    Links are not followed, neither to files nor to folders: what they point to is
    found under its own name, or lies outside. Left out as well are hidden names, files
    of the operating system, folders that cannot be read, folders with a manifest (an
    earlier command filled them), and what is no regular file.

    Args:
        folder: of classes. A scan that was made before is given back as it is.
        target: a folder that files will go to; it is left out.
        into_itself: whether the target may be the folder itself.

    Raises:
        OSError: the folder is missing, no folder, or cannot be read.
        ValueError: it holds no file, or is the target.
    """
    root = folder.root if isinstance(folder, Scan) else os.path.abspath(_text(folder))
    without = None if target is None else os.path.abspath(_text(target))
    if without and not into_itself and _is_same(without, root):
        raise ValueError(
            f"{sanitize(target)}: what was found would go into the pictures' "
            "own folder, as if it were classes: give another folder"
        )
    if isinstance(folder, Scan):
        return folder
    made = Scan(root)
    for entry in walk(root, lambda path: _is_entered(path, without, made)):
        name = _below(root, entry.path)
        if entry.path == root and entry.error is not None:
            raise entry.error
        if entry.error is not None:
            made.left[name] = entry.error.strerror or str(entry.error)
        elif not _is_passed_over(entry, made):
            _add(entry, name, made)
    made.files.sort(key=lambda file: file.name)
    if not made.files:
        raise ValueError(_nothing_in(made))
    return made


def _text(path: str | os.PathLike[str]) -> str:
    return os.fsdecode(path)


def _is_same(one: str, other: str) -> bool:
    return os.path.realpath(one) == os.path.realpath(other)


def _nothing_in(made: Scan) -> str:
    text = f"{sanitize(made.root)}: expected a folder of pictures, found no file in it"
    links = [name for name, reason in made.left.items() if reason == LINK]
    if links:
        text += (
            f"; links are not followed ({sanitize(links[0])}, {len(links)} in all): "
            "name the folder that they lead to, or put the files themselves there"
        )
    if made.passed_over:
        text += f"; passed over: {made.passed_over}"
    return text


def _is_entered(path: str, left_out: str | None, made: Scan) -> bool:
    """Whether a folder is looked into."""
    if path == left_out:
        return False
    if os.path.basename(path).startswith("."):
        made.passed_over.count(HIDDEN)
        return False
    try:
        filled = any(map(is_manifest, os.listdir(path)))
    except OSError:
        return True  # the walk reports it
    if filled:
        made.left[_below(made.root, path)] = "filled by an earlier command"
    return not filled


def _is_passed_over(entry: Entry, made: Scan) -> bool:
    """Whether something is none of the files, and nobody would ask why."""
    name = os.path.basename(entry.path)
    if is_system_file(name) and (name.startswith(".") or not is_picture(entry.path)):
        made.passed_over.note(name)
    elif name.startswith("."):
        made.passed_over.count(HIDDEN)
    else:
        return is_manifest(name)
    return True


def _add(entry: Entry, name: str, made: Scan) -> None:
    """Add a regular file, or record why the entry is skipped."""
    try:
        status = os.lstat(entry.path)
    except OSError as error:  # it went while we looked
        made.left[name] = error.strerror or str(error)
        return
    if stat.S_ISREG(status.st_mode):
        split, label = split_and_class(name)
        size, changed = status.st_size, status.st_mtime_ns
        made.files.append(File(entry.path, name, split, label, size, changed))
    else:
        is_link = stat.S_ISLNK(status.st_mode)
        made.left[name] = LINK if is_link else "no regular file"


def _below(root: str, path: str) -> str:
    return os.path.relpath(path, root)


def split_and_class(name: str) -> tuple[str | None, str | None]:
    """The split and the class of a file, by its path below the folder.

    Returns:
        "train", "test" or "val", and the class folder's name; each may be None.
    """
    *folders, _ = name.split(os.sep)
    split = SPLITS.get(folders[0].lower()) if folders else None
    if split:
        folders = folders[1:]
    return split, folders[0] if folders else None


# -- where files would go


@dataclass(slots=True)
class ProposedMoves:
    """What a command would do with files, and the record of it once it is done.

    Attributes:
        plan: the moves under free names, and what is left where it is.
        target: the folder that the manifest goes to.
        action: a key of `open_nsfw_tf.moves.ACTIONS`.
        command: what proposes it, for the manifest.
        journal: of the moves that were made; None before, and where there are none.
    """

    plan: Plan
    target: str
    action: str
    command: str
    journal: Journal | None = None

    def apply(
        self, begun: Callable[[Journal], None] = lambda journal: None
    ) -> Journal | None:
        """Write the manifest, then make the moves; nothing is done a second time.

        Args:
            begun: called when the manifest is on the disk, and nothing has moved yet.

        Returns:
            The journal, whose manifest undoes it; None where there is nothing to do.

        Raises:
            OSError: the manifest cannot be written, and nothing has moved.
            MoveError: a file cannot be moved; the message says how to undo the others.
        """
        if self.plan.moves and self.journal is None:
            self.journal = Journal(
                self.plan.moves, self.target, self.action, self.command
            )
            begun(self.journal)
            self.journal.run()
        return self.journal


def check_kinds(kinds: Iterable[str], known: Collection[str]) -> None:
    """Refuse kinds that a command does not know.

    Raises:
        ValueError: there is such a kind.
    """
    for kind in kinds:
        if kind not in known:
            raise ValueError(f"expected some of {', '.join(known)}, got {kind!r:.80}")


def propose(
    pairs: Iterable[tuple[str, str]],
    files: Iterable[File],
    target: str | os.PathLike[str],
    action: str,
    command: str,
) -> ProposedMoves:
    """Plan moves of files that were looked at.

    Args:
        pairs: sources, absolute, and where each would go below the target.
        files: that were looked at; a source that has changed since is left.
        target: a folder, which gets the manifest, too.
        action: a key of `open_nsfw_tf.moves.ACTIONS`.
        command: what proposes it.
    """
    stamps = {file.path: (file.size, file.mtime_ns) for file in files}
    root = os.path.abspath(_text(target))
    moves = (
        Move(source, os.path.join(root, below), stamps.get(source))
        for source, below in pairs
    )
    return ProposedMoves(plan(moves, action), _text(target), action, command)
