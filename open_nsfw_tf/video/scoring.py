"""Scoring a video's frames by the exact loader, with the network of this process."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import groupby
from typing import NamedTuple, Self

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.classifier import LARGE, AnyScores, Classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.tables import positive_columns, positive_score
from open_nsfw_tf.video.process import Decoder, RawFrame, Source
from open_nsfw_tf.video.sampling import EVERY_SECOND, LIMITS, Limits, Sampling
from open_nsfw_tf.video.verdict import Tally, Verdict, VerdictOptions

DEFAULTS = VerdictOptions()
BATCH_SIZE = 1  # frames: many are in memory as RGB, and larger batches are no faster


class FrameScore(NamedTuple):
    """The scores of a frame.

    Attributes:
        frame: its number in the video, from 0.
        seconds: its presentation time, from the beginning of the video.
        sfw: probability that it is safe for work, 0..1.
        nsfw: probability that it is pornographic, 0..1.
    """

    frame: int
    seconds: float
    sfw: float
    nsfw: float


class ClassFrameScore(NamedTuple):
    """The scores of a frame by a model of other classes.

    Attributes:
        frame: its number in the video, from 0.
        seconds: its presentation time, from the beginning of the video.
        scores: one probability a class.
    """

    frame: int
    seconds: float
    scores: AnyScores


AnyFrameScore = FrameScore | ClassFrameScore
# Called with the seconds, the score and the pixels of a frame.
OnFrame = Callable[[float, float, np.ndarray], None]


def scored_frames(
    classifier: Classifier, decoder: Decoder, keep: bool = False
) -> Generator[tuple[RawFrame, AnyScores], None, None]:
    """The frames of a decoder and their scores, in bounded memory.

    Args:
        classifier: gives the scores.
        decoder: gives the frames.
        keep: whether the frames still have their pixels.
    """
    waiting: deque[RawFrame] = deque()

    def pictures(frames: Iterable[RawFrame]) -> Iterator[np.ndarray]:
        for frame in frames:
            waiting.append(frame if keep else replace(frame, rgb=NOTHING))
            yield frame.rgb

    # `classify_many` reads ahead: many large frames that are kept would be in memory.
    for alone, frames in groupby(decoder, lambda f: keep and f.rgb.nbytes > LARGE):
        if alone:
            for frame in frames:
                yield frame, classifier.classify(frame.rgb)
        else:
            found = classifier.classify_many(pictures(frames), batch_size=BATCH_SIZE)
            for scores in found:
                yield waiting.popleft(), scores


NOTHING = np.empty((0, 0, 3), np.uint8)


class VideoScores:
    """The scores of a video's frames, one after the other, and then the verdict.

    It is an iterator of `FrameScore`, made by `score_video`. As a context manager it
    ends the decoder; so does its end, and losing it.

    Attributes:
        info: what the file says: `format`, `codec`, `width`, `height`, and `frames` and
            `seconds` or None.
        at: how many seconds of the video are decoded.
    """

    def __init__(
        self,
        classifier: Classifier,
        decoder: Decoder,
        options: VerdictOptions,
        on_frame: OnFrame | None,
    ) -> None:
        self._decoder, self._options, self._on_frame = decoder, options, on_frame
        self._tally = Tally()
        self._reason: str | None = "it was not read to its end"
        self._stopped = False
        self.info = decoder.info
        self._frames = self._scored(classifier)

    @property
    def at(self) -> float:
        """How many seconds of the video are decoded."""
        return self._decoder.at

    def __iter__(self) -> Self:
        """Itself."""
        return self

    def __next__(self) -> AnyFrameScore:
        """The next frame.

        Raises:
            ImageError: the video ends without any frame; the message says why.
        """
        return next(self._frames)

    def __enter__(self) -> Self:
        """Itself."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the decoder."""
        self.close()

    def close(self) -> None:
        """End the decoder; the verdict is then of the frames before."""
        self._frames.close()
        self._decoder.close()

    def _scored(self, classifier: Classifier) -> Generator[AnyFrameScore, None, None]:
        yahoo, stop_at = classifier.classes == LABELS, self._options.stop_at
        columns = positive_columns(classifier.classes, self._options.positive)
        found = scored_frames(classifier, self._decoder, self._on_frame is not None)
        with closing(found):
            for frame, scores in found:
                score = float(positive_score(np.array(scores), columns))
                self._tally.add(frame.seconds, score)
                if self._on_frame is not None:
                    self._on_frame(frame.seconds, score, frame.rgb)
                if yahoo:
                    yield FrameScore(frame.frame, frame.seconds, *scores)
                else:
                    yield ClassFrameScore(frame.frame, frame.seconds, scores)
                if stop_at is not None and score >= stop_at:
                    self._stopped = True
                    self._reason = (
                        f"stopped at {frame.seconds:.3f} s, as asked, at a score of "
                        f"{score:.4f}"
                    )
                    return
        self._reason = self._decoder.reason
        if not self._tally.scores:
            reason = self._decoder.reason or "there is no frame in it"
            raise ImageError(f"{self._decoder.name}: {reason}")

    @property
    def verdict(self) -> Verdict:
        """The verdict of the frames until now; "partial" before the end.

        Raises:
            ValueError: there is no frame yet.
        """
        if not self._tally.scores:
            raise ValueError("there is no verdict before the first frame")
        end = self._decoder.seconds
        return self._tally.verdict(
            self._options,
            self._tally.seconds[-1] if end is None else end,
            self._reason,
            self._stopped,
        )


def score_video(
    classifier: Classifier,
    path: Source,
    *,
    sampling: Sampling | str = EVERY_SECOND,
    options: VerdictOptions = DEFAULTS,
    limits: Limits | None = None,
    on_frame: OnFrame | None = None,
) -> VideoScores:
    """Score the frames of a video or an animation, in flat memory.

    Args:
        classifier: gives the scores.
        path: of the file; or its bytes, or a binary file.
        sampling: which frames: a `Sampling`, or its text: "every:1", "frames:20" or
            "all".
        options: how the scores of the frames become a verdict.
        limits: of pixels, memory and time; None: `Limits`, with the classifier's
            `max_pixels`.
        on_frame: called with the seconds, the score and the pixels of each frame, uint8
            RGB (height, width, 3).

    Returns:
        An iterator of `FrameScore`, whose `verdict` is asked for at the end.

    Raises:
        ImageError: it is no video that can be read here; the message names it.
        ValueError: `sampling` has no such form; or a positive class is no class of the
            classifier, or all are positive.
        ImportError: the extra `video` is not installed; the message says how to.
    """
    sampling = Sampling.parse(sampling) if isinstance(sampling, str) else sampling
    positive_columns(classifier.classes, options.positive)  # before a child starts
    if limits is None:
        limits = replace(LIMITS, pixels=classifier.max_pixels)
    decoder = Decoder(path, sampling, limits)
    return VideoScores(classifier, decoder, options, on_frame)
