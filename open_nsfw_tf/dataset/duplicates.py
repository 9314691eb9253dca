"""Duplicates, and which copy to keep.

Around the best copy - most pixels, then most bytes, then oldest - all that is near it
is its group, so what is moved has a near copy that stays. Groups within one class of
one split are plain duplicates. Across splits (train, test, val) they leak: test stays
what it is. Across classes, of one split or of several, they contradict each other, and
nobody but a person can say which copy is the right one: all that are connected are one
group.
"""

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

import numpy as np

from open_nsfw_tf.dataset.fingerprints import (
    PHASH_BYTES,
    READ_DEFAULTS,
    Fingerprint,
    Fingerprints,
    ReadOptions,
    fingerprints,
)
from open_nsfw_tf.dataset.folder import (
    File,
    ProposedMoves,
    Scan,
    check_kinds,
    propose,
    scan,
)
from open_nsfw_tf.files import name_key
from open_nsfw_tf.libraries import need

DISTANCE = 7  # bits of 64; photographs of different things differ in 20 and more
MAX_DISTANCE = 11  # bits; above it, unlike pictures come together
INSIDE, LEAKS, CLASSES = "inside", "leaks", "classes"
KINDS = {
    INSIDE: "in one class",
    LEAKS: "across train, test and val",
    CLASSES: "across classes",
}
# A test set stays what it was, so that results before and after can be compared.
_RANKS = {"test": 0, "val": 1, "train": 2, None: 3}


# -- pairs of near hashes

BITS = 8 * PHASH_BYTES
PARTS = 4
QUERIES = 1 << 14  # hashes that are looked up at once


def neighbours(hashes: np.ndarray, distance: int) -> Any:
    """Find all pairs of 64-bit hashes that differ in few bits.

    faiss's multi-index hashing (Norouzi et al., https://arxiv.org/abs/1307.2982): a
    hash is cut into four parts of 16 bits. Two hashes that differ in at most 4 f + 3
    bits have a part that differs in at most f (the pigeonhole principle), so they meet
    when every part is looked up with up to f bits changed: no pair is missed.

    Args:
        hashes: uint8 (N, 8), hundreds of thousands of them if need be.
        distance: in how many bits they differ at most, 0 to `MAX_DISTANCE`.

    Returns:
        A symmetric graph, scipy.sparse.csr_array of uint8 (N, N): where two different
        rows are near, the bits in which they differ (an explicit 0 for equal ones).

    Raises:
        ValueError: another dtype or shape, or a distance out of range.
        ImportError: faiss or scipy is not installed; the message says how to.
    """
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (PHASH_BYTES,):
        raise ValueError(
            f"expected hashes as uint8 (N, {PHASH_BYTES}), got {hashes.dtype} of shape "
            f"{hashes.shape}"
        )
    check_distance(distance)
    need("dataset", "faiss", "scipy")
    faiss, sparse = import_module("faiss"), import_module("scipy.sparse")
    index = faiss.IndexBinaryMultiHash(BITS, PARTS, BITS // PARTS)
    index.nflip = distance // PARTS
    index.add(np.ascontiguousarray(hashes))
    found = []
    for begin in range(0, len(hashes), QUERIES):
        asked = np.ascontiguousarray(hashes[begin : begin + QUERIES])
        # It finds what is nearer than its radius.
        ends, bits, others = index.range_search(asked, distance + 1)
        rows = np.arange(begin, begin + len(asked))
        askers = np.repeat(rows, np.diff(ends).astype(np.int64))
        different = others != askers
        found.append((askers[different], others[different], bits[different]))
    empty = [np.zeros(0, np.int64)] * 3
    rows, columns, bits = map(np.concatenate, zip(empty, *found, strict=True))
    pairs = (bits.astype(np.uint8), (rows, columns))
    graph = sparse.coo_array(pairs, shape=(len(hashes),) * 2).tocsr()
    graph.sort_indices()
    return graph


def check_distance(distance: int) -> None:
    """Refuse a distance that finds too much.

    Raises:
        ValueError: it is not 0 to `MAX_DISTANCE`.
    """
    if not 0 <= distance <= MAX_DISTANCE:
        raise ValueError(
            f"expected a distance of 0 to {MAX_DISTANCE} bits, got {distance}"
        )


# -- pictures by their hashes


@dataclass(slots=True)
class HashBuckets:
    """Pictures in buckets of equal hashes, so that the work stays linear.

    A thousand copies of one picture are one bucket, not half a million pairs.

    Attributes:
        members: of every bucket, indices of pictures in their order.
        bucket_of: of every picture.
        near: as `neighbours`, of the buckets.
    """

    members: list[list[int]]
    bucket_of: list[int]
    near: Any

    def near_to(self, bucket: int) -> list[int]:
        """The buckets whose hash differs in few bits, without itself."""
        ends = self.near.indptr
        found: list[int] = self.near.indices[ends[bucket] : ends[bucket + 1]].tolist()
        return found

    def clusters(self) -> list[list[int]]:
        """Pictures that are connected by nearness, directly or through others.

        Returns:
            Every picture in exactly one cluster, each cluster and their list in order.
        """
        graphs = import_module("scipy.sparse.csgraph")
        count, cluster_of = graphs.connected_components(self.near, directed=False)
        clusters: list[list[int]] = [[] for _ in range(count)]
        for picture, bucket in enumerate(self.bucket_of):
            clusters[cluster_of[bucket]].append(picture)
        return sorted(clusters)


def hash_buckets(
    prints: list[Fingerprint], distance: int = DISTANCE, exact: bool = False
) -> HashBuckets:
    """Put pictures with equal hashes together, and find which of these are near others.

    A nearly blank picture goes by its pixels alone: its perceptual hash says nothing.

    Args:
        prints: of the pictures.
        distance: in how many bits of 64 the hashes of near buckets differ at most.
        exact: only equal pixels count.

    Raises:
        ValueError: the distance is out of range.
        ImportError: a package of the extra `dataset` is missing.
    """
    check_distance(distance)
    numbers: dict[bytes, int] = {}
    members: list[list[int]] = []
    bucket_of = []
    for index, one in enumerate(prints):
        key = one.pixel_hash if exact or one.blank else one.phash
        bucket = numbers.setdefault(key, len(members))
        if bucket == len(members):
            members.append([])
        members[bucket].append(index)
        bucket_of.append(bucket)
    phashes = {key: b for key, b in numbers.items() if len(key) == PHASH_BYTES}
    near = _near_buckets(phashes if distance else {}, len(members), distance)
    return HashBuckets(members, bucket_of, near)


def _near_buckets(phashes: dict[bytes, int], count: int, distance: int) -> Any:
    """`neighbours` of some buckets, as a graph of all `count` of them."""
    hashes = np.frombuffer(b"".join(phashes), np.uint8).reshape(-1, PHASH_BYTES)
    graph = neighbours(hashes, distance).tocoo()
    number = np.array(list(phashes.values()), np.int64)
    pairs = (graph.data, (number[graph.row], number[graph.col]))
    near = import_module("scipy.sparse").coo_array(pairs, shape=(count, count)).tocsr()
    near.sort_indices()
    return near


# -- groups of copies


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
        best: the one to keep.
        copies: the others.
    """

    kind: str
    best: File
    copies: list[Copy] = field(default_factory=list)


@dataclass(slots=True)
class DedupeResult:
    """What was found.

    Attributes:
        groups: by kind.
        pictures: that were compared.
        unreadable: name and reason of the others.
        moves: of the copies.
    """

    groups: dict[str, list[Group]]
    pictures: int
    unreadable: dict[str, str]
    moves: ProposedMoves

    def count(self, kind: str) -> int:
        """How many copies there are beside the best ones."""
        return sum(len(group.copies) for group in self.groups[kind])


def dedupe(
    folder: str | os.PathLike[str] | Scan,
    target: str | os.PathLike[str] = "duplicates",
    kinds: Collection[str] = (INSIDE,),
    distance: int = DISTANCE,
    exact: bool = False,
    reading: ReadOptions = READ_DEFAULTS,
    apply: bool = False,
) -> DedupeResult:
    """Find the duplicates in a folder, and move copies away.

    Args:
        folder: of pictures, or a scan of it.
        target: a folder to move to, in which each kind gets one.
        kinds: keys of `KINDS`, whose copies go.
        distance: bits of 64 in which the perceptual hashes of copies differ at most.
        exact: only equal pixels count.
        reading: how the pictures are read.
        apply: make the moves, rather than only propose them.

    Raises:
        OSError: the folder cannot be read, or a file cannot be moved.
        ValueError: the distance is out of range, or there is no such kind; or as
            `open_nsfw_tf.dataset.scan`.
        ImportError: a package of the extra `dataset` is missing.
    """
    check_distance(distance)
    check_kinds(kinds, KINDS)
    found = scan(folder, target)
    pictures = fingerprints(found.files, reading)
    groups = find_groups(pictures, distance, exact)
    pairs = moves_of(groups, kinds)
    moves = propose(pairs, found.files, target, "move", "dedupe")
    if apply:
        moves.apply()
    return DedupeResult(groups, len(pictures.files), pictures.unreadable, moves)


def find_groups(
    pictures: Fingerprints, distance: int = DISTANCE, exact: bool = False
) -> dict[str, list[Group]]:
    """Find the copies among pictures.

    Args:
        pictures: of a folder.
        distance: bits of 64 in which the perceptual hashes of copies differ at most.
        exact: only equal pixels count.

    Returns:
        Groups for each of `KINDS`.

    Raises:
        ValueError: the distance is out of range.
        ImportError: a package of the extra `dataset` is missing.
    """
    buckets = hash_buckets(pictures.prints, distance, exact)
    groups = {kind: list(_groups(kind, pictures, buckets)) for kind in _BELONGS}
    groups[CLASSES] = list(_contradictions(pictures, buckets))
    return groups


Location = tuple[str | None, str | None]  # split and class


def _location(file: File) -> Location:
    return file.split, file.label


# Copies of which location belong to a best picture, in a group of each kind.
_BELONGS: dict[str, Callable[[File, Location], bool]] = {
    INSIDE: lambda best, location: _location(best) == location,
    LEAKS: lambda best, location: _RANKS[best.split] < _RANKS[location[0]],
}


def _groups(kind: str, pictures: Fingerprints, buckets: HashBuckets) -> Iterator[Group]:
    """Groups around the best pictures; no picture is a copy in two of them."""
    waiting = [_by_location(pictures.files, members) for members in buckets.members]
    taken = [False] * len(pictures.files)
    belongs = _BELONGS[kind]
    order = sorted(range(len(pictures.files)), key=lambda i: _rank(kind, pictures, i))
    for best in order:
        if taken[best] and kind == INSIDE:
            continue  # already in a group; leaks are still searched for its own copies
        group = Group(kind, pictures.files[best])
        bucket = buckets.bucket_of[best]
        for other in (bucket, *buckets.near_to(bucket)):
            for location, indices in waiting[other].items():
                if not belongs(group.best, location):
                    continue
                for index in indices:
                    if index != best and not taken[index]:
                        taken[index] = True
                        group.copies.append(_copy(pictures, best, index))
                # All that were here are taken, but for the best one itself.
                waiting[other][location] = [best] if best in indices else []
        if group.copies:
            taken[best] = True
            yield group


def _contradictions(pictures: Fingerprints, buckets: HashBuckets) -> Iterator[Group]:
    """All that are connected, where they are in several classes, of whichever split."""
    for cluster in buckets.clusters():
        labels = {name_key(pictures.files[index].label or "") for index in cluster}
        if len(labels) > 1:
            best, *rest = sorted(cluster, key=lambda i: _rank(CLASSES, pictures, i))
            copies = [_copy(pictures, best, index) for index in rest]
            yield Group(CLASSES, pictures.files[best], copies)


def _by_location(
    files: list[File], members: Iterable[int]
) -> dict[Location, list[int]]:
    found: dict[Location, list[int]] = {}
    for index in members:
        found.setdefault(_location(files[index]), []).append(index)
    return found


def _rank(kind: str, pictures: Fingerprints, index: int) -> tuple[int | str, ...]:
    file, one = pictures.files[index], pictures.prints[index]
    split = _RANKS[file.split] if kind == LEAKS else 0
    return split, -one.width * one.height, -file.size, file.mtime_ns, file.name


def _copy(pictures: Fingerprints, best: int, index: int) -> Copy:
    first, second = pictures.prints[best], pictures.prints[index]
    bits = int.from_bytes(first.phash, "big") ^ int.from_bytes(second.phash, "big")
    return Copy(pictures.files[index], _how(first, second), bits.bit_count())


def _how(first: Fingerprint, second: Fingerprint) -> str:
    if first.file_hash == second.file_hash:
        return "file"
    return "pixels" if first.pixel_hash == second.pixel_hash else "near"


def moves_of(
    groups: dict[str, list[Group]], kinds: Collection[str]
) -> list[tuple[str, str]]:
    """Where below a target the copies would go: ``KIND/...``.

    Args:
        groups: of `find_groups`.
        kinds: keys of `KINDS`. Across classes nobody knows which label is right, so
            the best copy goes, too.

    Returns:
        Source and target of every move, each source once.

    Raises:
        ValueError: no such kind.
    """
    check_kinds(kinds, KINDS)
    moves: dict[str, str] = {}
    for kind in kinds:
        for group in groups[kind]:
            files = [copy.file for copy in group.copies]
            if kind == CLASSES:
                files.append(group.best)
            for file in files:
                moves.setdefault(file.path, os.path.join(kind, file.name))
    return list(moves.items())
