"""Pictures in, scores out: the loader and an engine behind one object."""

import os
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import islice
from threading import Lock
from typing import Literal, NamedTuple, overload

import numpy as np

from open_nsfw_tf import engines
from open_nsfw_tf.architecture import (
    CHANNELS,
    CLASSES,
    INPUT_SIZE,
    Weights,
    WeightsError,
)
from open_nsfw_tf.image import (
    MAX_PIXELS,
    ImageError,
    Picture,
    check_batch,
    yahoo_tensor,
)
from open_nsfw_tf.picture import check_max_pixels
from open_nsfw_tf.weights import find_weights

MAX_BATCH_SIZE = 1024  # pictures: 600 MB before the first layer
BATCH_SIZE = 16  # pictures; larger batches are no faster on a CPU


class Scores(NamedTuple):
    """What the network says of a picture; the two sum to one.

    Attributes:
        sfw: probability that it is safe for work, 0..1.
        nsfw: probability that it is pornographic, 0..1.
    """

    sfw: float
    nsfw: float


class Classifier:
    """Scores pictures as Yahoo's Caffe pipeline did. Safe to share between threads.

    Args:
        engine: a key of `open_nsfw_tf.engines.ENGINES`, or "auto": the fastest exact
            engine that is installed.
        weights: the path of a weights file in any known format, the canonical dict, or
            None to search as `open_nsfw_tf.weights.find_weights` does.
        precision: "float32" is exact; others that the engine offers are approximate.
        threads: for the operations of one batch; None leaves it to the engine.
        max_pixels: larger pictures are refused.
        device: that the engine computes on: "cpu", "cuda:1", "gpu:0", as it calls them;
            None leaves it to the engine.

    Attributes:
        engine: that is in use; it may be called with batches.
        engine_name, source, precision, threads, device: what it was made of, so that
            others like it can be made.

    Raises:
        WeightsError: the weights are not found, not readable or do not fit.
        ValueError: an unknown engine, precision or device.
        RuntimeError: the device did not start.
        ImportError: the engine's package is missing; the message says how to install.
    """

    def __init__(
        self,
        engine: str = "auto",
        weights: str | os.PathLike[str] | Weights | None = None,
        precision: str = "float32",
        threads: int | None = None,
        max_pixels: int = MAX_PIXELS,
        device: str | None = None,
    ) -> None:
        self.engine_name = engine
        self.source = weights if isinstance(weights, dict) else find_weights(weights)
        self.precision = precision
        self.threads = threads
        self.device = device
        self.engine = engines.create(engine, self.source, precision, threads, device)
        check_max_pixels(max_pixels)
        self.max_pixels = max_pixels

    def predict(self, batch: np.ndarray) -> np.ndarray:
        """Score a preprocessed batch.

        Args:
            batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123), as
                `create_yahoo_image_loader` gives it.

        Returns:
            float32 (N, 2), softmax, columns SFW, NSFW.

        Raises:
            ValueError: the batch has another shape or dtype, or NaN in it.
            WeightsError: the weights give scores that are no numbers.
        """
        batch = check_batch(batch)
        if not len(batch):
            return np.empty((0, CLASSES), np.float32)
        scores = self.engine(batch)
        if not np.isfinite(scores).all():
            raise WeightsError(
                "the scores are not finite: expected weights, and pictures minus their "
                "mean, that do not overflow; check the weights file"
            )
        return scores

    def classify(self, picture: Picture) -> Scores:
        """Score one picture.

        Args:
            picture: a path, bytes, a binary file, a PIL image, or a uint8 RGB array
                (height, width, 3).

        Raises:
            ImageError: the picture cannot be read; the message names it.
        """
        batch = yahoo_tensor(picture, self.max_pixels)[np.newaxis]
        return _scores(self.predict(batch)[0])

    @overload
    def classify_many(
        self,
        pictures: Iterable[Picture],
        batch_size: int = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[Scores]: ...

    @overload
    def classify_many(
        self, pictures: Iterable[Picture], batch_size: int, errors: Literal["yield"]
    ) -> Iterator[Scores | ImageError]: ...

    @overload
    def classify_many(
        self, pictures: Iterable[Picture], *, errors: Literal["yield"]
    ) -> Iterator[Scores | ImageError]: ...

    def classify_many(
        self,
        pictures: Iterable[Picture],
        batch_size: int = BATCH_SIZE,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[Scores | ImageError]:
        """Score any number of pictures, lazily and in their order.

        At most `batch_size` pictures are held at a time, so an endless iterable is fine.

        Args:
            pictures: of the kinds that `classify` takes.
            batch_size: pictures that the engine gets at once.
            errors: "raise" stops at a picture that cannot be read, after the scores of
                those before it; "yield" gives its `ImageError` in its place and goes on.

        Yields:
            One `Scores` (or `ImageError`) a picture.

        Raises:
            ValueError: `batch_size` is below 1, or `errors` is neither word.
            TypeError: one picture was given instead of an iterable of them.
        """
        if not isinstance(batch_size, int) or not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(
                f"expected a batch_size of 1 to {MAX_BATCH_SIZE}, got {batch_size!r:.80}"
            )
        if errors not in ("raise", "yield"):
            raise ValueError(f"expected errors 'raise' or 'yield', got {errors!r}")
        one = isinstance(pictures, str | bytes | bytearray | memoryview | os.PathLike)
        if one or hasattr(pictures, "read") or hasattr(pictures, "getbands"):
            raise TypeError("expected an iterable of pictures; classify() takes one")
        if isinstance(pictures, np.ndarray) and pictures.ndim < 4:
            raise TypeError("expected an iterable of pictures; classify() takes one")
        return self._stream(iter(pictures), batch_size, errors == "yield")

    def _stream(
        self, pictures: Iterator[Picture], batch_size: int, go_on: bool
    ) -> Iterator[Scores | ImageError]:
        batch = np.empty((batch_size, INPUT_SIZE, INPUT_SIZE, CHANNELS), np.float32)
        while chunk := list(islice(pictures, batch_size)):
            failed: dict[int, ImageError] = {}
            filled = 0
            for index, picture in enumerate(chunk):
                try:
                    batch[filled] = yahoo_tensor(picture, self.max_pixels)
                    filled += 1
                except ImageError as error:
                    failed[index] = error
                    if not go_on:
                        break
            rows = iter(self.predict(batch[:filled]))
            for index in range(filled + len(failed)):
                if index not in failed:
                    yield _scores(next(rows))
                elif go_on:
                    yield failed[index]
                else:
                    raise failed[index]


def _scores(row: np.ndarray) -> Scores:
    return Scores(float(row[0]), float(row[1]))


_default_lock = Lock()


@cache
def _default() -> Classifier:
    return Classifier()


def classify(picture: Picture) -> Scores:
    """Score one picture with the default classifier, which is made at the first call.

    Args:
        picture: as for `Classifier.classify`.

    Raises:
        ImageError: the picture cannot be read.
        WeightsError: no weights are found.
    """
    with _default_lock:  # or threads that come together would each make one
        classifier = _default()
    return classifier.classify(picture)
