"""The command `open-nsfw` itself, and what its commands share."""

import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf import __version__
from open_nsfw_tf.engines import ENGINES

app = typer.Typer(
    name="open-nsfw",
    help="Probability that a picture is pornographic: Yahoo's Open-NSFW, exactly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def one_of(names: Iterable[str]) -> Callable[[str | None], str | None]:
    """A check that a value is one of some names."""
    names = tuple(names)

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def choice(names: Iterable[str], *flags: str, help: str, argument: bool = False) -> Any:
    """An option, or an argument, that must be one of some names."""
    names = tuple(names)
    make = typer.Argument if argument else typer.Option
    return make(
        *flags, callback=one_of(names), metavar=f"[{'|'.join(names)}]", help=help
    )


WeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--weights",
        "-m",
        help="A file of weights in any known format. Without it they are looked for: "
        "see `open-nsfw weights list`.",
    ),
]
EngineOption = Annotated[
    str,
    choice(
        ("auto", *ENGINES),
        "--engine",
        help="What computes the scores; all answer the same. auto: the fastest that is "
        "installed.",
    ),
]


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


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what can be expected to go wrong into one line and exit status 1."""
    # A warning of a picture's decoder or of a library is no news to the user.
    warnings.simplefilter("ignore")
    try:
        yield
    except (
        ValueError,
        OSError,
        ImportError,
        MemoryError,
        NotImplementedError,
    ) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        print(f"error: {reason}", file=sys.stderr)
        sys.exit(1)
