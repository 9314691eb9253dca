"""Tables as Parquet, by pyarrow.

Parquet's texts are UTF-8: a table with a path that is not has its paths as bytes.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from itertools import chain, islice
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.libraries import need
from open_nsfw_tf.tables.csv_jsonl import lines, objects
from open_nsfw_tf.tables.rows import (
    CHUNK,
    FRAME,
    STAMP,
    Chunk,
    Row,
    is_stale,
    path_bytes,
    score_columns,
    without_stamp,
)

ROW_GROUP = 1 << 11  # rows that are written, and so held, at a time
TEXTS = ("path", "error", "label", "sha256")
READ = ("path", "error", "label", *FRAME, *STAMP)  # beside the scores


def check_installed() -> None:
    """Say early what would be missed late.

    Raises:
        ImportError: pyarrow is not installed; the message says how to.
    """
    need("parquet", "pyarrow")


def import_pyarrow() -> tuple[Any, Any]:
    """pyarrow and pyarrow.parquet.

    Raises:
        ImportError: it is not installed.
    """
    check_installed()
    return import_module("pyarrow"), import_module("pyarrow.parquet")


def is_text(path: str) -> bool:
    """Whether a path is Unicode, and can be a text of Parquet."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def chunks(path: Path) -> Iterator[Chunk]:
    """Read a table as columns, some rows at a time; the first chunk is always there.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file, cut or broken, or its columns do not fit.
        ImportError: pyarrow is missing.
    """
    pyarrow, _ = import_pyarrow()
    with opened(path) as table:
        names = _columns(table.schema_arrow, pyarrow.types)
        # Parts of one table may be older than these columns.
        unknown = [name for name in STAMP if name not in names]
        yield {name: [] for name in [*names, *unknown]}
        for batch in table.iter_batches(CHUNK, columns=names):
            chunk = {name: _values(batch.column(name)) for name in names}
            yield chunk | {name: [None] * len(batch) for name in unknown}


def known_rows(path: Path, columns: Sequence[str]) -> Iterator[tuple[Any, ...]]:
    """Path, size, mtime_ns and frame of each row of a table of these very columns.

    A table may lack all but the path; they are None then.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file, cut or broken, or has other columns.
    """
    with opened(path) as table:
        names = table.schema_arrow.names
        if names not in (list(columns), without_stamp(columns)):
            raise ValueError(
                f"expected the columns {', '.join(columns)}, got "
                f"{sanitize(', '.join(names), 80)}"
            )
        asked = ("path", *STAMP, FRAME[0])
        has = [name for name in asked if name in names]
        for batch in table.iter_batches(CHUNK, columns=has):
            unknown = [None] * len(batch)
            yield from zip(
                *(
                    _values(batch.column(name)) if name in has else unknown
                    for name in asked
                ),
                strict=True,
            )


def write(
    path: Path, columns: Sequence[str], added: Path, raw: bool, stale: Counter[bytes]
) -> None:
    """Make a table of the one that is there, if any, and of rows as JSON lines.

    Args:
        path: of the table. It appears, or changes, when it is whole.
        columns: of the table; the first one is path.
        added: JSON lines.
        raw: whether there are paths that are no UTF-8: all become bytes.
        stale: how many rows of a path, by its digest, have a later one, in the table
            and behind that in `added`; they are left out.

    Raises:
        OSError: the disk is full, or the like.
    """
    pyarrow, parquet = import_pyarrow()
    schema = _schema(columns, raw)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        left = stale.copy()
        if path.exists():
            with opened(path) as table:
                for batch in table.iter_batches(ROW_GROUP):
                    part = _fresh(pyarrow.Table.from_batches([batch]), left)
                    for name in columns[part.num_columns :]:  # which an old table lacks
                        part = part.append_column(name, pyarrow.nulls(len(part)))
                    writer.write_table(part.cast(schema))
        with added.open("rb") as source:
            rows = objects(lines(source))
            fresh = (row for row in rows if not is_stale(row["path"], left))
            for chunk in _columnwise(fresh, columns, raw):
                writer.write_table(pyarrow.Table.from_pydict(chunk, schema))


def _fresh(table: Any, stale: Counter[bytes]) -> Any:
    """The rows that have no later one."""
    paths = _values(table.column("path"))
    return table.filter([not is_stale(path, stale) for path in paths])


def remove_stale(path: Path, stale: Counter[bytes]) -> None:
    """Take the rows that have a later one, in another part, out of a part of a table.

    Args:
        path: of the part. It changes, or goes, at once.
        stale: how many rows of a path, by its digest, have a later one.

    Raises:
        OSError: the disk is full, or the like.
        ValueError: it is no Parquet file, cut or broken.
    """
    _, parquet = import_pyarrow()
    with opened(path) as file:
        table = file.read()
    fresh = _fresh(table, stale)
    if not len(fresh):
        path.unlink()
    elif len(fresh) < len(table):
        with replacing(path) as temporary:
            parquet.write_table(fresh, temporary)


def write_rows(path: Path, columns: Sequence[str], rows: Iterable[Row]) -> None:
    """Make a table of rows that are in memory; it appears when it is whole.

    Args:
        path: of the table.
        columns: of the table; the first one is path.
        rows: with these columns.

    Raises:
        OSError: the disk is full, or the like.
    """
    pyarrow, parquet = import_pyarrow()
    rows = list(rows)
    raw = not all(is_text(row["path"]) for row in rows)
    schema = _schema(columns, raw)
    with (
        replacing(path) as temporary,
        temporary.open("wb") as file,
        parquet.ParquetWriter(file, schema) as writer,
    ):
        for chunk in _columnwise(iter(rows), columns, raw):
            writer.write_table(pyarrow.Table.from_pydict(chunk, schema))


def _schema(columns: Sequence[str], raw: bool) -> Any:
    pyarrow, _ = import_pyarrow()
    kinds = {name: pyarrow.string() for name in TEXTS}
    kinds |= {name: pyarrow.int64() for name in (*STAMP, FRAME[0])}
    if raw:
        kinds["path"] = pyarrow.binary()
    return pyarrow.schema(
        [(name, kinds.get(name, pyarrow.float64())) for name in columns]
    )


def _columnwise(
    rows: Iterator[Row], columns: Sequence[str], raw: bool
) -> Iterator[Chunk]:
    """Rows as columns, `ROW_GROUP` at a time: a list a column, not a dict a row."""
    while first := next(rows, None):
        chunk: Chunk = {name: [] for name in columns}
        for row in chain([first], islice(rows, ROW_GROUP - 1)):
            for name in columns:
                chunk[name].append(row[name])
        if raw:
            chunk["path"] = [path_bytes(path) for path in chunk["path"]]
        yield chunk


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`, for reading.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is no Parquet file, or is found cut or broken meanwhile.
        ImportError: pyarrow is missing.
    """
    pyarrow, parquet = import_pyarrow()
    with path.open("rb") as file:
        try:
            yield parquet.ParquetFile(file)
        except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise ValueError(
                f"cut, broken or no Parquet file ({one_line(error)})"
            ) from error


def _columns(schema: Any, types: Any) -> list[str]:
    """The columns that a table keeps, their types checked."""
    names = list(schema.names)
    if len(set(names)) != len(names):
        raise ValueError(f"two columns have one name: {sanitize(', '.join(names))}")
    scored = score_columns(names)
    for name in names:
        kind = schema.field(name).type
        if types.is_dictionary(kind):
            kind = kind.value_type
        if name in scored and not (types.is_floating(kind) or types.is_integer(kind)):
            raise ValueError(
                f"expected scores in the column {sanitize(name, 40)}, got {kind}"
            )
    return [name for name in names if name in scored or name in READ]


def _values(column: Any) -> list[Any]:
    values = column.to_pylist()
    return [os.fsdecode(v) if isinstance(v, bytes) else v for v in values]
