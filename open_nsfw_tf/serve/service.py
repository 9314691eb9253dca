"""`Service`: what every route of the server uses."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from starlette.requests import Request

from open_nsfw_tf.classifier import AnyScores, Classifier
from open_nsfw_tf.serve.batcher import Batcher
from open_nsfw_tf.serve.limits import Settings


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


class Service:
    """A classifier as a service.

    Attributes:
        classifier, settings: as given.
        batcher: the queue in front of the classifier.
        draining: whether the process is about to end.
    """

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.classifier, self.settings = classifier, settings
        self.batcher = Batcher(classifier, settings)
        self.draining = False

    async def read_body(self, request: Request) -> bytes:
        """The whole body, inflated if it is gzip.

        Raises:
            RequestError: 400, 408, 413, 415 or 503: too large, too slow, an unknown
                encoding, or no memory left for it.
        """
        raise NotImplementedError

    async def score(
        self,
        request: Request,
        pictures: Sequence[bytes],
        names: Sequence[str | None] | None = None,
    ) -> list[Outcome]:
        """Score a request's pictures: through the batcher, counted and audited.

        Routes use this and not the batcher. The deadline is the request's own.

        Args:
            request: that brought them.
            pictures: files' bytes; those above `max_picture` get an error of their own.
            names: of the pictures, for the audit file if it has names.

        Raises:
            RequestError: 413, too many pictures; 503 (`QueueFull`); 504
                (`DeadlineExpired`).
        """
        raise NotImplementedError

    async def predict(self, request: Request, batch: np.ndarray) -> np.ndarray:
        """Score a preprocessed batch, as `Classifier.predict`; counted, not audited.

        Raises:
            RequestError: as `score`.
            ValueError: the batch has another shape or dtype, or contains NaN.
        """
        raise NotImplementedError

    async def in_thread(self, function, *arguments):  # type: ignore[no-untyped-def]
        """Call a function in a thread, where long work does not hold up the others."""
        raise NotImplementedError
