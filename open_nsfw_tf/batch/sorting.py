"""Pictures moved, or linked, to one folder a class, by the scores in a table.

The table is complete before the first file is moved. If moving is killed, the next run
moves the rest, and the file that was on its way may stand twice, as ``p.png`` and
``p-2.png``, or half as ``.TOKEN-NUMBER.part``: undoing the killed run's manifest
removes what is too many.
"""

import glob
import os
from collections import Counter
from collections.abc import Collection, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.batch.item import file_key
from open_nsfw_tf.batch.sources import fits
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.moves import Journal, LinksIn, Move, plan
from open_nsfw_tf.tables import Table
from open_nsfw_tf.tables.rows import path_bytes

SCORE = "nsfw"  # the column that is compared with the threshold
FOLDERS = LABELS  # for scores below the threshold, and from it on


def check_destination(folder: Path, sources: Iterable[str]) -> None:
    """Refuse a folder that files cannot go to, or whose files would be new pictures.

    Raises:
        ValueError: it lies within one of the sources, or a file has its name.
    """
    for path in (folder, *(folder / name for name in FOLDERS)):
        if os.path.lexists(path) and not path.is_dir():
            raise ValueError(f"{sanitize(path)}: expected a folder, or nothing yet")
    inside = os.path.realpath(folder)
    for source in sources:
        if _would_take(source, inside):
            raise ValueError(
                f"{sanitize(folder)}: expected a folder that is not within the source "
                f"{sanitize(source)}"
            )


def _would_take(source: str, inside: str) -> bool:
    """Whether a source, read again, takes what was put into a folder."""
    tree, deep, _ = source.partition("**")
    if deep or os.path.isdir(source):
        outer = os.path.realpath(os.path.dirname(tree) if deep else source)
        return os.path.commonpath([inside, outer]) == outer
    patterns = os.path.dirname(source).split("/")
    magic = next((i for i, name in enumerate(patterns) if glob.has_magic(name)), None)
    if magic is None or os.path.lexists(source):
        return False
    root = os.path.realpath("/".join([*patterns[:magic], ""]))
    below = (os.path.relpath(os.path.join(inside, name), root) for name in FOLDERS)
    return any(fits(path.split(os.sep), patterns[magic:]) for path in below)


def check_sortable(classes: Iterable[str]) -> None:
    """Refuse scores that `sort_files` cannot sort by.

    Raises:
        ValueError: there is no class nsfw.
    """
    if SCORE not in (names := list(classes)):
        raise ValueError(
            f"expected a class {SCORE} to sort files by, got "
            f"{sanitize(', '.join(names))}"
        )


def sort_files(
    table: Table,
    named: Collection[bytes],
    folder: Path,
    threshold: float,
    link: bool = False,
) -> tuple[dict[str, int], Journal | None]:
    """Put the pictures of a run into `folder`/nsfw and `folder`/sfw.

    Pictures without a score stay where they are, and so do files whose size and time
    are not those in the table, or are not in it: they may not be what was scored.

    Args:
        table: with a column nsfw.
        named: the pictures that the run's sources name, by their `item.file_key`;
            others stay.
        folder: made if it is missing; the manifest goes there.
        threshold: 0..1; nsfw is what scores as much or more.
        link: make symbolic links rather than move.

    Returns:
        How many files are in "nsfw" and "sfw" now; how many are "absent": members of
        archives, and what was moved before; how many have "changed" since they were
        scored; and how many are "linked twice", as an earlier run put a link into the
        other folder. And the journal that undoes it; None if nothing was done.

    Raises:
        MoveError: files cannot be moved; others were.
        OSError: the manifest cannot be written; nothing was moved.
    """
    action = "link" if link else "move"
    wanted = list(_moves(table, named, folder, threshold))
    planned = plan(wanted, action)
    sorted_moves, journal = planned.already, None
    missing, changed = planned.missing, planned.changed
    if planned.moves:
        journal = Journal(planned.moves, str(folder), action, "batch")
        journal.run()
        sorted_moves = sorted_moves + journal.finished
        missing, changed = missing + journal.missing, changed + journal.changed
    counts = Counter(os.path.basename(os.path.dirname(m.target)) for m in sorted_moves)
    counts.update(absent=len(missing), changed=len(changed))
    counts["linked twice"] = _linked_twice(wanted) if link else 0
    return {name: count for name, count in counts.items() if count}, journal


def _linked_twice(wanted: list[Move]) -> int:
    """How many files have a link of an earlier score in the other class's folder."""
    links = LinksIn()
    count = 0
    for move in wanted:
        folder, name = os.path.split(move.target)
        top, own = os.path.split(folder)
        others = [os.path.join(top, other, name) for other in FOLDERS if other != own]
        count += any(links.has(Move(move.source, other)) for other in others)
    return count


def _moves(
    table: Table, named: Collection[bytes], folder: Path, threshold: float
) -> Iterator[Move]:
    for row, path in enumerate(table.paths):
        score, stamp = table.columns[SCORE][row], table.stamp(row)
        if np.isnan(score) or stamp is None:
            continue
        with suppress(UnicodeError):  # as the system has it in a locale without UTF-8
            path = os.fsdecode(path_bytes(path))
        if file_key(path) not in named:
            continue
        target = folder / FOLDERS[int(score >= threshold)] / os.path.basename(path)
        yield Move(_absolute(path), os.path.abspath(target), stamp)


def _absolute(path: str) -> str:
    """A path from the root; with .. in it, it may lead through links, or nowhere."""
    if os.pardir in path.split(os.sep):
        return os.path.join(os.getcwd(), path)
    return os.path.abspath(path)
