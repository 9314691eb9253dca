"""Moving files so that none is overwritten or lost, and everything can be undone.

`plan` chooses a free name for every file, `Journal` writes a manifest of the moves and
makes them, and `open_nsfw_tf.undo` undoes them.

The manifest (JSON lines) lists every move and is on the disk before the first one is
made. Undoing compares it with the files on the disk, so it need not record how far the
run got. The first line is the header, and the next ones are the moves in order. Further
lines are appended during the run: another target for a move whose name was taken in the
meantime (``{"n", "to"}``, with ``leads`` for a link), a file that was written
(``{"wrote", ...}``), and the end (``{"state": "finished"}``).
"""

import errno
import json
import os
import secrets
import shutil
import stat
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import MoveError, sanitize, shell_word
from open_nsfw_tf.files import Names, Stamp, canonical, replacing, stamp_of

MANIFEST = "undo-"  # how the names of manifests begin
MANIFEST_SUFFIX = ".jsonl"
MAX_LINKS = 40  # links to links; the limit of Linux
VERSION = 1
LONGEST_PATH = 4096  # characters; a path in a message must be complete to be useful
# Errors of one file or its folder, not of the whole disk: the other files are moved.
OF_ONE_FILE = {
    errno.EACCES,
    errno.EPERM,
    errno.EEXIST,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.EBUSY,
}
# The errors of os.link if a hard link is impossible: on FAT and some network disks, for
# another user's file, and for a file with too many links.
_NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
}


def is_manifest(name: str) -> bool:
    """Whether a file's name is that of a manifest; no picture has such a name."""
    return name.startswith(MANIFEST) and name.endswith(MANIFEST_SUFFIX)


# -- planning: which files are moved, and to which free names


@dataclass(slots=True)
class Move:
    """One file and where it goes.

    Attributes:
        source: absolute path.
        target: absolute path.
        stamp: size and time of the file when the move was decided; a file that has
            changed since is not moved. None: the file is not compared.
        leads: for a link that is moved, its text at the new path.
    """

    source: str
    target: str
    stamp: Stamp | None = None
    leads: str | None = None


@dataclass(slots=True)
class Plan:
    """The moves to make, and those that are not needed or not possible.

    Attributes:
        moves: in order; the targets are free, and no two are the same.
        missing: sources that do not exist any more.
        changed: sources whose stamp has changed.
        already: moves whose file, or link, is at its target already.
    """

    moves: list[Move] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    already: list[Move] = field(default_factory=list)


def plan(wanted: Iterable[Move], action: str = "move") -> Plan:
    """Give every file a free name at its target.

    Args:
        wanted: sources and wanted targets.
        action: a key of `ACTIONS`.

    Returns:
        The moves. A name that is taken, on the disk or in this plan, gets a number:
        ``photo-2.jpg``. Links come after files, and links to links after these.
    """
    result, names, links = Plan(), Names(), LinksIn()
    for move in wanted:
        if not os.path.lexists(move.source):
            result.missing.append(move.source)
        elif move.stamp is not None and stamp_of(move.source) != move.stamp:
            result.changed.append(move.source)
        elif links.has(move) if action == "link" else _stays(move):
            result.already.append(move)
        else:
            target = names.free(move.target)
            result.moves.append(Move(move.source, target, move.stamp))
    if action == "move":
        result.moves = _links_last(result.moves)
    return result


def _stays(move: Move) -> bool:
    return canonical(move.source) == canonical(move.target)


class LinksIn:
    """The texts of the links in folders; each folder is read once."""

    def __init__(self) -> None:
        self._folders: dict[str, set[str]] = {}

    def has(self, move: Move) -> bool:
        """Whether the target's folder has a link to the source already."""
        folder = os.path.dirname(move.target)
        if folder not in self._folders:
            self._folders[folder] = set(self._read(folder))
        return move.source in self._folders[folder]

    @staticmethod
    def _read(folder: str) -> list[str]:
        try:
            with os.scandir(folder) as entries:
                return [os.readlink(e.path) for e in entries if e.is_symlink()]
        except (FileNotFoundError, NotADirectoryError):
            return []


def _links_last(moves: list[Move]) -> list[Move]:
    """The moves with links after the files that they lead to, and with new texts."""
    links = [move for move in moves if os.path.islink(move.source)]
    if not links:
        return moves
    targets = {canonical(move.source): move.target for move in moves}
    depths = {}
    for move in links:
        move.leads, _ = _leads_to(move.source, targets)
        depths[move.source] = _depth(move.source)
    files = [move for move in moves if move.source not in depths]
    return files + sorted(links, key=lambda move: depths[move.source])


def _next(link: str) -> str:
    """The path that a link leads to, which may be another link."""
    return canonical(os.path.join(os.path.dirname(link), os.readlink(link)))


def _depth(path: str) -> int:
    """How many links there are from a path to a file."""
    count = 0
    while count < MAX_LINKS and os.path.islink(path):
        count, path = count + 1, _next(path)
    return count


def _leads_to(link: str, targets: Mapping[str, str]) -> tuple[str, bool]:
    """The text that a link needs at its new path to lead to the same file.

    Args:
        link: its path.
        targets: the new paths of files that are moved, by canonical old path.

    Returns:
        The text, and whether the file that the link leads to is moved.
    """
    text = os.readlink(link)
    first = path = _next(link)
    for _ in range(MAX_LINKS):
        if path in targets:
            return targets[path], True
        if not os.path.islink(path):
            break
        path = _next(path)
    return (text if os.path.isabs(text) else first), False


# -- one file


def _put(source: str, target: str) -> None:
    """Rename inside one file system; FileExistsError if the target is there."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # First an empty file reserves the name; nobody else would replace that file.
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            os.replace(source, target)
        except OSError:
            os.unlink(target)
            raise
        return
    try:
        os.unlink(source)
    except OSError:
        os.unlink(target)
        raise


def _copy(source: str, target: str, part: str) -> None:
    """Copy beside the target, then give it the name; FileExistsError if taken."""
    try:
        with open(source, "rb") as reader, open(part, "xb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fsync(writer.fileno())
        _copy_status(source, part)
        _put(part, target)
    finally:
        if os.path.lexists(part):
            os.unlink(part)


def _identity(path: str) -> tuple[int, ...]:
    status = os.lstat(path)
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _copy_status(source: str, target: str) -> None:
    try:
        shutil.copystat(source, target)
    except PermissionError:  # FAT stores no modes; the time is needed for undoing
        status = os.stat(source)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def move(source: str, target: str, part: str) -> None:
    """Move a file; from one file system to another by copying it.

    Args:
        source: of the file.
        target: its new path, in a folder that exists.
        part: an unused name in that folder, for an unfinished copy.

    Raises:
        FileExistsError: the target exists; nothing has changed.
        OSError: it cannot be moved, or changed while it was copied; nothing has
            changed.
    """
    try:
        _put(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        if os.path.lexists(target):
            raise FileExistsError(
                errno.EEXIST, os.strerror(errno.EEXIST), target
            ) from error
        before = _identity(source)
        _copy(source, target, part)
        sync_folder(os.path.dirname(target))  # before the source is removed
        try:
            if _identity(source) != before:  # what was written meanwhile must stay
                raise OSError(errno.EBUSY, "it changed while it was copied", source)
            os.unlink(source)
        except OSError:
            os.unlink(target)
            raise


def _link(source: str, target: str, part: str) -> None:
    os.symlink(source, target)


ACTIONS: dict[str, Callable[[str, str, str], None]] = {
    "move": move,
    "copy": _copy,
    "link": _link,
}


# -- many files


class Journal:
    """Moves that are listed in a manifest, and then made.

    Attributes:
        path: of the manifest, which is on the disk when this object exists.
        finished: the moves that were made, with the names that the files got.
        missing: sources that did not exist any more.
        changed: sources that had changed since the move was decided; they are not
            moved.
    """

    def __init__(
        self, moves: Iterable[Move], folder: str, action: str, command: str
    ) -> None:
        """Write the manifest; nothing is moved yet.

        Args:
            moves: of a `Plan`.
            folder: of the manifest; it is made if necessary.
            action: a key of `ACTIONS`.
            command: the command that makes the moves, for people.

        Raises:
            ValueError: no such `action`.
            OSError: the manifest cannot be written; nothing has been moved.
        """
        if action not in ACTIONS:
            raise ValueError(
                f"expected one of {', '.join(ACTIONS)}, got {action!r:.80}"
            )
        self.moves: list[Move] = []
        self.action = action
        self.token = secrets.token_hex(6)
        self.finished: list[Move] = []
        self.missing: list[str] = []
        self.changed: list[str] = []
        self._failed: list[tuple[Move, OSError]] = []
        self._targets: dict[str, str] = {}  # new paths by canonical old path, for links
        lines = self._described(moves)
        folder = os.path.abspath(folder)
        new_folders = _folders_to_make(
            {folder, *(os.path.dirname(m.target) for m in self.moves)}
        )
        os.makedirs(folder, exist_ok=True)
        stamp = time.strftime("%Y%m%d-%H%M%S")
        name = f"{MANIFEST}{stamp}-{self.token}{MANIFEST_SUFFIX}"
        self.path = Path(folder) / name
        header = {
            "open_nsfw_tf": "moves",
            "version": VERSION,
            "command": command,
            "how": action,
            "token": self.token,
            "moves": len(self.moves),
            "made": new_folders,
            "folder": folder,
        }
        with replacing(self.path) as beside, beside.open("x", encoding="ascii") as out:
            out.write(json.dumps(header) + "\n")
            out.writelines(json.dumps(line) + "\n" for line in lines)
            out.flush()
            os.fsync(out.fileno())
        sync_folder(folder)

    def _described(self, moves: Iterable[Move]) -> list[dict[str, Any]]:
        """The manifest's lines of the moves whose files are still there."""
        lines = []
        for step in moves:
            try:
                lines.append(_line(step, self.action))
            except FileNotFoundError:
                self.missing.append(step.source)
            else:
                self.moves.append(step)
        return lines

    @property
    def undo_command(self) -> str:
        """The command line that undoes the moves."""
        path = shell_word(self.path)
        return f"open-nsfw dataset undo --apply {path}"

    def run(self) -> None:
        """Make the moves.

        Sources that do not exist any more, or have changed, are not moved but listed in
        `missing` and `changed`. If a file cannot be moved, the others still are.

        Raises:
            MoveError: a file cannot be moved, or the disk is full or read-only. The
                moves that were made remain, and can be undone by the manifest.
        """
        if any(step.leads is not None for step in self.moves):
            self._targets = {canonical(s.source): s.target for s in self.moves}
        with self.path.open("a", encoding="ascii") as log:
            for number, step in enumerate(self.moves):
                self._try(number, step, log)
            self._append(log, {"state": "finished", "done": len(self.finished)})
        for step, error in self._failed[:1]:
            raise self._stopped(step, error) from error

    def wrote(self, path: Path) -> None:
        """Add a file that was written to the manifest, so that undoing removes it."""
        status = path.stat()
        line = {
            "wrote": os.path.abspath(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
        with self.path.open("a", encoding="ascii") as log:
            self._append(log, line)

    def _try(self, number: int, step: Move, log: Any) -> None:
        done = False
        try:
            done = self._step(number, step, log)
            if done:
                self.finished.append(step)
            else:
                self.changed.append(step.source)
        except FileNotFoundError as error:
            if os.path.lexists(step.source):
                raise self._stopped(step, error) from error
            self.missing.append(step.source)
        except OSError as error:
            if error.errno not in OF_ONE_FILE:
                raise self._stopped(step, error) from error
            self._failed.append((step, error))
        finally:
            if self._targets and not done:  # links to it must lead to its old path
                self._targets.pop(canonical(step.source), None)

    def _step(self, number: int, step: Move, log: Any) -> bool:
        """Make one move, unless its file has changed since the move was decided."""
        moved, link = False, step.leads is not None
        if self.action == "move" and link != stat.S_ISLNK(
            os.lstat(step.source).st_mode
        ):
            return False
        if link:
            leads, moved = _leads_to(step.source, self._targets)
            if leads != step.leads:  # the file that it leads to got another name
                step.leads = leads
                self._append(log, {"n": number, "to": step.target, "leads": leads})
        # The file behind a link is not compared again if it has been moved itself.
        changed = step.stamp is not None and stamp_of(step.source) != step.stamp
        if changed and not moved:
            os.lstat(step.source)  # raises FileNotFoundError if it does not exist
            return False
        folder = os.path.dirname(step.target)
        os.makedirs(folder, exist_ok=True)
        part = part_of(self.token, number, folder)
        names, wanted = Names(), step.target
        while True:
            try:
                self._act(step, part)
            except FileExistsError:  # the name was taken after the plan was made
                step.target = names.free(wanted)
                line: dict[str, Any] = {"n": number, "to": step.target}
                self._append(log, line | ({"leads": step.leads} if link else {}))
            else:
                break
        if self._targets:
            self._targets[canonical(step.source)] = step.target
        return True

    def _act(self, step: Move, part: str) -> None:
        if step.leads is None:
            ACTIONS[self.action](step.source, step.target, part)
            return
        os.symlink(step.leads, step.target)
        try:
            os.unlink(step.source)
        except OSError:
            os.unlink(step.target)
            raise

    def _append(self, log: Any, line: dict[str, Any]) -> None:
        log.write(json.dumps(line) + "\n")
        log.flush()
        os.fsync(log.fileno())

    def _stopped(self, step: Move, error: OSError) -> MoveError:
        others = len(self._failed) - 1
        return MoveError(
            f"{sanitize(step.source)} -> {sanitize(step.target)}: "
            f"{error.strerror or error}"
            f"{f' (and {others} more)' if others > 0 else ''}; "
            f"{len(self.finished)} of {len(self.moves)} were done: "
            f"`{self.undo_command}` takes them back"
        )


def part_of(token: str, number: int, folder: str) -> str:
    """The path of an unfinished copy."""
    return os.path.join(folder, f".{token}-{number}.part")


def sync_folder(folder: str) -> None:
    """Write the names in a folder to the disk, if the system offers that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(step: Move, action: str) -> dict[str, Any]:
    # Copying a link copies the file that it leads to.
    status = os.stat(step.source, follow_symlinks=action == "copy")
    line = {
        "from": step.source,
        "to": step.target,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }
    if step.leads is not None:
        line |= {"was": os.readlink(step.source), "leads": step.leads}
    return line


def _folders_to_make(folders: Iterable[str]) -> list[str]:
    """The folders that do not exist yet, outer ones first."""
    missing: set[str] = set()
    for folder in folders:
        while folder not in missing and not os.path.lexists(folder):
            missing.add(folder)
            folder = os.path.dirname(folder)
    return sorted(missing)
