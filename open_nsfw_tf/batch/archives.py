"""Pictures in tar and zip archives, member by member, in bounded memory.

A member is called ARCHIVE/MEMBER. An archive may hold several members of one name, of
which unpacking keeps the last: the second is called MEMBER-2, and none is left out.
Nothing is unpacked to disk; archives in archives are not opened. What is wrong with an
archive is one row under its own name.
"""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, Self

from open_nsfw_tf.batch.item import (
    MAX_BYTES,
    Item,
    NeedsRow,
    Select,
    failed,
    too_large,
)
from open_nsfw_tf.errors import one_line
from open_nsfw_tf.files import HEAD, LONGEST_PATH, by_suffix
from open_nsfw_tf.tables import digest

MAX_HEADER = 1 << 20  # bytes of a long name, which tarfile keeps in memory
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # gzip, bzip2, xz
# What a cut or broken archive raises.
ARCHIVE_ERRORS = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    OSError,
    ValueError,
    RuntimeError,  # an encrypted member; NotImplementedError: an unknown compression
    OverflowError,
)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar, or compressed as tars are."""
    return head[257:262] == b"ustar" or head.startswith(COMPRESSED)


def is_zip(head: bytes) -> bool:
    """Whether a file that begins so is a zip; an empty one has only its end."""
    return head.startswith((b"PK\x03\x04", b"PK\x05\x06"))


class _Names:
    """Gives each member of an archive its path in the table, the same in every run.

    Args:
        archive: the archive's own name.
        all_members: gives the names of all members, where they can be read in advance;
            called once, when the first number is needed.
    """

    def __init__(self, archive: str, all_members: Callable[[], Iterable[str]]) -> None:
        self._archive, self._all_members = archive, all_members
        self._taken: set[bytes] = set()
        self._reserved: set[bytes] | None = None
        self._last: dict[bytes, int] = {}

    def path_of(self, member: str) -> str:
        """The path of the next member; the second of one name gets a number."""
        member = name = member[:LONGEST_PATH]  # or no table could hold it
        if digest(name) in self._taken:
            name = self._numbered(member)
        self._taken.add(digest(name))
        return f"{self._archive}/{name}"

    def _numbered(self, member: str) -> str:
        """A name that no member has, before or after this one."""
        if self._reserved is None:
            self._reserved = set(map(digest, self._all_members()))
        number = self._last.get(digest(member), 1)
        key = digest(member)
        while key in self._taken or key in self._reserved:
            number += 1
            stem, suffix = os.path.splitext(member)
            name = f"{stem}-{number}{suffix}"
            key = digest(name)
        self._last[digest(member)] = number
        return name


class _Member(tarfile.TarInfo):
    """A member of a tar that must have its end mark; to tarfile a cut is the end."""

    @classmethod
    def frombuf(cls, buf: Any, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        long = member.type in (
            tarfile.XHDTYPE,
            tarfile.XGLTYPE,
            tarfile.SOLARIS_XHDTYPE,
            tarfile.GNUTYPE_LONGNAME,
            tarfile.GNUTYPE_LONGLINK,
        )
        if long and member.size > MAX_HEADER:
            raise tarfile.ReadError(f"a header of {member.size} bytes")
        return member

    @classmethod
    def fromtarfile(cls, archive: tarfile.TarFile) -> Self:
        try:
            return super().fromtarfile(archive)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"expected a member's header: {error}") from error


def tar_members(
    name: str, file: IO[bytes], needs_row: NeedsRow, select: Select
) -> Iterator[Item]:
    """The pictures of a tar, plain or compressed, read once from front to end.

    Args:
        name: of the archive.
        file: binary; it need not seek.
        needs_row: called once for each path, before it is read.
        select: which members are pictures; see `item.counting`.
    """
    count = 0
    names = _Names(name, lambda: _tar_names(file))
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
            for member in _tar_walk(archive):
                count += 1
                if not (_is_file(member) or _is_link(member)):
                    continue
                path = names.path_of(member.name)
                if _is_file(member) and needs_row(path):
                    yield from _tar_member(path, archive, member, select)
                elif _is_link(member) and by_suffix(path) and needs_row(path):
                    yield failed(path, "a link within the archive is not followed")
    except ARCHIVE_ERRORS as error:
        if needs_row(name):
            reason = f"cut or broken after {count} members ({one_line(error)})"
            yield failed(name, reason)


def _tar_walk(archive: tarfile.TarFile) -> Iterator[tarfile.TarInfo]:
    while (member := archive.next()) is not None:
        archive.members = []  # type: ignore[attr-defined]  # or it would remember each
        yield member


def _tar_names(file: IO[bytes]) -> Iterator[str]:
    """The names of a tar's members, which is read once more; none of a pipe."""
    if not file.seekable():
        return
    position = file.tell()
    file.seek(0)
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
            for member in _tar_walk(archive):
                if _is_file(member) or _is_link(member):
                    yield member.name
    except ARCHIVE_ERRORS:
        return  # the archive is reported where it is read for its pictures
    finally:
        file.seek(position)


def _is_file(member: tarfile.TarInfo) -> bool:
    # A type that is not known is unpacked as a file, as POSIX wants it.
    return member.isreg() or member.type not in tarfile.SUPPORTED_TYPES


def _is_link(member: tarfile.TarInfo) -> bool:
    return member.islnk() or member.issym()


def _tar_member(
    path: str, archive: tarfile.TarFile, member: tarfile.TarInfo, select: Select
) -> Iterator[Item]:
    file = archive.extractfile(member)
    if file is not None:
        yield from _read(path, file, member.size, select)


def zip_members(
    name: str, file: IO[bytes], needs_row: NeedsRow, select: Select
) -> Iterator[Item]:
    """The pictures of a zip; the arguments are those of `tar_members`, `file` seeks."""
    try:
        with zipfile.ZipFile(file) as archive:
            members = [found for found in archive.infolist() if not found.is_dir()]
            names = _Names(name, lambda: (found.filename for found in members))
            for member in members:
                path = names.path_of(member.filename)
                if needs_row(path):
                    yield from _zip_member(path, archive, member, select)
    except ARCHIVE_ERRORS as error:
        if needs_row(name):
            yield failed(name, f"cut or broken zip ({one_line(error)})")


def _zip_member(
    path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, select: Select
) -> Iterator[Item]:
    try:
        with archive.open(member) as file:
            yield from _read(path, file, member.file_size, select)
    except ARCHIVE_ERRORS as error:
        yield failed(path, error)


def _read(path: str, file: IO[bytes], size: int, select: Select) -> Iterator[Item]:
    """A member as an item, if it is a picture. Its declared size may be a lie."""
    head = file.read(HEAD)
    if not select(os.path.basename(path), lambda: head):
        return
    data = head
    if size <= MAX_BYTES:
        data += file.read(MAX_BYTES + 1 - len(head))
    if max(size, len(data)) > MAX_BYTES:
        yield too_large(path, "in an archive: unpack it")
    else:
        yield Item(path, data)
