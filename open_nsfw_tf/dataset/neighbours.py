"""Pairs of 64-bit hashes that differ in few bits, among hundreds of thousands.

faiss's multi-hash index cuts a hash into four parts of 16 bits and looks up every part
with up to `nflip` bits changed. Two hashes that differ in at most 4 * nflip + 3 bits
have a part that differs in at most nflip: no pair is missed.
"""

from dataclasses import dataclass
from importlib import import_module

import numpy as np

from open_nsfw_tf.dataset import need

BITS = 64
PARTS = 4
MAX_THRESHOLD = 11  # bits; above it, unlike pictures come together
CHUNK = 1 << 14  # hashes that are looked up at once


@dataclass(frozen=True, slots=True)
class Neighbours:
    """Who is near whom.

    Attributes:
        starts: int64 (N + 1,); the neighbours of i are others[starts[i]:starts[i + 1]].
        others: int32, indices of hashes, without i itself.
        distances: uint8, in bits, for each of `others`.
    """

    starts: np.ndarray
    others: np.ndarray
    distances: np.ndarray

    def of(self, index: int) -> list[int]:
        """The neighbours of one hash."""
        found = self.others[self.starts[index] : self.starts[index + 1]]
        return [int(other) for other in found]


def neighbours(hashes: np.ndarray, threshold: int) -> Neighbours:
    """Find all pairs of hashes that differ in at most `threshold` bits.

    Args:
        hashes: uint8 (N, 8).
        threshold: 0 to `MAX_THRESHOLD` bits.

    Raises:
        ValueError: another dtype or shape, or a threshold out of range.
        ImportError: faiss is not installed.
    """
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (BITS // 8,):
        raise ValueError(
            f"expected hashes as uint8 (N, {BITS // 8}), got {hashes.dtype} of shape "
            f"{hashes.shape}"
        )
    check_threshold(threshold)
    need("faiss")
    index = import_module("faiss").IndexBinaryMultiHash(BITS, PARTS, BITS // PARTS)
    index.nflip = threshold // PARTS
    hashes = np.ascontiguousarray(hashes)
    index.add(hashes)
    counts, others, distances = [np.zeros(1, np.int64)], [], []
    for start in range(0, len(hashes), CHUNK):
        some = hashes[start : start + CHUNK]
        limits, bits, found = index.range_search(some, threshold + 1)  # excluded
        lengths = np.diff(limits.astype(np.int64))
        asked = np.repeat(np.arange(start, start + len(some)), lengths)
        other = asked != found
        counts.append(np.bincount(asked[other] - start, minlength=len(some)))
        others.append(found[other].astype(np.int32))
        distances.append(bits[other].astype(np.uint8))
    empty = np.zeros(0)
    return Neighbours(
        np.cumsum(np.concatenate(counts), dtype=np.int64),
        np.concatenate([empty.astype(np.int32), *others]),
        np.concatenate([empty.astype(np.uint8), *distances]),
    )


def check_threshold(threshold: int) -> None:
    """Refuse a threshold that finds too much.

    Raises:
        ValueError: it is not 0 to `MAX_THRESHOLD`.
    """
    if not 0 <= threshold <= MAX_THRESHOLD:
        raise ValueError(
            f"expected a threshold of 0 to {MAX_THRESHOLD} bits, got {threshold}"
        )
