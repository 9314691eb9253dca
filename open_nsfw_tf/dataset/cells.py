"""Pictures that look the same to the bit, and which of these cells are near others.

Cells keep the work linear: a thousand copies of one picture are one cell, not half a
million pairs.
"""

from dataclasses import dataclass

import numpy as np

from open_nsfw_tf.dataset.fingerprints import HASH_BYTES, Fingerprint
from open_nsfw_tf.dataset.neighbours import check_threshold, neighbours

THRESHOLD = 7  # bits of 64; photographs of different things differ in 20 and more


@dataclass(slots=True)
class Cells:
    """Pictures by look.

    Attributes:
        members: of every cell, indices of pictures in their order.
        cell_of: of every picture.
        near: of every cell, the cells whose look differs in few bits.
    """

    members: list[list[int]]
    cell_of: list[int]
    near: list[list[int]]


def cells(
    prints: list[Fingerprint], threshold: int = THRESHOLD, exact: bool = False
) -> Cells:
    """Put pictures that look the same together.

    Args:
        prints: of the pictures.
        threshold: in how many bits of 64 the looks of near cells differ at most.
        exact: only equal pixels count.

    A nearly blank picture is alike only to its own pixels: its look says nothing.

    Raises:
        ValueError: the threshold is out of range.
    """
    check_threshold(threshold)
    numbers: dict[bytes, int] = {}
    members: list[list[int]] = []
    cell_of = []
    for index, seen in enumerate(prints):
        key = seen.pixel_hash if exact or seen.plain else seen.look
        cell = numbers.setdefault(key, len(members))
        if cell == len(members):
            members.append([])
        members[cell].append(index)
        cell_of.append(cell)
    near: list[list[int]] = [[] for _ in members]
    looks = [cell for key, cell in numbers.items() if len(key) == HASH_BYTES]
    if looks and threshold:
        _connect(near, looks, [prints[members[cell][0]] for cell in looks], threshold)
    return Cells(members, cell_of, near)


def _connect(
    near: list[list[int]], looks: list[int], prints: list[Fingerprint], threshold: int
) -> None:
    hashes = np.frombuffer(b"".join(seen.look for seen in prints), np.uint8)
    found = neighbours(hashes.reshape(-1, HASH_BYTES), threshold)
    for position, cell in enumerate(looks):
        near[cell] = [looks[other] for other in found.of(position)]


def clusters(made: Cells) -> list[list[int]]:
    """Pictures that hang together by nearness, directly or through others.

    Returns:
        Every picture in exactly one cluster, each cluster and their list in order.
    """
    cluster_of = [-1] * len(made.members)
    found: list[list[int]] = []
    for first in range(len(made.members)):
        if cluster_of[first] >= 0:
            continue
        cluster_of[first] = len(found)
        waiting, pictures = [first], []
        while waiting:
            cell = waiting.pop()
            pictures += made.members[cell]
            for other in made.near[cell]:
                if cluster_of[other] < 0:
                    cluster_of[other] = len(found)
                    waiting.append(other)
        found.append(sorted(pictures))
    return sorted(found)
