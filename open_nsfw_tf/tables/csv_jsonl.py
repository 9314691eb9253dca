"""Tables as CSV, as JSON lines, and with the tabs of the first port.

Files are read record by record as bytes, so that whoever goes on with a file that was
cut off knows where its last whole record ends. They are written in UTF-8, with other
bytes by surrogateescape; whatever `open_nsfw_tf.encoding.as_utf8` takes is read. Blank
lines, and rows of a spreadsheet in which nothing stands, are skipped.
"""

import csv
import json
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from open_nsfw_tf.encoding import as_utf8, encoding_of
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.tables.rows import CHUNK, LONGEST_ROW, Chunk, Row

# The first port's names, and ours.
ORIGINAL = {"File": "path", "SFW Score": "sfw", "NSFW Score": "nsfw"}


def lines(file: IO[bytes]) -> Iterator[bytes]:
    """The lines of a binary file, of bounded length; the last may lack its end.

    Raises:
        ValueError: a line is longer than `LONGEST_ROW` bytes, or they are no UTF-8 but
            UTF-16, which a table that rows are appended to cannot be.
    """
    first = True
    while line := file.readline(LONGEST_ROW + 1):
        if first and (encoding := encoding_of(line)[0]) != "utf-8":
            raise ValueError(f"expected text in UTF-8, got {encoding.upper()}")
        if len(line) > LONGEST_ROW:
            raise ValueError(f"a line is longer than {LONGEST_ROW} bytes")
        first = False
        yield line


def records(file: IO[bytes]) -> Iterator[bytes]:
    """The records of a CSV file: lines, but for line ends within quotes.

    The last one may be torn: it then lacks its line end, or a quote.

    Raises:
        ValueError: a record is longer than `LONGEST_ROW` bytes.
    """
    parts: list[bytes] = []
    size = quotes = 0
    for line in lines(file):
        size += len(line)
        quotes += line.count(b'"')
        if size > LONGEST_ROW:
            raise ValueError(
                f"a record is longer than {LONGEST_ROW} bytes: is a quote missing?"
            )
        parts.append(line)
        if line.endswith(b"\n") and not quotes % 2:
            yield b"".join(parts) if len(parts) > 1 else line
            parts, size = [], 0
    if parts:
        yield b"".join(parts)


def chunks(path: Path) -> Iterator[Chunk]:
    """Read a table as columns, some rows at a time; the first chunk is always there.

    Raises:
        OSError: the file cannot be read.
        ValueError: it is cut, broken, or its rows do not fit its header.
    """
    read = {".csv": _csv, ".tsv": _tabs, ".txt": _tabs}.get(path.suffix.lower(), _json)
    with path.open("rb") as file:
        yield from read(as_utf8(file))


def _csv(file: IO[bytes]) -> Iterator[Chunk]:
    yield from _delimited(records(file), strict=True)


def _tabs(file: IO[bytes]) -> Iterator[Chunk]:
    # As the first port wrote it: no quotes, whatever the name holds.
    yield from _delimited(lines(file), delimiter="\t", quoting=csv.QUOTE_NONE)


def _delimited(found: Iterator[bytes], **dialect: Any) -> Iterator[Chunk]:
    texts = (record.decode("utf-8", "surrogateescape") for record in found)
    reader = csv.reader(texts, **dialect)
    header = _header(reader)
    yield {name: [] for name in header}
    count = 0
    while rows := _some(reader, count):
        if set(map(len, rows)) != {len(header)}:
            bad = next(i for i, row in enumerate(rows) if len(row) != len(header))
            raise ValueError(
                f"row {count + bad + 1}: expected {len(header)} fields, got "
                f"{len(rows[bad])}; was the file cut?"
            )
        yield dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))
        count += len(rows)


def _header(reader: Iterator[list[str]]) -> list[str]:
    try:
        names = next(filter(_has_text, reader), [])
    except csv.Error as error:
        raise ValueError(f"header: {_csv_reason(error)}") from error
    names = [ORIGINAL.get(name, name) for name in names]
    if len(set(names)) != len(names):
        raise ValueError(f"two columns have one name: {sanitize(', '.join(names))}")
    return names


def _some(reader: Iterator[list[str]], count: int) -> list[list[str]]:
    rows: list[list[str]] = []
    try:
        rows.extend(islice(filter(_has_text, reader), CHUNK))
    except csv.Error as error:
        reason = _csv_reason(error)
        raise ValueError(f"row {count + len(rows) + 1}: {reason}") from error
    return rows


def _has_text(fields: list[str]) -> bool:
    return any(map(str.strip, fields))


def _csv_reason(error: csv.Error) -> str:
    """What is wrong with the file, where Python's words are for its programmer."""
    if "new-line character" in str(error):
        return "a carriage return that is neither a line's end nor within quotes"
    return str(error)


def _json(file: IO[bytes]) -> Iterator[Chunk]:
    rows = objects(lines(file))
    first = next(rows, {})
    yield {name: [value] for name, value in first.items()}
    count = 1
    while some := list(islice(rows, CHUNK)):
        for index, row in enumerate(some):
            if row.keys() != first.keys():
                raise ValueError(
                    f"row {count + index + 1}: expected the columns "
                    f"{sanitize(', '.join(first))}, got {sanitize(', '.join(row))}"
                )
        yield {name: [row[name] for row in some] for name in first}
        count += len(some)


def objects(found: Iterable[bytes]) -> Iterator[Row]:
    """The rows of JSON lines, without blank lines.

    Raises:
        ValueError: a line is no JSON object.
    """
    for number, line in enumerate(found, 1):
        if not line.strip():
            continue
        try:
            yield parse_object(line)
        except ValueError as error:
            raise ValueError(f"row {number}: {one_line(error)}") from error


def parse_object(line: bytes) -> Row:
    """A row of JSON lines.

    Raises:
        ValueError: the line is no JSON object.
    """
    try:
        row = json.loads(line.decode("utf-8", "surrogateescape"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    if isinstance(row, dict):
        return row
    raise ValueError(f"expected a JSON object, got {sanitize(row, 40)}")


def parse_record(record: bytes) -> list[str]:
    """The fields of a record of CSV.

    Raises:
        ValueError: its quotes are wrong.
    """
    try:
        text = record.decode("utf-8", "surrogateescape")
        return next(csv.reader([text], strict=True), [])
    except csv.Error as error:
        raise ValueError(_csv_reason(error)) from error
