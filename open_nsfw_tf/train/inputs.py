"""Batches of pictures, the same ones for the same seed and epoch.

Pixels come from the exact loader, by Pillow in threads: TensorFlow's ops that give the
same pixels take 1.5 times as long (`benchmarks/README.md`). The pixels before the crop are
cached in memory if they fit: after the crop every epoch differs. Epoch number e depends on
the seed and on e alone, so a run that is resumed there sees the same batches. So does the
augmentation of a picture: on seed, epoch and index in the split, not on the worker.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import (
    MAX_PIXELS,
    Picture,
    Preprocessing,
    check_max_pixels,
    load_rgb,
    pixels,
)
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.parallel import check_count
from open_nsfw_tf.train.augment import Augmentation, augment
from open_nsfw_tf.train.data import Split

if TYPE_CHECKING:
    import tensorflow as tf

EPOCH_SEEDS = 1 << 32  # more than a split has pictures
LARGEST_SEED = (1 << 63) - 1  # what TensorFlow takes
AHEAD = 2  # batches that are made before they are needed
UNCHANGED = Augmentation(flip=False, crop=False)
SHARE = 0.25  # of the machine's memory that cached pixels take at most
UNKNOWN_MEMORY = 1 << 34  # bytes, where the system does not say


def resized(
    picture: Picture, preprocessing: Preprocessing, max_pixels: int = MAX_PIXELS
) -> np.ndarray:
    """A picture before the crop: decoded, resized, and through JPEG if `jpeg` is set.

    Args:
        picture: as for `open_nsfw_tf.image.load_rgb`.
        preprocessing: whose `resize` and `jpeg` are taken.
        max_pixels: as for `load_rgb`.

    Returns:
        uint8 (resize, resize, 3), RGB, 0..255; with Yahoo's preprocessing those of
        `open_nsfw_tf.image.pixels` before its crop, bit for bit.

    Raises:
        ImageError: the picture cannot be read.
    """
    whole = replace(preprocessing, crop=preprocessing.resize)
    return pixels(load_rgb(picture, max_pixels), whole)


class Pixels:
    """The pictures of a split as `resized` makes them, made when first asked for.

    Threads may ask at the same time.

    Args:
        split: the pictures.
        preprocessing: as for `resized`.
        cache: whether pixels are cached in memory; None: if a quarter of the machine's
            memory is enough.
        max_pixels: as for `resized`.

    Attributes:
        cached: whether they are.

    Raises:
        ValueError: `max_pixels` is not a number of pixels.
    """

    def __init__(
        self,
        split: Split,
        preprocessing: Preprocessing,
        cache: bool | None = None,
        max_pixels: int = MAX_PIXELS,
    ) -> None:
        check_max_pixels(max_pixels)
        self._paths, self._preprocessing = split.paths, preprocessing
        self._max_pixels = max_pixels
        shape = (len(split), preprocessing.resize, preprocessing.resize, 3)
        size = int(np.prod(shape, dtype=np.int64))
        self.cached = size <= SHARE * _machines_memory() if cache is None else cache
        self._cache = np.empty(shape if self.cached else 0, np.uint8)
        self._filled = np.zeros(len(split), bool)

    def __getitem__(self, index: int) -> np.ndarray:
        """One picture.

        Returns:
            uint8 (resize, resize, 3), RGB, 0..255; not to be written to.

        Raises:
            ImageError: the picture cannot be read.
        """
        if self._filled[index]:
            return self._cache[index]  # type: ignore[no-any-return]
        made = resized(self._paths[index], self._preprocessing, self._max_pixels)
        if self.cached:  # the system provides the memory as it is filled
            self._cache[index] = made
            self._filled[index] = True
        return made


def _machines_memory() -> int:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows
        return UNKNOWN_MEMORY


@dataclass(eq=False)
class Inputs:
    """The pictures of a split as batches.

    A picture that breaks after it was checked stops nothing. In training (`shuffle`) the
    next one of its class replaces it, so that all epochs and all workers have the same
    number of steps; otherwise it is left out. `broken` names it.

    Attributes:
        split: the pictures; at least one.
        preprocessing: of the network that is fed.
        batch_size: pictures a batch, of this worker.
        augmentation: None: the middle of every picture, as the network will see it.
        shuffle: another order every epoch; False: the split's own.
        seed: of order and augmentation.
        cache: see `Pixels`.
        shard: (index, count) of this worker. In training every worker gets the same
            number of pictures; if they do not divide evenly, the first ones are repeated.
            The batches of all workers together are those of one worker with as large
            batches.
        drop_remainder: leave out a last batch that is not full.
        max_pixels: larger pictures count as broken.
        threads: None: as many as there are processors.
        broken: path and reason of the pictures that broke meanwhile.

    Raises:
        ValueError: the split is empty, or a number makes no sense.
    """

    split: Split
    preprocessing: Preprocessing
    _: KW_ONLY
    batch_size: int
    augmentation: Augmentation | None = None
    shuffle: bool = False
    seed: int = 0
    cache: bool | None = None
    shard: tuple[int, int] = (0, 1)
    drop_remainder: bool = False
    max_pixels: int = MAX_PIXELS
    threads: int | None = None
    broken: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        self._check()
        self._pixels = Pixels(
            self.split, self.preprocessing, self.cache, self.max_pixels
        )
        self._failure: ImageError | None = None
        self._function: Any = None

    def _check(self) -> None:
        if not len(self.split):
            raise ValueError("expected pictures, got a split without any")
        if self.batch_size < 1:
            raise ValueError(
                f"expected a batch of at least 1 picture, got {self.batch_size}"
            )
        if not 0 <= self.shard[0] < self.shard[1]:
            raise ValueError(
                f"expected a worker's number below that of workers, got "
                f"{sanitize(self.shard)}"
            )
        check_count(self.threads, "thread")
        if not 0 <= self.seed <= LARGEST_SEED:
            raise ValueError(f"expected a seed of 0 to {LARGEST_SEED}, got {self.seed}")

    @property
    def steps(self) -> int:
        """Batches in an epoch; without `shuffle` fewer, if pictures broke."""
        pictures = len(self.order(0))
        partial = 0 if self.drop_remainder else self.batch_size - 1
        return (pictures + partial) // self.batch_size

    def order(self, epoch: int) -> np.ndarray:
        """Which pictures an epoch has, in their order: int64 indices of the split."""
        count, (index, workers) = len(self.split), self.shard
        order = np.arange(count, dtype=np.int64)
        if self.shuffle:
            order = np.random.default_rng((self.seed, epoch)).permutation(order)
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
        if self.shuffle:  # nothing is ever left out
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
        """Iterate under this, so that the error that stopped the batches is raised as it was.

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
            lambda index: self._one()(number, index),
            num_parallel_calls=self.threads or os.cpu_count() or 1,
        )
        if not self.shuffle:
            data = data.filter(lambda picture, label, good: good)
        data = data.map(lambda picture, label, good: (picture, label))
        return data.batch(self.batch_size, drop_remainder=self.drop_remainder)

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
        fetched, good = tf.numpy_function(
            self._fetch, [index], (tf.uint8, tf.bool), stateful=False
        )
        fetched = tf.ensure_shape(fetched, (side, side, 3))
        seed = tf.stack([tf.constant(self.seed, tf.int64), epoch * EPOCH_SEEDS + index])
        picture = augment(
            fetched, self.augmentation or UNCHANGED, self.preprocessing, seed
        )
        label = tf.gather(tf.constant(self.split.labels), index)
        return normalized(picture, self.preprocessing), label, tf.ensure_shape(good, [])

    def _fetch(self, index: np.int64) -> tuple[np.ndarray, np.bool_]:
        """The pixels of a picture, or of the one that stands in for it."""
        for candidate in self._candidates(int(index)):
            path = self.split.paths[candidate]
            if path not in self.broken:
                try:
                    return self._pixels[candidate], np.bool_(True)
                except ImageError as error:
                    self.broken[path] = str(error)
        if not self.shuffle:
            side = self.preprocessing.resize
            return np.zeros((side, side, 3), np.uint8), np.bool_(False)
        self._failure = self.failure("no picture of a class", int(index))
        raise self._failure

    def failure(self, what: str, index: int = 0) -> ImageError:
        """An error that says what cannot be read any more, and why."""
        reason = self.broken[self.split.paths[index]]
        return ImageError(f"{what} can be read any more, not even {reason}")

    def _candidates(self, index: int) -> Iterator[int]:
        yield index
        if self.shuffle:
            members = np.flatnonzero(self.split.labels == self.split.labels[index])
            after = np.searchsorted(members, index) + 1
            yield from np.roll(members, -after)[:-1].tolist()


def normalized(picture: tf.Tensor, preprocessing: Preprocessing) -> tf.Tensor:
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
