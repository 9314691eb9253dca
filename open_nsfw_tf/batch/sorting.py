"""Files moved, or linked, into one folder a class, by the scores in a table.

The table is complete before a file moves: what a kill interrupts, the next run does.
"""

import errno
import os
import shutil
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.tables import Table, digest

SCORE = "nsfw"  # the column that is held against the threshold


def check_destination(folder: Path, sources: Iterable[str]) -> None:
    """Refuse a folder whose files the next run would take for new pictures.

    Raises:
        ValueError: it lies within one of the sources.
    """
    inside = os.path.realpath(folder)
    for source in sources:
        tree, deep, _ = source.partition("**")
        if not os.path.isdir(source) and not deep:
            continue
        outer = os.path.realpath(os.path.dirname(tree) if deep else source)
        if os.path.commonpath([inside, outer]) == outer:
            raise ValueError(
                f"{sanitize(folder)}: expected a folder that is not within the source "
                f"{sanitize(source)}"
            )


def check_sortable(classes: Iterable[str]) -> None:
    """Refuse scores that `sort_files` cannot sort by.

    Raises:
        ValueError: there is no class nsfw.
    """
    if SCORE not in (names := list(classes)):
        raise ValueError(
            f"expected a class {SCORE} to sort files by, got {sanitize(', '.join(names))}"
        )


def sort_files(
    table: Table, folder: Path, threshold: float, link: bool = False
) -> dict[str, int]:
    """Put the pictures of a table into `folder`/nsfw and `folder`/sfw.

    A name that is taken gets 8 hexadecimal digits of its path behind it. Pictures
    without a score stay.

    Args:
        table: with a column nsfw.
        folder: made if it is missing.
        threshold: 0..1; nsfw is what scores as much or more.
        link: make symbolic links rather than move.

    Returns:
        How many files went to "nsfw" and to "sfw"; "absent" were no files, as members
        of archives and what was moved before.

    Raises:
        OSError: a file cannot be moved; the others before it were.
    """
    done: Counter[str] = Counter()
    for path, score in zip(table.paths, table.columns[SCORE], strict=True):
        if np.isnan(score):
            continue
        name = "nsfw" if score >= threshold else "sfw"
        if os.path.lexists(path):
            _place(path, folder / name, link)
            done[name] += 1
        else:
            done["absent"] += 1
    return dict(done)


def _place(source: str, folder: Path, link: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / os.path.basename(source)
    if os.path.lexists(target) and not _leads_to(target, source):
        target = folder / f"{target.stem}-{digest(source).hex()[:8]}{target.suffix}"
    if os.path.lexists(target):
        if link and _leads_to(target, source):
            return
        raise FileExistsError(
            f"{sanitize(target)} exists: expected a name that is free"
        )
    if link:
        target.symlink_to(os.path.abspath(source))
    else:
        _move(source, target)


def _leads_to(target: Path, source: str) -> bool:
    return target.is_symlink() and os.readlink(target) == os.path.abspath(source)


def _move(source: str, target: Path) -> None:
    if os.path.islink(source):
        # Its text is relative to where it was, and moving it would lead elsewhere.
        leads_to = os.path.join(os.path.dirname(source), os.readlink(source))
        target.symlink_to(os.path.abspath(leads_to))
        os.unlink(source)
        return
    try:
        Path(source).rename(target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        # To another disk: the source goes only when its copy is whole.
        partial = target.with_name(f".{target.name}.partial")
        shutil.copy2(source, partial)
        partial.replace(target)
        Path(source).unlink()
