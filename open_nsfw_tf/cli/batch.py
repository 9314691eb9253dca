"""`open-nsfw batch`, and `batch_classify.py` with the flags of the first port."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.batch import Summary, score_batch
from open_nsfw_tf.batch.item import SELECT
from open_nsfw_tf.batch.sorting import check_destination, sort_files
from open_nsfw_tf.batch.sources import STDIN, check_sources, count
from open_nsfw_tf.classifier import BATCH_SIZE, MAX_BATCH_SIZE, Classifier
from open_nsfw_tf.cli.app import (
    DeviceOption,
    EngineOption,
    PrecisionOption,
    WeightsOption,
    WorkersOption,
    app,
    choice,
    standard_input,
)
from open_nsfw_tf.messages import shown
from open_nsfw_tf.request import LOADERS
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import Mode

INTERRUPTED = 130  # the exit status after Ctrl-C, by the shells' convention
_SHOW_CURSOR = b"\x1b[?25h"  # which the bar has hidden

original = typer.Typer(
    name="batch_classify.py", add_completion=False, pretty_exceptions_enable=False
)

ResumeOption = Annotated[
    bool,
    typer.Option("--resume", help="Go on with a table that exists: skip what it has."),
]
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace a table that exists.")
]


@app.command()
def batch(
    sources: Annotated[
        list[str],
        typer.Argument(
            metavar="SOURCE...",
            help="Folders (walked recursively), globs, .txt lists of paths, tar and zip "
            "archives, pictures; - reads a list, a tar or a picture from standard "
            "input.",
        ),
    ],
    output: Annotated[
        Path,
        typer.Option("--output", "-o", help="The table: .csv, .jsonl or .parquet."),
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
    move_to: Annotated[
        Path | None,
        typer.Option(
            "--move-to",
            metavar="DIR",
            help="When all is scored, move the files to DIR/nsfw and DIR/sfw.",
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
) -> None:
    """Score any number of pictures into a table: path, sfw, nsfw, error.

    A picture that cannot be read is a row with its error. A run that was interrupted,
    even killed, goes on with --resume: no row is lost, none is there twice.
    """
    if (move_to is None) != (threshold is None) or (link and move_to is None):
        raise typer.BadParameter("--move-to and --threshold go together.")
    if move_to is not None:
        check_destination(move_to, sources)
    check_sources(sources, select)  # before the weights: a slip costs no time
    classifier = Classifier(engine, weights, precision, device=device, workers=workers)
    _run(
        classifier,
        sources,
        output,
        mode=_mode(resume, overwrite),
        hashes=hashes,
        select=select,
        batch_size=batch_size,
    )
    if move_to is not None and threshold is not None:
        placed = sort_files(read_table(output), move_to, threshold, link)
        counts = ", ".join(f"{number} {name}" for name, number in placed.items())
        print(f"{shown(move_to)}: {counts or 'no files'}")


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
    check_sources([source], "either")
    classifier = Classifier(weights=model_weights)
    mode = _mode(resume, overwrite)
    _run(classifier, [source], output_file, mode=mode, batch_size=batch_size)


def _mode(resume: bool, overwrite: bool) -> Mode:
    if resume and overwrite:
        raise typer.BadParameter("--resume and --overwrite exclude each other.")
    return "resume" if resume else "overwrite" if overwrite else "new"


def _run(
    classifier: Classifier,
    sources: list[str],
    output: Path,
    select: str = "either",
    batch_size: int = BATCH_SIZE,
    **options: Any,
) -> None:
    """Score, show how far it is, and print what was done."""
    stdin = standard_input() if STDIN in sources else None
    with _bar(sources, select) as progress, _interruptible() as stop:
        summary = score_batch(
            classifier,
            sources,
            output,
            select=select,
            batch_size=batch_size,
            stdin=stdin,
            progress=progress,
            stop=stop,
            **options,
        )
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
    if summary.skipped:
        parts.append(f"{summary.skipped} skipped that have a row")
    return f"{', '.join(parts)}; {summary.seconds:.1f} s, {rate:.1f} a second"


def _bar(sources: list[str], select: str) -> Any:
    if sys.stderr is None or not sys.stderr.isatty():
        return nullcontext(lambda steps: None)
    from open_nsfw_tf.cli.progress import progress_bar

    return progress_bar(sys.stderr, lambda: count(sources, select))


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Ctrl-C once: what is yielded turns true. Twice: the process ends at once."""
    asked: list[int] = []
    terminal = None if sys.stderr is None else sys.stderr.fileno()

    def tell(text: bytes) -> None:
        if terminal is not None:
            os.write(terminal, text)  # print may be under way, and cannot be entered

    def interrupted(number: int, frame: object) -> None:
        if asked:
            if terminal is not None and os.isatty(terminal):
                tell(_SHOW_CURSOR)
            os._exit(INTERRUPTED)
        asked.append(number)
        tell(b"\nfinishing the pictures in flight; Ctrl-C again ends at once\n")

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
