"""The features of a frozen body, computed once and cached on disk.

Where only a head is trained, the body gives the same numbers in every epoch: they are
computed in one pass, and an epoch of the head then takes a fraction of a second.
"""

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.files import replacing
from open_nsfw_tf.image import MAX_PIXELS, Preprocessing
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.train.data import Split
from open_nsfw_tf.train.inputs import Inputs

VERSION = 1  # of how features are computed and cached


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

    They are cached under a digest of the body's weights and precision, the preprocessing,
    and the pictures' paths, sizes and times: if any of them changed, the
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


class FeatureBatches:
    """Batches of features, in the order in which `Inputs` would give the pictures.

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
        """As `Inputs.raising`; reading features raises no error of its own."""
        yield

    def _batches(self, epochs: range) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for epoch in epochs:
            order = np.arange(len(self.labels))
            if self._shuffle:
                order = np.random.default_rng((self._seed, epoch)).permutation(order)
            for start in range(0, len(order), self._batch_size):
                rows = order[start : start + self._batch_size]
                yield self.values[rows], self.labels[rows]


def _files_digest(split: Split) -> bytes:
    """A digest of the pictures' paths, sizes and times, and of their order."""
    known = hashlib.sha256()
    for path in split.paths:
        try:
            status = os.stat(path)
            state = f"{status.st_size} {status.st_mtime_ns}"
        except OSError:  # gone since it was found
            state = "none"
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
    forward = tf.function(lambda batch: body(batch, training=False))
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
