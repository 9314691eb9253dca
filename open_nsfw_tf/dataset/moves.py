"""Moving files so that nothing is overwritten, nothing is lost, all can be undone.

A manifest (JSON lines) says every move and is on the disk before the first one is
made; `undo` compares it with what it finds, so it needs no word of how far a move
came. The first line is the header, the next ones are moves in order; lines after
these are appended while it runs: another name for a target that somebody took in
between (``{"n", "to"}``), a file that was made (``{"wrote", ...}``) and the end
(``{"state": "finished"}``).
"""

import errno
import json
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from open_nsfw_tf.dataset.folder import MANIFEST, MANIFEST_SUFFIX
from open_nsfw_tf.dataset.plan import Move, Names
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.messages import shell_word, shown

VERSION = 1
# What os.link says where hard links are not to be had: FAT, some network disks, a file
# of somebody else's, a file with too many links.
_NO_LINKS = {
    errno.EPERM,
    errno.ENOTSUP,
    errno.EOPNOTSUPP,
    errno.ENOSYS,
    errno.EMLINK,
    errno.EACCES,
}


class MoveError(OSError):
    """Moving stopped; the message names the manifest that undoes what was moved."""


# -- one file


def _put(source: str, target: str) -> None:
    """Rename inside one file system; FileExistsError if the target is there."""
    try:
        os.link(source, target, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # The name is taken by an empty file first, which only we replace.
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


def _copy_status(source: str, target: str) -> None:
    try:
        shutil.copystat(source, target)
    except PermissionError:  # FAT keeps no modes; the time tells files apart
        status = os.stat(source)
        os.utime(target, ns=(status.st_atime_ns, status.st_mtime_ns))


def move(source: str, target: str, part: str) -> None:
    """Move a file; from one file system to another by copying it.

    Args:
        source: of the file.
        target: its new path, in a folder that exists.
        part: an unused name in that folder, for a copy that is not whole yet.

    Raises:
        FileExistsError: the target is there; nothing has changed.
        OSError: it cannot be moved; nothing has changed.
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
        _copy(source, target, part)
        sync_folder(os.path.dirname(target))  # before the only other name goes
        try:
            os.unlink(source)
        except OSError:
            os.unlink(target)
            raise


def _link(source: str, target: str, part: str) -> None:
    os.symlink(source, target)


HOW: dict[str, Callable[[str, str, str], None]] = {
    "move": move,
    "copy": _copy,
    "link": _link,
}


# -- many files


class Journal:
    """Moves that are written down, and then made.

    Attributes:
        path: of the manifest, which is on the disk when this exists.
    """

    def __init__(self, moves: Iterable[Move], folder: str, how: str, command: str):
        """Write the manifest; nothing is moved yet.

        Args:
            moves: of a `Plan`.
            folder: where the manifest goes; it is made if need be.
            how: a key of `HOW`.
            command: what asked for it, for people.

        Raises:
            ValueError: no such `how`.
            OSError: the manifest cannot be written; nothing has been moved.
        """
        if how not in HOW:
            raise ValueError(f"expected one of {', '.join(HOW)}, got {how!r:.80}")
        self.moves = list(moves)
        self.how = how
        self.token = secrets.token_hex(6)
        self.done = 0
        self.missing: list[str] = []
        folder = os.path.abspath(folder)
        made = _folders_to_make(
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
            "how": how,
            "token": self.token,
            "moves": len(self.moves),
            "made": made,
        }
        with replacing(self.path) as beside, beside.open("x", encoding="ascii") as out:
            out.write(json.dumps(header) + "\n")
            out.writelines(json.dumps(_line(move)) + "\n" for move in self.moves)
            out.flush()
            os.fsync(out.fileno())
        sync_folder(folder)

    def run(self) -> None:
        """Make the moves.

        Sources that have gone are left out and kept in `missing`.

        Raises:
            MoveError: something else went wrong: the disk is full or read-only. What
                was moved until then stays where it is, and the manifest undoes it.
        """
        with self.path.open("a", encoding="ascii") as log:
            for number, step in enumerate(self.moves):
                try:
                    self._step(number, step, log)
                except FileNotFoundError as error:
                    if os.path.lexists(step.source):
                        raise self._stopped(step, error) from error
                    self.missing.append(step.source)
                except OSError as error:
                    raise self._stopped(step, error) from error
                else:
                    self.done += 1
            self._append(log, {"state": "finished", "done": self.done})

    def wrote(self, path: Path) -> None:
        """Write down a file that was made, so that undoing removes it."""
        status = path.stat()
        line = {
            "wrote": os.path.abspath(path),
            "size": status.st_size,
            "mtime_ns": status.st_mtime_ns,
        }
        with self.path.open("a", encoding="ascii") as log:
            self._append(log, line)

    def _step(self, number: int, step: Move, log: Any) -> None:
        folder = os.path.dirname(step.target)
        os.makedirs(folder, exist_ok=True)
        part = part_of(self.token, number, folder)
        names = Names()
        wanted = step.target
        while True:
            try:
                HOW[self.how](step.source, step.target, part)
            except FileExistsError:  # somebody took the name after the plan was made
                step.target = names.free(wanted)
                self._append(log, {"n": number, "to": step.target})
            else:
                return

    def _append(self, log: Any, line: dict[str, Any]) -> None:
        log.write(json.dumps(line) + "\n")
        log.flush()
        os.fsync(log.fileno())

    def _stopped(self, step: Move, error: OSError) -> MoveError:
        path = shell_word(self.path)
        return MoveError(
            f"{shown(step.source)} -> {shown(step.target)}: "
            f"{error.strerror or error}; {self.done} of {len(self.moves)} were done: "
            f"`open-nsfw dataset undo --apply {path}` takes them back"
        )


def part_of(token: str, number: int, folder: str) -> str:
    """The name of a copy that is not whole yet."""
    return os.path.join(folder, f".{token}-{number}.part")


def sync_folder(folder: str) -> None:
    """Have the disk keep the names in a folder, where the system offers that."""
    if os.name != "posix":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _line(step: Move) -> dict[str, Any]:
    status = os.lstat(step.source)
    return {
        "from": step.source,
        "to": step.target,
        "size": status.st_size,
        "mtime_ns": status.st_mtime_ns,
    }


def _folders_to_make(folders: Iterable[str]) -> list[str]:
    """The folders that are not there yet, outer ones first."""
    made: set[str] = set()
    for folder in folders:
        while folder not in made and not os.path.lexists(folder):
            made.add(folder)
            folder = os.path.dirname(folder)
    return sorted(made)
