"""Batches for training and judging, the same ones for the same seed and epoch.

Pixels come from the exact loader, by Pillow in threads: TensorFlow's ops that give the
same pixels take 1.5 times as long (`benchmarks/README.md`). Epoch number e depends on the
seed and on e alone, so a run that is resumed there sees what it would have seen. So does
the variation of a picture: on seed, epoch and place in the split, not on the worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import MAX_PIXELS, Preprocessing
from open_nsfw_tf.train.augment import Augmentation, augment
from open_nsfw_tf.train.data import Split
from open_nsfw_tf.train.pixels import AUTO, Cache, Pixels

if TYPE_CHECKING:
    import tensorflow as tf

PLACES = 1 << 32  # more than a split has; tell seeds of one epoch from the next one's
LARGEST_SEED = (1 << 63) - 1  # what TensorFlow takes
AHEAD = 2  # batches that are made before they are asked for
EVERYTHING = Augmentation(flip=False, crop=False)  # nothing is varied


class Inputs:
    """The pictures of a split as batches.

    A picture that breaks after it was checked stops nothing. In training (`shuffle`) the
    next one of its class stands in for it, so that all epochs and all workers have
    as many steps as they should; otherwise it is left out. `broken` names it.

    Attributes:
        split: the pictures.
        preprocessing: of the network that is fed.
        broken: path and reason of the pictures that broke meanwhile.

    Args:
        split: the pictures; at least one.
        preprocessing: of the network that is fed.
        batch_size: pictures a batch, of this worker.
        augmentation: None: the middle of every picture, as the network will see it.
        shuffle: another order every epoch; False: the split's own.
        seed: of order and augmentation.
        cache: see `open_nsfw_tf.train.pixels.Pixels`.
        shard: which worker of how many this is. In training all have as many pictures: the
            first ones of an epoch come twice where they do not come out even. The batches
            of all workers together are those of one worker with as large batches.
        drop_remainder: leave out a last batch that is not full.
        max_pixels: larger pictures count as broken.
        threads: None: as many as there are processors.

    Raises:
        OSError: the cache's folder cannot be written to.
        ValueError: the split is empty, or a number makes no sense.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        *,
        batch_size: int,
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        cache: Cache = AUTO,
        shard: tuple[int, int] = (0, 1),
        drop_remainder: bool = False,
        max_pixels: int = MAX_PIXELS,
        threads: int | None = None,
    ) -> None:
        _check(split, batch_size, shard, threads, seed)
        self.split = split
        self.preprocessing = preprocessing
        self.broken: dict[str, str] = {}
        self._batch_size = batch_size
        self._augmentation = augmentation or EVERYTHING
        self._shuffle = shuffle
        self._seed = seed
        self._shard = shard
        self._drop_remainder = drop_remainder
        self._threads = threads or os.cpu_count() or 1
        self._pixels = Pixels(split, preprocessing, cache, max_pixels)
        self._failure: ImageError | None = None
        self._function: Any = None

    @property
    def steps(self) -> int:
        """Batches in an epoch; fewer when judging, if pictures broke."""
        pictures = len(self.order(0))
        partial = 0 if self._drop_remainder else self._batch_size - 1
        return (pictures + partial) // self._batch_size

    def order(self, epoch: int) -> np.ndarray:
        """Which pictures an epoch has, in their order: int64 indices of the split."""
        count, (index, workers) = len(self.split), self._shard
        order = np.arange(count, dtype=np.int64)
        if self._shuffle:
            order = np.random.default_rng((self._seed, epoch)).permutation(order)
            order = np.resize(order, -(-count // workers) * workers)
        return order[index::workers]

    def epochs(self, first: int = 0, count: int = 1) -> tf.data.Dataset:
        """The batches of some epochs, one after the other.

        Args:
            first: number of the first epoch.
            count: of epochs.

        Returns:
            A dataset of (float32 (B, crop, crop, 3), int64 (B,)): the network's input,
            and labels. No batch holds pictures of two epochs.

        Iterating over it raises tf.errors.OpError where no picture of a class can be read
        any more; under `raising` that is an ImageError.
        """
        tf = import_tensorflow()
        epochs = tf.data.Dataset.range(first, first + count)
        data = epochs.flat_map(self._epoch)
        if self._shuffle:  # nothing is ever left out
            data = data.apply(
                tf.data.experimental.assert_cardinality(count * self.steps)
            )
        options = tf.data.Options()
        options.deterministic = True
        off = tf.data.experimental.AutoShardPolicy.OFF  # `shard` has done it
        options.experimental_distribute.auto_shard_policy = off
        return data.prefetch(AHEAD).with_options(options)

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Iterate under this: what stopped the batches is raised as what it was.

        Raises:
            ImageError: no picture of a class can be read any more.
        """
        tf = import_tensorflow()
        try:
            yield
        except tf.errors.OpError as error:
            failure, self._failure = self._failure, None
            if failure is None:
                raise
            raise failure from error

    def _epoch(self, number: tf.Tensor) -> tf.data.Dataset:
        tf = import_tensorflow()
        order = tf.numpy_function(self.order, [number], tf.int64, stateful=False)
        data = tf.data.Dataset.from_tensor_slices(tf.ensure_shape(order, [None]))
        data = data.map(
            lambda index: self._one()(number, index), num_parallel_calls=self._threads
        )
        if not self._shuffle:
            data = data.filter(lambda picture, label, good: good)
        data = data.map(lambda picture, label, good: (picture, label))
        return data.batch(self._batch_size, drop_remainder=self._drop_remainder)

    def _one(self) -> Any:
        """The graph that makes one picture, traced once for all epochs."""
        tf = import_tensorflow()
        if self._function is None:
            number = tf.TensorSpec([], tf.int64)
            self._function = tf.function(
                self._picture, input_signature=[number, number]
            )
        return self._function

    def _picture(self, epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tf = import_tensorflow()
        side = self.preprocessing.resize
        pixels, good = tf.numpy_function(
            self._fetch, [index], (tf.uint8, tf.bool), stateful=False
        )
        pixels = tf.ensure_shape(pixels, (side, side, 3))
        seed = tf.stack([tf.constant(self._seed, tf.int64), epoch * PLACES + index])
        picture = augment(pixels, self._augmentation, self.preprocessing, seed)
        label = tf.gather(tf.constant(self.split.labels), index)
        return finished(picture, self.preprocessing), label, tf.ensure_shape(good, [])

    def _fetch(self, index: np.int64) -> tuple[np.ndarray, np.bool_]:
        """The pixels of a picture, or those of its stand-in."""
        for candidate in self._candidates(int(index)):
            path = self.split.paths[candidate]
            if path not in self.broken:
                try:
                    return self._pixels[candidate], np.bool_(True)
                except ImageError as error:
                    self.broken[path] = str(error)
        if not self._shuffle:
            side = self.preprocessing.resize
            return np.zeros((side, side, 3), np.uint8), np.bool_(False)
        self._failure = self.failure("no picture of a class", int(index))
        raise self._failure

    def failure(self, what: str, index: int = 0) -> ImageError:
        """The error that says what cannot be read any more, with a reason."""
        reason = self.broken[self.split.paths[index]]
        return ImageError(f"{what} can be read any more, not even {reason}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        if self._shuffle:
            members = np.flatnonzero(self.split.labels == self.split.labels[index])
            after = np.searchsorted(members, index) + 1
            yield from np.roll(members, -after)[:-1].tolist()


def finished(picture: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
    """A cropped picture as the network takes it.

    Args:
        picture: float32 (..., 3), RGB, 0..255.
        preprocessing: whose `order`, `mean` and `scale` are taken.

    Returns:
        float32 of the same shape.
    """
    tf = import_tensorflow()
    if preprocessing.order == "BGR":
        picture = picture[..., ::-1]
    picture -= tf.constant(preprocessing.mean, tf.float32)
    return picture if preprocessing.scale == 1 else picture * preprocessing.scale


def _check(
    split: Split,
    batch_size: int,
    shard: tuple[int, int],
    threads: int | None,
    seed: int,
) -> None:
    if not len(split):
        raise ValueError("expected pictures, got a split without any")
    if batch_size < 1:
        raise ValueError(f"expected a batch of at least 1 picture, got {batch_size}")
    if not 0 <= shard[0] < shard[1]:
        raise ValueError(
            f"expected a worker's number below that of workers, got {sanitize(shard)}"
        )
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    if not 0 <= seed <= LARGEST_SEED:
        raise ValueError(f"expected a seed of 0 to {LARGEST_SEED}, got {seed}")
