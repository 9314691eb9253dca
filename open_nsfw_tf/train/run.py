"""RUN/, the folder of a run of training: who may write to it, and what is in it.

``config.json`` says what was asked for; ``checkpoint.safetensors`` is where the run is;
``history.csv``, ``curves.svg`` and ``logs/`` (TensorBoard's) are how it went;
``classes.txt`` and ``broken.csv`` are about the data. ``model.json`` and
``model.safetensors`` are the best model, those in ``last/`` the last one.
"""

import csv
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.files import lock
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.train.checkpoints import CHECKPOINT
from open_nsfw_tf.train.schedule import Row
from open_nsfw_tf.train.sides import find_sides
from open_nsfw_tf.trained import ARRAYS, MODEL

CONFIG, LOCK, CLASSES = "config.json", ".lock", "classes.txt"
HISTORY, CURVES, BROKEN = "history.csv", "curves.svg", "broken.csv"
LAST, LOGS, KEPT = "last", "logs", "features"
# What the judging of the finished run adds.
SCORES, LABELS, CONFUSION = "scores.csv", "labels.csv", "confusion.csv"
REPORT, EVALUATION = "report.html", "evaluation.json"
# The config is the first, as `clear` goes from the end.
FILES = (CONFIG, CLASSES, HISTORY, CURVES, BROKEN, CHECKPOINT, MODEL, ARRAYS) + (
    SCORES,
    LABELS,
    CONFUSION,
    REPORT,
    EVALUATION,
)
FOLDERS = (LAST, LOGS)
LONGEST = 1 << 20  # bytes of a config
FREE = ("epochs", "written_by")  # what may change when a run goes on


@contextmanager
def held(folder: Path, mode: Mode) -> Iterator[None]:
    """Make the folder, and keep other runs out of it.

    Args:
        folder: of the run.
        mode: "new" refuses one with a run in it; "resume" goes on with it, or begins it;
            "overwrite" leaves it to `clear`.

    Raises:
        FileExistsError: there is a run and `mode` is "new"; or the folder has files, and
            no run.
        ValueError: another run writes to it now.
        OSError: it cannot be written to.
    """
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError) as error:
        raise type(error)(
            f"{sanitize(folder)}: expected a folder for a run, got a file or what lies "
            "below one: name another"
        ) from error
    names = {name for name in os.listdir(folder) if not name.startswith(".")}
    if CONFIG not in names and names - {*FILES, KEPT}:
        raise FileExistsError(
            f"{sanitize(folder)}: expected a folder for a run, it has other files: name one "
            "that is empty or not there yet"
        )
    free = lock(folder / LOCK, folder)
    try:
        if mode == "new" and (folder / CONFIG).exists():
            raise FileExistsError(
                f"{sanitize(folder)} has a run in it: go on with it with --resume, or begin "
                "anew with --overwrite"
            )
        _sweep(folder)
        yield
    finally:
        free()
        with suppress(OSError):  # it is in use; else nothing came of it
            for path in made:
                path.rmdir()


def check_apart(folder: Path, data: str) -> None:
    """Refuse a run that would lie among the pictures, where it became a class.

    Args:
        folder: of the run.
        data: DATA, see `open_nsfw_tf.train.sides`.

    Raises:
        OSError: DATA is no folder.
        ValueError: the run lies in a folder of class folders; or DATA is laid out
            otherwise.
    """
    place = os.path.realpath(folder)
    for side in find_sides(data).values():
        if place.startswith(os.path.join(os.path.realpath(side), "")):
            raise ValueError(
                f"{sanitize(folder)}: expected a folder for a run outside of the pictures "
                f"in {sanitize(side)}, where it would be read as a class: name another"
            )


def clear(folder: Path) -> None:
    """Remove what a run before wrote, but for kept features, and nothing else.

    The config goes last: until then it is a run's folder, which `held` lets in.

    Raises:
        OSError: a file cannot be removed.
    """
    for name in FOLDERS:
        shutil.rmtree(folder / name, ignore_errors=True)
    for name in reversed(FILES):
        (folder / name).unlink(missing_ok=True)


def _sweep(folder: Path) -> None:
    """Remove files that a killed run left unfinished."""
    unfinished = tuple(f".{name}." for name in FILES)
    for name in os.listdir(folder):
        if name.startswith(unfinished):
            (folder / name).unlink(missing_ok=True)


def check_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Hold what is asked for against what a run was begun with, if there is one.

    Args:
        folder: of the run.
        config: JSON.

    Raises:
        ValueError: the run was begun with something else; its first differences are
            named.
    """
    if not (folder / CONFIG).exists():
        return
    differences = list(_differences(_read(folder / CONFIG), config))
    if differences:
        raise ValueError(
            f"{sanitize(folder)}: this run was begun with {'; '.join(differences[:3])}: "
            "give the same options to go on with it, or name another folder"
        )


def write_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Write what is asked for, and the classes.

    Raises:
        OSError: a file cannot be written.
    """
    with replacing(folder / CONFIG) as unfinished:
        unfinished.write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    with replacing(folder / CLASSES) as unfinished:
        unfinished.write_text("\n".join(config["classes"]) + "\n", encoding="utf-8")


def _read(path: Path) -> Any:
    try:
        with open(path, "rb") as file:
            return json.loads(file.read(LONGEST))
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"{sanitize(path)}: expected what `open-nsfw train` wrote ({one_line(error)}): "
            "begin anew with --overwrite"
        ) from error


def _differences(before: Any, now: Any, name: str = "") -> Iterator[str]:
    """What differs, in words; a list counts as one value unless it has dicts in it."""
    if name.rpartition(".")[2] in FREE or before == now:
        return
    if isinstance(before, dict) and isinstance(now, dict):
        for key in dict.fromkeys([*before, *now]):
            inner = f"{name}.{key}" if name else str(key)
            yield from _differences(before.get(key), now.get(key), inner)
    elif _has_dicts(before) and _has_dicts(now) and len(before) == len(now):
        for index, (one, other) in enumerate(zip(before, now, strict=True)):
            yield from _differences(one, other, f"{name}.{index}")
    else:
        name = name.removeprefix("settings.")
        yield f"{name} {sanitize(before, 60)}, this asks for {sanitize(now, 60)}"


def _has_dicts(value: Any) -> bool:
    return isinstance(value, list) and any(isinstance(one, dict) for one in value)


def write_history(folder: Path, history: Sequence[Row]) -> None:
    """Write the table of epochs anew.

    Raises:
        OSError: it cannot be written.
    """
    if history:
        rows = ([row[name] for name in history[0]] for row in history)
        write_rows(folder / HISTORY, list(history[0]), rows)


def write_rows(
    path: Path, columns: Sequence[str], rows: Iterable[Sequence[Any]]
) -> None:
    """Write a small CSV file, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    with replacing(path) as unfinished:
        data = text.getvalue().encode("utf-8", "surrogateescape")
        unfinished.write_bytes(data)
