"""Tables that are written row by row, and gone on with after whatever ended a run.

CSV and JSON lines grow at their end, by one write for some rows; a last row that a
kill or a full disk tore is cut off. Parquet has no such end: its rows are kept in JSON
lines beside it, `NAME.parquet.partial`, until the whole table is made of them.
"""

import json
import os
import stat
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Literal, Self

from open_nsfw_tf.filetype import lock
from open_nsfw_tf.messages import one_line, shown
from open_nsfw_tf.tables import WRITTEN, digest, parquet, suffix_of
from open_nsfw_tf.tables.text import Row, lines, parse_object, parse_record, records

Mode = Literal["new", "resume", "overwrite"]
PARTIAL = ".partial"  # what the name of a Parquet table's rows ends with
# Not waiting for the other end of a pipe; and bytes as they are, on Windows.
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
LOCK = ".lock"  # what the name of the lock file beside a table ends with


class TableWriter:
    """Appends rows to a table. One process at a time may, which a lock sees to.

    Args:
        path: of the table, .csv, .jsonl or .parquet.
        columns: of every row; the first one is path.
        mode: "new" refuses a table that exists; "resume" goes on with one, or begins
            it; "overwrite" begins anew.

    Attributes:
        done: the digests of the paths that had a row when the table was opened.

    Raises:
        FileExistsError: the table exists and `mode` is "new".
        OSError: the file cannot be written.
        ValueError: another suffix, another run writes to this table, or the table is
            broken or has other columns.
        ImportError: a .parquet needs the extra `parquet`.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        mode: Mode = "new",
    ) -> None:
        self.path = Path(path)
        self.columns = list(columns)
        self.done: set[bytes] = set()
        suffix = suffix_of(path, WRITTEN)
        self._csv = suffix == ".csv"
        self._target = self.path if suffix == ".parquet" else None
        self._file_path = self.path
        if self._target is not None:
            parquet.check_installed()
            self._file_path = self.path.with_name(self.path.name + PARTIAL)
        self._raw = False  # whether a path is no UTF-8
        # Locked before it is opened: the other run may remove it when it ends.
        folder, name = os.path.split(os.path.realpath(self.path))
        self._free = lock(os.path.join(folder, f".{name}{LOCK}"), self.path)
        try:
            self._file = self._open(mode)
        except BaseException:
            self._free()
            raise
        try:
            self._end = self._start(mode)
        except BaseException:
            self._close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        self._file.close()
        self._free()

    def write(self, rows: Iterable[Row]) -> None:
        """Append rows: after it returns, no kill can lose them.

        Raises:
            OSError: the disk is full, or the like. None of these rows was written, and
                the table is whole as it was before.
        """
        rows = list(rows)
        if self._csv:
            data = b"".join(
                _csv_row(row[name] for name in self.columns) for row in rows
            )
        else:
            data = b"".join(_json_row(row) for row in rows)
        self._append(data)
        self._raw = self._raw or not all(parquet.is_text(row["path"]) for row in rows)

    def finish(self) -> None:
        """Make the table whole: for Parquet, the file itself.

        Raises:
            OSError: the disk is full, or the like; "resume" can go on.
        """
        if self._target is None:
            os.fsync(self._file.fileno())
            return
        try:
            parquet.write(self._target, self.columns, self._file_path, self._raw)
        except OSError as error:
            raise self._explained(error) from error
        self._file.close()  # as Windows removes no open file
        self._file_path.unlink()

    def _open(self, mode: Mode) -> IO[bytes]:
        """The file that rows are appended to."""
        if mode == "new":
            self._refuse(self.path.exists() or self._file_path.exists())
        handle = os.open(self._file_path, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
        file = os.fdopen(handle, "r+b", buffering=0)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ValueError(f"{shown(self.path)}: expected a regular file")
            if mode == "new":  # another run may have begun meanwhile
                self._refuse(os.fstat(handle).st_size > 0)
        except BaseException:
            file.close()
            raise
        return file

    def _refuse(self, exists: bool) -> None:
        if exists:
            raise FileExistsError(
                f"{shown(self.path)} exists, or a run that was not finished: go on with "
                "it with --resume, or begin anew with --overwrite"
            )

    def _start(self, mode: Mode) -> int:
        """Read what is there, cut a torn end off; where the next row goes."""
        end = 0
        if mode == "overwrite" and self._target is not None:
            self._target.unlink(missing_ok=True)
        elif mode == "resume":
            try:
                if self._target is not None and self._target.exists():
                    for path in parquet.paths(self._target, self.columns):
                        self._note(path)
                with self._file_path.open("rb") as file:
                    end = self._read_csv(file) if self._csv else self._read_json(file)
            except ValueError as error:
                raise ValueError(f"{shown(self.path)}: {one_line(error)}") from error
        self._file.truncate(end)
        self._file.seek(end)
        if self._csv and not end:
            self._end = 0
            self._append(_csv_row(self.columns))
            end = self._end
        return end

    def _read_csv(self, file: IO[bytes]) -> int:
        header = _csv_row(self.columns)
        found = records(file)
        first = next(found, b"")
        if not first.endswith(b"\n") and header.startswith(first):
            return 0  # killed before the first line was whole
        if first.rstrip(b"\r\n") != header.rstrip(b"\n"):
            raise ValueError(
                f"expected the columns {', '.join(self.columns)}, got "
                f"{shown(first.decode('utf-8', 'replace').strip(), 80)}"
            )
        end = len(first)
        for number, record in enumerate(found, 1):
            if not record.endswith(b"\n") or record.count(b'"') % 2:
                break
            fields = parse_record(record)
            if len(fields) != len(self.columns):
                raise ValueError(
                    f"row {number}: expected {len(self.columns)} fields, got "
                    f"{len(fields)}"
                )
            self._note(fields[0])
            end += len(record)
        return end

    def _read_json(self, file: IO[bytes]) -> int:
        end = 0
        for number, line in enumerate(lines(file), 1):
            if not line.endswith(b"\n"):
                break
            row = parse_object(line)
            if set(row) != set(self.columns) or not isinstance(row["path"], str):
                raise ValueError(
                    f"row {number}: expected the columns {', '.join(self.columns)}, got "
                    f"{shown(', '.join(row), 80)}"
                )
            self._note(row["path"])
            end += len(line)
        return end

    def _note(self, path: str) -> None:
        self.done.add(digest(path))
        self._raw = self._raw or not parquet.is_text(path)

    def _append(self, data: bytes) -> None:
        left = memoryview(data)
        try:
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._file.truncate(self._end)
            self._file.seek(self._end)
            raise self._explained(error) from error
        self._end += len(data)

    def _explained(self, error: OSError) -> OSError:
        reason = error.strerror or one_line(error)
        return OSError(
            f"{shown(self.path)}: {reason}; the rows before are whole: make room, then "
            "go on with --resume"
        )


def _csv_row(values: Iterable[Any]) -> bytes:
    text = ",".join(map(_csv_field, values)) + "\n"
    return text.encode("utf-8", "surrogateescape")


def _csv_field(value: Any) -> str:
    if value is None:
        return ""
    if not isinstance(value, str):
        return repr(value)
    if any(mark in value for mark in ',"\r\n'):
        return '"' + value.replace('"', '""') + '"'
    return value


def _json_row(row: Row) -> bytes:
    # ASCII: a byte of a path that is no UTF-8 is a lone surrogate, \udcff.
    return json.dumps(row, allow_nan=False).encode() + b"\n"
