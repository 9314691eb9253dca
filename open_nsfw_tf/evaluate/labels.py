"""Reading the labels of pictures from folders, tables and file lists."""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.encoding import LISTS, as_utf8
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import (
    PassedOver,
    class_files,
    is_picture,
    is_video,
    read_head,
    walk,
)
from open_nsfw_tf.tables import csv_jsonl, parquet

COLUMNS = ("path", "label")
Chunk = tuple[list[str], list[str]]  # paths, and a label each


@dataclass(frozen=True)
class Labels:
    """Pictures and their labels, one row each.

    Attributes:
        paths: as in the source; for a folder, relative to that folder.
        labels: one for each path.
        root: the folder that relative paths start from, which contains the source.
        source: the file or folder that they were read from, for people.
        stamps: int64 (rows, 2): size in bytes and modification time in nanoseconds of
            the files, by which scores of earlier versions are recognised; None: not
            compared.
    """

    paths: list[str]
    labels: list[str]
    root: str
    source: str
    stamps: np.ndarray | None = None


def read_labels(source: str | os.PathLike[str], videos: bool = False) -> Labels:
    """Read labels.

    Args:
        source: one of these:
            - a folder with one folder for each class (`nsfw/`, `sfw/`), whose pictures
              (`open_nsfw_tf.files.is_picture`) are found by `class_files`;
            - a .csv, .jsonl or .parquet table with the columns `path` and `label`; rows
              without a label are left out;
            - a .txt list with a path, a space or tab, and a label on each line; the
              label of a path alone is the name of its folder.
        videos: whether videos in a folder have labels, too.

    Raises:
        OSError: it cannot be read.
        ValueError: it has no labels, or is of none of these forms.
        ImportError: a .parquet without pyarrow; the message says how to install it.
    """
    path = Path(os.fsdecode(source))
    read, root = READERS.get(path.suffix.lower()), path.parent
    if path.is_dir():
        read, root = partial(_in_folder, videos=videos), path
    if read is None:
        raise ValueError(
            f"{sanitize(path)}: expected labels as a folder of class folders or "
            f"{', '.join(READERS)}"
        )
    found = Labels([], [], str(root), str(path))
    try:
        for paths, labels in read(path):
            found.paths.extend(paths)
            found.labels.extend(labels)
    except ValueError as error:
        raise ValueError(f"{sanitize(path)}: {one_line(error)}") from error
    if not found.paths:
        raise ValueError(f"{sanitize(path)}: no labels in it: expected rows")
    return found


def _in_folder(root: Path, videos: bool) -> Iterator[Chunk]:
    # Files beside the class folders, such as tables, have no label; files in them that
    # are not pictures, such as notes, must not count as pictures without a score.
    paths, others = [], PassedOver()
    for path in class_files(root):
        whole = os.path.join(root, path)
        if os.sep in path and (is_picture(whole) or (videos and _is_video(whole))):
            paths.append(path)
        else:
            others.note(path)
    if not paths:
        links = any(
            entry.kind == "link" for entry in walk(str(root), lambda path: False)
        )
        raise ValueError(
            "no labels in it: expected pictures in folders named after their class"
            + "; links to folders are not followed" * links
            + f"; passed over: {others}" * bool(others)
        )
    yield paths, [path.split(os.sep)[0] for path in paths]


def _is_video(path: str) -> bool:
    try:
        return is_video(path, read_head(path))
    except OSError:
        return False


def _from_text(path: Path) -> Iterator[Chunk]:
    row = 1
    for chunk in csv_jsonl.chunks(path):
        _check_columns(chunk)
        yield _labelled(row, chunk["path"], chunk["label"])
        row += len(chunk["path"])


def _from_parquet(path: Path) -> Iterator[Chunk]:
    row = 1
    with parquet.opened(path) as table:
        _check_columns(table.schema_arrow.names)
        for batch in table.iter_batches(columns=list(COLUMNS)):
            names, labels = (batch.column(name).to_pylist() for name in COLUMNS)
            yield _labelled(row, names, labels)
            row += len(names)


def _from_list(path: Path) -> Iterator[Chunk]:
    paths, labels = [], []
    with path.open("rb") as file:
        for row, line in enumerate(csv_jsonl.lines(as_utf8(file)), 1):
            words = line.decode("utf-8", "surrogateescape").strip()
            if not words or words.startswith("#"):
                continue
            if row == 1 and words.casefold().split() == list(COLUMNS):
                continue  # a header, as a table's
            parts = words.rsplit(None, 1)
            if len(parts) == 1:  # the folder is named after the class
                parts.append(os.path.basename(os.path.dirname(words)))
            if not parts[1]:
                raise ValueError(
                    f"line {row}: expected a path and a label, got "
                    f"{sanitize(words, 40)!r}"
                )
            paths.append(parts[0])
            labels.append(parts[1])
    yield paths, labels


READERS: dict[str, Callable[[Path], Iterator[Chunk]]] = {
    **dict.fromkeys((".csv", ".jsonl", ".ndjson"), _from_text),
    ".parquet": _from_parquet,
    **dict.fromkeys((*LISTS, ".tsv"), _from_list),
}


def _check_columns(names: Iterable[str]) -> None:
    names = list(names)
    if not set(COLUMNS) <= set(names):
        found = ", ".join(sanitize(name, 40) for name in names[:8]) or "none"
        raise ValueError(f"expected the columns path and label, got {found}")


def _labelled(first: int, names: list[Any], labels: list[Any]) -> Chunk:
    """The rows of a table that have a label.

    Args:
        first: the number of the first row, for errors.
        names: of the pictures.
        labels: as many.
    """
    plain = {*map(type, names), *map(type, labels)} <= {str}
    if plain and all(names) and all(labels):
        return names, labels  # the common case needs no loop over the rows
    labelled: Chunk = [], []
    for row, (name, label) in enumerate(zip(names, labels, strict=True), first):
        if label is None or label == "":
            continue
        if isinstance(name, bytes):  # a path that is not UTF-8
            name = os.fsdecode(name)
        if isinstance(label, int) and not isinstance(label, bool):
            label = str(label)  # 0 and 1, which --map names
        if not isinstance(name, str) or not isinstance(label, str) or not name:
            raise ValueError(
                f"row {row}: expected a path and a label, got {sanitize(name, 40)!r} "
                f"and {sanitize(label, 40)!r}"
            )
        labelled[0].append(name)
        labelled[1].append(label)
    return labelled
