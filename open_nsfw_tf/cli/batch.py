"""`open-nsfw batch`: any number of pictures into a table."""

import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from open_nsfw_tf.backbones.trained import TrainedModel, read_trained
from open_nsfw_tf.batch import (
    BatchOptions,
    Network,
    RayCluster,
    Summary,
    score_batch,
    score_on_ray,
)
from open_nsfw_tf.batch.item import SELECT
from open_nsfw_tf.batch.ray import LOCAL
from open_nsfw_tf.batch.remote import is_remote
from open_nsfw_tf.batch.sorting import (
    check_destination,
    check_sortable,
    sort_files,
)
from open_nsfw_tf.batch.sources import check_sources, count
from open_nsfw_tf.classifier import BATCH_SIZE, MAX_BATCH_SIZE, Classifier
from open_nsfw_tf.cli.interrupt import INTERRUPTED, interruptible
from open_nsfw_tf.cli.options import (
    Scoring,
    Writing,
    choice,
    grouped,
)
from open_nsfw_tf.cli.pictures import standard_input
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import STDIN
from open_nsfw_tf.progress import progress_bar
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.video import Sampling

commands = typer.Typer()

_ADDRESS = re.compile(
    r"auto|local|ray://.+|[\w.-]+:\d+|\[[\da-f:]+\]:\d+", re.IGNORECASE
)


class _Command(TyperCommand):
    """Lets --ray be given with or without an address; other text is a source."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give a --ray without an address its default."""
        end = args.index("--") if "--" in args else len(args)
        for at in reversed([i for i in range(end) if args[i] == "--ray"]):
            given = args[at + 1 : at + 2]
            if given and _ADDRESS.fullmatch(given[0]):
                args[at : at + 2] = [f"--ray={given[0]}"]
            else:
                args[at] = f"--ray={LOCAL}"
        return super().parse_args(ctx, args)


@dataclass(frozen=True)
class Sorting:
    """Whether and where the files are moved after scoring."""

    move_to: Annotated[
        Path | None,
        typer.Option(
            "--move-to",
            metavar="DIR",
            help="When all is scored, move the files to DIR/nsfw and DIR/sfw; "
            "`open-nsfw dataset undo` takes it back.",
        ),
    ] = None
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With --move-to: nsfw is what scores as much or more.",
        ),
    ] = None
    action: Annotated[
        str,
        choice(
            ("move", "link"),
            "--action",
            help="With --move-to: what to do with the files; link: symbolic links.",
        ),
    ] = "move"

    def check(self, sources: list[str], trained: TrainedModel | None) -> None:
        """Refuse wrong combinations of options, before any work."""
        if (self.move_to is None) != (self.threshold is None):
            raise typer.BadParameter("--move-to and --threshold go together.")
        if self.move_to is None:
            if self.action != "move":
                raise typer.BadParameter(
                    f"--action {self.action} needs --move-to and --threshold."
                )
            return
        if any(map(is_remote, sources)):
            raise typer.BadParameter("--move-to moves files of this machine only.")
        check_destination(self.move_to, sources)
        if trained is not None:
            check_sortable(trained.classes)

    def sort(self, output: Path, named: Collection[bytes]) -> None:
        """Move or link the files that this run's sources name, if requested."""
        if self.move_to is None or self.threshold is None:
            return
        counts: dict[str, int] = {}
        journal = None
        if named:
            table = read_table(output)
            counts, journal = sort_files(
                table, named, self.move_to, self.threshold, self.action == "link"
            )
        parts = ", ".join(f"{number} {name}" for name, number in counts.items())
        print(f"{sanitize(self.move_to)}: {parts or 'no files'}")
        if counts.get("changed"):
            print(
                "changed since they were scored, and left: --resume scores them again"
            )
        if counts.get("linked twice"):
            print(
                "linked twice: links of earlier scores are in the other folder as well"
            )
        if journal is not None:
            print(f"undo with: {journal.undo_command}")


@dataclass(frozen=True)
class Cluster:
    """Scoring on many machines."""

    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Score on a Ray cluster: auto, host:port or ray://host:port; without "
            "an address, on a Ray that is started here and ended again.",
        ),
    ] = None
    actors: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="With --ray: how many workers, of one CPU each; default: one for each "
            "CPU.",
        ),
    ] = None
    gpus: Annotated[
        float, typer.Option(min=0.0, help="With --ray: graphics cards of each worker.")
    ] = 0.0

    def check(self, scoring: Scoring) -> None:
        """Refuse options that do not go together."""
        if self.ray is None and (self.actors is not None or self.gpus):
            raise typer.BadParameter("--actors and --gpus go with --ray.")
        if self.ray is not None and scoring.workers is not None:
            raise typer.BadParameter("--workers goes without --ray: see --actors.")

    def scorer(
        self, scoring: Scoring, trained: TrainedModel | None
    ) -> Callable[..., Summary]:
        """The function that scores on the cluster."""
        cluster = RayCluster(self.ray or LOCAL, self.actors, self.gpus)
        network = Network(
            scoring.engine,
            scoring.weights,
            scoring.precision,
            scoring.device,
            trained,
            scoring.decode,
        )
        return partial(score_on_ray, cluster=cluster, network=network)


@dataclass(frozen=True)
class Selection:
    """Which files are scored, how many at once, and whether they are hashed."""

    hashes: Annotated[
        bool, typer.Option("--hash", help="Add the SHA-256 of each picture's file.")
    ] = False
    select: Annotated[
        str,
        choice(
            SELECT,
            "--select",
            help="What is a picture in folders and archives: what has the suffix or "
            "the content of one, only one of the two, or all files.",
        ),
    ] = "either"
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_BATCH_SIZE,
            help="Pictures that the engine gets at once; more help on GPUs only.",
        ),
    ] = BATCH_SIZE

    videos: Annotated[
        str | None,
        typer.Option(
            metavar="every:SECONDS|frames:NUMBER|all",
            help="Score these frames of videos and animations, too: a row each, with "
            "frame and seconds. Without it an animation is its first picture. Needs "
            "the extra video.",
        ),
    ] = None

    @property
    def options(self) -> BatchOptions:
        """The options for the library."""
        sampling = None
        if self.videos is not None:
            try:
                sampling = Sampling.parse(self.videos)
            except ValueError as error:
                raise typer.BadParameter(f"{error}.", param_hint="--videos") from error
        return BatchOptions(self.hashes, self.select, self.batch_size, sampling)


@commands.command(cls=_Command)
@grouped
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders (walked recursively), globs, .txt lists of paths, tar and "
            "zip archives, pictures; - reads a list, a tar or a picture from standard "
            "input. With --ray also s3://, gs:// and other URIs.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option(
            "--output",
            "-o",
            help="The table: .csv, .jsonl or .parquet; with --ray a folder.",
        ),
    ],
    scoring: Scoring,
    sorting: Sorting,
    cluster: Cluster,
    selection: Selection,
    writing: Writing,
) -> None:
    """Score any number of pictures into a table: path, sfw, nsfw, error, size,
    mtime_ns.

    With --model it has a column for each of the model's classes. A picture that cannot
    be read is a row with its error. A run that was interrupted, even killed, goes on
    with --resume: no row is lost, none is there twice.
    """
    trained = None if scoring.model is None else read_trained(scoring.model)
    options = selection.options
    if options.videos is not None and sorting.move_to is not None:
        raise typer.BadParameter("--move-to goes without --videos.")
    sorting.check(sources, trained)
    cluster.check(scoring)
    if cluster.ray is None:
        check_sources(sources, selection.select)  # before loading weights, the longest
        classifier = scoring.classifier(model=trained)
        score = score_here(classifier, sources)
    else:
        score = cluster.scorer(scoring, trained)
    with _silence() if cluster.ray else nullcontext():
        summary = run(score, sources, output, writing.mode, options)
    try:
        print_summary(summary, output)
    finally:  # also where nobody reads the summary any more
        if summary.finished:
            sorting.sort(output, summary.named)


def score_here(classifier: Classifier, sources: list[str]) -> Callable[..., Summary]:
    """The function that scores in this process."""
    stdin = standard_input() if STDIN in sources else None
    return partial(score_batch, classifier, stdin=stdin)


def run(
    score: Callable[..., Summary],
    sources: list[str],
    output: Path,
    mode: Mode,
    options: BatchOptions,
) -> Summary:
    """Score, with a progress bar."""
    with (
        progress_bar(lambda: _count(sources, options)) as progress,
        interruptible("the pictures in flight") as stop,
    ):
        return score(
            sources, output, mode=mode, options=options, progress=progress, stop=stop
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Discard what Ray prints to standard output about its workers."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def print_summary(summary: Summary, output: Path) -> None:
    """Print what was done."""
    if not summary.finished:
        print(
            f"stopped: {summary.rows} new rows are safe; go on with the same command "
            "and --resume (without --overwrite)",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED)
    print(f"{sanitize(output)}: {_summary_line(summary)}")


def _summary_line(summary: Summary) -> str:
    rate = summary.rows / max(summary.seconds, 1e-9)
    parts = [f"{summary.rows} pictures", f"{summary.failed} without a score"]
    if summary.again:
        parts.append(f"{summary.again} scored again that had changed or were not read")
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped that have a row")
    line = f"{', '.join(parts)}; {summary.seconds:.1f} s, {rate:.1f} a second"
    if summary.passed_over:
        line += f"; passed over as no pictures: {summary.passed_over}"
    return line


def _count(sources: list[str], options: BatchOptions) -> int | None:
    """How many rows there will be; None where that is not known."""
    if options.videos is not None or any(map(is_remote, sources)):
        return None
    return count(sources, options.select)
