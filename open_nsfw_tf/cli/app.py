"""The command `open-nsfw` itself, and what its commands share."""

import codecs
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Annotated, Any

import typer

from open_nsfw_tf import __version__
from open_nsfw_tf.engines import BFLOAT16, ENGINES, FLOAT16, PRECISIONS
from open_nsfw_tf.image import ImageError
from open_nsfw_tf.messages import shown

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
ModelOption = Annotated[
    Path | None,
    typer.Option(
        "--model",
        help="Instead of weights: the folder of a model that `open-nsfw train` has made. "
        "It scores with its own classes.",
    ),
]
EngineOption = Annotated[
    str,
    choice(
        ("auto", *ENGINES),
        "--engine",
        help="What computes the scores; in float32 all answer the same. auto: the fastest "
        "that is installed and offers the precision.",
    ),
]
PrecisionOption = Annotated[
    str,
    choice(
        PRECISIONS,
        "--precision",
        help="float32 is exact. The others are approximate: they change scores by up to "
        f"{FLOAT16:g} (float16), {BFLOAT16:g} (bfloat16) and, of photographs, .005 "
        "(int8, which is fastest, and takes a minute the first time).",
    ),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        "--workers",
        min=1,
        help="Threads that decode and score side by side; one for each core if not given.",
    ),
]
DeviceOption = Annotated[
    str | None,
    typer.Option(
        "--device",
        help="What the engine computes on, as it calls it: cpu; cuda:1 or coreml for "
        "onnxruntime; gpu:0 for openvino and tensorflow. A wrong one is answered with "
        "those there are.",
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
DEBUG = "OPEN_NSFW_TF_DEBUG"  # set: tracebacks, and what C libraries print


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Turn what can be expected to go wrong into one line and exit status 1."""
    _keep_standard_numbers()
    if os.environ.get(DEBUG):
        yield
        return
    # A warning of a picture's decoder or of a library is no news to the user.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _silence_libraries()
    # Asked to end, end as after Ctrl-C: temporary files go.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except _EXPECTED as error:
        if sys.stderr is not None:
            print(f"error: {shown(error, LONGEST)}", file=sys.stderr)
        sys.exit(1)


def _keep_standard_numbers() -> None:
    """Hold 0, 1 and 2 where they are closed, or a file that is opened next has them.

    C libraries print to 2, whatever it is: into a table of scores.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)


LONGEST = 2000  # characters of an error


def _silence_libraries() -> None:
    """Give C libraries a standard error of their own, which nobody reads.

    TensorFlow, libtiff and others print there what no user can act on; what they cannot
    do comes back as an error that Python prints.
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


def standard_input() -> IO[bytes]:
    """The binary standard input.

    Raises:
        ImageError: it is closed.
    """
    if sys.stdin is None:
        raise ImageError("-: expected a picture on standard input, which is closed")
    return sys.stdin.buffer


ESCAPING = "open_nsfw_tf.escaping"  # how characters are printed that cannot be


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """The bytes of a name that are no text, as they are; what an encoding lacks, as \\u."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(ESCAPING, _escape)


def open_standard_output() -> None:
    """Print any name, whatever standard output's encoding; refuse to work for nobody.

    Raises:
        OSError: standard output is closed.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPING)
