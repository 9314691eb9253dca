"""`open-nsfw doctor`: what a bug report needs, and whether pictures can be scored."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from open_nsfw_tf.cli.options import JsonOption
from open_nsfw_tf.errors import sanitize

if TYPE_CHECKING:
    from open_nsfw_tf.doctor import EngineCheck, FolderCheck, Report, WeightsCheck

commands = typer.Typer()
LONGEST = 500  # characters of a reason


@commands.command("doctor")
def doctor_command(json_lines: JsonOption = False) -> None:
    """Check this installation: versions, engines, weights, caches, extras.

    Put what it prints into a bug report. Each engine scores a picture whose score is
    known. The exit status is 0 if at least one of them gives that score, and 1 if
    pictures cannot be classified. Nothing is downloaded or installed.
    """
    from open_nsfw_tf.doctor import examine

    report = examine()
    if json_lines:
        print(json.dumps(asdict(report)))
    else:
        for line in _lines(report):
            print(line)
    if not report.can_classify:
        raise typer.Exit(1)


def _lines(report: "Report") -> Iterator[str]:
    yield f"open_nsfw_tf {report.version}, {report.python}, {report.system}, " + (
        f"{report.cores} cores"
    )
    yield f"pictures can be classified: {'yes' if report.can_classify else 'NO'}"
    yield from ("", "engines")
    for name, engine in report.engines.items():
        yield f"  {name} {engine.version or '-'}: {_engine(engine)}"
    yield from ("", "weights")
    yield from map(_weights, report.weights)
    yield from ("", "caches")
    if report.caches is None:
        yield "  none: no home folder is known; set HOME or XDG_CACHE_HOME"
    for name, folder in (report.caches or {}).items():
        yield f"  {name}: {_folder(folder)}"
    yield from ("", "page in the browser")
    yield f"  {_folder(report.page)}" if report.page else "  not in this installation"
    yield from ("", "extras")
    for name, extra in {"(core)": report.core, **report.extras}.items():
        lacks = f"missing {', '.join(extra.missing)}; {extra.install}"
        yield f"  {name}: {lacks if extra.missing else 'complete'}"
    yield from ("", "libraries")
    yield "  " + ", ".join(f"{name} {v}" for name, v in report.libraries.items())


def _engine(engine: "EngineCheck") -> str:
    devices = (
        f"{device} {'works' if reason is None else f'fails: {_text(reason)}'}"
        for device, reason in engine.devices.items()
    )
    return "; ".join([*devices, *([_text(engine.error)] if engine.error else [])])


def _weights(place: "WeightsCheck") -> str:
    if place.path is None:
        return f"  - {_text(place.title)}"
    copy = f"Yahoo's, published as {place.published}" if place.published else "others"
    of = f", sha256 {place.sha256} ({copy})" if place.sha256 else ""
    wrong = f": {_text(place.error)}" if place.error else ""
    mark = "*" if place.used else "!" if place.error else "+"
    return f"  {mark} {_text(place.path)}{of}{wrong}"


def _folder(folder: "FolderCheck") -> str:
    size = f"{folder.files} files, {folder.bytes / 1e6:.1f} MB"
    return f"{_text(folder.path)}: {size}{'' if folder.writable else ', read-only'}"


def _text(text: str) -> str:
    """One printable line, in which the user's home is ``~``."""
    try:
        home = str(Path.home())
    except RuntimeError:
        return sanitize(text, LONGEST)
    return sanitize(text.replace(home, "~") if len(home) > 1 else text, LONGEST)
