"""Reading tables of scores of any format; what they hold, and in what order."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import Stamp
from open_nsfw_tf.tables.rows import (
    FRAME,
    LONGEST_FIELD,
    STAMP,
    Chunk,
    read_stamp,
    score_columns,
)

# Which module of this package reads a suffix.
SUFFIXES = {
    ".csv": "csv_jsonl",
    ".jsonl": "csv_jsonl",
    ".ndjson": "csv_jsonl",
    ".tsv": "csv_jsonl",  # and .txt: what the first port's batch_classify.py wrote
    ".txt": "csv_jsonl",
    ".parquet": "parquet",
}
WRITTEN = (".csv", ".jsonl", ".parquet")
SECONDS = FRAME[1]


@dataclass(frozen=True)
class Table:
    """The scores of pictures, one row each, in the file's order.

    Attributes:
        paths: as the table names the pictures; undecodable bytes by surrogateescape.
        columns: by class, float64 (rows,), 0..1; NaN where a picture has no score.
        errors: why there is no score, or None.
        labels: what people say a picture is, or None; None for a table without labels.
        seconds: of frames of videos their presentation time, float64 (rows,), NaN for
            rows that are none; None for a table without them.
        stamps: int64 (rows, 2): size and modification time (ns) of the file that was
            scored, -1 and 0 where they are unknown; None for a table without them.
    """

    paths: list[str]
    columns: dict[str, np.ndarray]
    errors: list[str | None]
    labels: list[str | None] | None
    stamps: np.ndarray | None = None
    seconds: np.ndarray | None = None

    def __len__(self) -> int:
        return len(self.paths)

    def stamp(self, row: int) -> Stamp | None:
        """Size and time of the file that a row was made of, where they are known."""
        if self.stamps is None or self.stamps[row, 0] < 0:
            return None
        size, mtime_ns = self.stamps[row].tolist()
        return size, mtime_ns


def suffix_of(path: str | os.PathLike[str], known: Iterable[str] = SUFFIXES) -> str:
    """The suffix that tells a table's format, in lower case.

    Raises:
        ValueError: it is not one of `known`.
    """
    suffix = Path(os.fsdecode(path)).suffix.lower()
    if suffix not in known:
        raise ValueError(
            f"{sanitize(os.fsdecode(path))}: expected a table of scores as "
            f"{', '.join(known)}"
        )
    return suffix


def read_table(path: str | os.PathLike[str], any_number: bool = False) -> Table:
    """Read a table of scores; the suffix tells its format.

    Args:
        path: a .csv, .jsonl (.ndjson) or .parquet file with a column `path` and at
            least one of scores, or a .tsv or .txt that the first port wrote; or a
            folder of .parquet files that make one table. Every column that is not in
            `open_nsfw_tf.tables.NOT_SCORES` must hold scores; of `STAMP` there are both
            or none.
        any_number: keep scores that are NaN, infinite or not of 0..1, for a caller that
            counts and names them; what is no number is refused all the same.

    Returns:
        All rows; about 200 bytes of memory a row.

    Raises:
        OSError: the file cannot be read.
        ValueError: another suffix, a file that is cut or broken, columns that do not
            fit, a score that is no number (of 0..1). The message names file and row
            (the first row after a header is 1).
        ImportError: a .parquet needs the extra `parquet`.
    """
    name = os.fsdecode(path)
    kind = "parquet_folder" if os.path.isdir(name) else SUFFIXES[suffix_of(name)]
    module = import_module(f"open_nsfw_tf.tables.{kind}")
    try:
        return _collect(module.chunks(Path(name)), any_number)
    except ValueError as error:
        raise ValueError(f"{sanitize(name)}: {one_line(error)}") from error


def _collect(chunks: Iterator[Chunk], any_number: bool) -> Table:
    first = next(chunks)  # a reader gives at least one, which may be without rows
    scored = score_columns(first)
    parts: dict[str, list[np.ndarray]] = {name: [] for name in scored}
    table = Table([], {}, [], [] if "label" in first else None)
    stamps: list[np.ndarray] = []
    seconds: list[np.ndarray] = []
    for chunk in chain([first], chunks):
        start = len(table.paths)
        for name in scored:
            parts[name].append(_scores(name, chunk[name], start, any_number))
        rows = len(chunk["path"])
        paths = _texts("path", chunk["path"], start, needed=True)
        table.paths.extend(cast(list[str], paths))
        empty: list[Any] = [None] * rows
        table.errors.extend(_texts("error", chunk.get("error", empty), start))
        if table.labels is not None:
            table.labels.extend(_texts("label", chunk["label"], start))
        if set(STAMP) <= first.keys():
            stamps.append(_stamps(chunk))
        if SECONDS in first:
            seconds.append(_seconds(chunk[SECONDS], start))
    table.columns.update({name: np.concatenate(parts[name]) for name in scored})
    return replace(
        table,
        stamps=np.concatenate(stamps) if stamps else None,
        seconds=np.concatenate(seconds) if seconds else None,
    )


def _seconds(values: list[Any], start: int) -> np.ndarray:
    for index, value in enumerate(values):
        if not _number(value, True):
            raise ValueError(
                f"row {start + index + 1}: expected seconds, got "
                f"{sanitize(value, 40)!r}"
            )
    numbers = np.array([_NAN if v is None or v == "" else float(v) for v in values])
    return numbers.astype(np.float64, copy=False)


def _stamps(chunk: Chunk) -> np.ndarray:
    pairs = (read_stamp(*pair) for pair in zip(*(chunk[n] for n in STAMP), strict=True))
    known = [_UNKNOWN if pair is None else pair for pair in pairs]
    return np.array(known, np.int64).reshape(-1, 2)


_UNKNOWN = (-1, 0)


def _scores(name: str, values: Any, start: int, any_number: bool) -> np.ndarray:
    """float64 scores, NaN for None and ""; whatever is no score has its row named."""
    try:
        numbers = np.array([_NAN if v is None or v == "" else float(v) for v in values])
        fit = in_range(numbers) | any_number
        odd = [i for i in np.flatnonzero(~fit) if values[i] not in (None, "")]
        if not odd and bool not in set(map(type, values)):
            return numbers.astype(np.float64, copy=False)
    except (ValueError, TypeError, OverflowError):
        odd = []
    bad = odd[0] if odd else _no_number(values, any_number)
    raise ValueError(
        f"row {start + int(bad) + 1}: expected a score of 0 to 1 in the column "
        f"{sanitize(name, 40)}, got {sanitize(values[bad], 40)!r}"
    )


_NAN = float("nan")


def in_range(scores: np.ndarray) -> np.ndarray:
    """Which numbers are scores: 0..1, and so not NaN."""
    fit: np.ndarray = (scores >= 0) & (scores <= 1)
    return fit


def _no_number(values: Any, any_number: bool) -> int:
    """The first that is no number, or no finite one."""
    return next(i for i, v in enumerate(values) if not _number(v, any_number))


def _number(value: Any, any_number: bool) -> bool:
    if value is None or value == "":
        return True
    try:
        number = float(value)
        return not isinstance(value, bool) and (any_number or bool(np.isfinite(number)))
    except (ValueError, TypeError, OverflowError):
        return False


def _texts(
    name: str, values: list[Any], start: int, needed: bool = False
) -> list[str | None]:
    """Texts, of which the empty ones are None; refused where one is needed."""
    texts = [None if value == "" else value for value in values]
    kinds = {str} if needed else {str, type(None)}
    if set(map(type, texts)) <= kinds:
        longest = max(map(len, filter(None, texts)), default=0)
        if longest <= LONGEST_FIELD:
            return texts
    bad = next(
        i
        for i, text in enumerate(texts)
        if type(text) not in kinds or len(text or "") > LONGEST_FIELD
    )
    raise ValueError(
        f"row {start + bad + 1}: expected in the column {name} a text of at most "
        f"{LONGEST_FIELD} characters, got {sanitize(values[bad], 40)!r}"
    )


def rank(
    table: Table, top: int | None = None, column: str = "nsfw"
) -> list[tuple[str, float]]:
    """The pictures with the highest scores, the highest first.

    Args:
        table: of scores; pictures without one of 0..1 are left out.
        top: how many; None for all.
        column: whose scores.

    Returns:
        Paths and scores, equal ones in the table's order.

    Raises:
        ValueError: no such column, or `top` is below 1.
    """
    if column not in table.columns:
        raise ValueError(
            f"no column {sanitize(column, 40)!r} of scores; there are "
            f"{sanitize(', '.join(table.columns))}"
        )
    if top is not None and top < 1:
        raise ValueError(f"expected a top of at least 1, got {top}")
    scores = table.columns[column]
    known = np.flatnonzero(in_range(scores))
    order = known[np.argsort(-scores[known], kind="stable")][:top]
    return [(table.paths[index], float(scores[index])) for index in order]
