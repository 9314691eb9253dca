"""Pairs of 64-bit hashes that differ in few bits, among hundreds of thousands.

faiss's multi-index hashing (Norouzi et al., https://arxiv.org/abs/1307.2982): a hash is
cut into four parts of 16 bits. Two hashes that differ in at most 4 f + 3 bits have a part
that differs in at most f (the pigeonhole principle), so they meet when every part is
looked up with up to f bits changed: no pair is missed.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from open_nsfw_tf.dataset import need

BITS = 64
PARTS = 4
MAX_THRESHOLD = 11  # bits; above it, unlike pictures come together
QUERIES = 1 << 14  # hashes that are looked up at once


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
        ImportError: faiss is not installed; the message says how to.
    """
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (BITS // 8,):
        raise ValueError(
            f"expected hashes as uint8 (N, {BITS // 8}), got {hashes.dtype} of shape "
            f"{hashes.shape}"
        )
    check_threshold(threshold)
    index = _index(np.ascontiguousarray(hashes), threshold)
    counts, others, distances = [], [], []
    for begin in range(0, len(hashes), QUERIES):
        asked = np.ascontiguousarray(hashes[begin : begin + QUERIES])
        # It finds what is nearer than its radius.
        ends, apart, found = index.range_search(asked, threshold + 1)
        askers = np.repeat(
            np.arange(begin, begin + len(asked)), np.diff(ends).astype(np.int64)
        )
        order = np.lexsort((found, askers))
        order = order[found[order] != askers[order]]
        counts.append(np.bincount(askers[order] - begin, minlength=len(asked)))
        others.append(found[order].astype(np.int32))
        distances.append(apart[order].astype(np.uint8))
    total = np.cumsum(np.concatenate([np.zeros(1, np.int64), *counts]))
    return Neighbours(
        total.astype(np.int64),
        np.concatenate([np.zeros(0, np.int32), *others]),
        np.concatenate([np.zeros(0, np.uint8), *distances]),
    )


def _index(hashes: np.ndarray, threshold: int) -> Any:
    need("faiss")
    import faiss

    index = faiss.IndexBinaryMultiHash(BITS, PARTS, BITS // PARTS)
    index.nflip = threshold // PARTS
    index.add(hashes)
    return index


def check_threshold(threshold: int) -> None:
    """Refuse a threshold that finds too much.

    Raises:
        ValueError: it is not 0 to `MAX_THRESHOLD`.
    """
    if not 0 <= threshold <= MAX_THRESHOLD:
        raise ValueError(
            f"expected a threshold of 0 to {MAX_THRESHOLD} bits, got {threshold}"
        )
