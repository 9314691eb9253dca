"""The report of videos: one page of HTML with timelines and pictures of segments.

Like the report of an evaluation it needs nothing else: no network and no script.
Pictures are blurred until the pointer is over them.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from open_nsfw_tf import __version__
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.libraries import need
from open_nsfw_tf.report.page import data_url, percent
from open_nsfw_tf.video import Verdict, clock

LONG_SIDE = 240  # pixels, of a thumbnail
THUMBNAILS = 48  # segments with a picture, of one video: those with the highest scores
SEGMENTS = 500  # that are listed, of one video
WIDTH, HEIGHT = 1000, 140  # of a timeline, in units of its own
COLUMNS = 1000  # of a timeline: more frames share one, which shows their highest score


@dataclass
class VideoReport:
    """What the page shows of one video.

    Its method `add_frame` is for `open_nsfw_tf.video.score_video`, and keeps a
    small picture of each segment's highest frame.

    Attributes:
        path: of the video.
        flagged_from: the score from which on a frame counts as flagged.
        verdict: None until it is known, or where there is none.
        error: why there is none.
        seconds: when the frames begin.
        scores: of the frames.
        pictures: by the seconds of a frame, its score and a data URL.
    """

    path: str
    flagged_from: float
    verdict: Verdict | None = None
    error: str | None = None
    seconds: list[float] = field(default_factory=list)
    scores: list[float] = field(default_factory=list)
    pictures: dict[float, tuple[float, str]] = field(default_factory=dict)
    _best: tuple[float, float, Image.Image] | None = None

    def add_frame(self, seconds: float, score: float, rgb: np.ndarray) -> None:
        """Note a frame.

        Args:
            seconds: when it begins.
            score: of the verdict's classes.
            rgb: uint8 (height, width, 3).
        """
        self.seconds.append(seconds)
        self.scores.append(score)
        if score < self.flagged_from:
            self._end_segment()
        elif self._best is None or score > self._best[1]:
            small = Image.fromarray(rgb)
            small.thumbnail((LONG_SIDE, LONG_SIDE))
            self._best = seconds, score, small

    def end(self, verdict: Verdict) -> None:
        """Note the verdict, after the last frame."""
        self._end_segment()
        self.verdict = verdict

    def _end_segment(self) -> None:
        if self._best is None:
            return
        seconds, score, small = self._best
        self._best = None
        self.pictures[seconds] = score, data_url(small)
        if len(self.pictures) > THUMBNAILS:
            del self.pictures[min(self.pictures, key=lambda at: self.pictures[at][0])]

    def timeline(self) -> dict[str, Any]:
        """The values of the drawing: points of the line, and the segments as boxes."""
        seconds, scores = np.array(self.seconds), np.array(self.scores)
        first = float(seconds[0])
        length = max(self.verdict.seconds if self.verdict else 0.0, 1e-3)

        def across(at: float) -> float:
            return round(WIDTH * (at - first) / length, 2)

        points = [
            (across(at), round(HEIGHT * (1 - score), 2))
            for at, score in _highest(seconds, scores)
        ]
        points.append((WIDTH, points[-1][1]))
        line = f"M{points[0][0]} {points[0][1]}" + "".join(
            f"H{x}V{y}" for x, y in points[1:]
        )
        segments = self.verdict.segments[:SEGMENTS] if self.verdict else ()
        boxes = [
            (across(s.start), max(1.0, across(s.end) - across(s.start)))
            for s in segments
        ]
        return {"line": line, "boxes": boxes}


def _highest(seconds: np.ndarray, scores: np.ndarray) -> Iterator[tuple[float, float]]:
    """The highest score of each of `COLUMNS` parts, or all if there are fewer."""
    for part in np.array_split(np.arange(len(scores)), min(len(scores), COLUMNS)):
        yield float(seconds[part[0]]), float(scores[part].max())


def html(reports: list[VideoReport]) -> str:
    """The page of some videos.

    Raises:
        ImportError: jinja2 is not installed; the message says how to.
    """
    need("evaluate", "jinja2")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters.update(words=sanitize, clock=clock, percent=percent)
    folder = files(__package__)
    template = environment.from_string(
        folder.joinpath("video.html").read_text(encoding="utf-8")
    )
    page: str = template.render(
        reports=reports,
        style=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),
        width=WIDTH,
        height=HEIGHT,
        listed=SEGMENTS,
        version=__version__,
    )
    return page + "\n"


def write(path: str | os.PathLike[str], reports: list[VideoReport]) -> None:
    """Write the page, which replaces an earlier one when it is whole.

    Raises:
        OSError: the file cannot be written.
        ImportError: jinja2 is not installed; the message says how to.
    """
    page = html(reports)
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")
