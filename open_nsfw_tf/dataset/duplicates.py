"""Duplicates, and which copy to keep.

Around the best copy - most pixels, then most bytes, then oldest - all that is near it
is its group, so what is moved has a near copy that stays. Groups within one class of
one side are plain duplicates. Across sides (train, test, val) they leak: test stays what
it is. Across classes, of one side or of several, they contradict each other, and nobody
but a person can say which copy is the right one: all that hangs together is one group.
"""

import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from open_nsfw_tf.dataset.cells import THRESHOLD, Cells, cells, clusters
from open_nsfw_tf.dataset.fingerprints import Fingerprint, Seen, fingerprints
from open_nsfw_tf.dataset.folder import File, Found
from open_nsfw_tf.image import MAX_PIXELS

INSIDE, LEAKS, CLASSES = "inside", "leaks", "classes"
KINDS = {
    INSIDE: "in one class",
    LEAKS: "across train, test and val",
    CLASSES: "across classes",
}
# A test set stays what it was, so that results before and after can be compared.
_RANKS = {"test": 0, "val": 1, "train": 2, None: 3}


@dataclass(frozen=True, slots=True)
class Copy:
    """A picture that is like another one.

    Attributes:
        file: of this picture.
        how: "file" for equal bytes, "pixels" for equal pixels, "near".
        bits: in which the perceptual hashes differ, 0 to 64.
    """

    file: File
    how: str
    bits: int


@dataclass(slots=True)
class Group:
    """Copies of one picture.

    Attributes:
        kind: a key of `KINDS`.
        kept: the best of them.
        copies: the others.
    """

    kind: str
    kept: File
    copies: list[Copy] = field(default_factory=list)


@dataclass(slots=True)
class Duplicates:
    """What was found.

    Attributes:
        groups: by kind.
        pictures: that were compared.
        unreadable: name and reason of the others.
    """

    groups: dict[str, list[Group]]
    pictures: int
    unreadable: dict[str, str]

    def count(self, kind: str) -> int:
        """How many copies there are beside the kept ones."""
        return sum(len(group.copies) for group in self.groups[kind])


def find_duplicates(
    found: Found,
    threshold: int = THRESHOLD,
    exact: bool = False,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen_one: Callable[[], None] = lambda: None,
) -> Duplicates:
    """Find the duplicates in a folder.

    Args:
        found: the folder's files.
        threshold: bits of 64 in which the perceptual hashes of copies differ at most.
        exact: only equal pixels count.
        max_pixels: larger pictures count as unreadable.
        threads: None: as many as there are processors.
        seen_one: called after every file, for a progress bar.

    Raises:
        ValueError: the threshold is out of range.
        ImportError: a package of the extra `dataset` is missing.
    """
    seen = fingerprints(found.files, max_pixels, threads, seen_one)
    made = cells(seen.prints, threshold, exact)
    groups = {kind: list(_groups(kind, seen, made)) for kind in _BELONGS}
    groups[CLASSES] = list(_contradictions(seen, made))
    return Duplicates(groups, len(seen.files), seen.unreadable)


def _place(file: File) -> tuple[str | None, str | None]:
    return file.side, file.label


# Which copies, by their place, a kept picture's place has in a group of each kind.
_BELONGS: dict[str, Callable[[File, tuple[str | None, str | None]], bool]] = {
    INSIDE: lambda kept, place: _place(kept) == place,
    LEAKS: lambda kept, place: _RANKS[kept.side] < _RANKS[place[0]],
}


def _groups(kind: str, seen: Seen, made: Cells) -> Iterator[Group]:
    """Groups around the best pictures; no picture is a copy in two of them."""
    waiting = [_by_place(seen.files, members) for members in made.members]
    taken = [False] * len(seen.files)
    belongs = _BELONGS[kind]
    for best in sorted(range(len(seen.files)), key=lambda i: _rank(kind, seen, i)):
        if taken[best] and kind == INSIDE:
            continue  # it goes; across sides, its own copies are news
        kept = seen.files[best]
        group = Group(kind, kept)
        cell = made.cell_of[best]
        for other in (cell, *made.near[cell]):
            for place, pictures in waiting[other].items():
                if not belongs(kept, place):
                    continue
                for index in pictures:
                    if index != best and not taken[index]:
                        taken[index] = True
                        group.copies.append(_copy(seen, best, index))
                # What was here is taken, but for the kept one itself.
                waiting[other][place] = [best] if best in pictures else []
        if group.copies:
            taken[best] = True
            yield group


def _contradictions(seen: Seen, made: Cells) -> Iterator[Group]:
    """All that hangs together, where it is in several classes, of whichever side."""
    for cluster in clusters(made):
        labels = {(seen.files[index].label or "").casefold() for index in cluster}
        if len(labels) > 1:
            best, *rest = sorted(cluster, key=lambda i: _rank(CLASSES, seen, i))
            copies = [_copy(seen, best, index) for index in rest]
            yield Group(CLASSES, seen.files[best], copies)


def _by_place(
    files: list[File], members: Iterable[int]
) -> dict[tuple[str | None, str | None], list[int]]:
    places: dict[tuple[str | None, str | None], list[int]] = {}
    for index in members:
        places.setdefault(_place(files[index]), []).append(index)
    return places


def _rank(kind: str, seen: Seen, index: int) -> tuple[int | str, ...]:
    file, found = seen.files[index], seen.prints[index]
    side = _RANKS[file.side] if kind == LEAKS else 0
    pixels = found.width * found.height
    return side, -pixels, -file.size, file.mtime_ns, file.name


def _copy(seen: Seen, kept: int, index: int) -> Copy:
    first, second = seen.prints[kept], seen.prints[index]
    bits = int.from_bytes(first.look, "big") ^ int.from_bytes(second.look, "big")
    return Copy(seen.files[index], _how(first, second), bits.bit_count())


def _how(first: Fingerprint, second: Fingerprint) -> str:
    if first.file_hash == second.file_hash:
        return "file"
    return "pixels" if first.pixel_hash == second.pixel_hash else "near"


def moves_of(
    duplicates: Duplicates, kinds: Iterable[str], target: str
) -> list[tuple[str, str]]:
    """Where the copies would go.

    Args:
        duplicates: of a folder.
        kinds: keys of `KINDS`. Across classes nobody knows which label is right, so
            the best copy goes, too.
        target: a folder, in which each kind gets one.

    Returns:
        Source and target of every move, each source once.

    Raises:
        ValueError: no such kind.
    """
    moves: dict[str, str] = {}
    for kind in kinds:
        if kind not in KINDS:
            raise ValueError(f"expected some of {', '.join(KINDS)}, got {kind!r:.80}")
        for group in duplicates.groups[kind]:
            files = [copy.file for copy in group.copies]
            if kind == CLASSES:
                files.append(group.kept)
            for file in files:
                where = os.path.join(os.path.abspath(target), kind, file.name)
                moves.setdefault(file.path, where)
    return list(moves.items())
