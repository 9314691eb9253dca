"""One verdict for a video, from the scores of its frames.

A rule makes one score of all frames' scores: the highest threshold at which the rule
still flags the video. So one threshold is compared with it, as with a picture's score,
and `open_nsfw_tf.evaluate` can choose that threshold on labelled videos.
"""

from array import array
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from math import ceil
from typing import Any, Literal, NamedTuple

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.tables.decision import REVIEW, YAHOO_BAND, check_band, decide

RULES = "max, share:SHARE or run:SECONDS"
EPSILON = 1e-9  # of shares and seconds, which are no exact binary numbers


@dataclass(frozen=True)
class Rule:
    """When frames flag a video.

    Attributes:
        kind: "max": one frame is enough; "share": at least `amount` of the scored
            frames, 0..1; "run": frames that follow one another for `amount` seconds, or
            all of a video that is shorter.
        amount: see `kind`.

    Raises:
        ValueError: the kind is another one, or the amount is out of range.
    """

    kind: Literal["max", "share", "run"] = "max"
    amount: float = 0.0

    def __post_init__(self) -> None:
        """Refuse what makes no sense."""
        if self.kind not in ("max", "share", "run"):
            raise ValueError(f"expected {RULES}, got {sanitize(self.kind, 40)!r}")
        if self.kind == "share" and not 0 < self.amount <= 1:
            raise ValueError(
                f"expected a share above 0, and at most 1, got {self.amount:g}"
            )
        if self.kind == "run" and not 0 < self.amount < float("inf"):
            raise ValueError(
                f"expected a run of more than 0 seconds, got {self.amount:g}"
            )

    @classmethod
    def parse(cls, text: str) -> "Rule":
        """The rule that a text such as ``share:.1`` means: one of `RULES`.

        Raises:
            ValueError: it has none of these forms.
        """
        kind, _, amount = text.partition(":")
        if text == "max":
            return cls()
        try:
            number = float(amount)
        except ValueError:
            number = None
        if number is None or kind not in ("share", "run"):
            raise ValueError(f"expected {RULES}, got {sanitize(text, 40)!r}")
        return cls("share" if kind == "share" else "run", number)

    def __str__(self) -> str:
        """The text that `parse` takes."""
        return self.kind if self.kind == "max" else f"{self.kind}:{self.amount:g}"

    def score(self, seconds: np.ndarray, scores: np.ndarray) -> float:
        """The highest threshold at which the rule flags the video.

        Args:
            seconds: float64 (N,), N at least 1, rising: when each frame begins.
            scores: float64 (N,), 0..1.
        """
        if self.kind == "max":
            return float(scores.max())
        if self.kind == "share":
            count = max(1, ceil(self.amount * len(scores) - EPSILON))
            return float(np.sort(scores)[-count])
        wanted = min(self.amount, seconds[-1] - seconds[0]) - EPSILON
        distinct = np.unique(scores)  # rising; a run that holds at one holds below it
        low, high = 0, len(distinct) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if _longest(seconds, scores >= distinct[middle]) >= wanted:
                low = middle
            else:
                high = middle - 1
        return float(distinct[low])


def runs(flagged: np.ndarray) -> np.ndarray:
    """The runs of true values: int (R, 2), the first of each and the one behind it."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], flagged.astype(np.int8), [0]))))
    return edges.reshape(-1, 2)


def _longest(seconds: np.ndarray, flagged: np.ndarray) -> float:
    """The longest run in seconds; -1 if nothing is flagged.

    A frame lasts until the next scored one. How long the last one lasts is not in a
    table of scores, so that it counts as a moment.
    """
    found = runs(flagged)
    if not len(found):
        return -1.0
    ends = np.append(seconds, seconds[-1])
    return float((ends[found[:, 1]] - ends[found[:, 0]]).max())


class Segment(NamedTuple):
    """Frames at or above the threshold that follow one another.

    Attributes:
        start: seconds at which the first one begins.
        end: seconds at which the next one below the threshold begins, or the video
            ends.
        max: the highest score.
        max_seconds: when the frame with it begins.
    """

    start: float
    end: float
    max: float
    max_seconds: float


@dataclass(frozen=True)
class VerdictOptions:
    """How the scores of frames become one score, and that one a decision.

    Attributes:
        rule: makes one score of the frames' scores.
        threshold: "nsfw" from this score on, and "sfw" below; None: by `band`.
        band: "accept" below its first number, "block" from the second one on, and
            "review" between them.
        stop_at: end at the first frame with this score or more; None: at the end.
        positive: the classes that are looked for; their scores are added up.

    Raises:
        ValueError: they are not numbers of 0 to 1, or the band is the wrong way round.
    """

    rule: Rule = Rule()
    threshold: float | None = None
    band: tuple[float, float] = YAHOO_BAND
    stop_at: float | None = None
    positive: Sequence[str] = ("nsfw",)

    def __post_init__(self) -> None:
        """Refuse numbers that are no scores."""
        if self.threshold is not None and not 0 <= self.threshold <= 1:
            raise ValueError(f"expected a threshold of 0 to 1, got {self.threshold:g}")
        check_band(self.band)
        if self.stop_at is not None and not 0 <= self.stop_at <= 1:
            raise ValueError(f"expected stop_at of 0 to 1, got {self.stop_at:g}")

    @property
    def lowest(self) -> float:
        """The score from which on somebody should look: frames are flagged from it."""
        return self.band[0] if self.threshold is None else self.threshold

    def decide(self, score: float, complete: bool) -> str:
        """The decision; what was not read to its end is never waved through."""
        if score < self.lowest and not complete:
            return REVIEW
        if self.threshold is not None:
            return "nsfw" if score >= self.threshold else "sfw"
        return decide(score, self.band)


@dataclass(frozen=True)
class Verdict:
    """What the scores of a video's frames say about it.

    Attributes:
        decision: "nsfw" or "sfw" by a threshold; "accept", "review" or "block" by a
            band. A video that was not read to its end, and is not flagged by what was
            read, is for review.
        score: by the rule: it is what the threshold is compared with, 0..1.
        rule: the text of the rule.
        flagged_from: the score from which on a frame counts as flagged: the threshold,
            or the band's first number.
        max, max_seconds: the highest score of a frame, and when that frame begins.
        mean: of the scored frames.
        share: of the scored frames that are flagged, 0..1.
        longest_run: the longest time in which all scored frames are flagged, seconds.
        segments: the runs of flagged frames.
        frames: how many were scored.
        seconds: how much of the video was read.
        state: "complete" or "partial".
        reason: why it is partial, or None.
        stopped: whether it is partial because a frame reached `stop_at`, as was asked.
    """

    decision: str
    score: float
    rule: str
    flagged_from: float
    max: float
    max_seconds: float
    mean: float
    share: float
    longest_run: float
    segments: tuple[Segment, ...]
    frames: int
    seconds: float
    state: Literal["complete", "partial"]
    reason: str | None = None
    stopped: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The verdict as values of JSON."""
        found = asdict(self)
        found["segments"] = [segment._asdict() for segment in self.segments]
        return found


def clock(seconds: float) -> str:
    """A time as m:ss.sss, or h:mm:ss.sss."""
    minutes, rest = divmod(round(seconds * 1000), 60_000)
    hours, minutes = divmod(minutes, 60)
    text = f"{minutes:02}:{rest / 1000:06.3f}"
    return f"{hours}:{text}" if hours else text.removeprefix("0")


class Tally:
    """The scores of a video's frames: 16 bytes each.

    Attributes:
        seconds: when each frame begins.
        scores: of the frames.
    """

    def __init__(self) -> None:
        self.seconds, self.scores = array("d"), array("d")

    def add(self, seconds: float, score: float) -> None:
        """Add a frame; times do not fall."""
        self.seconds.append(seconds)
        self.scores.append(score)

    def verdict(
        self,
        options: VerdictOptions,
        end: float,
        reason: str | None,
        stopped: bool = False,
    ) -> Verdict:
        """The verdict of at least one frame.

        Args:
            options: make one score of them, and a decision of that.
            end: of what was read, in seconds.
            reason: why that is not all; None: it is.
            stopped: whether that is because a frame reached `stop_at`.
        """
        seconds, scores = np.array(self.seconds), np.array(self.scores)
        score = options.rule.score(seconds, scores)
        flagged = scores >= options.lowest
        highest = int(scores.argmax())
        end = max(end, float(seconds[-1]))
        return Verdict(
            options.decide(score, reason is None),
            score,
            str(options.rule),
            options.lowest,
            float(scores[highest]),
            float(seconds[highest]),
            float(scores.mean()),
            float(flagged.mean()),
            max(0.0, _longest(seconds, flagged)),
            tuple(_segments(seconds, scores, flagged, end)),
            len(scores),
            end - float(seconds[0]),
            "complete" if reason is None else "partial",
            reason,
            stopped,
        )


def _segments(
    seconds: np.ndarray, scores: np.ndarray, flagged: np.ndarray, end: float
) -> Sequence[Segment]:
    ends = np.append(seconds[1:], end)
    found = []
    for first, behind in runs(flagged):
        highest = first + int(scores[first:behind].argmax())
        found.append(
            Segment(
                float(seconds[first]),
                float(ends[behind - 1]),
                float(scores[highest]),
                float(seconds[highest]),
            )
        )
    return found
