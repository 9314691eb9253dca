"""The features of a frozen body, computed once and kept on disk.

Where only a head is trained, the body gives the same numbers in every epoch: they are
computed in one pass, and an epoch of the head then takes a fraction of a second.
"""

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.image import MAX_PIXELS, Preprocessing
from open_nsfw_tf.train.data import Split
from open_nsfw_tf.train.inputs import Inputs
from open_nsfw_tf.train.pixels import files_digest

VERSION = 1  # of how features are computed and kept


@dataclass(frozen=True, eq=False)
class Features:
    """What a frozen body sees in pictures.

    Attributes:
        values: float32 (N, F), memory-mapped, read only.
        labels: int64 (N,).
        broken: path and reason of pictures that broke since they were checked, which
            have no row.
        kept: whether they were found on disk.
    """

    values: np.ndarray
    labels: np.ndarray
    broken: dict[str, str] = field(default_factory=dict)
    kept: bool = False


def features(
    body: Any,
    split: Split,
    preprocessing: Preprocessing,
    folder: str | os.PathLike[str],
    *,
    batch_size: int = 32,
    max_pixels: int = MAX_PIXELS,
    threads: int | None = None,
    seen: Callable[[int], None] = lambda pictures: None,
) -> Features:
    """Compute the features of pictures, or find them where they were kept.

    They are kept under a digest of the body's weights and precision, the preprocessing,
    and the pictures' paths, sizes and times: where any of them changed they are computed again.
    The files, ``features-*.npy`` and ``rows-*.npy``, can be removed at any time.

    Args:
        body: a keras.Model from float32 (N, crop, crop, 3) to (N, F), as
            `open_nsfw_tf.backbones.body_of` gives it; run as in inference.
        split: the pictures, seen once and in their order, without augmentation.
        preprocessing: of the body.
        folder: where they are kept; made if it is not there.
        batch_size: pictures at once.
        max_pixels: larger pictures count as broken.
        threads: that decode; None: as many as there are processors.
        seen: called with the number of pictures of every batch.

    Raises:
        OSError: they cannot be kept in the folder.
        ImageError: no picture can be read any more.
    """
    inputs = Inputs(
        split,
        preprocessing,
        batch_size=batch_size,
        cache=None,
        max_pixels=max_pixels,
        threads=threads,
    )
    place = Path(os.fsdecode(folder))
    place.mkdir(parents=True, exist_ok=True)
    key = _key(body, split, preprocessing)
    values, rows = (place / f"{name}-{key}.npy" for name in ("features", "rows"))
    kept = _read(values, rows, len(split), body.output_shape[-1])
    if kept is None:
        _compute(body, inputs, values, rows, seen)
        kept = _read(values, rows, len(split), body.output_shape[-1])
        if kept is None:
            raise OSError(f"{values}: the features changed while they were written")
        return Features(kept[0], split.labels[kept[1]], inputs.broken)
    lost = np.setdiff1d(np.arange(len(split)), kept[1])
    reason = "it could not be read when its features were computed"
    broken = {split.paths[row]: f"{split.paths[row]}: {reason}" for row in lost}
    return Features(kept[0], split.labels[kept[1]], broken, kept=True)


def _key(body: Any, split: Split, preprocessing: Preprocessing) -> str:
    known = hashlib.sha256(f"{VERSION} {preprocessing}".encode())
    known.update(files_digest(split))
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
    """What was kept, if it is whole: features, and the picture of each."""
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
    seen: Callable[[int], None],
) -> None:
    """One pass over all pictures, whose features are written as they come."""
    tf = import_tensorflow()
    spec = tf.TensorSpec([None, *body.input_shape[1:]], tf.float32)
    look = tf.function(lambda batch: body(batch, training=False))
    # Made at once: no warning that bodies before were traced too.
    run = look.get_concrete_function(spec)
    count, width = 0, body.output_shape[-1]
    with replacing(values) as unfinished, unfinished.open("wb") as file:
        _write_header(file, (0, width))
        for batch, _ in inputs.epochs():
            made = np.asarray(run(batch), np.float32)
            file.write(made.tobytes())
            count += len(made)
            seen(len(made))
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
