"""What a row of a table of scores holds, in whichever format.

A row has `path`, one column of scores for each class (`sfw` and `nsfw` here), `error`,
and may have `label`, `sha256`, `frame`, `seconds`, and `size` and `mtime_ns`: those of
the file when it was scored. A picture has its scores or an error. Paths may hold
newlines and, by surrogateescape, bytes that are no UTF-8; they come back from each
format as they went in.
"""

import struct
from collections import Counter
from collections.abc import Iterable, Iterator, MutableMapping
from hashlib import blake2b
from typing import Any

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import Stamp

FRAME = ("frame", "seconds")  # of videos: the number from 0, the presentation time
STAMP = ("size", "mtime_ns")  # bytes; nanoseconds since 1970
NOT_SCORES = ("path", "error", "label", "sha256", *FRAME, *STAMP)
# How many characters one value may have, and how many bytes one row.
LONGEST_FIELD = 1 << 17  # what Python's csv module allows
LONGEST_ROW = 1 << 20
MAX_COLUMNS = 10_000
CHUNK = 1 << 14  # rows that are held as Python objects at a time

Row = dict[str, Any]
# Rows of one table: by column, values as the file has them; None where it has none.
Chunk = dict[str, list[Any]]


def score_columns(columns: Iterable[str]) -> list[str]:
    """The columns that hold scores.

    Raises:
        ValueError: there are none, none is called path, or there are too many.
    """
    names = list(columns)
    found = ", ".join(sanitize(name, 40) for name in names[:8]) or "none"
    if len(names) > MAX_COLUMNS:
        raise ValueError(f"{len(names)} columns; a table of scores has few")
    if "path" not in names:
        raise ValueError(f"expected a column path and scores, got the columns {found}")
    scored = [name for name in names if name not in NOT_SCORES]
    # `size` or `mtime_ns` alone is an ordinary score column.
    if not set(STAMP) <= set(names):
        scored = [name for name in names if name in scored or name in STAMP]
    if not scored:
        raise ValueError(f"expected columns of scores, such as nsfw, got only {found}")
    return scored


# -- which file a row was made of


def read_stamp(size: Any, mtime_ns: Any) -> Stamp | None:
    """Size and time as a table has them; None for what is not both.

    A spreadsheet may have rounded them, and then they are no file's.
    """
    try:
        # As integers first: a float has not all the digits of a time.
        pair = tuple(
            int(v)
            if isinstance(v, int) or str(v).lstrip("-").isdecimal()
            else int(float(v))
            for v in (size, mtime_ns)
        )
    except (ValueError, TypeError, OverflowError):
        return None
    fits = 0 <= pair[0] < 1 << 63 and -(1 << 63) <= pair[1] < 1 << 63
    return (pair[0], pair[1]) if fits else None


def read_frame(value: Any) -> int | None:
    """The number of a frame as a table has it; None for what is no frame's row."""
    try:
        return None if value is None or value == "" else int(float(value))
    except (ValueError, TypeError, OverflowError):
        return None


def pack_stamp(stamp: Stamp | None) -> bytes:
    """16 bytes that stand for a stamp, where many are remembered; none for None."""
    return b"" if stamp is None else struct.pack("<qq", *stamp)


def without_stamp(columns: Iterable[str]) -> list[str]:
    """The columns of a table that was written before rows knew size and time."""
    return [name for name in columns if name not in STAMP]


# -- paths that are remembered

DIGEST = 16  # bytes


def digest(path: str) -> bytes:
    """16 bytes that stand for a path, where many are remembered."""
    return blake2b(path_bytes(path), digest_size=DIGEST).digest()


# Two of these cost `batch --resume` 82 to 122 bytes a picture, and 23 s for a million.
# A dict and a set cost 300 bytes and 6 s; sqlite3 4 bytes, 37 s, and room on a disk
# that may be full.
class DigestMap(MutableMapping[bytes, bytes]):
    """A dict of short values by digest, in a third of a dict's memory.

    It is a hash table with open addressing in one block of bytes.

    Args:
        size: the most bytes that a value has; 0 for a set.
    """

    def __init__(self, size: int = 0) -> None:
        self._step = DIGEST + 1 + size  # a slot: key, state, value
        self._slots = bytearray(self._step << 10)
        self._taken = 0  # slots, those of removed keys too
        self._count = 0

    def __getitem__(self, key: bytes) -> bytes:
        slot = self._find(key)
        state = self._slots[slot + DIGEST]
        if state in (_FREE, _REMOVED):
            raise KeyError(key)
        start = slot + DIGEST + 1
        return bytes(self._slots[start : start + state - _EMPTY])

    def __setitem__(self, key: bytes, value: bytes) -> None:
        if (self._taken + 1) * self._step * 5 > len(self._slots) * 4:
            self._grow()
        slot = self._find(key)
        state = self._slots[slot + DIGEST]
        self._taken += state == _FREE
        self._count += state in (_FREE, _REMOVED)
        entry = key + bytes([_EMPTY + len(value)]) + value
        self._slots[slot : slot + self._step] = entry.ljust(self._step, b"\0")

    def __delitem__(self, key: bytes) -> None:
        if key not in self:
            raise KeyError(key)
        self._slots[self._find(key) + DIGEST] = _REMOVED
        self._count -= 1

    def __iter__(self) -> Iterator[bytes]:
        for slot in range(0, len(self._slots), self._step):
            if self._slots[slot + DIGEST] not in (_FREE, _REMOVED):
                yield bytes(self._slots[slot : slot + DIGEST])

    def __len__(self) -> int:
        return self._count

    def _find(self, key: bytes) -> int:
        """Where the slot of a key begins, or the free one that it would get."""
        slots, step = self._slots, self._step
        slot = int.from_bytes(key, "little") * step % len(slots)
        while slots[slot + DIGEST] != _FREE and slots[slot : slot + DIGEST] != key:
            slot = (slot + step) % len(slots)
        return slot

    def _grow(self) -> None:
        old, step = self._slots, self._step
        self._slots = bytearray(2 * len(old))
        self._taken = self._count
        for slot in range(0, len(old), step):
            if old[slot + DIGEST] not in (_FREE, _REMOVED):
                entry = old[slot : slot + step]
                new = self._find(bytes(entry[:DIGEST]))
                self._slots[new : new + step] = entry


_FREE, _REMOVED, _EMPTY = range(3)  # states of a slot; above: the value's length


def path_bytes(path: str) -> bytes:
    """A path as bytes, the same in every locale.

    Where the locale is no UTF-8, Python has the bytes of other letters as surrogates.
    """
    try:
        return path.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:  # half a character, which JSON may hold
        return path.encode("utf-8", "surrogatepass")


def is_stale(path: str, stale: Counter[bytes]) -> bool:
    """Whether a row has a later one; asked once for each, in the table's order."""
    if not stale or not stale[key := digest(path)]:
        return False
    stale[key] -= 1
    return True
