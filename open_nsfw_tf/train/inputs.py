"""Batches of pictures, or of a frozen body's features, from seed and epoch alone.

Pixels come from the exact loader, by Pillow in threads: TensorFlow's ops that give the
same pixels take 1.5 times as long (`benchmarks/README.md`). The pixels before the crop
are cached in memory if they fit: after the crop every epoch differs. Epoch number e
depends on the seed and on e alone, so a run that is resumed there sees the same
batches. So does the augmentation of a picture: on seed, epoch and index in the split,
not on the worker.

Where only a head is trained, the body gives the same numbers in every epoch: they are
computed in one pass and cached on disk, and an epoch of the head then takes a fraction
of a second.
"""

from __future__ import annotations

import hashlib
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import replacing, stamp_of
from open_nsfw_tf.image import (
    MAX_PIXELS,
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
VERSION = 1  # of how features are computed and cached


class Batches(ABC):
    """Batches of inputs and labels, by epoch.

    Attributes:
        broken: path and reason of pictures that broke since they were checked.
    """

    broken: dict[str, str]

    @property
    @abstractmethod
    def steps(self) -> int:
        """Batches in an epoch."""

    @abstractmethod
    def epochs(self, first: int = 0, count: int = 1) -> tf.data.Dataset:
        """The batches of some epochs, one after the other: inputs and int64 labels."""

    @contextmanager
    def raising(self) -> Iterator[None]:
        """Iterate under this: an error that stops the batches is raised as it was."""
        yield


def _order(count: int, shuffle: bool, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch: int64 indices."""
    order = np.arange(count, dtype=np.int64)
    return np.random.default_rng((seed, epoch)).permutation(order) if shuffle else order


class Pixels:
    """The pictures of a split before the crop, made when first asked for.

    They are decoded, resized, and saved as JPEG and loaded if `Preprocessing.jpeg` is
    set: those of `open_nsfw_tf.image.pixels` before its crop, bit for bit. Threads may
    ask at the same time.

    Args:
        split: the pictures.
        preprocessing: of which all but the crop is done.
        cache: whether pixels are cached in memory; None: if a quarter of the machine's
            memory is enough.
        max_pixels: larger pictures count as broken.

    Attributes:
        cached: whether they are.
        dtype: of the pixels: float32 where they are resized with aligned corners, to
            values with fractions, else uint8.

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
        self._paths, self._max_pixels = split.paths, max_pixels
        self._preprocessing = replace(preprocessing, crop=preprocessing.resize)
        shape = (len(split), preprocessing.resize, preprocessing.resize, 3)
        self.dtype = np.dtype(np.float32 if preprocessing.aligned else np.uint8)
        size = int(np.prod(shape, dtype=np.int64)) * self.dtype.itemsize
        self.cached = size <= SHARE * _machines_memory() if cache is None else cache
        self._cache = np.empty(shape if self.cached else 0, self.dtype)
        self._filled = np.zeros(len(split), bool)

    def __getitem__(self, index: int) -> np.ndarray:
        """One picture.

        Returns:
            `dtype` (resize, resize, 3), RGB, 0..255; not to be written to.

        Raises:
            ImageError: the picture cannot be read.
        """
        if self._filled[index]:
            return self._cache[index]  # type: ignore[no-any-return]
        picture = load_rgb(self._paths[index], self._max_pixels)
        made = pixels(picture, self._preprocessing)
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
class Inputs(Batches):
    """The pictures of a split as batches.

    A picture that breaks after it was checked stops nothing. In training (`shuffle`)
    the next one of its class replaces it, so that all epochs and all workers have the
    same number of steps; otherwise it is left out. `broken` names it.

    Attributes:
        split: the pictures; at least one.
        preprocessing: of the network that is fed.
        batch_size: pictures a batch, of this worker.
        augmentation: None: the middle of every picture, as the network will see it.
        shuffle: another order every epoch; False: the split's own.
        seed: of order and augmentation.
        cache: see `Pixels`.
        shard: (index, count) of this worker. In training every worker gets the same
            number of pictures; if they do not divide evenly, the first ones are
            repeated. The batches of all workers together are those of one worker with
            as large batches.
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
        order = _order(count, self.shuffle, self.seed, epoch)
        if self.shuffle:
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

        Iterating over it raises tf.errors.OpError where no picture of a class can be
        read any more; under `raising` that is an ImageError.
        """
        tf = import_tensorflow()
        epochs = tf.data.Dataset.range(first, first + count)
        # Nothing here needs AutoGraph, which takes seconds to find that out.
        unconverted = tf.autograph.experimental.do_not_convert(self._epoch)
        data = epochs.flat_map(unconverted)
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
        """As `Batches.raising`.

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
            lambda index: self._one(number, index),
            num_parallel_calls=self.threads or os.cpu_count() or 1,
        )
        if not self.shuffle:
            data = data.filter(lambda picture, label, good: good)
        data = data.map(lambda picture, label, good: (picture, label))
        return data.batch(self.batch_size, drop_remainder=self.drop_remainder)

    @cached_property
    def _one(self) -> Any:
        """The graph that makes one picture, traced once for all epochs."""
        tf = import_tensorflow()
        number = tf.TensorSpec([], tf.int64)
        return tf.function(
            self._picture, input_signature=[number, number], autograph=False
        )

    def _picture(self, epoch: tf.Tensor, index: tf.Tensor) -> tuple[tf.Tensor, ...]:
        tf = import_tensorflow()
        side = self.preprocessing.resize
        fetched, good = tf.numpy_function(
            self._fetch, [index], (self._pixels.dtype, tf.bool), stateful=False
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
            return np.zeros((side, side, 3), self._pixels.dtype), np.bool_(False)
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


# -- features of a frozen body


@dataclass(frozen=True, eq=False)
class Features:
    """The features of pictures.

    Attributes:
        values: float32 (N, F), memory-mapped, read only.
        labels: int64 (N,).
        broken: path and reason of pictures that broke since they were checked, which
            have no row.
        cached: whether they were found on disk.
    """

    values: np.ndarray
    labels: np.ndarray
    broken: dict[str, str] = field(default_factory=dict)
    cached: bool = False


def features(
    body: Any,
    split: Split,
    preprocessing: Preprocessing,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    progress: Callable[[int], None] = lambda pictures: None,
) -> Features:
    """Compute the features of pictures, or read them from the cache.

    They are cached under a digest of the body's weights and precision, the
    preprocessing, and the pictures' paths, sizes and times: if any of them changed, the
    features are computed again.
    The files, ``features-*.npy`` and ``rows-*.npy``, can be removed at any time.

    Args:
        body: a keras.Model from float32 (N, crop, crop, 3) to (N, F), as
            `open_nsfw_tf.backbones.body_of` gives it; run as in inference.
        split: the pictures, seen once and in their order, without augmentation.
        preprocessing: of the body.
        folder: of the cache; made if it is not there.
        batch_size: pictures at once.
        max_pixels: larger pictures count as broken.
        progress: called with the number of pictures of every batch.

    Raises:
        OSError: they cannot be written into the folder.
        ImageError: no picture can be read any more.
    """
    inputs = Inputs(
        split,
        preprocessing,
        batch_size=batch_size,
        cache=False,
        max_pixels=max_pixels,
    )
    cache = Path(os.fsdecode(folder))
    cache.mkdir(parents=True, exist_ok=True)
    key = _key(body, split, preprocessing)
    values, rows = (cache / f"{name}-{key}.npy" for name in ("features", "rows"))
    cached = _read(values, rows, len(split), body.output_shape[-1])
    if cached is None:
        _compute(body, inputs, values, rows, progress)
        cached = _read(values, rows, len(split), body.output_shape[-1])
        if cached is None:
            raise OSError(f"{values}: the features changed while they were written")
        return Features(cached[0], split.labels[cached[1]], inputs.broken)
    lost = np.setdiff1d(np.arange(len(split)), cached[1])
    reason = "it could not be read when its features were computed"
    broken = {split.paths[row]: f"{split.paths[row]}: {reason}" for row in lost}
    return Features(cached[0], split.labels[cached[1]], broken, cached=True)


@dataclass(eq=False)
class FeatureBatches(Batches):
    """Batches of features, in the order in which `Inputs` would give the pictures.

    Attributes:
        found: the features.
        batch_size: rows a batch.
        shuffle: another order every epoch, the one that `Inputs` would give.
        seed: of the order.
    """

    found: Features
    _: KW_ONLY
    batch_size: int
    shuffle: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        self.broken = self.found.broken

    @property
    def steps(self) -> int:
        """Batches in an epoch."""
        return -(-len(self.found.labels) // self.batch_size)

    def epochs(self, first: int = 0, count: int = 1) -> tf.data.Dataset:
        """A dataset of (float32 (B, F), int64 (B,)) for some epochs."""
        tf = import_tensorflow()
        width = self.found.values.shape[1]
        return tf.data.Dataset.from_generator(
            lambda: self._batches(range(first, first + count)),
            output_signature=(
                tf.TensorSpec((None, width), tf.float32),
                tf.TensorSpec((None,), tf.int64),
            ),
        )

    def _batches(self, epochs: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        values, labels = self.found.values, self.found.labels
        for epoch in epochs:
            order = _order(len(labels), self.shuffle, self.seed, epoch)
            for start in range(0, len(order), self.batch_size):
                rows = order[start : start + self.batch_size]
                yield values[rows], labels[rows]


def _files_digest(split: Split) -> bytes:
    """A digest of the pictures' paths, sizes and times, and of their order."""
    known = hashlib.sha256()
    for path in split.paths:
        # None: it is gone since it was found.
        state = " ".join(map(str, stamp_of(path) or ["none"]))
        known.update(os.fsencode(path) + f"\0{state}\0".encode())
    return known.digest()


def _key(body: Any, split: Split, preprocessing: Preprocessing) -> str:
    known = hashlib.sha256(f"{VERSION} {preprocessing}".encode())
    known.update(_files_digest(split))
    # No names: Keras numbers layers from process to process as they are made.
    for layer in body.layers:
        shape = getattr(layer.output, "shape", None)
        known.update(f"{type(layer).__name__} {layer.compute_dtype} {shape}".encode())
    for weight in body.weights:
        array = np.ascontiguousarray(weight)
        known.update(f"{array.shape} {array.dtype}".encode())
        known.update(array.data)
    return known.hexdigest()[:16]


def _read(
    values: Path, rows: Path, pictures: int, width: int
) -> tuple[np.ndarray, np.ndarray] | None:
    """What is cached, if it is whole: features, and the index of each one's picture."""
    try:
        found = np.load(values, mmap_mode="r", allow_pickle=False)
        which = np.load(rows, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    whole = (
        found.dtype == np.float32
        and found.shape == (len(which), width)
        and which.dtype == np.int64
        and which.ndim == 1
        and 0 < len(which) <= pictures
        and bool(np.all(np.diff(which, prepend=-1) > 0))
        and which[-1] < pictures
    )
    return (found, which) if whole else None


def _compute(
    body: Any,
    inputs: Inputs,
    values: Path,
    rows: Path,
    progress: Callable[[int], None],
) -> None:
    """One pass over all pictures, whose features are written as they come."""
    tf = import_tensorflow()
    spec = tf.TensorSpec([None, *body.input_shape[1:]], tf.float32)
    forward = tf.function(lambda batch: body(batch, training=False), autograph=False)
    # Traced at once: otherwise TensorFlow warns that earlier bodies were traced too.
    run = forward.get_concrete_function(spec)
    count, width = 0, body.output_shape[-1]
    with replacing(values) as unfinished, unfinished.open("wb") as file:
        _write_header(file, (0, width))
        for batch, _ in inputs.epochs():
            made = np.asarray(run(batch), np.float32)
            file.write(made.tobytes())
            count += len(made)
            progress(len(made))
        file.seek(0)
        # NumPy leaves room in a header for the first axis to grow.
        _write_header(file, (count, width))
        paths = enumerate(inputs.split.paths)
        good = [row for row, path in paths if path not in inputs.broken]
        if not good:
            raise inputs.failure("no picture")
        with replacing(rows) as other, other.open("wb") as target:
            np.save(target, np.array(good, np.int64), allow_pickle=False)


def _write_header(file: Any, shape: tuple[int, int]) -> None:
    head = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(file, head)
