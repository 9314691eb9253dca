"""`Service`: what every route of the server uses."""

import asyncio
import hashlib
import json
import logging
import re
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeVar

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Scope

from open_nsfw_tf import __version__
from open_nsfw_tf.classifier import AnyScores, Classifier, self_check
from open_nsfw_tf.errors import (
    ImageError,
    NotReadError,
    PixelLimitError,
    RequestError,
    WeightsError,
    one_line,
)
from open_nsfw_tf.serve.batcher import Batcher
from open_nsfw_tf.serve.limits import MEGABYTE, Settings, collect, inflate
from open_nsfw_tf.serve.records import Audit, Metrics
from open_nsfw_tf.tables import positive_columns, positive_score
from open_nsfw_tf.tables.decision import ERROR, REVIEW, decide
from open_nsfw_tf.weights import PUBLISHED

logger = logging.getLogger("open_nsfw_tf.serve")
Result = TypeVar("Result")

BUSY = "busy"  # the code of errors for want of memory: another try may succeed
SLOW = 1 << 18  # bytes, from which on work on a body is done in a thread
KEY = "open_nsfw_tf"  # of a request's scope: its `Call`
ENCODINGS = ("", "identity", "gzip", "x-gzip")
_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class Answer(Response):
    """JSON in ASCII, as texts of clients may have characters that no encoding has."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        return json.dumps(content, separators=(",", ":"), allow_nan=False).encode()


@dataclass
class Call:
    """What is known of one request, beside the request itself.

    Attributes:
        id: that its answer and its lines in the audit file have.
        start, deadline: `time.monotonic()` seconds.
        held: bytes of its body in memory.
    """

    id: str
    start: float
    deadline: float
    held: int = 0

    @classmethod
    def begin(cls, scope: Scope, timeout: float) -> "Call":
        """The call of a request that begins; its id is the client's, if it is short."""
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = given if _ID.fullmatch(given) else uuid.uuid4().hex
        now = time.monotonic()
        call = scope[KEY] = cls(name, now, now + timeout)
        return call


@dataclass(frozen=True)
class Outcome:
    """What became of one picture.

    Attributes:
        scores: None if there are none.
        decision: accept, review or block; error where there is no score.
        code: of the error, one word; None if there are scores.
        message: of the error, one line that repeats nothing of the picture.
    """

    scores: AnyScores | None
    decision: str
    code: str | None = None
    message: str | None = None


NOT_BASE64 = Outcome(
    None, ERROR, "invalid_base64", "expected b64 as base64 of a picture file"
)


class Service:
    """A classifier as a service.

    Args:
        classifier: that scores the pictures.
        settings: how it decides, and its limits.

    Attributes:
        classifier, settings: as given.
        columns: of the positive classes; none: every picture is left for review.
        model: what answers say of the model.
        batcher: the queue in front of the classifier.
        metrics: of the service.
        audit: the audit file, if there is one.
        draining: whether the process is about to end.

    Raises:
        OSError: the audit file cannot be opened.
        ValueError: as `positive_columns`, of `settings.positive`.
    """

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.classifier, self.settings = classifier, settings
        self.columns = _columns(settings.positive, classifier.classes)
        self.model: dict[str, Any] = {
            "name": "open_nsfw",
            "version": __version__,
            "classes": list(classifier.classes),
            "engine": classifier.engine_name,
            "precision": classifier.precision,
            "decode": classifier.decode,
            "weights_sha256": settings.weights_sha256,
        }
        info = {**self.model, "classes": ", ".join(classifier.classes)}
        self.metrics = Metrics({key: str(value or "") for key, value in info.items()})
        self.batcher = Batcher(classifier, settings, self.metrics)
        self.audit = Audit(settings.audit) if settings.audit else None
        self.draining = False
        self.open_paths: frozenset[str] = frozenset()  # that need no token
        self._warm = False
        self._warming: asyncio.Future[None] | None = None
        self._held = 0  # bytes of all bodies in memory
        self.metrics.queue_pictures.set_function(lambda: self.batcher.waiting)
        self.metrics.ready.set_function(lambda: self.ready)
        self.metrics.body_bytes.set_function(lambda: self._held)

    # -- whether it can answer

    @property
    def ready(self) -> bool:
        """Whether it is warm, and not about to end."""
        return self._warm and not self.draining

    async def warm_up(self) -> None:
        """Score a picture and check its score, until that has succeeded once.

        Calls meanwhile wait for the same try.

        Raises:
            RuntimeError: the score is wrong.
        """
        if self._warm:
            return
        if self._warming is None or self._warming.done():
            self._warming = asyncio.ensure_future(asyncio.to_thread(self._check))
        await asyncio.shield(self._warming)

    async def wait_until_warm(self) -> None:
        """Wait for the warm-up.

        Raises:
            RequestError: 503, it failed.
        """
        try:
            await self.warm_up()
        except Exception as error:
            logger.error("the warm-up failed: %s", one_line(error))
            raise RequestError(503, "not_ready", "the warm-up failed", 60) from error

    def _check(self) -> None:
        copies = {copy.sha256 for copy in PUBLISHED.values()} - {None}
        self_check(self.classifier, self.settings.weights_sha256 in copies)
        self._warm = True

    # -- bodies

    async def read_body(self, request: Request) -> bytes:
        """The whole body, inflated if it is gzip.

        Raises:
            RequestError: 400, 408, 413, 415 or 503: too large, too slow, an unknown
                encoding, or no memory left for it.
        """
        encoding = request.headers.get("content-encoding", "").strip().lower()
        if encoding not in ENCODINGS:
            raise RequestError(
                415, "unknown_encoding", "expected Content-Encoding gzip, or none"
            )
        limit = self.settings.max_body
        call: Call = request.scope[KEY]
        declared = request.headers.get("content-length")
        try:
            async with asyncio.timeout(self.settings.body_timeout):
                body = await collect(self._counted(request, call), limit, declared)
        except TimeoutError:
            raise RequestError(
                408, "too_slow", "the body did not arrive in time"
            ) from None
        if "gzip" in encoding:
            body = await collect(self._inflated(body, call), limit, None)
        return body

    async def _counted(self, request: Request, call: Call) -> Any:
        async for chunk in request.stream():
            self._hold(call, len(chunk))
            yield chunk

    async def _inflated(self, body: bytes, call: Call) -> Any:
        """The pieces of a gzip body: a small one may be large, and take long."""
        pieces = inflate(body)
        while piece := await self.in_thread(next, pieces, b""):
            self._hold(call, len(piece))
            yield piece

    def _hold(self, call: Call, count: int) -> None:
        """Note that bytes of a body are in memory, until the call's end."""
        if self._held + count > self.settings.max_memory_mb * MEGABYTE:
            raise RequestError(503, BUSY, "too many bodies are read: try again", 1)
        call.held += count
        self._held += count

    def end(self, call: Call) -> None:
        """Note that a call's body is no longer in memory."""
        self._held -= call.held

    async def in_thread(
        self, function: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Call a function in a thread, where long work holds up no other request."""
        return await asyncio.to_thread(function, *arguments)

    async def work(
        self, size: int, function: Callable[..., Result], *arguments: Any
    ) -> Result:
        """Call a function that works on some bytes; in a thread if they are many."""
        if size < SLOW:
            return function(*arguments)
        return await self.in_thread(function, *arguments)

    # -- pictures

    async def score(
        self,
        request: Request,
        pictures: Sequence[bytes | None],
        names: Sequence[str | None] = (),
        each: bool = False,
    ) -> list[Outcome]:
        """Score a request's pictures: through the batcher, counted and audited.

        Routes use this or `predict`, and not the batcher. The deadline is the request's
        own. A `RequestError` may pass through a route: the app answers it, below
        /v1/models in the form of TF Serving.

        Args:
            request: that brought them.
            pictures: files' bytes; None: what was no base64. These, and those above
                `max_picture`, get an error of their own.
            names: of the pictures, for the audit file if it has names.
            each: whether a picture for which memory was missing has an outcome like
                others, and does not fail the request.

        Raises:
            RequestError: 413, too many pictures; 503 (`QueueFull`, or memory was
                missing); 504 (`DeadlineExpired`).
        """
        most = self.settings.most_pictures
        if len(pictures) > most:
            raise RequestError(
                413, "too_many_pictures", f"expected at most {most} pictures a request"
            )
        call: Call = request.scope[KEY]
        refused = [self._refusal(picture) for picture in pictures]
        wanted = [
            picture
            for picture, no in zip(pictures, refused, strict=True)
            if picture is not None and no is None
        ]
        results = iter(await self.batcher.score(wanted, call.deadline))
        outcomes = [outcome or self._outcome(next(results)) for outcome in refused]
        await self._record(call, pictures, outcomes, names)
        for outcome in outcomes:
            if outcome.code == BUSY and not each:
                raise RequestError(503, BUSY, str(outcome.message), 5)
        return outcomes

    async def predict(self, request: Request, batch: np.ndarray) -> np.ndarray:
        """Score a preprocessed batch, as `Classifier.predict`; counted and audited.

        Raises:
            RequestError: as `score`; 400, the scores are not finite.
            ValueError: the batch has another shape or dtype, or contains NaN.
        """
        call: Call = request.scope[KEY]
        try:
            rows = await self.batcher.predict(batch, call.deadline)
        except WeightsError:
            raise RequestError(
                400, "not_finite", "the values are too large: the scores are not finite"
            ) from None
        outcomes = [
            Outcome(self.batcher.scores(row), self.decide(row)) for row in rows.tolist()
        ]
        await self._record(call, [row.tobytes() for row in batch], outcomes)
        return rows

    def decide(self, scores: Sequence[float]) -> str:
        """What is done with a picture by its scores, one for each class, 0..1."""
        if not self.columns:
            return REVIEW
        return decide(self.positive_score(scores), self.settings.band)

    def positive_score(self, scores: Sequence[float]) -> float:
        """The score of the positive classes, of which there must be one, 0..1."""
        return float(positive_score(np.array(scores), self.columns))

    def _refusal(self, picture: bytes | None) -> Outcome | None:
        """Why a picture is not even decoded, if that is so."""
        if picture is None:
            return NOT_BASE64
        if len(picture) <= self.settings.max_picture:
            return None
        most = f"expected a picture of at most {self.settings.max_picture_mb:g} MiB"
        return Outcome(None, ERROR, "too_large", most)

    def _outcome(self, result: AnyScores | ImageError) -> Outcome:
        if not isinstance(result, ImageError):
            return Outcome(result, self.decide(result))
        code = "unreadable"
        if isinstance(result, PixelLimitError):
            code = "too_many_pixels"
        elif isinstance(result, NotReadError):
            code = BUSY if _may_pass(result) else "not_read"
        return Outcome(None, ERROR, code, reason(result))

    async def _record(
        self,
        call: Call,
        pictures: Sequence[bytes | None],
        outcomes: Sequence[Outcome],
        names: Sequence[str | None] = (),
    ) -> None:
        """Write a request's pictures to the audit file, and count them."""
        if self.audit is not None:
            size = sum(len(picture or b"") for picture in pictures)
            await self.work(size, self._audit, call, pictures, outcomes, names)
        for outcome in outcomes:
            self._count(outcome)

    def _count(self, outcome: Outcome) -> None:
        self.metrics.pictures.labels(outcome.code or outcome.decision).inc()
        if outcome.scores is not None:
            classes = self.classifier.classes
            for name, score in zip(classes, outcome.scores, strict=True):
                self.metrics.scores.labels(name).observe(score)

    def _audit(
        self,
        call: Call,
        pictures: Sequence[bytes | None],
        outcomes: Sequence[Outcome],
        names: Sequence[str | None],
    ) -> None:
        assert self.audit is not None
        classes = self.classifier.classes
        time_ = datetime.now(UTC).isoformat(timespec="milliseconds")
        records = []
        for number, (picture, outcome) in enumerate(
            zip(pictures, outcomes, strict=True)
        ):
            record: dict[str, Any] = {"time": time_, "request": call.id}
            if self.settings.audit_names and names:
                record["name"] = names[number]
            digest = None if picture is None else hashlib.sha256(picture).hexdigest()
            record["sha256"] = digest
            record["scores"] = outcome.scores and dict(
                zip(classes, outcome.scores, strict=True)
            )
            record |= {
                "decision": outcome.decision,
                "error": outcome.code,
                "band": list(self.settings.band),
                "positive": [classes[column] for column in self.columns],
                "weights_sha256": self.settings.weights_sha256,
            }
            records.append(record)
        try:
            self.audit.write(records)
        except OSError as error:
            raise RequestError(
                503, "audit_failed", "the audit file cannot be written", 5
            ) from error

    def reopen_audit(self) -> None:
        """Open the audit file anew; if that fails, the old one is written on."""
        if self.audit is not None:
            try:
                self.audit.reopen()
            except OSError as error:
                logger.error("the audit file cannot be reopened: %s", error.strerror)

    def close(self) -> None:
        """End the threads and close the audit file."""
        self.batcher.close()
        if self.audit is not None:
            self.audit.close()


def _columns(positive: Sequence[str] | None, classes: Sequence[str]) -> list[int]:
    """The columns of the positive classes; the default one may be missing."""
    if positive is not None:
        return positive_columns(classes, positive)
    with suppress(ValueError):
        return positive_columns(classes)
    return []


def _may_pass(error: NotReadError) -> bool:
    """Whether memory or the system was at fault, and not a missing library."""
    cause: BaseException | None = error
    while cause and not isinstance(cause, MemoryError | OSError):
        cause = cause.__cause__
    return cause is not None


def reason(error: ImageError) -> str:
    """Why a picture is refused, without what Pillow quotes of it."""
    text = one_line(error).partition(": ")[2]  # the name is "<123 bytes>"
    text = re.split(r"b?['\"]", text)[0].rstrip(" (:,")
    return text + ")" * (text.count("(") - text.count(")"))
