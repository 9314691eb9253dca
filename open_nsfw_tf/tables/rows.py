"""What a row of a table of scores holds, in whichever format.

A row has `path`, one column of scores for each class (`sfw` and `nsfw` here), `error`,
and may have `label`, `sha256`, `frame`, `seconds`, and `size` and `mtime_ns`: those of
the file when it was scored. A picture has its scores or an error. Paths may hold
newlines and, by surrogateescape, bytes that are no UTF-8; they come back from each
format as they went in.
"""

import struct
from collections import Counter
from collections.abc import Iterable
from hashlib import blake2b
from typing import Any

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import Stamp

STAMP = ("size", "mtime_ns")  # bytes; nanoseconds since 1970
NOT_SCORES = ("path", "error", "label", "sha256", "frame", "seconds", *STAMP)
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


def pack_stamp(stamp: Stamp | None) -> bytes:
    """16 bytes that stand for a stamp, where many are remembered; none for None."""
    return b"" if stamp is None else struct.pack("<qq", *stamp)


def without_stamp(columns: Iterable[str]) -> list[str]:
    """The columns of a table that was written before rows knew size and time."""
    return [name for name in columns if name not in STAMP]


# -- paths that are remembered


def digest(path: str) -> bytes:
    """16 bytes that stand for a path, where many are remembered."""
    return blake2b(path_bytes(path), digest_size=16).digest()


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
