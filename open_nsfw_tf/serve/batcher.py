"""Pictures from many requests through one network: a bounded queue and some threads."""

from collections.abc import Sequence

import numpy as np

from open_nsfw_tf.classifier import AnyScores, Classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.serve.limits import RequestError, Settings


class QueueFull(RequestError):
    """More pictures wait than the queue holds."""

    def __init__(self) -> None:
        super().__init__(503, "queue_full", "too many pictures wait: try again", 1)


class DeadlineExpired(RequestError):
    """The request's time was over before its pictures were scored."""

    def __init__(self) -> None:
        super().__init__(504, "timeout", "the pictures were not scored in time")


class Batcher:
    """Scores pictures of many requests with one classifier.

    Args:
        classifier: with as many threads as its `workers`.
        settings: the length of the queue, and the batches.
    """

    def __init__(self, classifier: Classifier, settings: Settings) -> None:
        self.classifier, self.settings = classifier, settings

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
        raise NotImplementedError

    async def predict(self, batch: np.ndarray, deadline: float) -> np.ndarray:
        """Score a preprocessed batch, as `Classifier.predict`; for as many places.

        Raises:
            QueueFull, DeadlineExpired: as `score`.
            ValueError: the batch has another shape or dtype, or contains NaN.
        """
        raise NotImplementedError
