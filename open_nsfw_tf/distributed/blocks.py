"""Pictures and rows as Arrow tables, which Ray hands from process to process."""

import os
from collections.abc import Iterator, Sequence
from typing import Any

import pyarrow

from open_nsfw_tf.batch.item import Item
from open_nsfw_tf.distributed.remote import RemoteItem
from open_nsfw_tf.tables import STAMP, read_stamp

Row = dict[str, Any]
PICTURES = pyarrow.schema(
    [
        ("path", pyarrow.binary()),  # paths may be no UTF-8
        ("picture", pyarrow.binary()),  # a path, absolute or in the source's filesystem
        ("data", pyarrow.binary()),  # or the picture itself, out of an archive
        ("error", pyarrow.string()),
        ("source", pyarrow.string()),  # of remote pictures: their filesystem
        *((name, pyarrow.int64()) for name in STAMP),  # of an archive
    ]
)


def schema(classes: Sequence[str]) -> pyarrow.Schema:
    """Of rows: a column of scores for each class."""
    return pyarrow.schema(
        [
            ("path", pyarrow.binary()),
            *((name, pyarrow.float64()) for name in classes),
            ("error", pyarrow.string()),
            ("sha256", pyarrow.string()),
            *((name, pyarrow.int64()) for name in STAMP),
        ]
    )


def of_items(found: list[Item]) -> pyarrow.Table:
    """Items as a table of `PICTURES`."""
    return pyarrow.Table.from_pylist([_packed(item) for item in found], PICTURES)


def _packed(item: Item) -> Row:
    row: Row = {"path": os.fsencode(item.path), "error": _text(item.error)}
    row |= zip(STAMP, item.stamp or (), strict=False)
    if isinstance(item.picture, bytes):
        return {**row, "data": item.picture}
    if isinstance(item, RemoteItem):
        return {**row, "picture": os.fsencode(item.picture), "source": item.source}
    # Workers have folders of their own.
    return {**row, "picture": os.fsencode(os.path.join(os.getcwd(), item.picture))}


def to_items(table: pyarrow.Table) -> list[Item]:
    """What `of_items` packed."""
    return [_unpacked(row) for row in table.to_pylist()]


def _unpacked(row: Row) -> Item:
    path, data = os.fsdecode(row["path"]), row["data"]
    picture = os.fsdecode(row["picture"]) if data is None else data
    if row["source"] is not None:
        return RemoteItem(path, picture, row["error"], source=row["source"])
    return Item(path, picture, row["error"], read_stamp(*(row[n] for n in STAMP)))


def of_rows(rows: list[Row], classes: Sequence[str]) -> pyarrow.Table:
    """Rows as a table of `schema`."""
    packed = [
        {**row, "path": os.fsencode(row["path"]), "error": _text(row["error"])}
        for row in rows
    ]
    return pyarrow.Table.from_pylist(packed, schema(classes))


def to_rows(table: pyarrow.Table) -> Iterator[Row]:
    """What `of_rows` packed."""
    for row in table.to_pylist():
        yield {**row, "path": os.fsdecode(row["path"])}


def _text(error: str | None) -> str | None:
    # What came from a name may be no Unicode.
    return error and error.encode("utf-8", "backslashreplace").decode()
