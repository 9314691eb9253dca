"""Batches of features that were computed once, in the order pictures would have."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from open_nsfw_tf.backend import import_tensorflow


class FeatureBatches:
    """Features as batches, as `open_nsfw_tf.train.inputs.Inputs` gives pictures.

    Args:
        values: float32 (N, F).
        labels: int64 (N,).
        batch_size: rows a batch.
        shuffle: another order every epoch, the one that `Inputs` would give.
        seed: of the order.
    """

    def __init__(
        self,
        values: np.ndarray,
        labels: np.ndarray,
        *,
        batch_size: int,
        shuffle: bool = False,
        seed: int = 0,
    ) -> None:
        self.values, self.labels = values, labels
        self._batch_size, self._shuffle, self._seed = batch_size, shuffle, seed

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.labels) // self._batch_size)

    def epochs(self, first: int = 0, count: int = 1) -> Any:
        """A dataset of (float32 (B, F), int64 (B,)) for some epochs."""
        tf = import_tensorflow()
        width = self.values.shape[1]
        return tf.data.Dataset.from_generator(
            lambda: self._batches(range(first, first + count)),
            output_signature=(
                tf.TensorSpec((None, width), tf.float32),
                tf.TensorSpec((None,), tf.int64),
            ),
        )

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Nothing goes wrong here."""
        yield

    def _batches(self, epochs: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in epochs:
            order = np.arange(len(self.labels))
            if self._shuffle:
                order = np.random.default_rng((self._seed, epoch)).permutation(order)
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                yield self.values[rows], self.labels[rows]
