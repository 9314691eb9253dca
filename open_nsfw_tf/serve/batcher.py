"""Pictures from many requests through one network: a bounded queue and some threads."""

import asyncio
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Lock

import numpy as np

from open_nsfw_tf.classifier import AnyScores, Classifier, scores_of
from open_nsfw_tf.errors import DeadlineExpired, ImageError, QueueFull
from open_nsfw_tf.image import check_batch
from open_nsfw_tf.serve.limits import Settings
from open_nsfw_tf.serve.records import Metrics

DEVICE_BATCH = 16  # pictures that a graphics card computes at once


class Job:
    """One picture, or one preprocessed one, on its way through the threads.

    Attributes:
        picture: a file's bytes; None once it is decoded, or nobody waits for it.
        input: float32 (224, 224, 3), the network's input; None until it is decoded.
        deadline: `time.monotonic()` seconds, after which it is not computed.
        future: gets the row of scores, float32 (classes,), or an error.
        queued: `time.monotonic()` seconds.
    """

    __slots__ = ("deadline", "future", "input", "picture", "queued")

    def __init__(
        self, picture: bytes | None, input: np.ndarray | None, deadline: float
    ) -> None:
        self.picture, self.input, self.deadline = picture, input, deadline
        self.future: Future[np.ndarray] = Future()
        self.queued = time.monotonic()

    @property
    def wanted(self) -> bool:
        """Whether anybody still waits for it."""
        return not self.future.done() and time.monotonic() < self.deadline

    def drop(self) -> None:
        """Note that nobody waits for it any more."""
        self.future.cancel()
        self.picture = None

    def finish(self, result: np.ndarray | Exception) -> None:
        """Hand over the scores or an error, unless nobody waits any more."""
        if self.future.set_running_or_notify_cancel():
            if isinstance(result, Exception):
                self.future.set_exception(result)
            else:
                self.future.set_result(result)


class Batcher:
    """Scores pictures of many requests with one classifier.

    One thread more than the classifier has workers decodes pictures, so that no core
    waits for the requests' own work. On a CPU as many as there are workers compute, a
    picture each: batches are no faster there. On another device one thread at a time
    computes all that is decoded by then, while the others decode on.

    Args:
        classifier: that decides how many threads there are.
        settings: the length of the queue, and the batches.
        metrics: that get the seconds of each step.
    """

    def __init__(
        self, classifier: Classifier, settings: Settings, metrics: Metrics
    ) -> None:
        self.classifier, self.settings, self.metrics = classifier, settings, metrics
        self.pending = 0  # pictures that wait or are computed
        on_cpu = classifier.device in (None, "cpu")
        self.batch_size = settings.batch_size or (1 if on_cpu else DEVICE_BATCH)
        self.threads = classifier.workers + 1
        self.scores = scores_of(classifier.classes)
        self._max_pixels = min(classifier.max_pixels, settings.max_pixels)
        self._pool = ThreadPoolExecutor(self.threads, thread_name_prefix="serve")
        self._decoded: deque[Job] = deque()
        self._idle = classifier.workers if on_cpu else 1  # how many more may compute
        self._lock = Lock()  # guards `_decoded` and `_idle`

    @property
    def waiting(self) -> int:
        """How many pictures wait for a thread."""
        return max(0, self.pending - self.threads)

    async def score(
        self, pictures: Sequence[bytes], deadline: float
    ) -> list[AnyScores | ImageError]:
        """Score some pictures; a bad one gets its error and the others their scores.

        Args:
            pictures: files' bytes.
            deadline: `time.monotonic()` seconds.

        Raises:
            QueueFull: there is no room for all of them.
            DeadlineExpired: they were not scored in time.
        """
        jobs = [Job(picture, None, deadline) for picture in pictures]
        rows = await self._run(jobs, deadline)
        return [
            row if isinstance(row, ImageError) else self.scores(row.tolist())
            for row in rows
        ]

    async def predict(self, batch: np.ndarray, deadline: float) -> np.ndarray:
        """Score a preprocessed batch, as `Classifier.predict`.

        In the queue it counts as so many pictures.

        Raises:
            QueueFull, DeadlineExpired: as `score`.
            ValueError: the batch has another shape or dtype, or contains NaN.
            WeightsError: the scores are not finite.
        """
        batch = check_batch(batch, self.classifier.preprocessing.crop)
        rows = await self._run([Job(None, row, deadline) for row in batch], deadline)
        columns = len(self.classifier.classes)
        return np.array(rows, np.float32).reshape(len(batch), columns)

    async def _run(
        self, jobs: list[Job], deadline: float
    ) -> list[np.ndarray | ImageError]:
        if self.pending + len(jobs) > self.settings.queue + self.threads:
            raise QueueFull
        self.pending += len(jobs)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                for job in jobs:
                    self._pool.submit(self._work, job)
                return [await _result(job) for job in jobs]
        except TimeoutError:
            raise DeadlineExpired from None
        finally:
            self.pending -= len(jobs)
            for job in jobs:
                job.drop()

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    # -- in the threads

    def _work(self, job: Job) -> None:
        start = time.monotonic()
        picture = job.picture
        if not job.wanted:
            return
        self.metrics.queue_seconds.observe(start - job.queued)
        try:
            if picture is not None:
                job.input = self._decode(picture)
                job.picture = None
                self.metrics.decode_seconds.observe(time.monotonic() - start)
        except Exception as error:  # noqa: BLE001 - raised where the request waits
            job.finish(error)
            return
        with self._lock:
            self._decoded.append(job)
            if not self._idle:
                return  # the thread that computes now takes it next
            self._idle -= 1
        self._compute()

    def _decode(self, picture: bytes) -> np.ndarray:
        threads = self.classifier.workers if self.pending == 1 else 1
        return self.classifier.prepare(picture, self._max_pixels, threads)

    def _compute(self) -> None:
        """Compute what is decoded, until nothing is left."""
        while True:
            if self.settings.batch_wait and 0 < len(self._decoded) < self.batch_size:
                time.sleep(self.settings.batch_wait)
            with self._lock:
                count = min(self.batch_size, len(self._decoded))
                jobs = [self._decoded.popleft() for _ in range(count)]
                if not jobs:
                    self._idle += 1
                    return
            self._finish([job for job in jobs if job.wanted])

    def _finish(self, jobs: list[Job]) -> None:
        """Compute one batch. If it fails, each picture of it is computed alone."""
        if not jobs:
            return
        start = time.monotonic()
        try:
            batch = np.stack([job.input for job in jobs if job.input is not None])
            rows = self.classifier.predict(batch, shared=self.pending > 1)
        except Exception as error:  # noqa: BLE001 - raised where the request waits
            if len(jobs) == 1:
                jobs[0].finish(error)
            else:
                for job in jobs:
                    self._finish([job])
            return
        self.metrics.network_seconds.observe(time.monotonic() - start)
        self.metrics.batch_pictures.observe(len(jobs))
        for job, row in zip(jobs, rows, strict=True):
            job.finish(row)


async def _result(job: Job) -> np.ndarray | ImageError:
    try:
        return await asyncio.wrap_future(job.future)
    except ImageError as error:
        return error
