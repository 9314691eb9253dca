"""Undoing the moves in a manifest of `open_nsfw_tf.moves`."""

import errno
import filecmp
import json
import os
import stat
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.moves import ACTIONS, OF_ONE_FILE, VERSION, move, part_of

# The outcome for a file, in the words that people read.
TAKEN_BACK = "taken back"
ALREADY = "nothing to take back"
GONE = "gone: neither here nor where it came from"
FOLDER_GONE = "gone with its folder: if that was renamed, give it its old name"
CHANGED = "changed since: left where it is"
IN_THE_WAY = "another file is in its place: left where it is"
ONLY = "its original is gone: the copy is left"
UNDONE = (TAKEN_BACK, ALREADY)
COARSE = 2_000_000_000  # nanoseconds; FAT keeps a file's time to two seconds


@dataclass(slots=True)
class Entry:
    """One move of a manifest."""

    source: str
    target: str
    size: int
    mtime_ns: int
    was: str | None = None  # the text of a link before it was moved
    leads: str | None = None  # and its text after that


@dataclass(slots=True)
class Manifest:
    """The contents of a manifest.

    Attributes:
        command: that wrote it.
        action: a key of `ACTIONS`.
        token: in the names of unfinished copies.
        entries: the moves, in order.
        made: folders that the command made, outer ones first.
        renamed: a folder that was renamed after that, and its new name; or None.
        wrote: files that the command wrote.
    """

    command: str
    action: str
    token: str
    entries: list[Entry]
    made: list[str]
    renamed: tuple[str, str] | None = None
    wrote: list[Entry] = field(default_factory=list)


@dataclass(slots=True)
class Undone:
    """The result of undoing, or of a trial of it.

    Attributes:
        outcomes: the target of each move, and the outcome for its file.
        renamed: a folder that was renamed after the moves, and its new name, if files
            were found in it; or None.
    """

    outcomes: list[tuple[str, str]] = field(default_factory=list)
    renamed: tuple[str, str] | None = None

    @property
    def counts(self) -> dict[str, int]:
        """The number of files for every outcome."""
        return dict(Counter(outcome for _, outcome in self.outcomes))

    @property
    def whole(self) -> bool:
        """Whether every move is undone."""
        return all(outcome in UNDONE for _, outcome in self.outcomes)


def read_manifest(path: Path) -> Manifest:
    """Read a manifest.

    A last line that is cut is ignored: what it announces was not begun.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not a manifest, or is damaged.
    """
    try:
        lines = path.read_text(encoding="ascii").split("\n")
        parsed = [json.loads(line) for line in lines[:-1]]
        return _manifest(parsed[0], parsed[1:], os.path.abspath(path))
    except (ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise ValueError(
            f"{sanitize(path)}: expected a manifest that a command wrote "
            f"({one_line(error)})"
        ) from error


def _manifest(header: Any, lines: list[Any], path: str) -> Manifest:
    if header.get("open_nsfw_tf") != "moves" or header["version"] != VERSION:
        raise ValueError("its first line is not that of a manifest")
    if header["how"] not in ACTIONS:
        raise ValueError(
            f"expected one of {', '.join(ACTIONS)} as 'how', got {header['how']!r:.80}"
        )
    count, token = header["moves"], header["token"]
    if not (isinstance(token, str) and token.isalnum()):
        raise ValueError(f"expected letters and digits as token, got {token!r:.80}")
    if len(lines) < count:
        raise ValueError(f"expected {count} moves, got {len(lines)}")
    entries = [_entry(line) for line in lines[:count]]
    made = [_path(folder) for folder in header["made"]]
    folder = _path(header.get("folder", os.path.dirname(path)))
    renamed = _renamed(folder, os.path.dirname(path))
    manifest = Manifest(header["command"], header["how"], token, entries, made, renamed)
    for line in lines[count:]:
        if "n" in line:
            entry = entries[line["n"]]
            entry.target = _path(line["to"])
            entry.leads = _text(line.get("leads", entry.leads))
        elif "wrote" in line:
            written = _path(line["wrote"])
            manifest.wrote.append(
                Entry(written, written, int(line["size"]), int(line["mtime_ns"]))
            )
    return manifest


def _entry(line: Any) -> Entry:
    return Entry(
        _path(line["from"]),
        _path(line["to"]),
        int(line["size"]),
        int(line["mtime_ns"]),
        _text(line.get("was")),
        _text(line.get("leads")),
    )


def _renamed(before: str, now: str) -> tuple[str, str] | None:
    """The folder that was renamed, if a manifest was in `before` and is in `now`."""
    if before == now:
        return None
    while os.path.basename(before) == os.path.basename(now) and not os.path.lexists(
        os.path.dirname(before)
    ):
        before, now = os.path.dirname(before), os.path.dirname(now)
    return before, now


def _text(value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise ValueError(f"expected the text of a link, got {value!r:.80}")
    return value


def _path(value: Any) -> str:
    if not isinstance(value, str) or not os.path.isabs(value):
        raise ValueError(f"expected an absolute path, got {value!r:.80}")
    return value


def undo(manifest: Path, apply: bool = False) -> Undone:
    """Undo the moves in a manifest, as far as the files are still there.

    Nothing is overwritten. It may be done twice, and also after moving or undoing was
    killed.

    Args:
        manifest: that `open-nsfw dataset` or `open-nsfw batch --move-to` wrote. If the
            folder that contains it was renamed, the files are looked for there.
        apply: False: only report what would be done.

    Raises:
        OSError: the manifest cannot be read, or the disk is full or read-only. A file
            that cannot be moved or removed is left, and its outcome says why.
        ValueError: it is not a manifest.
    """
    read = read_manifest(manifest)
    done = Undone()
    _follow_renaming(read, done)
    take_back = _TAKE_BACK[read.action]
    for number, entry in reversed(list(enumerate(read.entries))):
        if apply:
            for path in (entry.source, entry.target):
                _remove(part_of(read.token, number, os.path.dirname(path)))
        outcome = _unless_refused(take_back, entry, read.token, number, apply)
        done.outcomes.append((entry.target, outcome))
    for written in read.wrote:
        outcome = _unless_refused(_take_back_file, written, apply)
        done.outcomes.append((written.target, outcome))
    if apply:
        of_files = {os.path.dirname(written.target) for written in read.wrote}
        _remove_folders(sorted({*read.made, *of_files}))
    return done


def _unless_refused(take_back: Callable[..., str], entry: Entry, *how: Any) -> str:
    """The outcome for a file; the others are taken back even if it cannot be."""
    try:
        return take_back(entry, *how)
    except OSError as error:
        if error.errno not in OF_ONE_FILE:
            raise
        return f"{error.strerror}: left where it is"


def _follow_renaming(manifest: Manifest, done: Undone) -> None:
    """Correct the paths of files that are found only under a folder's new name."""
    if manifest.renamed is None:
        return
    before, now = manifest.renamed

    def below_now(path: str) -> str:
        inside = path == before or path.startswith(os.path.join(before, ""))
        return now + path[len(before) :] if inside else path

    for entry in [*manifest.entries, *manifest.wrote]:
        new = below_now(entry.target)
        if _is_target(entry, new) and not _is_target(entry, entry.target):
            entry.source, entry.target = below_now(entry.source), new
            done.renamed = manifest.renamed
    if done.renamed is not None:
        manifest.made = [below_now(folder) for folder in manifest.made]


def _is_target(entry: Entry, path: str) -> bool:
    """Whether the file or link at a path is the one that a move put there."""
    status = _status(path)
    if status is None:
        return False
    if stat.S_ISLNK(status.st_mode):
        return os.readlink(path) in (entry.leads, entry.source)
    return entry.leads is None and _same(entry, status)


def _gone(entry: Entry) -> str:
    return GONE if os.path.isdir(os.path.dirname(entry.target)) else FOLDER_GONE


def _take_back_move(entry: Entry, token: str, number: int, apply: bool) -> str:
    there, here = _status(entry.source), _status(entry.target)
    if here is None:
        return _gone(entry) if there is None else ALREADY
    if entry.leads is not None:
        return _take_back_moved_link(entry, there, here, apply)
    if there is not None:
        if not _leftover(entry, there, here):
            # The source was never moved, or another file has taken its place since.
            return ALREADY if _same(entry, there) else IN_THE_WAY
        if apply:
            os.unlink(entry.target)
        return TAKEN_BACK
    if not _same(entry, here):
        return CHANGED
    if apply:
        folder = os.path.dirname(entry.source)
        try:
            os.makedirs(folder, exist_ok=True)
            move(entry.target, entry.source, part_of(token, number, folder))
        except (FileExistsError, NotADirectoryError):
            return IN_THE_WAY
    return TAKEN_BACK


def _take_back_moved_link(
    entry: Entry, there: os.stat_result | None, here: os.stat_result, apply: bool
) -> str:
    """Make a link again as it was, as its text was changed when it was moved."""
    is_moved = stat.S_ISLNK(here.st_mode) and os.readlink(entry.target) == entry.leads
    if there is not None:
        is_back = stat.S_ISLNK(there.st_mode) and os.readlink(entry.source) == entry.was
        if not (is_moved and is_back):
            return ALREADY if is_back else IN_THE_WAY
    elif not is_moved:
        return CHANGED
    if apply:
        try:
            if there is None:
                os.makedirs(os.path.dirname(entry.source), exist_ok=True)
                os.symlink(str(entry.was), entry.source)
        except (FileExistsError, NotADirectoryError):
            return IN_THE_WAY
        os.unlink(entry.target)
    return TAKEN_BACK


def _leftover(entry: Entry, there: os.stat_result, here: os.stat_result) -> bool:
    """Whether a killed move left both names, so that the target can be removed."""
    if os.path.samestat(there, here):
        return True
    if not _same(entry, there):
        return False
    if not here.st_size:
        return bool(entry.size)  # the empty file that reserved the name
    same = _same(entry, here) and stat.S_ISREG(here.st_mode)
    return same and filecmp.cmp(entry.source, entry.target, shallow=False)


def _take_back_copy(entry: Entry, token: str, number: int, apply: bool) -> str:
    here = _status(entry.target)
    if here is not None and _status(entry.source) is None:
        return ONLY
    return _take_back_file(entry, apply)


def _take_back_file(entry: Entry, apply: bool) -> str:
    here = _status(entry.target)
    if here is None:
        return ALREADY
    if not _same(entry, here):
        return CHANGED
    if apply:
        os.unlink(entry.target)
    return TAKEN_BACK


def _take_back_link(entry: Entry, token: str, number: int, apply: bool) -> str:
    here = _status(entry.target)
    if here is None:
        return ALREADY
    if not stat.S_ISLNK(here.st_mode) or os.readlink(entry.target) != entry.source:
        return CHANGED
    if apply:
        os.unlink(entry.target)
    return TAKEN_BACK


_TAKE_BACK: dict[str, Callable[[Entry, str, int, bool], str]] = {
    "move": _take_back_move,
    "copy": _take_back_copy,
    "link": _take_back_link,
}


def _status(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return None


def _same(entry: Entry, status: os.stat_result) -> bool:
    """Whether a file is the one that was moved, or a complete copy of it."""
    difference = abs(status.st_mtime_ns - entry.mtime_ns)
    return status.st_size == entry.size and difference <= COARSE


def _remove(path: str) -> None:
    try:
        os.unlink(path)
    except (FileNotFoundError, NotADirectoryError):
        return


# Errors if others have put something into a folder, removed it, replaced it by a file,
# or have not let us remove it.
_STAYS = (
    errno.ENOTEMPTY,
    errno.EEXIST,
    errno.ENOENT,
    errno.ENOTDIR,
    errno.EACCES,
    errno.EPERM,
    errno.EBUSY,
)


def _remove_folders(folders: list[str]) -> None:
    """Remove those of the folders that are empty."""
    for folder in reversed(folders):
        try:
            os.rmdir(folder)
        except OSError as error:
            if error.errno not in _STAYS:
                raise
