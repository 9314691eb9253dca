"""`Classifier`: from pictures to scores, by the exact loader and an engine.

No other code in the package turns pictures into scores.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cache, partial
from itertools import chain
from pathlib import Path
from threading import Event, Lock
from typing import Any, Literal, NamedTuple, Self, cast, overload

import numpy as np

from open_nsfw_tf import engines
from open_nsfw_tf.architecture import CHANNELS, LABELS, Weights
from open_nsfw_tf.backbones.trained import TrainedModel, read_trained
from open_nsfw_tf.errors import ImageError, WeightsError, sanitize
from open_nsfw_tf.forks import PerProcess
from open_nsfw_tf.image import (
    EXACT,
    MAX_PIXELS,
    YAHOO,
    Picture,
    Preprocessing,
    check_batch,
    check_decode,
    check_max_pixels,
    load_rgb,
    read_file,
    tensor,
)
from open_nsfw_tf.parallel import check_count, chunks, cores, in_order
from open_nsfw_tf.weights import find_weights

MAX_BATCH_SIZE = 1024  # pictures: 600 MB before the first layer
BATCH_SIZE = 4  # pictures; larger batches are no faster on a CPU
# Bytes of an array, 22 megapixels: `classify_many` scores larger ones one at a time, as
# several for each worker would need much memory.
LARGE = 1 << 26


class Scores(NamedTuple):
    """The network's scores of a picture; the two sum to one.

    Attributes:
        sfw: probability that it is safe for work, 0..1.
        nsfw: probability that it is pornographic, 0..1.
    """

    sfw: float
    nsfw: float


class ClassScores(tuple[float, ...]):
    """The scores of a picture by a model of other classes: one probability a class.

    It is a tuple in the order of the model's classes, which sums to one. The score of a
    class is ``scores["cat"]``, or ``scores.cat`` if that is a valid name in Python and
    not a method of a tuple.

    Args:
        classes: the names of the model's classes.
        scores: as many numbers, 0..1.

    Raises:
        ValueError: the numbers of classes and scores differ.
    """

    classes: tuple[str, ...]

    def __new__(cls, classes: Sequence[str], scores: Sequence[float]) -> Self:
        """Make the tuple from names and numbers."""
        if len(classes) != len(scores):
            raise ValueError(f"expected {len(classes)} scores, got {len(scores)}")
        instance = super().__new__(cls, scores)
        instance.classes = tuple(classes)
        return instance

    def __getnewargs__(self) -> tuple[Any, ...]:
        return self.classes, tuple(self)

    def __getitem__(self, key: Any) -> Any:
        """The score of a class, by its name or its index."""
        if not isinstance(key, str):
            return super().__getitem__(key)
        if key not in self.classes:
            raise KeyError(f"no class {key!r:.80}: there are {', '.join(self.classes)}")
        return super().__getitem__(self.classes.index(key))

    def __getattr__(self, name: str) -> float:
        if name not in self.__dict__.get("classes", ()):
            raise AttributeError(f"no class {name!r:.80}")
        score: float = self[name]
        return score

    def __repr__(self) -> str:
        pairs = zip(self.classes, self, strict=True)
        return f"ClassScores({', '.join(f'{name}={score!r}' for name, score in pairs)})"


AnyScores = Scores | ClassScores


@dataclass(frozen=True)
class Explanation:
    """What each part of a picture adds to the score of one class.

    `cells` and `bias` are the terms of a sum, the log-odds of the score:
    ``1 / (1 + exp(-(bias + cells.sum())))`` is the score of the class `of`. The network
    ends in an average over 7 x 7 places, one dense layer and a softmax, so this is
    arithmetic and no estimate. Each place also depends on the pixels around its cell.

    Attributes:
        scores: of the picture, as `Classifier.classify` gives them.
        of: the class that is explained.
        score: of this class.
        cells: float32 (rows, columns), 7 x 7 of Yahoo's network: what each place adds
            to the log-odds of `of` against the other classes. Together they cover the
            crop of `preprocessing`, the middle of the picture.
        bias: what is added whatever the picture shows. With more than two classes the
            log-odds are no sum over places: each of the other classes counts by its
            share of their scores in this picture, and the rest is in `bias`.
        preprocessing: the steps from a picture to the network's input.
    """

    scores: AnyScores
    of: str
    score: float
    cells: np.ndarray
    bias: float
    preprocessing: Preprocessing

    def area(self, row: int, column: int) -> tuple[float, float, float, float]:
        """A cell's left, top, right and bottom: shares of width and height, 0..1."""
        rows, columns = self.cells.shape
        size, crop = self.preprocessing.resize, self.preprocessing.crop
        edge = (size - crop) // 2
        left, right = (edge + crop * (column + i) / columns for i in (0, 1))
        top, bottom = (edge + crop * (row + i) / rows for i in (0, 1))
        return left / size, top / size, right / size, bottom / size


def log_odds(
    cells: np.ndarray, biases: np.ndarray, index: int
) -> tuple[np.ndarray, float]:
    """The terms of the log-odds of one class against the others.

    Args:
        cells: (rows, columns, classes), whose sum over the places, plus `biases`, is
            the logits.
        biases: (classes,).
        index: of the class.

    Returns:
        The terms of the places, (rows, columns), and the term of no place.
    """
    rest = np.arange(len(biases)) != index
    logits = (cells.sum((0, 1)) + biases)[rest]
    shares = np.exp(logits - logits.max())
    shares /= shares.sum()
    entropy = -float(shares @ np.log(np.maximum(shares, np.finfo(float).tiny)))
    terms: np.ndarray = cells[..., index] - cells[..., rest] @ shares
    return terms, float(biases[index] - biases[rest] @ shares) - entropy


def scores_of(classes: tuple[str, ...]) -> Callable[[list[float]], AnyScores]:
    """A function from a row of numbers to scores: to `Scores` for sfw and nsfw."""
    if classes == LABELS:
        return Scores._make
    return partial(ClassScores, classes)


NO_SCORES = Scores(float("nan"), float("nan"))  # replaced when the batch is computed


class Classifier:
    """Scores pictures as Yahoo's Caffe pipeline did. Safe to share between threads.

    Once a classifier is made, no change to a file, folder, setting or array changes its
    scores. It can be pickled, with its network (24 MB), and used in forked processes:
    there it gives the same scores, or raises RuntimeError at once if the engine's
    library works in one process only (tensorflow, openvino, graphics cards).

    With `model` it uses a network that `open-nsfw train` has trained, with the classes
    and the preprocessing of that model.

    Args:
        engine: a key of `open_nsfw_tf.engines.ENGINES`, or "auto": the fastest exact
            engine that is installed.
        weights: the path of a weights file in any known format, the canonical dict, or
            None to search as `open_nsfw_tf.weights.find_weights` does.
        precision: "float32" is exact; others that the engine offers are approximate.
        threads: for the operations of one batch; None leaves it to the engine.
        max_pixels: larger pictures are refused.
        device: that the engine computes on, by the engine's name for it: "cpu",
            "cuda:1", "gpu:0"; None leaves it to the engine.
        workers: threads of `classify_many`; None: one for each core.
        model: instead of weights, the folder of a trained model, or the result of
            `open_nsfw_tf.backbones.trained.read_trained`.
        decode: "exact"; or "scaled", which is approximate: files of large JPEGs are
            decoded to a smaller size, 2 to 3 times as fast. See docs/speed.md.

    Attributes:
        classes: the names of the scores, in order: sfw and nsfw, or the model's.
        preprocessing: the steps from a picture to the network's input.
        engine: the engine in use, which can be called with batches.
        engine_name, precision, threads, device, decode: how it computes; the name is
            never "auto".

    Raises:
        WeightsError: the weights are not found, not readable or do not fit.
        OSError: the model's folder cannot be read.
        ValueError: an unknown engine, precision, device or decode, or one that is not
            for this network; or both weights and a model are given.
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
        model: str | os.PathLike[str] | TrainedModel | None = None,
        decode: str = EXACT,
    ) -> None:
        source = network_source(weights, model)
        trained = source if isinstance(source, TrainedModel) else None
        self.classes = trained.classes if trained else LABELS
        self.preprocessing = trained.preprocessing if trained else YAHOO
        self._scores = scores_of(self.classes)
        self.engine_name = engines.choose(engine, precision, source)
        self.precision = precision
        self.threads = threads
        self.device = device
        check_max_pixels(max_pixels)
        self.max_pixels = max_pixels
        check_decode(decode, self.preprocessing)
        self.decode = decode
        check_count(workers, "worker")
        self.workers = cores() if workers is None else workers
        self.engine = engines.create(
            self.engine_name, source, precision, threads, device
        )
        self._renew()

    def _renew(self) -> None:
        """Set up what each process makes for itself when it is needed."""
        divided = partial(self.engine.divided, self.threads or 1, self.workers)
        self._shared = PerProcess(divided)
        self._decoding = PerProcess(Lock)

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        del state["_shared"], state["_decoding"]
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._renew()

    def predict(self, batch: np.ndarray, shared: bool = False) -> np.ndarray:
        """Score a preprocessed batch.

        Args:
            batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123), from
                `create_yahoo_image_loader`; for a model with another preprocessing,
                from `open_nsfw_tf.image.tensor`.
            shared: whether several threads call this at once. Then each batch is
                computed on one core, as in `classify_many`.

        Returns:
            float32 (N, 2), softmax, columns SFW, NSFW, or one column for each of
            `classes`.

        Raises:
            ValueError: the batch has another shape or dtype, or contains NaN.
            WeightsError: the weights give scores that are NaN or infinite.
        """
        batch = check_batch(batch, self.preprocessing.crop)
        if not len(batch):
            return np.empty((0, len(self.classes)), np.float32)
        engine = self._shared_engine() if shared else self.engine
        return self._finite(engine, batch)

    def _finite(self, engine: engines.Engine, batch: np.ndarray) -> np.ndarray:
        scores = engine(batch)
        _check_finite(scores)
        return scores

    def classify(self, picture: Picture) -> AnyScores:
        """Score one picture: `Scores`, or `ClassScores` of a model of other classes.

        Args:
            picture: a path, bytes, a binary file, a PIL image, or a uint8 RGB array
                (height, width, 3).

        Raises:
            ImageError: the picture cannot be read; the message names it.
        """
        loaded = self.prepare(picture, threads=self.workers)
        return self._scores(self.predict(loaded[np.newaxis])[0].tolist())

    def prepare(
        self, picture: Picture, max_pixels: int | None = None, threads: int = 1
    ) -> np.ndarray:
        """The network's input for one picture, for `predict`.

        Args:
            picture: as for `classify`.
            max_pixels: instead of the classifier's own.
            threads: that share the work on a large picture, where cores are idle.

        Returns:
            As `open_nsfw_tf.image.tensor`: float32 (224, 224, 3) of Yahoo's network.

        Raises:
            ImageError: the picture cannot be read; the message names it.
        """
        limit = self.max_pixels if max_pixels is None else max_pixels
        return tensor(picture, self.preprocessing, limit, self.decode, threads)

    def explain(self, picture: Picture, of: str | None = None) -> Explanation:
        """What each part of a picture adds to its score. The score is `classify`'s.

        Args:
            picture: as for `classify`.
            of: the class to explain; None: nsfw, or of a model without such a class the
                one with the highest score.

        Raises:
            ImageError: the picture cannot be read; the message names it.
            ValueError: the model has no class `of`, or does not end in the mean of each
                map, one dense layer and a softmax.
        """
        if of is not None and of not in self.classes:
            raise ValueError(
                f"no class {sanitize(of, 80)}: this model has {', '.join(self.classes)}"
            )
        batch = self.prepare(picture, threads=self.workers)[np.newaxis]
        found = self.engine.contributions(batch)
        _check_finite(found.scores)
        row = found.scores[0].tolist()
        if of is None:
            of = "nsfw" if "nsfw" in self.classes else self.classes[np.argmax(row)]
        index = self.classes.index(of)
        cells = found.cells[0].astype(np.float64)
        cells /= cells.shape[0] * cells.shape[1]
        terms, bias = log_odds(cells, found.biases.astype(np.float64), index)
        return Explanation(
            self._scores(row),
            of,
            row[index],
            terms.astype(np.float32),
            bias,
            self.preprocessing,
        )

    @overload
    def classify_many(
        self,
        pictures: Iterable[Picture],
        batch_size: int = ...,
        errors: Literal["raise"] = ...,
    ) -> Iterator[AnyScores]: ...

    @overload
    def classify_many(
        self, pictures: Iterable[Picture], batch_size: int, errors: Literal["yield"]
    ) -> Iterator[AnyScores | ImageError]: ...

    @overload
    def classify_many(
        self, pictures: Iterable[Picture], *, errors: Literal["yield"]
    ) -> Iterator[AnyScores | ImageError]: ...

    def classify_many(
        self,
        pictures: Iterable[Picture],
        batch_size: int = BATCH_SIZE,
        errors: Literal["raise", "yield"] = "raise",
    ) -> Iterator[AnyScores | ImageError]:
        """Score any number of pictures, lazily and in their order.

        The classifier's workers decode and score in parallel. The iterable is read in
        the caller's thread, at most a few times `batch_size` pictures ahead for each
        worker, so it may be endless. Closing the returned iterator ends the work.

        Args:
            pictures: of the types that `classify` takes. Arrays and images are used
                some time after the iterable has yielded them: do not change them
                meanwhile.
            batch_size: how many pictures the engine computes at once.
            errors: "raise" stops at a picture that cannot be read, after the scores of
                those before it; "yield" yields its `ImageError` instead and goes on.

        Yields:
            One `Scores` or `ClassScores` (or `ImageError`) a picture.

        Raises:
            ValueError: `batch_size` is below 1, or `errors` is neither word.
            TypeError: one picture was given instead of an iterable of them.
        """
        if not _is_whole(batch_size) or not 1 <= batch_size <= MAX_BATCH_SIZE:
            raise ValueError(
                f"expected a batch_size of 1 to {MAX_BATCH_SIZE}, got "
                f"{batch_size!r:.80}"
            )
        if errors not in ("raise", "yield"):
            raise ValueError(f"expected errors 'raise' or 'yield', got {errors!r}")
        single = isinstance(
            pictures, str | bytes | bytearray | memoryview | os.PathLike
        ) or (isinstance(pictures, np.ndarray) and pictures.ndim < 4)
        if single or hasattr(pictures, "read") or hasattr(pictures, "getbands"):
            raise TypeError("expected an iterable of pictures; classify() takes one")
        return self._stream(iter(pictures), batch_size, errors == "yield")

    def _stream(
        self, pictures: Iterator[Picture], batch_size: int, go_on: bool
    ) -> Iterator[AnyScores | ImageError]:
        feed = chunks(map(self._to_hand_on, pictures), batch_size)
        first = next(feed, [])
        results: Generator[list[AnyScores | ImageError], None, None]
        if len(first) < batch_size:  # too few for several workers
            results = (self._chunk(c, self.engine) for c in chain([first], feed))
        else:
            engine = self._shared_engine()
            stopped = Event()
            results = in_order(
                lambda chunk: self._chunk(chunk, engine, stopped),
                chunks(
                    chain.from_iterable(chain([first], feed)), batch_size, self.workers
                ),
                self.workers,
                stopped,
            )
        with closing(results):
            for result in chain.from_iterable(results):
                if isinstance(result, ImageError) and not go_on:
                    raise result
                yield result

    def _to_hand_on(self, picture: Picture) -> Picture | ImageError | AnyScores:
        """What workers get of a picture, in the caller's thread.

        An open file is read, as the caller may use it later. A large array is scored.
        """
        if isinstance(picture, np.ndarray) and picture.nbytes > LARGE:
            return self._chunk([picture], self.engine)[0]
        if not hasattr(picture, "read"):
            return picture
        try:
            return read_file(picture)
        except ImageError as error:
            return error

    def _chunk(
        self,
        pictures: list[Picture | ImageError | AnyScores],
        engine: engines.Engine,
        stopped: Event | None = None,
    ) -> list[AnyScores | ImageError]:
        """Decode and score some pictures: in one thread, if it can be `stopped`."""
        threads = self.workers if stopped is None else 1
        size = self.preprocessing.crop
        batch = np.empty((len(pictures), size, size, CHANNELS), np.float32)
        results: list[AnyScores | ImageError] = []
        filled = 0
        for picture in pictures:
            if stopped and stopped.is_set():
                return []
            if isinstance(picture, tuple):  # it is scored
                results.append(picture)
                continue
            try:
                batch[filled] = self._decoded(picture, threads)
            except ImageError as error:
                results.append(error)
            else:
                filled += 1
                results.append(NO_SCORES)
        rows = iter(self._finite(engine, batch[:filled]).tolist() if filled else ())
        return [
            self._scores(next(rows)) if result is NO_SCORES else result
            for result in results
        ]

    def _decoded(self, picture: Picture | ImageError, threads: int) -> np.ndarray:
        if isinstance(picture, ImageError):
            raise picture
        if hasattr(picture, "getbands"):  # a PIL image
            # The same lazy image may be yielded twice, and must not be decoded twice.
            with self._decoding.get():
                picture = load_rgb(picture, self.max_pixels)
        return self.prepare(picture, threads=threads)

    def _shared_engine(self) -> engines.Engine:
        """The engine of the workers, each of which computes on one core.

        Measured: two threads that decode and then compute, each with one thread, are
        1.3 times as fast as two that compute with both cores.
        """
        undivided = self.device not in (None, "cpu") or self.workers == 1
        if undivided or not engines.ENGINES[self.engine_name].divisible:
            return self.engine
        return self._shared.get()


def _check_finite(scores: np.ndarray) -> None:
    if not np.isfinite(scores).all():
        raise WeightsError(
            "the scores are not finite: expected weights, and pictures minus their "
            "mean, that do not overflow; check the weights file"
        )


def _is_whole(number: object) -> bool:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def network_source(
    weights: str | os.PathLike[str] | Weights | None,
    model: str | os.PathLike[str] | TrainedModel | None,
) -> Weights | Path | TrainedModel:
    """The weights, or the trained model, that a network is built from.

    Args:
        weights: as for `Classifier`.
        model: as for `Classifier`.

    Raises:
        ValueError: both are given.
        OSError, WeightsError: as `find_weights` and `read_trained`.
    """
    if model is None:
        return weights if isinstance(weights, dict) else find_weights(weights)
    if weights is not None:
        raise ValueError("expected weights or a trained model, got both: name one")
    return model if isinstance(model, TrainedModel) else read_trained(model)


# A gray picture, 320 x 240, and the NSFW score that Caffe gives it.
GRAY = b"P6 320 240 255\n" + bytes([128]) * (320 * 240 * 3)
GRAY_NSFW = 0.197583914


def self_check(classifier: Classifier, published: bool) -> float:
    """Score a gray picture, and check that the engine computes well on this machine.

    Args:
        classifier: of any network.
        published: whether its weights are a published copy of Yahoo's. Caffe's score
            is expected then, else that of the same batch given to `predict`.

    Returns:
        The score of the last class.

    Raises:
        RuntimeError: the score is wrong.
    """
    scores = np.array(classifier.classify(GRAY))
    expected = np.array([1 - GRAY_NSFW, GRAY_NSFW])
    if not published:
        batch = tensor(GRAY, classifier.preprocessing)[np.newaxis]
        expected = classifier.predict(batch, shared=True)[0]
    precisions = engines.ENGINES[classifier.engine_name].precisions
    if not np.abs(scores - expected).max() <= precisions[classifier.precision]:
        raise RuntimeError(
            f"a gray picture scores {scores.tolist()}, expected "
            f"{expected.tolist()}: this machine's engine computes wrongly; try "
            "another --engine"
        )
    return float(scores[-1])


_default_lock = PerProcess(Lock)


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
    return cast(Scores, default_classifier().classify(picture))


def default_classifier() -> Classifier:
    """The classifier of `classify`: Yahoo's weights, the fastest exact engine.

    Raises:
        WeightsError: no weights are found.
    """
    with _default_lock.get():  # otherwise simultaneous calls would each make one
        return _default()
