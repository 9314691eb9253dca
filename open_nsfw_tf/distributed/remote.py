"""Pictures on remote storage, by pyarrow's filesystems: s3://, gs://, hdfs:// and others."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache, partial
from importlib import import_module
from typing import Any
from urllib.parse import urlsplit

from open_nsfw_tf.batch.archives import MAX_MEMBER
from open_nsfw_tf.batch.item import Item, Select, Wanted, failed
from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import HEAD

MARK = "://"


@dataclass(frozen=True, slots=True)
class RemoteItem(Item):
    """A row to be whose picture is on remote storage.

    Attributes:
        source: a URI in the filesystem; `picture` is a path in it, or empty: the URI's.
    """

    source: str = ""


def is_remote(source: str) -> bool:
    """Whether a source is a URI of another filesystem than this machine's."""
    return MARK in source and not source.startswith("file" + MARK)


def local_path(source: str) -> str:
    """The path of a file:// URI; other sources as they are.

    Raises:
        ValueError: the URI is broken.
    """
    if not source.startswith("file" + MARK):
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


def remote_items(uri: str, wanted: Wanted, select: Select) -> Iterator[Item]:
    """The pictures at a URI: one file, or those of a folder, all levels down.

    Args:
        uri: of a file or a folder. The names of one folder are held at a time.
        wanted: called once for each path, before it is read.
        select: what is taken from folders.
    """
    files, root = filesystem(uri)
    parts = urlsplit(uri)
    base = f"{parts.scheme}{MARK}{parts.netloc}{parts.path}".rstrip("/")
    (info,) = files.get_file_info([root])
    if info.type.name != "Directory":
        if wanted(base):
            yield RemoteItem(base, root, None, source=uri)
        return
    for path, kind in _tree(files, root.rstrip("/")):
        name = base + path[len(root.rstrip("/")) :]
        if isinstance(kind, OSError):
            if wanted(name):
                yield failed(name, kind)
        else:
            head = partial(_head, files, path)
            if select(path.rpartition("/")[2], head) and wanted(name):
                yield RemoteItem(name, path, None, source=uri)


def _tree(files: Any, root: str) -> Iterator[tuple[str, None | OSError]]:
    """The files below a folder, sorted, and the folders that cannot be read."""
    selector = import_module("pyarrow.fs").FileSelector
    stack = [iter([(root, True)])]
    while stack:
        path, is_folder = next(stack[-1], ("", False))
        if not path:
            stack.pop()
        elif not is_folder:
            yield path, None
        else:
            try:
                found = files.get_file_info(selector(path))
            except OSError as error:
                yield path, error
                continue
            names = sorted((info.path, info.type.name == "Directory") for info in found)
            stack.append(iter(names))


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
    try:
        files, path = filesystem(item.source)
        with files.open_input_stream(item.picture or path) as file:
            data = bytes(file.read(MAX_MEMBER + 1))
    except (OSError, ValueError) as error:
        return failed(item.path, error)
    if len(data) > MAX_MEMBER:
        return failed(item.path, f"more than {MAX_MEMBER >> 20} MiB on remote storage")
    return Item(item.path, data)
