"""What a bug report needs to know about an installation, and whether it can classify.

Each engine is tried in a process of its own: a library that crashes, or does not start,
is a line of the report and not its end. Nothing is downloaded.
"""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from importlib import metadata
from pathlib import Path
from typing import Any

from packaging.requirements import InvalidRequirement, Requirement

from open_nsfw_tf import __version__
from open_nsfw_tf.engines import ENGINES, EngineSpec
from open_nsfw_tf.errors import WeightsError, one_line
from open_nsfw_tf.files import file_sha256
from open_nsfw_tf.formats import git_blob
from open_nsfw_tf.parallel import cores
from open_nsfw_tf.weights import (
    Location,
    cache_folder,
    find_weights,
    locations,
    published_name,
)

NAME = "open_nsfw_tf"
TIMEOUT = 180.0  # seconds for an engine; TensorFlow starts in four, LiteRT in ten
# Extras for those who work on this package.
DEVELOPERS = ("dev", "docs")
NO_WEIGHTS = "not tried, as there are no weights"


@dataclass(frozen=True)
class EngineCheck:
    """What became of trying an engine.

    Attributes:
        version: of its package; None: it is not installed.
        devices: that exist here, each with the reason why it does not give the right
            score; None: it does.
        error: why the engine did not start; None: it did.
    """

    version: str | None
    devices: dict[str, str | None]
    error: str | None = None

    @property
    def works(self) -> bool:
        """Whether a device gives the right score."""
        return None in self.devices.values()


@dataclass(frozen=True)
class WeightsCheck:
    """A place where weights are looked for.

    Attributes:
        title: a description for people.
        path: of the file there; None: there is none.
        sha256: of the file.
        published: which published copy of Yahoo's weights it is; None: none of them.
        used: whether it is the one that is used.
        error: why it cannot be used.
    """

    title: str
    path: str | None = None
    sha256: str | None = None
    published: str | None = None
    used: bool = False
    error: str | None = None


@dataclass(frozen=True)
class FolderCheck:
    """A folder of files that the package made, or came with.

    Attributes:
        path: of the folder, which need not exist.
        files: how many are in it, on all levels.
        bytes: of all of them.
        writable: whether this user may write there, or make the folder.
    """

    path: str
    files: int
    bytes: int
    writable: bool


@dataclass(frozen=True)
class ExtraCheck:
    """What an extra needs.

    Attributes:
        missing: requirements that are not met, each with the version that is there.
        install: the command that installs them; None: nothing is missing.
    """

    missing: tuple[str, ...]
    install: str | None


@dataclass(frozen=True)
class Report:
    """The state of an installation; `dataclasses.asdict` makes it JSON.

    Attributes:
        version: of open_nsfw_tf.
        python, system: their names and versions.
        cores: that this process may use.
        can_classify: whether an engine gives the right score with the weights found.
        engines: by their names.
        weights: every place that is looked at, in order.
        caches: by what is kept there; None: there is no cache, as no home is known.
        page: the files of the page in the browser; None: this version has none.
        core: what `pip install open_nsfw_tf` brings.
        extras: by their names.
        libraries: versions of the installed packages of `core` and `extras`.
    """

    version: str
    python: str
    system: str
    cores: int
    can_classify: bool
    engines: dict[str, EngineCheck]
    weights: tuple[WeightsCheck, ...]
    caches: dict[str, FolderCheck] | None
    page: FolderCheck | None
    core: ExtraCheck
    extras: dict[str, ExtraCheck]
    libraries: dict[str, str]


def examine() -> Report:
    """Look at this installation; it takes as long as its slowest engine starts."""
    places = tuple(_places())
    used = next((place for place in places if place.used), None)
    with ThreadPoolExecutor(len(ENGINES)) as pool:
        checks = pool.map(partial(_try_engine, used), ENGINES)
    engines = dict(zip(ENGINES, checks, strict=True))
    needs = _requirements()
    python = f"{platform.python_implementation()} {platform.python_version()}"
    return Report(
        version=__version__,
        python=python,
        system=platform.platform(),
        cores=cores(),
        can_classify=any(check.works for check in engines.values()),
        engines=engines,
        weights=places,
        caches=_caches(),
        page=_page(),
        core=_extra(needs.pop("", [])),
        extras={name: _extra(wanted, name) for name, wanted in needs.items()},
        libraries=_libraries(),
    )


# -- engines


def _try_engine(weights: WeightsCheck | None, name: str) -> EngineCheck:
    spec = ENGINES[name]
    version = version_of(spec.package)
    if version is None:
        return EngineCheck(None, {}, f"not installed: {_install(spec)}")
    arguments = (name, weights and weights.path, bool(weights and weights.published))
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from open_nsfw_tf.doctor import main; main{arguments!r}"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return EngineCheck(version, {}, f"no answer within {TIMEOUT:g} seconds")
    except OSError as error:
        return EngineCheck(version, {}, one_line(error))
    if done.returncode:
        return EngineCheck(version, {}, _end(done.returncode))
    return EngineCheck(version, **json.loads(done.stdout))


def _install(spec: EngineSpec) -> str:
    """The command that installs an engine's package."""
    what = f"{NAME}[{spec.extra}]" if spec.extra else spec.package
    return f"pip install '{what}'"


def _end(code: int) -> str:
    """Why a process ended, by its exit status."""
    if code > 0:
        return f"its process ended with exit status {code}"
    try:
        return f"its process was ended by {signal.Signals(-code).name}"
    except ValueError:
        return f"its process was ended by signal {-code}"


def main(name: str, weights: str | None, published: bool) -> None:
    """The child process: write what became of an engine to standard output.

    Args:
        name: of the engine.
        weights: the path of the weights; None: only list the devices.
        published: whether they are a published copy, whose score is known.
    """
    # Libraries may print to standard output, which must not get into the result.
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    result: dict[str, Any] = {"devices": {}, "error": None}
    try:
        from importlib import import_module

        engine = import_module(f"open_nsfw_tf.engines.{name}").Engine
        for device in engine.devices():
            result["devices"][device] = _try_device(name, device, weights, published)
        if not result["devices"]:
            result["error"] = "it has no device that is known here"
    except Exception as error:  # noqa: BLE001 - any library, any installation
        result["error"] = one_line(error)
    with answer:
        json.dump(result, answer)


def _try_device(
    name: str, device: str, weights: str | None, published: bool
) -> str | None:
    """Why a device does not give the right score; None: it does."""
    if weights is None:
        return NO_WEIGHTS
    from open_nsfw_tf.classifier import Classifier, self_check

    try:
        self_check(Classifier(name, weights, device=device), published)
    except Exception as error:  # noqa: BLE001 - any library, any driver
        return one_line(error)
    return None


# -- weights and caches


def _places() -> Iterator[WeightsCheck]:
    """Every place of weights; used is the first one that has a file."""
    used = ""
    try:
        used = str(find_weights(download=False))
        error = None
    except (WeightsError, OSError) as failure:
        error = one_line(failure)
    for location in locations():
        if location.path is None:
            yield WeightsCheck(location.title)
            continue
        yield _place(location, location.path, str(location.path) == used, error)
        used, error = "", None  # those after it are not looked at


def _place(
    location: Location, path: Path, used: bool, error: str | None
) -> WeightsCheck:
    try:
        digest = file_sha256(str(path))
        published = published_name(digest, git_blob(path))
    except (ValueError, OSError) as failure:
        return WeightsCheck(location.title, str(path), error=error or one_line(failure))
    return WeightsCheck(location.title, str(path), digest, published, used, error)


def _caches() -> dict[str, FolderCheck] | None:
    folder = cache_folder()
    if folder is None:
        return None
    return {
        "downloaded weights": _folder(folder, "*"),
        "built networks": _folder(folder / "graphs", "**/*"),
    }


def _page() -> FolderCheck | None:
    folder = Path(__file__).parent / "page"
    return _folder(folder, "**/*") if folder.is_dir() else None


def _folder(folder: Path, pattern: str) -> FolderCheck:
    """Count a folder's files; those that vanish meanwhile, or are hidden, are not."""
    sizes = []
    for path in folder.glob(pattern):
        try:
            sizes += [path.stat().st_size] if path.is_file() else []
        except OSError:
            continue
    parents = (parent for parent in (folder, *folder.parents) if parent.exists())
    effective = os.access in os.supports_effective_ids  # not on Windows
    writable = os.access(next(parents, folder), os.W_OK, effective_ids=effective)
    return FolderCheck(str(folder), len(sizes), sum(sizes), writable)


# -- packages


def version_of(package: str) -> str | None:
    """The version of an installed distribution, or of one that has such a module.

    ``onnxruntime`` is also what onnxruntime-gpu installs.
    """
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        others = _distributions().get(package, [])
        return metadata.version(others[0]) if others else None


@cache
def _distributions() -> Mapping[str, list[str]]:
    """The distributions that have a module of a name: all lists of files are read."""
    return metadata.packages_distributions()


def _requirements() -> dict[str, list[Requirement]]:
    """What each extra needs on this machine, and under the name "" what all need."""
    try:
        known = metadata.metadata(NAME)
    except metadata.PackageNotFoundError:  # a checkout that was not installed
        return {}
    needs: dict[str, list[Requirement]] = {"": []}
    extras = known.get_all("Provides-Extra") or []
    needs |= {name: [] for name in sorted(extras) if name not in DEVELOPERS}
    for line in known.get_all("Requires-Dist") or []:
        try:
            wanted = Requirement(line)
        except InvalidRequirement:
            continue
        marker = wanted.marker
        always = marker is None or marker.evaluate({"extra": ""})
        for name in [""] if always else [name for name in needs if name]:
            if always or (marker and marker.evaluate({"extra": name})):
                needs[name].append(wanted)
    return needs


def _extra(wanted: list[Requirement], name: str = "") -> ExtraCheck:
    missing = []
    for each in wanted:
        version = version_of(each.name)
        if version is None:
            missing.append(f"{each.name}{each.specifier}")
        elif not each.specifier.contains(version, prereleases=True):
            missing.append(f"{each.name}{each.specifier} (here: {version})")
    if not missing:
        return ExtraCheck((), None)
    what = [f"'{NAME}[{name}]'"] if name else [f"'{m.split()[0]}'" for m in missing]
    return ExtraCheck(tuple(missing), f"pip install {' '.join(what)}")


def _libraries() -> dict[str, str]:
    names = sorted({w.name for wanted in _requirements().values() for w in wanted})
    found = {name: version_of(name) for name in names}
    return {name: version for name, version in found.items() if version is not None}
