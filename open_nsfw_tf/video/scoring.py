"""Scoring a video's frames by the exact loader, with the network of this process."""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import NamedTuple, Self

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.classifier import AnyScores, Classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.video.process import Decoder, RawFrame, Source
from open_nsfw_tf.video.sampling import EVERY_SECOND, LIMITS, Limits, Sampling
from open_nsfw_tf.video.verdict import BAND, Decisions, Rule, Tally, Verdict

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
Watch = Callable[[float, float, np.ndarray], None]


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

    def pictures() -> Iterator[np.ndarray]:
        for frame in decoder:
            waiting.append(frame if keep else replace(frame, rgb=NOTHING))
            yield frame.rgb

    results = classifier.classify_many(pictures(), batch_size=BATCH_SIZE)
    for result in results:
        yield waiting.popleft(), result


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
        positive: Sequence[str],
        rule: Rule,
        decisions: Decisions,
        stop_at: float | None,
        watch: Watch | None,
    ) -> None:
        self._decoder, self._rule, self._decisions = decoder, rule, decisions
        self._positive = [classifier.classes.index(name) for name in positive]
        self._stop_at, self._watch = stop_at, watch
        self._tally = Tally()
        self._stopped: str | None = "it was not read to its end"
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
        yahoo = classifier.classes == LABELS
        found = scored_frames(classifier, self._decoder, self._watch is not None)
        with closing(found):
            for frame, scores in found:
                score = sum(scores[index] for index in self._positive)
                self._tally.add(frame.seconds, score)
                if self._watch is not None:
                    self._watch(frame.seconds, score, frame.rgb)
                if yahoo:
                    yield FrameScore(frame.frame, frame.seconds, *scores)
                else:
                    yield ClassFrameScore(frame.frame, frame.seconds, scores)
                if self._stop_at is not None and score >= self._stop_at:
                    self._stopped = (
                        f"stopped at {frame.seconds:.3f} s, as asked, at a score of "
                        f"{score:.4f}"
                    )
                    return
        self._stopped = self._decoder.reason
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
            self._rule,
            self._decisions,
            self._tally.seconds[-1] if end is None else end,
            self._stopped,
        )


def score_video(
    classifier: Classifier,
    path: Source,
    *,
    sampling: Sampling | str = EVERY_SECOND,
    rule: Rule | str = "max",
    threshold: float | None = None,
    band: tuple[float, float] = BAND,
    stop_at: float | None = None,
    positive: Sequence[str] = ("nsfw",),
    limits: Limits | None = None,
    watch: Watch | None = None,
) -> VideoScores:
    """Score the frames of a video or an animation, in flat memory.

    Args:
        classifier: gives the scores.
        path: of the file; or its bytes, or a binary file.
        sampling: which frames: a `Sampling`, or its text: "every:1", "frames:20" or
            "all".
        rule: how the frames' scores become one score: a `Rule`, or its text: "max",
            "share:.1" or "run:3".
        threshold: the decision is nsfw from this score on, and sfw below.
        band: without a threshold: accept below the first number, block from the second
            on, review between them.
        stop_at: end at the first frame with this score or more.
        positive: the classes whose scores are added up for the verdict.
        limits: of pixels, memory and time; None: `Limits`, with the classifier's
            `max_pixels`.
        watch: called with the seconds, the score and the pixels of each frame, uint8
            RGB (height, width, 3).

    Returns:
        An iterator of `FrameScore`, whose `verdict` is asked for at the end.

    Raises:
        ImageError: it is no video that can be read here; the message names it.
        ValueError: an argument is out of range, or no class of the classifier.
        ImportError: the extra `video` is not installed; the message says how to.
    """
    sampling = Sampling.parse(sampling) if isinstance(sampling, str) else sampling
    rule = Rule.parse(rule) if isinstance(rule, str) else rule
    decisions = Decisions(threshold, band)
    if stop_at is not None and not 0 <= stop_at <= 1:
        raise ValueError(f"expected stop_at of 0 to 1, got {stop_at:g}")
    for name in positive:
        if name not in classifier.classes:
            classes = ", ".join(classifier.classes)
            raise ValueError(f"no class {name!r:.80}: this model has {classes}")
    if limits is None:
        limits = replace(LIMITS, pixels=classifier.max_pixels)
    return VideoScores(
        classifier,
        Decoder(path, sampling, limits),
        positive,
        rule,
        decisions,
        stop_at,
        watch,
    )
