"""`open-nsfw batch`, and `batch_classify.py` with the flags of the first port."""

import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stdout
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperCommand

from open_nsfw_tf.batch import (
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
from open_nsfw_tf.batch.sources import STDIN, check_sources, count
from open_nsfw_tf.classifier import BATCH_SIZE, MAX_BATCH_SIZE, Classifier
from open_nsfw_tf.cli.app import (
    DeviceOption,
    EngineOption,
    ModelOption,
    PrecisionOption,
    WeightsOption,
    WorkersOption,
    app,
    choice,
    standard_input,
)
from open_nsfw_tf.cli.interrupt import INTERRUPTED, interruptible
from open_nsfw_tf.messages import shown
from open_nsfw_tf.request import LOADERS
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import Mode
from open_nsfw_tf.trained import read_trained

original = typer.Typer(
    name="batch_classify.py", add_completion=False, pretty_exceptions_enable=False
)

ResumeOption = Annotated[
    bool,
    typer.Option(
        "--resume",
        help="Go on with a table that exists: skip what it has, unless the file has "
        "changed since.",
    ),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a table that exists.")
]
_ADDRESS = re.compile(
    r"auto|local|ray://.+|[\w.-]+:\d+|\[[\da-f:]+\]:\d+", re.IGNORECASE
)


class _Command(TyperCommand):
    """Lets --ray stand with or without an address; what is no address is a source."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Give the --ray that stands alone its address."""
        end = args.index("--") if "--" in args else len(args)
        for at in reversed([i for i in range(end) if args[i] == "--ray"]):
            given = args[at + 1 : at + 2]
            if given and _ADDRESS.fullmatch(given[0]):
                args[at : at + 2] = [f"--ray={given[0]}"]
            else:
                args[at] = f"--ray={LOCAL}"
        return super().parse_args(ctx, args)


@app.command(cls=_Command)
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders (walked recursively), globs, .txt lists of paths, tar and zip "
            "archives, pictures; - reads a list, a tar or a picture from standard "
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
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
    hashes: Annotated[
        bool, typer.Option("--hash", help="Add the SHA-256 of each picture's file.")
    ] = False,
    select: Annotated[
        str,
        choice(
            SELECT,
            "--select",
            help="What is a picture in folders and archives: what has the suffix or "
            "the content of one, only one of the two, or all files.",
        ),
    ] = "either",
    engine: EngineOption = "auto",
    precision: PrecisionOption = "float32",
    device: DeviceOption = None,
    workers: WorkersOption = None,
    batch_size: Annotated[
        int,
        typer.Option(
            min=1,
            max=MAX_BATCH_SIZE,
            help="Pictures that the engine gets at once; more help on GPUs only.",
        ),
    ] = BATCH_SIZE,
    weights: WeightsOption = None,
    model: ModelOption = None,
    move_to: Annotated[
        Path | None,
        typer.Option(
            "--move-to",
            metavar="DIR",
            help="When all is scored, move the files to DIR/nsfw and DIR/sfw; "
            "`open-nsfw dataset undo` takes it back.",
        ),
    ] = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="With --move-to: nsfw is what scores as much or more.",
        ),
    ] = None,
    link: Annotated[
        bool, typer.Option("--link", help="With --move-to: make links, move nothing.")
    ] = False,
    ray: Annotated[
        str | None,
        typer.Option(
            "--ray",
            metavar="[ADDRESS]",
            help="Score on a Ray cluster: auto, host:port or ray://host:port; without "
            "an address, on a Ray that is started here and ended again.",
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            min=1, help="With --ray: how many workers, one CPU each. All there are."
        ),
    ] = None,
    gpus: Annotated[
        float, typer.Option(min=0.0, help="With --ray: graphics cards of each worker.")
    ] = 0.0,
) -> None:
    """Score any number of pictures into a table: path, sfw, nsfw, error, size, mtime_ns.

    With --model it has a column for each of the model's classes. A picture that cannot
    be read is a row with its error. A run that was interrupted,
    even killed, goes on with --resume: no row is lost, none is there twice.
    """
    if (move_to is None) != (threshold is None) or (link and move_to is None):
        raise typer.BadParameter("--move-to and --threshold go together.")
    if move_to is not None:
        if any(map(is_remote, sources)):
            raise typer.BadParameter("--move-to moves files of this machine only.")
        check_destination(move_to, sources)
    mode = _mode(resume, overwrite)
    trained = None if model is None else read_trained(model)
    if move_to is not None and trained is not None:
        check_sortable(trained.classes)
    if ray is None:
        if actors is not None or gpus:
            raise typer.BadParameter("--actors and --gpus go with --ray.")
        check_sources(sources, select)  # before the weights: a slip costs no time
        made = Classifier(
            engine, weights, precision, device=device, workers=workers, model=trained
        )
        score = _here(made, sources, batch_size)
    else:
        if workers is not None:
            raise typer.BadParameter("--workers goes without --ray: see --actors.")
        cluster = RayCluster(ray, actors, gpus)
        network = Network(engine, weights, precision, device, trained)
        score = partial(score_on_ray, cluster=cluster, network=network)
    with _silence() if ray else nullcontext():
        summary = _run(score, sources, output, mode=mode, hashes=hashes, select=select)
    _tell(summary, output)
    if move_to is not None and threshold is not None:
        _sort(output, summary.named, move_to, threshold, link)


def _sort(
    output: Path, named: set[bytes], folder: Path, threshold: float, link: bool
) -> None:
    """Move, or link, the files that this run's sources name."""
    counts: dict[str, int] = {}
    journal = None
    if named:
        table = read_table(output)
        counts, journal = sort_files(table, named, folder, threshold, link)
    parts = ", ".join(f"{number} {name}" for name, number in counts.items())
    print(f"{shown(folder)}: {parts or 'no files'}")
    if counts.get("changed"):
        print("changed since they were scored, and left: --resume scores them again")
    if journal is not None:
        print(f"undo with: {journal.undo_command}")


@original.command()
def batch_classify_original(
    source: Annotated[
        str, typer.Option("--source", "-s", help="Folder of the pictures to classify.")
    ],
    output_file: Annotated[
        Path,
        typer.Option(
            "--output_file", "-o", help="The table: .csv, .jsonl or .parquet."
        ),
    ],
    model_weights: Annotated[
        Path | None,
        typer.Option(
            "--model_weights",
            "-m",
            help="Path of the trained weights, in any known format. Without it they "
            "are looked for: see `open-nsfw weights list`.",
        ),
    ] = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch_size",
            "-b",
            min=1,
            max=MAX_BATCH_SIZE,
            help="Pictures to classify at once.",
        ),
    ] = 64,
    image_loader: Annotated[
        str,
        choice(
            LOADERS,
            "--image_loader",
            "-l",
            help="Pillow prepares the pictures for both: the scores are the same.",
        ),
    ] = "yahoo",
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Score a folder of pictures into a table, with the flags of the first port."""
    mode = _mode(resume, overwrite)
    check_sources([source], "either")
    score = _here(Classifier(weights=model_weights), [source], batch_size)
    _tell(_run(score, [source], output_file, "either", mode=mode), output_file)


def _here(
    classifier: Classifier, sources: list[str], batch_size: int
) -> Callable[..., Summary]:
    """What scores in this process."""
    stdin = standard_input() if STDIN in sources else None
    return partial(score_batch, classifier, batch_size=batch_size, stdin=stdin)


def _mode(resume: bool, overwrite: bool) -> Mode:
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other.")
    return "resume" if resume else "overwrite" if overwrite else "new"


def _run(
    score: Callable[..., Summary],
    sources: list[str],
    output: Path,
    select: str,
    **options: Any,
) -> Summary:
    """Score, and show how far it is."""
    with (
        _bar(sources, select) as progress,
        interruptible("the pictures in flight") as stop,
    ):
        return score(
            sources, output, select=select, progress=progress, stop=stop, **options
        )


@contextmanager
def _silence() -> Iterator[None]:
    """Keep standard output for our own words: Ray talks there of its workers."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere):
        yield


def _tell(summary: Summary, output: Path) -> None:
    """Print what was done."""
    if not summary.finished:
        print(
            f"stopped: {summary.rows} new rows are safe; go on with the same command and "
            f"--resume (without --overwrite)",
            file=sys.stderr,
        )
        raise typer.Exit(INTERRUPTED)
    print(f"{shown(output)}: {_told(summary)}")


def _told(summary: Summary) -> str:
    rate = summary.rows / max(summary.seconds, 1e-9)
    parts = [f"{summary.rows} pictures", f"{summary.failed} without a score"]
    if summary.again:
        parts.append(f"{summary.again} scored again that had changed")
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped that have a row")
    told = f"{', '.join(parts)}; {summary.seconds:.1f} s, {rate:.1f} a second"
    if summary.passed_over:
        told += f"; passed over as no pictures: {summary.passed_over}"
    return told


def _bar(sources: list[str], select: str) -> Any:
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(lambda steps: None)
    from open_nsfw_tf.cli.progress import progress_bar

    if any(map(is_remote, sources)):
        return progress_bar(sys.stderr, lambda: None)
    return progress_bar(sys.stderr, lambda: count(sources, select))
