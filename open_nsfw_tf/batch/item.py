"""One picture: where it is, whether it is one, and its row in the table."""

import hashlib
import os
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from open_nsfw_tf.classifier import AnyScores
from open_nsfw_tf.errors import ImageError, NotReadError, one_line
from open_nsfw_tf.files import (
    PassedOver,
    Stamp,
    by_content,
    by_suffix,
    canonical,
    file_sha256,
    is_video,
    stamp_of,
)
from open_nsfw_tf.image import describe
from open_nsfw_tf.tables import FRAME, STAMP, digest

Row = dict[str, Any]  # a value for each of `columns_of`

# The most bytes of a picture in an archive or on remote storage; some tens of them are
# in memory at a time.
MAX_BYTES = 1 << 26

# Asked about each path once, before it is read; with the file's stamp as a second
# argument where a listing of remote storage gives it.
NeedsRow = Callable[..., bool]


@dataclass(frozen=True, slots=True)
class Item:
    """A picture that needs a row.

    Attributes:
        path: as the table has it.
        picture: the path of a file, or the bytes of one; no bytes where it cannot be
            read.
        error: why it cannot be read, or None.
        stamp: size and time of the file, or of the archive, before it was read; None
            where there is no file, or the system did not let it be read.
        sha256: of the file, in hexadecimal, where it was asked for.
        unread: whether the error is the system's: the stamp stays None.
        frame: of a video's frame its number and its seconds; then `picture` is the
            video.
    """

    path: str
    picture: str | bytes
    error: str | None = None
    stamp: Stamp | None = None
    sha256: str | None = None
    unread: bool = False
    frame: tuple[int, float] | None = None


def failed(path: str, reason: str | BaseException, stamp: Stamp | None = None) -> Item:
    """An item whose row has an error instead of scores.

    Where the error is not the picture's but the system's, there is no stamp.
    """
    unread = isinstance(reason, NotReadError) or (
        isinstance(reason, OSError) and reason.errno is not None
    )
    if isinstance(reason, BaseException):
        # The system's own words leave out the path, which the row has anyway.
        words = reason.strerror if isinstance(reason, OSError) else None
        reason = words or one_line(reason)
    return Item(path, b"", reason, None if unread else stamp, unread=unread)


def too_large(path: str, where: str, stamp: Stamp | None = None) -> Item:
    """The item of a picture of more than `MAX_BYTES`."""
    return failed(path, f"more than {MAX_BYTES >> 20} MiB {where}", stamp)


def with_stamp(item: Item) -> Item:
    """An item with its file's size and time; to be called before the file is read."""
    if item.stamp is not None or not isinstance(item.picture, str):
        return item
    return replace(item, stamp=stamp_of(item.picture))


def with_hash(item: Item) -> Item:
    """An item with the SHA-256 of its file, unless the file cannot be read."""
    if item.error is not None:
        return item
    if isinstance(item.picture, bytes):
        return replace(item, sha256=hashlib.sha256(item.picture).hexdigest())
    try:
        found = file_sha256(item.picture)
    except (OSError, ValueError):
        return item  # the classifier says what is wrong with it
    return replace(item, sha256=found)


def columns_of(classes: Iterable[str], hashes: bool, videos: bool = False) -> list[str]:
    """The columns of a table of scores."""
    frame, sha256 = FRAME if videos else (), ["sha256"] if hashes else []
    return ["path", *frame, *classes, "error", *sha256, *STAMP]


def row_of(
    item: Item,
    result: AnyScores | ImageError,
    classes: Sequence[str],
    columns: Iterable[str],
) -> Row:
    """The row of a picture, with the columns of `columns_of`.

    Size and time are left out where the picture was not read for a reason that is not
    its own: the next run then takes the file for another one, and tries again.

    Args:
        item: the picture.
        result: what the classifier made of it.
        classes: of the scores, in their order.
        columns: of the row.
    """
    row: Row = dict.fromkeys(columns)
    row["path"] = item.path
    if item.frame is not None:
        row.update(zip(FRAME, item.frame, strict=True))
    if isinstance(result, ImageError):
        # The row has the name; the error need not repeat it.
        reason = str(result).removeprefix(f"{describe(item.picture)}: ")
        row["error"] = item.error or reason
    else:
        row.update(zip(classes, result, strict=True))
    if "sha256" in row:
        row["sha256"] = item.sha256
    stamp = None if isinstance(result, NotReadError) else item.stamp
    row.update(zip(STAMP, stamp or (None, None), strict=True))
    return row


# -- one file, however it is named


def file_key(path: str) -> bytes:
    """16 bytes that stand for a file, the same for all spellings of its path.

    Links among its folders are followed; a link to a file is a file of its own. Members
    of an archive go by their names as they are: ARCHIVE/../b.png is not b.png.
    """
    if os.path.lexists(path):
        return digest(canonical(path))
    exists = _existing(path)
    rest = path[len(exists) :]
    if os.path.isdir(exists or os.curdir):
        return digest(os.path.join(os.path.realpath(exists), rest.lstrip(os.sep)))
    return digest(canonical(exists) + rest)


def _existing(path: str) -> str:
    """The archive that a path leads into, or the last folder that is there.

    From the root down: a member's name may have tens of thousands of parts, of which
    only the first is looked for.
    """
    exists = ""
    for end in re.finditer(f"{re.escape(os.sep)}+", path):
        part = path[: end.start()] or path[: end.end()]
        if not os.path.lexists(part):
            break
        exists = part
    return exists


class Containers:
    """The folders, archives and lists of a run.

    Attributes:
        paths: the digest of each as it was named, by its `file_key`.
    """

    def __init__(self) -> None:
        self._entered: set[str] = set()
        self.paths: dict[bytes, bytes] = {}

    def note(self, path: str) -> None:
        """Remember that one is read, perhaps again."""
        self.paths[file_key(path)] = digest(path)

    def __contains__(self, path: str) -> bool:
        """Whether one was read, by this or another spelling of its path."""
        return file_key(path) in self.paths

    def enter(self, path: str) -> bool:
        """Whether to read one: not if it was read before, by this or another name."""
        self.note(path)
        found = os.path.realpath(path) if os.path.isdir(path) else canonical(path)
        is_new = found not in self._entered
        self._entered.add(found)
        return is_new


# -- what is taken from folders and archives

# By the name, and by the first bytes, which are read only if the name does not decide.
Select = Callable[[str, Callable[[], bytes]], bool]
SELECT: dict[str, Select] = {
    "either": lambda name, head: by_suffix(name) or by_content(head()),
    "suffix": lambda name, head: by_suffix(name),
    "content": lambda name, head: by_content(head()),
    "all": lambda name, head: True,
}


def counting(select: str, passed_over: PassedOver, videos: bool = False) -> Select:
    """One of `SELECT` that counts what it does not take.

    Args:
        select: a key of `SELECT`.
        passed_over: counts.
        videos: whether to take videos, too.
    """

    def select_and_count(name: str, head: Callable[[], bytes]) -> bool:
        read: list[bytes] = []  # at most once, and only if the name has not decided

        def head_once() -> bytes:
            read.append(head())
            return read[-1]

        if SELECT[select](name, head_once):
            return True
        if videos and is_video(name, read[-1] if read else head_once(), select):
            return True
        passed_over.note(name, b"".join(read))
        return False

    return select_and_count
