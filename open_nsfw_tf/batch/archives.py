"""Pictures in tar and zip archives, member by member, in bounded memory.

A member is called ARCHIVE/MEMBER. Nothing is unpacked to disk; archives in archives
are not opened. What is wrong with an archive is one row under its own name.
"""

import lzma
import os
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, Any, Self

from open_nsfw_tf.batch.item import Item, Select, Wanted, failed
from open_nsfw_tf.filetype import HEAD, by_suffix

MAX_MEMBER = 1 << 26  # bytes; some tens of members are held at a time
MAX_HEADER = 1 << 20  # bytes of a long name, which tarfile holds
COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ\0")  # gzip, bzip2, xz
# What a cut or broken archive raises.
BROKEN = (
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


class _Member(tarfile.TarInfo):
    """Of a tar that must end with its end mark: tarfile takes a cut for the end."""

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
            raise tarfile.ReadError(f"no header where one must be: {error}") from error


def tar_members(
    name: str, file: IO[bytes], wanted: Wanted, select: Select
) -> Iterator[Item]:
    """The pictures of a tar, plain or compressed, read once from front to end.

    Args:
        name: of the archive.
        file: binary; it need not seek.
        wanted: whether a path still needs its row.
        select: one of `open_nsfw_tf.batch.item.SELECT`.
    """
    count = 0
    try:
        with tarfile.open(fileobj=file, mode="r|*", tarinfo=_Member) as archive:
            while (member := archive.next()) is not None:
                archive.members = []  # type: ignore[attr-defined]  # or it would remember each
                path = f"{name}/{member.name}"
                count += 1
                if member.isreg() and wanted(path):
                    yield from _tar_member(path, archive, member, select)
                elif _link(member) and by_suffix(path) and wanted(path):
                    yield failed(path, "a link within the archive is not followed")
    except BROKEN as error:
        if wanted(name):
            yield failed(name, f"cut or broken after {count} members ({error})")


def _link(member: tarfile.TarInfo) -> bool:
    return member.islnk() or member.issym()


def _tar_member(
    path: str, archive: tarfile.TarFile, member: tarfile.TarInfo, select: Select
) -> Iterator[Item]:
    file = archive.extractfile(member)
    if file is not None:
        yield from _read(path, file, member.size, select)


def zip_members(
    name: str, file: IO[bytes], wanted: Wanted, select: Select
) -> Iterator[Item]:
    """The pictures of a zip; the arguments are those of `tar_members`, `file` seeks."""
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.infolist():
                path = f"{name}/{member.filename}"
                if not member.is_dir() and wanted(path):
                    yield from _zip_member(path, archive, member, select)
    except BROKEN as error:
        if wanted(name):
            yield failed(name, f"cut or broken zip ({error})")


def _zip_member(
    path: str, archive: zipfile.ZipFile, member: zipfile.ZipInfo, select: Select
) -> Iterator[Item]:
    try:
        with archive.open(member) as file:
            yield from _read(path, file, member.file_size, select)
    except BROKEN as error:
        yield failed(path, error)


def _read(path: str, file: IO[bytes], size: int, select: Select) -> Iterator[Item]:
    """A member as an item, if it is a picture. Its declared size may be a lie."""
    head = file.read(HEAD)
    if not select(os.path.basename(path), lambda: head):
        return
    data = head
    if size <= MAX_MEMBER:
        data += file.read(MAX_MEMBER + 1 - len(head))
    if max(size, len(data)) > MAX_MEMBER:
        yield failed(path, f"more than {MAX_MEMBER >> 20} MiB in an archive: unpack it")
    else:
        yield Item(path, data)
