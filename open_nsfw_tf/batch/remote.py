"""Pictures on remote storage, by pyarrow's filesystems: s3://, gs:// and others."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from open_nsfw_tf.batch.item import (
    MAX_BYTES,
    Item,
    NeedsRow,
    Select,
    failed,
    too_large,
)
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import HEAD, Stamp, make_stamp, walk

SCHEME_END = "://"


@dataclass(frozen=True, slots=True)
class RemoteItem(Item):
    """A picture on remote storage that needs a row.

    Attributes:
        source: a URI in the filesystem; `picture` is a path in it, or empty: the URI's.
    """

    source: str = ""


def is_remote(source: str) -> bool:
    """Whether a source is a URI of another filesystem than this machine's."""
    return SCHEME_END in source and not source.startswith("file" + SCHEME_END)


def local_path(source: str) -> str:
    """The path of a file:// URI; other sources as they are.

    Raises:
        ValueError: the URI is broken.
    """
    if not source.startswith("file" + SCHEME_END):
        return source
    return str(filesystem(source)[1])


@lru_cache(maxsize=64)
def filesystem(uri: str) -> tuple[Any, str]:
    """The filesystem of a URI, and the path in it.

    Raises:
        ValueError: the URI is broken, or of a kind that pyarrow does not know.
        OSError: the storage does not answer.
    """
    fs = import_module("pyarrow.fs")
    errors = import_module("pyarrow").ArrowException
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(uri)
    except errors as error:
        raise ValueError(f"{sanitize(uri)}: {one_line(error)}") from error
    except OSError as error:
        raise OSError(f"{sanitize(uri)}: {one_line(error)}") from error
    return found


def check_remote(uri: str) -> None:
    """Refuse a URI where nothing is.

    Raises:
        ValueError: the URI is broken, or nothing is there.
        OSError: the storage does not answer, or refuses.
    """
    files, path = filesystem(uri)
    if not path.strip("/"):
        raise ValueError(f"{sanitize(uri)}: expected a bucket or a folder")
    try:
        (info,) = files.get_file_info([path])
    except OSError as error:
        raise OSError(f"{sanitize(uri)}: {one_line(error)}") from error
    if info.type.name == "NotFound":
        raise ValueError(f"{sanitize(uri)}: no such file or folder")


def find_stamp(uri: str) -> Stamp | None:
    """Size and modification time of the file at a URI.

    Returns:
        None where no file is, the storage does not answer, or it keeps no times.
    """
    try:
        files, path = filesystem(uri)
        (info,) = files.get_file_info([path])
    except (OSError, ValueError):
        return None
    return _stamp(info)


def _stamp(info: Any) -> Stamp | None:
    if info.type.name != "File" or info.size is None or info.mtime_ns is None:
        return None
    return make_stamp(int(info.size), int(info.mtime_ns))


def remote_items(uri: str, needs_row: NeedsRow, select: Select) -> Iterator[Item]:
    """The pictures at a URI: one file, or those of a folder and of all folders in it.

    Args:
        uri: of a file or a folder. The names of one folder are in memory at a time.
        needs_row: called once for each path, with the file's size and time.
        select: what is taken from folders.

    Raises:
        ValueError: the URI is broken.
        OSError: the storage does not answer.
    """
    files, root = filesystem(uri)
    parts = urlsplit(uri)
    base = f"{parts.scheme}{SCHEME_END}{parts.netloc}{parts.path}".rstrip("/")
    (info,) = files.get_file_info([root])
    if info.type.name != "Directory":
        stamp = _stamp(info)
        if needs_row(base, stamp):
            yield RemoteItem(base, root, stamp=stamp, source=uri)
        return
    for path, found in _walk(files, root.rstrip("/")):
        name = base + path[len(root.rstrip("/")) :]
        if isinstance(found, OSError):
            if needs_row(name, None):
                yield failed(name, found)
            continue
        selected = select(path.rpartition("/")[2], partial(_head, files, path))
        if selected and needs_row(name, found):
            yield RemoteItem(name, path, stamp=found, source=uri)


def _walk(files: Any, root: str) -> Iterator[tuple[str, Stamp | OSError | None]]:
    """The files below a folder, sorted, with size and time; and what cannot be read."""
    selector = import_module("pyarrow.fs").FileSelector
    stamps: dict[str, Stamp | None] = {}

    def entries_of(folder: str) -> Iterator[tuple[str, str]]:
        found = sorted(files.get_file_info(selector(folder)), key=lambda i: str(i.path))
        stamps.update((info.path, _stamp(info)) for info in found if info.is_file)
        kinds = {"Directory": "folder"}
        return ((info.path, kinds.get(info.type.name, "file")) for info in found)

    for entry in walk(root, entries_of=entries_of):
        yield entry.path, entry.error or stamps.pop(entry.path, None)


def _head(files: Any, path: str) -> bytes:
    try:
        with files.open_input_stream(path) as file:
            return bytes(file.read(HEAD))
    except OSError:
        return b""


def fetched(item: Item) -> Item:
    """A picture with its bytes instead of its path; or with the reason why not."""
    if not isinstance(item, RemoteItem) or item.error is not None:
        return item
    stamp = item.stamp
    try:
        files, of_source = filesystem(item.source)
        path = item.picture or of_source
        stamp = stamp or _stamp(*files.get_file_info([path]))  # before it is read
        with files.open_input_stream(path) as file:
            data = bytes(file.read(MAX_BYTES + 1))
    except (OSError, ValueError) as error:
        return failed(item.path, error)  # no stamp: it is tried again
    if len(data) > MAX_BYTES:
        return too_large(item.path, "on remote storage", stamp)
    return Item(item.path, data, stamp=stamp)
