"""Where the pictures of a batch come from: folders, globs, lists, archives, a pipe.

All are read lazily. A folder's names are held one folder at a time; they are sorted,
so that two runs meet the pictures in one order.
"""

import glob
import os
from collections.abc import Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any

from open_nsfw_tf.batch.archives import is_tar, is_zip, tar_members, zip_members
from open_nsfw_tf.batch.item import SELECT, Item, Select, Wanted, counting, failed
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import (
    HEAD,
    LISTS,
    PassedOver,
    by_content,
    open_regular,
    read_head,
    read_paths,
    walk,
)
from open_nsfw_tf.image import read_file

STDIN = "-"


def check_sources(sources: Iterable[str], select: str = "either") -> list[str]:
    """Refuse what is not there, before anything is written.

    Args:
        sources: folders, files, globs, "-".
        select: a key of `SELECT`.

    Returns:
        The sources.

    Raises:
        ValueError: no source, one that does not exist, a glob that matches nothing, or
            an unknown `select`.
    """
    found = [os.fspath(source) for source in sources]
    if not found:
        raise ValueError("expected at least one source of pictures, got none")
    if select not in SELECT:
        raise ValueError(
            f"expected select {', '.join(SELECT)}, got {sanitize(select)!r}"
        )
    for source in found:
        there = source == STDIN or os.path.lexists(source)
        if not there and next(_matches(source), None) is None:
            raise ValueError(
                f"{sanitize(source) or repr(source)}: no such file or folder, and no glob "
                "that matches a file"
            )
    if found.count(STDIN) > 1:
        raise ValueError("standard input (-) can be read only once")
    return found


def items(
    sources: Iterable[str],
    wanted: Wanted,
    select: str = "either",
    stdin: IO[bytes] | None = None,
    passed_over: PassedOver | None = None,
) -> Iterator[Item]:
    """What there is to score, lazily.

    Args:
        sources: folders, walked recursively, whose links to folders are rows with an
            error; globs, whose folders are passed over; lists of paths, a line (or,
            as `find -print0` gives them, a null byte) each; tar and zip archives;
            picture files; "-" for standard input, which may hold a list, a tar or one
            picture.
        wanted: called once for each path, before it is read.
        select: a key of `SELECT`: what to take from folders and archives.
        stdin: binary, where "-" is among the sources.
        passed_over: counts the files of folders and archives that are not taken.

    Raises:
        ValueError: standard input holds a zip, or "-" is given and `stdin` is not.
    """
    chosen = counting(select, PassedOver() if passed_over is None else passed_over)
    for source in sources:
        if source == STDIN:
            if stdin is None:
                raise ValueError("standard input is closed: expected pictures there")
            yield from _stream(source, stdin, wanted, chosen)
        elif os.path.isdir(source):
            yield from _walk(source, wanted, chosen)
        elif os.path.lexists(source):
            yield from _file(source, wanted, chosen)
        else:
            for match, error in _matches(source):
                if wanted(match):
                    yield failed(match, error) if error else Item(match, match)


def count(sources: Iterable[str], select: str = "either") -> int | None:
    """How many items there are; None where only reading them all would tell."""
    sources = list(sources)
    for source in sources:
        head = b"" if os.path.isdir(source) else _head(source)
        if source == STDIN or is_tar(head) or is_zip(head):
            return None
    return sum(1 for _ in items(sources, lambda path: True, select))


def _matches(pattern: str) -> Iterator[tuple[str, OSError | None]]:
    """The files of a glob, and the folders below a ** that cannot be read.

    `glob` itself follows links for **, round and round where one leads upwards.
    """
    parts = pattern.split("/")
    if not glob.has_magic(pattern):
        return
    at = parts.index("**") if "**" in parts else len(parts)
    for root in glob.iglob("/".join(parts[:at])) if at else [""]:
        if at == len(parts):
            if not os.path.isdir(root):
                yield root, None
            continue
        skip = len(root) + (not root.endswith("/")) if root else 0
        for entry in walk(root):
            if entry.error is not None:
                yield entry.path, entry.error
            elif entry.kind == "file" and _fits(
                entry.path[skip:].split("/"), parts[at:]
            ):
                yield entry.path, None


def _fits(names: list[str], patterns: list[str]) -> bool:
    """Whether the parts of a path match those of a glob, of which ** is any number."""
    if not patterns or not names:
        return not names and set(patterns) <= {"**"}
    first, *others = patterns
    hidden = names[0].startswith(".") and not first.startswith(".")
    if first == "**":
        deeper = not hidden and _fits(names[1:], patterns)
        return deeper or _fits(names, others)
    return not hidden and fnmatchcase(names[0], first) and _fits(names[1:], others)


def _walk(folder: str, wanted: Wanted, select: Select) -> Iterator[Item]:
    for entry in walk(folder):
        path = entry.path
        if entry.error is not None:
            if wanted(path):
                yield failed(path, entry.error)
        elif entry.kind == "link":
            if wanted(path):
                yield failed(path, "a link to a folder is not followed: name it itself")
        elif select(os.path.basename(path), partial(_head, path)) and wanted(path):
            yield Item(path, path)


# How a file that cannot be read begins: it is reported, not passed over.
_UNREADABLE = b"\xff\xd8\xff"


def _head(path: str) -> bytes:
    try:
        return read_head(path)
    except PermissionError:
        return _UNREADABLE
    except OSError:
        return b""


def _file(path: str, wanted: Wanted, select: Select) -> Iterator[Item]:
    """What a file that was named holds; if it is none of ours, it is a picture."""
    head = _head(path)
    suffix = Path(path).suffix.lower()
    if not by_content(head):
        read = {is_tar(head): tar_members, is_zip(head): zip_members}.get(True)
        if read is None and suffix == ".tar":
            read = tar_members
        if read is not None:
            with open_regular(path) as file:
                status = os.fstat(file.fileno())
                stamp = status.st_size, status.st_mtime_ns
                for item in read(path, file, wanted, select):
                    yield replace(item, stamp=stamp)
            return
        if suffix in LISTS:
            with open_regular(path) as file:
                yield from _list(path, file, wanted)
            return
    if wanted(path):
        yield Item(path, path)


def _stream(
    name: str, stdin: IO[bytes], wanted: Wanted, select: Select
) -> Iterator[Item]:
    head = b""
    while len(head) < HEAD and (more := stdin.read(HEAD - len(head))):
        head += more
    file: Any = BufferedReader(_Rejoined(head, stdin))
    if by_content(head):
        if wanted(name):
            yield _whole(name, file)
    elif is_zip(head):
        raise ValueError("-: a zip cannot be read from a pipe; save it to a file")
    elif is_tar(head):
        yield from tar_members(name, file, wanted, select)
    else:
        yield from _list(name, file, wanted)


def _whole(name: str, file: IO[bytes]) -> Item:
    try:
        return Item(name, read_file(file))
    except ImageError as error:
        return failed(name, error)


class _Rejoined(RawIOBase):
    """A stream whose first bytes were read, from its first byte on."""

    def __init__(self, head: bytes, rest: IO[bytes]) -> None:
        self._head, self._rest = head, rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._head[: len(buffer)] or self._rest.read(len(buffer))
        self._head = self._head[len(data) :]
        buffer[: len(data)] = data
        return len(data)


def _list(name: str, file: IO[bytes], wanted: Wanted) -> Iterator[Item]:
    try:
        for path in read_paths(file):
            if wanted(path):
                yield Item(path, path)
    except (OSError, ValueError) as error:
        if wanted(name):
            yield failed(name, error)
