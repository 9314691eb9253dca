"""The command `open-nsfw`: its sub-commands, its errors and its standard output."""

import codecs
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from open_nsfw_tf import __version__
from open_nsfw_tf.cli.interrupt import ending_silently
from open_nsfw_tf.errors import sanitize

# By the name of a command: its module, and its line in --help.
COMMANDS = {
    "classify": (
        "classify",
        "Score pictures: the probability, 0 to 1, that each one is pornographic.",
    ),
    "batch": (
        "batch",
        (
            "Score any number of pictures into a table: path, sfw, nsfw, error, size, "
            "mtime_ns."
        ),
    ),
    "video": (
        "video",
        "Score the frames of videos by time, and give a verdict for each video.",
    ),
    "explain": (
        "explain",
        "Show which part of a picture its score comes from.",
    ),
    "blur": (
        "explain",
        (
            "Cover the parts of pictures that raise their score, and prove it by a new "
            "score."
        ),
    ),
    "rank": (
        "compare",
        "Print the pictures with the highest scores, the highest first.",
    ),
    "compare": (
        "compare",
        "Say how far two tables of scores of the same pictures are apart.",
    ),
    "evaluate": (
        "evaluate",
        "Evaluate scores by labels: curves, figures, and the threshold you want.",
    ),
    "dataset": (
        "dataset",
        (
            "Pictures in class folders: check, clean, split, sort. Nothing is touched "
            "without --apply, nothing is ever deleted or overwritten, and `undo` takes "
            "it back."
        ),
    ),
    "serve": (
        "serve",
        (
            "Answer over HTTP: own JSON, TF Serving's REST interface, OpenAI's "
            "moderations."
        ),
    ),
    "models": (
        "models",
        "List the networks to train: size, cost, speed here, published accuracy.",
    ),
    "train": ("train", "Train a classifier of your own classes on your pictures."),
    "export": (
        "export",
        "Write the network in another format, and prove that it answers the same.",
    ),
    "page": (
        "page",
        (
            "Write a page that scores pictures in the browser: a folder for any web "
            "server."
        ),
    ),
    "request": (
        "request",
        "Print the body of a request for the scores of a picture: one line of JSON.",
    ),
    "convert": ("weights", "Convert weights, and prove that they are the same."),
    "weights": ("weights", "The trained weights: where they are, and fetching them."),
    "doctor": (
        "doctor",
        "Check this installation: versions, engines, weights, caches, extras.",
    ),
}


class _Commands(TyperGroup):
    """Imports the module of a command when that command runs."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.commands = {
            name: TyperCommand(name, help=line) for name, (_, line) in COMMANDS.items()
        }

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command of the imported module, instead of the entry for --help."""
        name, found, rest = super().resolve_command(ctx, args)
        if name is not None:
            _refuse_empty(ctx, name, rest)
            with ending_silently():
                module = import_module(f"open_nsfw_tf.cli.{COMMANDS[name][0]}")
            found = get_group(module.commands).commands[name]
        return name, found, rest


def _refuse_empty(ctx: Any, command: str, args: list[str]) -> None:
    """Refuse an empty argument, which would stand for the current folder.

    Of `classify` it is one of many pictures, of which the others are scored.
    """
    empty = [arg for arg in args if not arg or (arg[:2] == "--" and arg[-1:] == "=")]
    if empty and command != "classify":
        ctx.fail("an argument is empty: is a variable of the shell not set?")


app = typer.Typer(
    name="open-nsfw",
    cls=_Commands,
    help="Probability that a picture is pornographic: Yahoo's Open-NSFW, exactly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Probability that a picture is pornographic: Yahoo's Open-NSFW, exactly."""


_EXPECTED = (
    ValueError,  # ImageError and WeightsError among them
    TypeError,
    OSError,
    ImportError,
    MemoryError,
    RuntimeError,  # ExportError among them
)
DEBUG = "OPEN_NSFW_TF_DEBUG"  # set: tracebacks, and what C libraries print


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print expected errors as one line, and exit with status 1."""
    _keep_standard_numbers()
    if os.environ.get(DEBUG):
        yield
        return
    # Warnings of decoders and libraries do not help the user.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _silence_libraries()
    # Exit by an exception at SIGTERM, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except _EXPECTED as error:
        if sys.stderr is not None:
            print(f"error: {sanitize(error, LONGEST)}", file=sys.stderr)
        sys.exit(1)


def _keep_standard_numbers() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no other file gets them.

    C libraries print to descriptor 2, which might then be a table of scores.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)


LONGEST = 2000  # characters of an error


def _silence_libraries() -> None:
    """Send to /dev/null what C libraries print to standard error.

    TensorFlow, libtiff and others log there; their errors are also raised in Python,
    whose standard error stays the terminal.
    """
    if sys.stderr is None:
        return
    try:
        ours = os.dup(2)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        os.close(silence)
    except OSError:
        return
    sys.stderr = os.fdopen(ours, "w", buffering=1, errors="backslashreplace")


ESCAPING = "open_nsfw_tf.escaping"  # the handler of characters that cannot be encoded


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name that are not text stay; what cannot be encoded: \\u."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(ESCAPING, _escape)


def open_standard_output() -> None:
    """Make any name printable in standard output's encoding.

    Raises:
        OSError: standard output is closed.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPING)
