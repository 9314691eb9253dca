"""Where the pictures of a batch come from: folders, globs, lists, archives, a pipe.

All are read lazily, with the names of one folder in memory at a time. The names are
sorted, so that two runs find the pictures in the same order.
"""

import glob
import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import partial
from io import BufferedReader, RawIOBase
from pathlib import Path
from typing import IO, Any

from open_nsfw_tf.batch.archives import is_tar, is_zip, tar_members, zip_members
from open_nsfw_tf.batch.item import (
    SELECT,
    Containers,
    Item,
    NeedsRow,
    Select,
    counting,
    failed,
)
from open_nsfw_tf.encoding import LISTS, read_paths
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import (
    HEAD,
    STDIN,
    PassedOver,
    by_content,
    canonical,
    is_system_file,
    make_stamp,
    open_regular,
    read_head,
    walk,
)
from open_nsfw_tf.image import read_file


def check_sources(sources: Iterable[str], select: str = "either") -> list[str]:
    """Refuse sources that do not exist, before anything is written.

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
        exists = source == STDIN or os.path.lexists(source)
        if not exists and next(_matches(source), None) is None:
            raise ValueError(
                f"{sanitize(source) or repr(source)}: no such file or folder, and no "
                "glob that matches a file"
            )
    if found.count(STDIN) > 1:
        raise ValueError("standard input (-) can be read only once")
    return found


def items(
    sources: Iterable[str],
    needs_row: NeedsRow,
    select: str = "either",
    stdin: IO[bytes] | None = None,
    passed_over: PassedOver | None = None,
    containers: Containers | None = None,
    videos: bool = False,
    own: Collection[str] = (),
) -> Iterator[Item]:
    """The pictures to score, lazily.

    Args:
        sources: folders, walked recursively, whose links to folders are rows with an
            error; globs, whose folders are passed over; lists of paths, a line (or,
            as `find -print0` gives them, a null byte) each; tar and zip archives;
            picture files; "-" for standard input, which may hold a list, a tar or one
            picture.
        needs_row: called once for each path, before it is read.
        select: a key of `SELECT`: what to take from folders and archives.
        stdin: binary, where "-" is among the sources.
        passed_over: counts the files of folders and archives that are not taken, and
            the files of macOS and Windows in lists.
        containers: the folders, archives and lists that were read before; of these,
            lists are read again.
        videos: whether videos are taken from folders and archives, too.
        own: files of the run itself, by their `canonical` path: in folders they are
            neither pictures nor counted.

    Raises:
        ValueError: standard input holds a zip, or "-" is given and `stdin` is not.
    """
    passed_over = PassedOver() if passed_over is None else passed_over
    chosen = counting(select, passed_over, videos)
    containers = Containers() if containers is None else containers
    for source in sources:
        if source == STDIN:
            if stdin is None:
                raise ValueError("standard input is closed: expected pictures there")
            yield from _stream(source, stdin, needs_row, chosen)
        elif os.path.isdir(source):
            yield from _walk(source, needs_row, chosen, containers, own)
        elif os.path.lexists(source):
            yield from _file(source, needs_row, chosen, containers)
        else:
            for match, error in _matches(source, containers.note):
                if needs_row(match):
                    yield failed(match, error) if error else Item(match, match)


def count(sources: Iterable[str], select: str = "either") -> int | None:
    """How many pictures there are; None where all would have to be read to know."""
    sources = list(sources)
    for source in sources:
        head = b"" if os.path.isdir(source) else _head(source)
        if source == STDIN or is_tar(head) or is_zip(head):
            return None
    return sum(1 for _ in items(sources, lambda path: True, select))


def _matches(
    pattern: str, note: Callable[[str], None] = lambda path: None
) -> Iterator[tuple[str, OSError | None]]:
    """The files of a glob, and the folders below a ** that cannot be read.

    `glob` itself follows links for **, round and round where one leads upwards.

    Args:
        pattern: the glob.
        note: called with the path of each folder below a ** before it is read.
    """

    def enter(folder: str) -> bool:
        note(folder)
        return True

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
        note(root)
        for entry in walk(root, enter):
            if entry.error is not None:
                yield entry.path, entry.error
            elif entry.kind == "file" and fits(
                entry.path[skip:].split("/"), parts[at:]
            ):
                yield entry.path, None


def fits(names: list[str], patterns: list[str]) -> bool:
    """Whether the parts of a path match those of a glob, of which ** is any number."""
    if not patterns or not names:
        return not names and set(patterns) <= {"**"}
    first, *others = patterns
    hidden = names[0].startswith(".") and not first.startswith(".")
    if first == "**":
        deeper = not hidden and fits(names[1:], patterns)
        return deeper or fits(names, others)
    return not hidden and fnmatchcase(names[0], first) and fits(names[1:], others)


def _walk(
    folder: str,
    needs_row: NeedsRow,
    select: Select,
    containers: Containers,
    own: Collection[str],
) -> Iterator[Item]:
    own_names = {os.path.basename(file) for file in own}
    for entry in walk(folder, containers.enter) if containers.enter(folder) else ():
        path = entry.path
        if entry.error is not None:
            if needs_row(path):
                yield failed(path, entry.error)
        elif entry.kind == "link":
            # Unless it was named itself, too.
            if path not in containers and needs_row(path):
                yield failed(path, "a link to a folder is not followed: name it itself")
        elif os.path.basename(path) in own_names and canonical(path) in own:
            continue
        elif select(os.path.basename(path), partial(_head, path)) and needs_row(path):
            yield Item(path, path)


# The first bytes of a JPEG, so that a file that may not be opened gets a row with its
# error.
_UNREADABLE = b"\xff\xd8\xff"


def _head(path: str) -> bytes:
    try:
        return read_head(path)
    except PermissionError:
        return _UNREADABLE
    except OSError:
        return b""


def _file(
    path: str, needs_row: NeedsRow, select: Select, containers: Containers
) -> Iterator[Item]:
    """The pictures in a file that was named; a file of no known kind is a picture."""
    head = _head(path)
    suffix = Path(path).suffix.lower()
    try:
        if by_content(head):
            pass
        elif is_zip(head) or is_tar(head) or suffix == ".tar":
            members = zip_members if is_zip(head) else tar_members
            if containers.enter(path):
                yield from _archive(members, path, needs_row, select)
            return
        elif suffix in LISTS:
            containers.note(path)
            with open_regular(path) as file:
                return (yield from _list(path, file, needs_row, select))
    except OSError:
        pass  # removed meanwhile: it gets a row that says so
    if needs_row(path):
        yield Item(path, path)


def _archive(
    members: Callable[..., Iterator[Item]],
    path: str,
    needs_row: NeedsRow,
    select: Select,
) -> Iterator[Item]:
    with open_regular(path) as file:
        status = os.fstat(file.fileno())
        stamp = make_stamp(status.st_size, status.st_mtime_ns)
        for item in members(path, file, needs_row, select):
            yield item if item.unread else replace(item, stamp=stamp)


def _stream(
    name: str, stdin: IO[bytes], needs_row: NeedsRow, select: Select
) -> Iterator[Item]:
    head = b""
    while len(head) < HEAD and (more := stdin.read(HEAD - len(head))):
        head += more
    file: Any = BufferedReader(_Rejoined(head, stdin))
    if by_content(head):
        if needs_row(name):
            yield _read_picture(name, file)
    elif is_zip(head):
        raise ValueError("-: a zip cannot be read from a pipe; save it to a file")
    elif is_tar(head):
        yield from tar_members(name, file, needs_row, select)
    else:
        yield from _list(name, file, needs_row, select)


def _read_picture(name: str, file: IO[bytes]) -> Item:
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


def _list(
    name: str, file: IO[bytes], needs_row: NeedsRow, select: Select
) -> Iterator[Item]:
    try:
        for path in read_paths(file):
            # `find` names the files of macOS and Windows, too.
            system_file = is_system_file(path) and not select(
                os.path.basename(path), partial(_head, path)
            )
            if not system_file and needs_row(path):
                yield Item(path, path)
    except (OSError, ValueError) as error:
        if needs_row(name):
            yield failed(name, error)
