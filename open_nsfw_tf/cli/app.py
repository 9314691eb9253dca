"""The command `open-nsfw`, and the table of its sub-commands."""

from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_group

from open_nsfw_tf import __version__
from open_nsfw_tf.cli.process import import_command

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
            module = import_command(COMMANDS[name][0])
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
