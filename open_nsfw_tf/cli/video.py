"""`open-nsfw video`: frames of videos, and a verdict for each."""

import json
import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from open_nsfw_tf.batch.item import columns_of
from open_nsfw_tf.cli.interrupt import INTERRUPTED, interruptible
from open_nsfw_tf.cli.options import (
    BandOption,
    JsonOption,
    OverwriteOption,
    PixelsOption,
    Scoring,
    band_of,
    grouped,
)
from open_nsfw_tf.cli.pictures import standard_input
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.files import STDIN, refuse_existing, stamp_of
from open_nsfw_tf.image import MAX_PIXELS, describe
from open_nsfw_tf.libraries import need
from open_nsfw_tf.progress import progress_bar
from open_nsfw_tf.tables import STAMP, positive_columns
from open_nsfw_tf.tables.append import Mode, TableWriter
from open_nsfw_tf.video import (
    Rule,
    Sampling,
    Verdict,
    VerdictOptions,
    VideoScores,
    clock,
    score_video,
)

if TYPE_CHECKING:
    from open_nsfw_tf.classifier import Classifier
    from open_nsfw_tf.report.video import VideoReport

commands = typer.Typer()

ROWS = 64  # that are written at once
SHOWN = 8  # segments that a line names


@dataclass(frozen=True)
class Choosing:
    """Which frames are scored."""

    every: Annotated[
        float | None,
        typer.Option(
            metavar="SECONDS",
            help="Score the frame that is on the screen each so many seconds; 1 "
            "without --frames and --all.",
        ),
    ] = None
    frames: Annotated[
        int | None,
        typer.Option(
            metavar="NUMBER", help="Or: at so many moments, evenly spread, at least 2."
        ),
    ] = None
    all: Annotated[bool, typer.Option("--all", help="Or: every frame.")] = False

    @property
    def sampling(self) -> Sampling:
        """The choice for the library."""
        given = sum((self.every is not None, self.frames is not None, self.all))
        if given > 1:
            raise typer.BadParameter("--every, --frames and --all exclude each other.")
        try:
            return Sampling(self.every if given else 1.0, self.frames)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from error


@dataclass(frozen=True)
class Deciding:
    """How the scores of the frames become a verdict."""

    rule: Annotated[
        str,
        typer.Option(
            metavar="max|share:SHARE|run:SECONDS",
            help="What the threshold is compared with: the highest score; what at "
            "least this share of the frames reach, such as share:.1; or what all reach "
            "for so many seconds.",
        ),
    ] = "max"
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Decide nsfw from this score on, sfw below it, instead of --band.",
        ),
    ] = None
    band: BandOption = None
    stop_at: Annotated[
        float | None,
        typer.Option(min=0.0, max=1.0, help="End a video at a frame of this score."),
    ] = None
    positive: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CLASS",
            help="With --model: the class that is looked for; may be given many times, "
            "for scores that are added up. Without it: nsfw.",
        ),
    ] = None

    def options(self) -> VerdictOptions:
        """The options for `score_video`."""
        if self.threshold is not None and self.band is not None:
            raise typer.BadParameter("--threshold and --band exclude each other.")
        band, positive = band_of(self.band), self.positive or ("nsfw",)
        try:
            rule = Rule.parse(self.rule)
            return VerdictOptions(rule, self.threshold, band, self.stop_at, positive)
        except ValueError as error:
            raise typer.BadParameter(f"{error}.") from error


@dataclass(frozen=True)
class Results:
    """What is written."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="A table of the frames: .csv, .jsonl or .parquet, with the columns "
            "path, frame, seconds, sfw, nsfw, error, size, mtime_ns.",
        ),
    ] = None
    report: Annotated[
        Path | None,
        typer.Option(
            help="Write a page of HTML: timelines, and pictures of the segments, which "
            "are blurred until pointed at. Needs the extra evaluate."
        ),
    ] = None
    overwrite: OverwriteOption = False
    json_lines: JsonOption = False


@commands.command("video")
@grouped
def video_command(
    videos: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE...",
            help="Videos, and animations as GIF, WebP or PNG; - reads one from "
            "standard input.",
        ),
    ],
    scoring: Scoring,
    choosing: Choosing,
    deciding: Deciding,
    results: Results,
    max_pixels: PixelsOption = MAX_PIXELS,
) -> None:
    """Score the frames of videos by time, and give a verdict for each video.

    A frame is chosen by when it is on the screen; the first and the last are always
    scored. A video that cannot be read to its end gives what could be read, is called
    partial with the reason, and is never accepted unseen; the exit status is then 1.
    After Ctrl-C it is 130, and what was scored is kept. Lines of JSON have path,
    decision, score, rule, flagged_from, max, max_seconds, mean, share, longest_run,
    segments, frames, seconds, state, reason, stopped and error. Needs the extra video.
    """
    run = _Run(choosing.sampling, deciding.options(), results)
    run.check(videos)
    with ExitStack() as stack:
        run.score(videos, scoring.classifier(max_pixels), stack)
    if run.stopped or run.failed:
        raise typer.Exit(INTERRUPTED if run.stopped else 1)


class _Run:
    """One run of the command over some videos."""

    def __init__(
        self,
        sampling: Sampling,
        options: VerdictOptions,
        results: Results,
    ) -> None:
        self._sampling, self._options, self._results = sampling, options, results
        self._waiting: list[dict[str, Any]] = []
        self._table: TableWriter | None = None
        self._columns: list[str] = []
        self._reports: list[VideoReport] = []
        self.failed = self.stopped = False

    def check(self, videos: list[str]) -> None:
        """Refuse, before any work, what cannot be done or would destroy something."""
        from open_nsfw_tf.report import check_outputs

        need("video", "av")
        output, report = self._results.output, self._results.report
        check_outputs({"table": output, "report": report}, videos)
        for path in (output, report):
            if path is not None:
                refuse_existing(path, self._results.overwrite)
        if report is not None:
            need("evaluate", "jinja2")

    def score(
        self, videos: list[str], classifier: "Classifier", stack: ExitStack
    ) -> None:
        """Score all, print a line for each, and write what is asked for."""
        # Before the table, which replaces an earlier one.
        positive_columns(classifier.classes, self._options.positive)
        self._columns = columns_of(classifier.classes, hashes=False, videos=True)
        if self._results.output is not None:
            mode: Mode = "overwrite" if self._results.overwrite else "new"
            self._table = stack.enter_context(
                TableWriter(self._results.output, self._columns, mode)
            )
        stop = stack.enter_context(interruptible("the frames in flight"))
        for path in videos:
            self._one(path, classifier, stop)
            if self.stopped:
                break
        if self._table is not None:
            self._write()
            self._table.finish()
        if self._results.report is not None:
            from open_nsfw_tf.report.video import write

            write(self._results.report, self._reports)

    def _one(self, path: str, classifier: "Classifier", stop: Any) -> None:
        from open_nsfw_tf.report.video import VideoReport

        line: dict[str, Any] = {"path": path, "error": None}
        verdict = None
        report = VideoReport(path, self._options.lowest)
        self._reports.append(report)
        stamp = None if path == STDIN else stamp_of(path)
        try:
            frames = score_video(
                classifier,
                standard_input() if path == STDIN else path,
                sampling=self._sampling,
                options=self._options,
                on_frame=report.add_frame if self._results.report else None,
            )
            with frames:
                verdict = self._frames(path, frames, classifier, stop)
            report.end(verdict)
            line |= verdict.to_dict()
            as_wanted = self.stopped or verdict.stopped
            if verdict.state == "partial" and not as_wanted:
                self.failed = True
                self._row(path, error=f"partial: {verdict.reason}")
        except ImageError as error:
            self.failed = True
            line["error"] = report.error = str(error)
            reason = str(error).removeprefix(f"{describe(path)}: ")
            self._row(path, error=reason)
        self._end(stamp)
        if self._results.json_lines:
            print(json.dumps(line, allow_nan=False), flush=True)
        elif verdict is None:
            print(f"error: {line['error']}", flush=True)
        else:
            print("\n".join(lines(path, verdict)), flush=True)

    def _frames(
        self, path: str, frames: VideoScores, classifier: "Classifier", stop: Any
    ) -> Verdict:
        seconds = frames.info["seconds"]
        total = None if seconds is None else max(1, round(seconds))
        title = describe(os.path.basename(path))
        with progress_bar(lambda: total, title, in_seconds=True) as progress:
            for frame in frames:
                row = dict(zip(("frame", "seconds"), frame[:2], strict=True))
                scores = frame[2:] if len(frame) > 3 else frame[2]
                self._row(path, **row, **dict(zip(classifier.classes, scores)))
                progress(completed=int(frames.at))
                if stop():
                    self.stopped = True
                    break
        return frames.verdict

    def _row(self, path: str, **values: Any) -> None:
        if self._table is None:
            return
        self._waiting.append({**dict.fromkeys(self._columns), "path": path, **values})
        if len(self._waiting) > ROWS:  # the last one waits, and may get the stamp
            self._write(1)

    def _end(self, stamp: tuple[int, int] | None) -> None:
        """The last row of a video has its file's size and time."""
        if self._waiting and stamp is not None and not self.stopped:
            self._waiting[-1].update(zip(STAMP, stamp, strict=True))
        self._write()

    def _write(self, keep: int = 0) -> None:
        if self._table is not None:
            end = len(self._waiting) - keep
            self._table.write(self._waiting[:end])
            del self._waiting[:end]


def lines(path: str, verdict: Verdict) -> list[str]:
    """What is printed about a video."""
    parts = (
        f"{verdict.decision} {verdict.score:.6f} by {verdict.rule}",
        f"max {verdict.max:.6f} at {clock(verdict.max_seconds)}",
        f"mean {verdict.mean:.6f}",
        f"{verdict.frames} frames of {clock(verdict.seconds)}",
        describe(path),
    )
    found = ["  ".join(parts)]
    if verdict.segments:
        found.append(
            f"  {100 * verdict.share:.1f} % of the frames at "
            f"{verdict.flagged_from:g} or more, {verdict.longest_run:.1f} s at a time"
        )
    for segment in verdict.segments[:SHOWN]:
        found.append(
            f"  {clock(segment.start)} to {clock(segment.end)}  max {segment.max:.6f}"
        )
    if len(verdict.segments) > SHOWN:
        found.append(f"  and {len(verdict.segments) - SHOWN} more, see --json")
    if verdict.reason is not None:
        found.append(f"  partial: {sanitize(verdict.reason, 400)}")
    return found
