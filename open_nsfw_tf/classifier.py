"""Pictures in, scores out: the loader and an engine behind one object."""

import os
from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from functools import cache
from itertools import chain
from threading import Event, Lock
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
    load_rgb,
    read_file,
    yahoo_tensor,
)
from open_nsfw_tf.picture import check_max_pixels
from open_nsfw_tf.pipeline import chunks, in_order
from open_nsfw_tf.weights import find_weights

MAX_BATCH_SIZE = 1024  # pictures: 600 MB before the first layer
BATCH_SIZE = 4  # pictures; larger batches are no faster on a CPU


def cores() -> int:
    """How many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Scores(NamedTuple):
    """What the network says of a picture; the two sum to one.

    Attributes:
        sfw: probability that it is safe for work, 0..1.
        nsfw: probability that it is pornographic, 0..1.
    """

    sfw: float
    nsfw: float


NO_SCORES = Scores(float("nan"), float("nan"))  # the place of scores to come


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
        workers: threads of `classify_many`; None: one for each core.

    Attributes:
        engine: that is in use; it may be called with batches.
        engine_name, source, precision, threads, device: what it was made of, so that
            others like it can be made; the name is never "auto".

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
        workers: int | None = None,
    ) -> None:
        self.engine_name = engines.first(precision) if engine == "auto" else engine
        self.source = weights if isinstance(weights, dict) else find_weights(weights)
        self.precision = precision
        self.threads = threads
        self.device = device
        check_max_pixels(max_pixels)
        self.max_pixels = max_pixels
        self.workers = engines.check_count(
            cores() if workers is None else workers, "worker"
        )
        self.engine = engines.create(
            self.engine_name, self.source, precision, threads, device
        )
        self._workers_engine: engines.Engine | None = None
        self._making, self._decoding = Lock(), Lock()

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
        return self._finite(self.engine, batch)

    def _finite(self, engine: engines.Engine, batch: np.ndarray) -> np.ndarray:
        scores = engine(batch)
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

        The classifier's workers decode and score side by side. The iterable is read in
        the caller's thread, and no more than some `batch_size` pictures a worker ahead,
        so an endless one is fine. Closing the iterator that is returned ends the work.

        Args:
            pictures: of the kinds that `classify` takes. Arrays and images are used some
                time after they were given: they must not be changed meanwhile.
            batch_size: pictures that the engine gets at once.
            errors: "raise" stops at a picture that cannot be read, after the scores of
                those before it; "yield" gives its `ImageError` in its place and goes on.

        Yields:
            One `Scores` (or `ImageError`) a picture.

        Raises:
            ValueError: `batch_size` is below 1, or `errors` is neither word.
            TypeError: one picture was given instead of an iterable of them.
        """
        if not _is_whole(batch_size) or not 1 <= batch_size <= MAX_BATCH_SIZE:
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
        feed = chunks(map(self._taken, pictures), batch_size)
        first = next(feed, [])
        results: Generator[list[Scores | ImageError], None, None]
        if len(first) < batch_size:  # too few to share
            results = (self._chunk(c, self.engine) for c in chain([first], feed))
        else:
            engine = self._shared_engine()
            results = in_order(
                lambda chunk, stopped: self._chunk(chunk, engine, stopped),
                chunks(
                    chain.from_iterable(chain([first], feed)), batch_size, self.workers
                ),
                self.workers,
            )
        with closing(results):
            for result in chain.from_iterable(results):
                if isinstance(result, ImageError) and not go_on:
                    raise result
                yield result

    def _taken(self, picture: Picture) -> Picture | ImageError:
        """What another thread may work on: files are read in their order."""
        if not hasattr(picture, "read"):
            return picture
        try:
            return read_file(picture)
        except ImageError as error:
            return error

    def _chunk(
        self,
        pictures: list[Picture | ImageError],
        engine: engines.Engine,
        stopped: Event | None = None,
    ) -> list[Scores | ImageError]:
        """Decode and score some pictures, in one thread."""
        shape = (len(pictures), INPUT_SIZE, INPUT_SIZE, CHANNELS)
        batch = np.empty(shape, np.float32)
        results: list[Scores | ImageError] = []
        filled = 0
        for picture in pictures:
            if stopped and stopped.is_set():
                return []
            try:
                batch[filled] = self._decoded(picture)
            except ImageError as error:
                results.append(error)
            else:
                filled += 1
                results.append(NO_SCORES)
        rows = iter(self._finite(engine, batch[:filled]) if filled else ())
        return [
            result if isinstance(result, ImageError) else _scores(next(rows))
            for result in results
        ]

    def _decoded(self, picture: Picture | ImageError) -> np.ndarray:
        if isinstance(picture, ImageError):
            raise picture
        if hasattr(picture, "getbands"):  # a PIL image
            with self._decoding:  # a lazy image may come twice, and decodes once
                picture = load_rgb(picture, self.max_pixels)
        return yahoo_tensor(picture, self.max_pixels)

    def _shared_engine(self) -> engines.Engine:
        """The engine of the workers, each of which computes with a core of its own.

        Measured: two threads that decode and then compute, each with one thread, are
        1.3 times as fast as two that compute with both cores.
        """
        alone = self.device not in (None, "cpu") or self.workers == 1
        if alone or not engines.ENGINES[self.engine_name].divisible:
            return self.engine
        with self._making:
            if self._workers_engine is None:
                self._workers_engine = engines.create(
                    self.engine_name,
                    self.source,
                    self.precision,
                    self.threads or 1,
                    self.device,
                    self.workers,
                )
            return self._workers_engine


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


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
