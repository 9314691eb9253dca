"""Tables that are written row by row and can be continued after a crash.

CSV and JSON lines grow at their end, by one write for some rows; a last row that a
kill or a full disk tore is cut off. Parquet has no such end: its rows are kept in JSON
lines beside it, `NAME.parquet.partial`, until the whole table is made of them.

A picture that is scored again gets a new row at the end; when the run ends, finished or
stopped, the older ones are taken out. What a kill leaves twice, the next run takes out.
"""

import json
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, ClassVar, Literal, Self

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import lock, replacing
from open_nsfw_tf.tables import parquet
from open_nsfw_tf.tables.csv_jsonl import (
    lines,
    objects,
    parse_object,
    parse_record,
    records,
)
from open_nsfw_tf.tables.read import WRITTEN, suffix_of
from open_nsfw_tf.tables.rows import (
    STAMP,
    DigestMap,
    Row,
    digest,
    is_stale,
    pack_stamp,
    read_frame,
    read_stamp,
    without_stamp,
)

Mode = Literal["new", "resume", "overwrite"]
PARTIAL = ".partial"  # what the name of a Parquet table's rows ends with
# Not waiting for the other end of a pipe; and bytes as they are, on Windows.
FLAGS = getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
LOCK = ".lock"  # what the name of the lock file beside a table ends with


class Writer:
    """What all writers of tables share: which paths have a row, the lock, the end.

    Attributes:
        path: of the table.
        columns: of every row; the first one is path.
        done: the digests of the paths that have a row, and of the file that it was
            made of size and time, by `pack_stamp`.
    """

    EXISTS: ClassVar[str]  # how a message says that there is a table
    _free: Callable[[], None]  # frees the lock

    def __init__(self, path: str | os.PathLike[str], columns: Sequence[str]) -> None:
        self.path = Path(path)
        self.columns = list(columns)
        self.done = DigestMap(16)
        self.replaced = 0  # paths of which all rows were replaced
        self._stale: Counter[bytes] = Counter()  # rows that have a later one, by path
        self._videos: dict[bytes, _Video] = {}  # paths that have rows of frames

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
        self._free()

    def forget(self, paths: Iterable[bytes]) -> None:
        """Take the rows of some paths out when the table is finished.

        Args:
            paths: their digests; those that have no row are passed by.
        """
        for key in paths:
            if self.done.pop(key, None) is not None:
                self._replace(key)

    def _refuse(self, exists: bool) -> None:
        if exists:
            raise FileExistsError(
                f"{sanitize(self.path)} {self.EXISTS}: go on with it with --resume, or "
                "begin anew with --overwrite"
            )

    def _note_row(self, row: Row) -> None:
        self._note(row["path"], *(row.get(name) for name in (*STAMP, "frame")))

    def _note(self, path: str, size: Any, mtime_ns: Any, frame: Any = None) -> None:
        key, stamp = digest(path), read_stamp(size, mtime_ns)
        number = read_frame(frame)
        video = self._videos.get(key)
        if key in self.done and not (video and video.goes_on(number)):
            self._replace(key)
            video = None
        self.done[key] = pack_stamp(stamp)
        if number is not None and video is None:
            video = self._videos[key] = _Video()
        if video is not None:
            video.add(number, stamp is not None)

    def _end_videos(self) -> None:
        """Note that earlier runs are read: this one begins each video anew."""
        for video in self._videos.values():
            video.whole = True

    def _replace(self, key: bytes) -> None:
        """Note that all rows of a path have later ones, or are to go."""
        video = self._videos.pop(key, None)
        self._stale[key] += video.rows if video else 1
        self.replaced += 1


@dataclass
class _Video:
    """The rows of a video: one a frame, and one without where its end was not read.

    The last of them has the file's size and time, so that a run that was killed before
    it is not taken for a whole one.
    """

    rows: int = 0
    last: int = -1
    whole: bool = False

    def goes_on(self, frame: int | None) -> bool:
        """Whether a further row belongs to these, and does not replace them."""
        return not self.whole and (frame is None or frame > self.last)

    def add(self, frame: int | None, stamped: bool) -> None:
        """Count a row."""
        self.rows += 1
        self.last = self.last if frame is None else frame
        self.whole = frame is None or stamped


class TableWriter(Writer):
    """Appends rows to a table. One process at a time may, which a lock sees to.

    Args:
        path: of the table, .csv, .jsonl or .parquet.
        columns: of every row; the first one is path. If the last ones are size and
            mtime_ns, "resume" adds them to a table that lacks them.
        mode: "new" refuses a table that exists; "resume" goes on with one, or begins
            it; "overwrite" begins anew.

    Raises:
        FileExistsError: the table exists and `mode` is "new".
        OSError: the file cannot be written.
        ValueError: another suffix, another run writes to this table, or the table is
            broken or has other columns.
        ImportError: a .parquet needs the extra `parquet`.

    Attributes:
        files: all that it writes to: the table, a Parquet table's rows beside it, where
            a link leads, and the lock file.
    """

    EXISTS = "exists, or a run that was not finished"

    def __init__(
        self,
        path: str | os.PathLike[str],
        columns: Sequence[str],
        mode: Mode = "new",
    ) -> None:
        super().__init__(path, columns)
        self._old_columns = without_stamp(columns)
        self._old = False  # whether there are rows with these columns
        suffix = suffix_of(path, WRITTEN)
        self._csv = suffix == ".csv"
        # Through a link, as the other formats are written.
        real = Path(os.path.realpath(self.path))
        self._target = real if suffix == ".parquet" else None
        self._file_path = self.path
        if self._target is not None:
            parquet.check_installed()
            self._file_path = self.path.with_name(self.path.name + PARTIAL)
        self._raw = False  # whether a path is no UTF-8
        # Locked before it is opened: the other run may remove it when it ends.
        folder, name = os.path.split(os.path.realpath(self.path))
        lock_path = os.path.join(folder, f".{name}{LOCK}")
        self.files = [self.path, self._file_path, real, Path(lock_path)]
        self._free = lock(lock_path, self.path)
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
        self._end_videos()

    def _close(self) -> None:
        self._file.close()
        super()._close()

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
        for row in rows:
            self._note_row(row)

    def finish(self) -> None:
        """Make the table whole: for Parquet, the file itself. Each path has one row.

        Raises:
            OSError: the disk is full, or the like; "resume" can go on.
        """
        try:
            if self._target is None:
                os.fsync(self._file.fileno())
            else:
                parquet.write(
                    self._target, self.columns, self._file_path, self._raw, self._stale
                )
        except OSError as error:
            raise self._explained(error) from error
        if self._target is None:
            self.drop_stale()
            return
        self._file.close()  # as Windows removes no open file
        self._file_path.unlink()

    def drop_stale(self) -> None:
        """Leave each path its last row; no row can be written after that.

        A Parquet table that is not finished is as it was, and needs nothing.

        Raises:
            OSError: the disk is full, or the like; "resume" can go on.
        """
        if not self._stale or self._target is not None:
            return
        try:
            self._rewrite()
        except OSError as error:
            raise self._explained(error) from error

    def _open(self, mode: Mode) -> IO[bytes]:
        """The file that rows are appended to."""
        if mode == "new":
            self._refuse(self.path.exists() or self._file_path.exists())
        handle = os.open(self._file_path, os.O_RDWR | os.O_CREAT | FLAGS, 0o666)
        file = os.fdopen(handle, "r+b", buffering=0)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise ValueError(f"{sanitize(self.path)}: expected a regular file")
            if mode == "new":  # another run may have begun meanwhile
                self._refuse(os.fstat(handle).st_size > 0)
        except BaseException:
            file.close()
            raise
        return file

    def _start(self, mode: Mode) -> int:
        """Read what is there, cut a torn end off; where the next row goes."""
        end = 0
        if mode == "overwrite" and self._target is not None:
            self._target.unlink(missing_ok=True)
        elif mode == "resume":
            try:
                if self._target is not None and self._target.exists():
                    for row in parquet.known_rows(self._target, self.columns):
                        self._note(*row)
                with self._file_path.open("rb") as file:
                    end = self._read_csv(file) if self._csv else self._read_json(file)
            except ValueError as error:
                raise ValueError(f"{sanitize(self.path)}: {one_line(error)}") from error
        self._file.truncate(end)
        if self._old or (self._stale and self._target is None):
            end = self._rewritten()
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
        columns = self.columns
        if first.rstrip(b"\r\n") == _csv_row(self._old_columns).rstrip(b"\n"):
            columns = self._old_columns
            self._old = columns != self.columns
        elif first.rstrip(b"\r\n") != header.rstrip(b"\n"):
            raise ValueError(
                f"expected the columns {', '.join(self.columns)}, got "
                f"{sanitize(first.decode('utf-8', 'replace').strip(), 80)}"
            )
        end = len(first)
        for number, record in enumerate(found, 1):
            if not record.endswith(b"\n") or record.count(b'"') % 2:
                self._check_torn(record, number, len(columns))
                break
            if not record.strip():  # blank lines come from manual edits; keep them
                end += len(record)
                continue
            with _in_row(number):
                fields = parse_record(record)
            if len(fields) != len(columns):
                raise ValueError(
                    f"row {number}: expected {len(columns)} fields, got {len(fields)}"
                )
            row = dict(zip(columns, fields, strict=True))
            self._note_row(row)
            end += len(record)
        return end

    @staticmethod
    def _check_torn(record: bytes, number: int, fields: int) -> None:
        """Refuse a last record with whole rows in it, which would be cut off too."""
        if any(line.count(b",") >= fields - 1 for line in record.split(b"\n")[:-1]):
            raise ValueError(
                f"row {number}: a quote that does not end, and rows after it: correct "
                "it"
            )

    def _read_json(self, file: IO[bytes]) -> int:
        end = 0
        for number, line in enumerate(lines(file), 1):
            if not line.endswith(b"\n"):
                break
            if not line.strip():
                end += len(line)
                continue
            with _in_row(number):
                row = parse_object(line)
            old = set(row) == set(self._old_columns) != set(self.columns)
            self._old = self._old or old
            fits = old or set(row) == set(self.columns)
            if not fits or not isinstance(row["path"], str):
                raise ValueError(
                    f"row {number}: expected the columns {', '.join(self.columns)}, "
                    f"got {sanitize(', '.join(row), 80)}"
                )
            self._note_row(row)
            end += len(line)
        return end

    def _note(self, path: str, size: Any, mtime_ns: Any, frame: Any = None) -> None:
        super()._note(path, size, mtime_ns, frame)
        self._raw = self._raw or not parquet.is_text(path)

    def _rewritten(self) -> int:
        """The size of the file after `_rewrite`.

        The rows of an old table get the new columns, empty; and what killed runs have
        left twice goes, or each of them would make the table longer.
        """
        self._rewrite()
        self._file.close()
        self._file = self._open("resume")  # the new file, locked
        return os.fstat(self._file.fileno()).st_size

    def _rewrite(self) -> None:
        """Replace the table's file by one that has all columns and no stale row.

        The rows of Parquet's file beside it are few and may stay: it is made anew.
        """
        path = Path(os.path.realpath(self._file_path))
        with replacing(path) as beside:
            with path.open("rb") as file, beside.open("xb") as out:
                out.writelines(self._csv_rows(file) if self._csv else self._rows(file))
                out.flush()
                os.fsync(out.fileno())
            shutil.copymode(path, beside)
        if self._target is None:
            self._stale.clear()

    def _csv_rows(self, file: IO[bytes]) -> Iterator[bytes]:
        found = records(file)
        next(found)  # the header
        yield _csv_row(self.columns)
        left = self._stale.copy()
        for fields in map(parse_record, filter(bytes.strip, found)):
            if not is_stale(fields[0], left):
                yield _csv_row(fields + [None] * (len(self.columns) - len(fields)))

    def _rows(self, file: IO[bytes]) -> Iterator[bytes]:
        left = Counter() if self._target else self._stale.copy()
        for row in objects(lines(file)):
            if not is_stale(row["path"], left):
                yield _json_row(dict.fromkeys(self.columns) | row)

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
            f"{sanitize(self.path)}: {reason}; the rows before are whole: make room, "
            "then go on with --resume"
        )


@contextmanager
def _in_row(number: int) -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise ValueError(f"row {number}: {one_line(error)}") from error


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
    # ASCII: a byte of a path that is no UTF-8 is a lone surrogate, \udcff. Where the
    # locale is no UTF-8, all other bytes came as surrogates too.
    with suppress(UnicodeError):
        name = row["path"].encode("utf-8", "surrogateescape")
        row = row | {"path": name.decode("utf-8", "surrogateescape")}
    return json.dumps(row, allow_nan=False).encode() + b"\n"
