"""The command line: `open-nsfw ...`, and the original's `classify_nsfw.py`.

Thin: each command parses, calls one function of the library with the same argument
names, and prints. Errors are one line on standard error and exit status 1; wrong usage
is exit status 2.
"""

import json
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf import __version__
from open_nsfw_tf.engines import ENGINES
from open_nsfw_tf.image import MAX_PIXELS, ImageError, describe
from open_nsfw_tf.published import PUBLISHED, fetch_weights
from open_nsfw_tf.weights import find_weights, places

STDIN = "-"
LOADERS = ("yahoo", "tensorflow")
INPUT_TYPES = ("tensor", "base64_jpeg")

app = typer.Typer(
    name="open-nsfw",
    help="Probability that a picture is pornographic: Yahoo's Open-NSFW, exactly.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
weights_app = typer.Typer(
    help="The trained weights: where they are, and fetching them.",
    no_args_is_help=True,
)
app.add_typer(weights_app, name="weights")

original = typer.Typer(
    name="classify_nsfw.py", add_completion=False, pretty_exceptions_enable=False
)


def _one_of(names: Iterable[str]) -> Callable[[str | None], str | None]:
    names = tuple(names)

    def check(value: str | None) -> str | None:
        if value is not None and value not in names:
            raise typer.BadParameter(f"{value!r} is not one of {', '.join(names)}.")
        return value

    return check


def _choice(names: Iterable[str], *flags: str, help: str) -> Any:
    names = tuple(names)
    return typer.Option(
        *flags, callback=_one_of(names), metavar=f"[{'|'.join(names)}]", help=help
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
    _choice(
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


@app.command()
def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Picture files; - reads one from standard input."
        ),
    ],
    json_lines: Annotated[
        bool,
        typer.Option(
            "--json", help="One JSON object a line: path, sfw, nsfw, error (and label)."
        ),
    ] = False,
    engine: EngineOption = "auto",
    weights: WeightsOption = None,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Say nsfw at this NSFW score and above, sfw below it. Yahoo gives no "
            "threshold: choose it on your own pictures.",
        ),
    ] = None,
    max_pixels: Annotated[
        int, typer.Option(min=1, help="Refuse larger pictures.")
    ] = MAX_PIXELS,
) -> None:
    """Score pictures: the probability, 0 to 1, that each one is pornographic.

    A picture that cannot be read is a line with its error; the others are scored all
    the same, and the exit status is 1.
    """
    from open_nsfw_tf.classifier import Classifier

    classifier = Classifier(engine, weights, max_pixels=max_pixels)
    pictures = (sys.stdin.buffer if path == STDIN else path for path in images)
    results = classifier.classify_many(pictures, errors="yield")
    failed = False
    for path, result in zip(images, results, strict=True):
        row: dict[str, Any] = {"path": path, "sfw": None, "nsfw": None, "error": None}
        if isinstance(result, ImageError):
            failed = True
            row["error"] = str(result)
        else:
            row.update(result._asdict())
            if threshold is not None:
                row["label"] = "nsfw" if result.nsfw >= threshold else "sfw"
        print(json.dumps(row) if json_lines else _line(row), flush=True)
    if failed:
        raise typer.Exit(1)


def _line(row: dict[str, Any]) -> str:
    if row["error"]:
        return f"error: {row['error']}"
    label = f"  {row['label']}" if "label" in row else ""
    scores = f"nsfw {row['nsfw']:.6f}  sfw {row['sfw']:.6f}{label}"
    return f"{scores}  {describe(row['path'])}"


@original.command()
def classify_original(
    input_file: Annotated[
        str, typer.Argument(help="Path of the picture; - reads standard input.")
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
    image_loader: Annotated[
        str,
        _choice(
            LOADERS,
            "--image_loader",
            "-l",
            help="What prepares the picture. tensorflow arrives with the next release.",
        ),
    ] = "yahoo",
    input_type: Annotated[
        str,
        _choice(
            INPUT_TYPES,
            "--input_type",
            "-i",
            help="What the network takes. base64_jpeg arrives with the next release.",
        ),
    ] = "tensor",
) -> None:
    """Score one picture with Yahoo's Open-NSFW, with the flags of the first port."""
    from open_nsfw_tf.classifier import Classifier

    if image_loader != "yahoo" or input_type != "tensor":
        raise typer.BadParameter(
            "-l tensorflow and -i base64_jpeg arrive with the in-graph loader in the "
            "next release; use -l yahoo -i tensor"
        )
    picture = sys.stdin.buffer if input_file == STDIN else input_file
    scores = Classifier(weights=model_weights).classify(picture)
    print(f"Results for '{describe(input_file)}'")
    print(f"\tSFW score:\t{scores.sfw}\n\tNSFW score:\t{scores.nsfw}")


@weights_app.command("where")
def weights_where() -> None:
    """Print the path of the weights that would be used; nothing is downloaded."""
    print(find_weights(download=False))


@weights_app.command("list")
def weights_list() -> None:
    """Print every place that is looked at, best first, and what is there."""
    chosen = False
    for place in places():
        mark = "-"
        if place.path is not None:
            mark, chosen = ("+" if chosen else "*"), True
        at = f": {describe(place.path)}" if place.path is not None else ""
        print(f"{mark} {place.title}{at}")
    for name, copy in PUBLISHED.items():
        if copy.url:
            print(f"  to fetch: {name} ({copy.title}; {copy.licence})")
    print("* is used, + is there too, - is not there")


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[
        str,
        typer.Argument(
            callback=_one_of(k for k, copy in PUBLISHED.items() if copy.url),
            metavar="[npy|caffemodel]",
            help="npy: converted for TensorFlow; caffemodel: Yahoo's original.",
        ),
    ] = "npy",
    folder: Annotated[
        Path | None,
        typer.Option(help="Where to keep it. Without it: the user's cache."),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A mirror. The checksum must be upstream's all the same."),
    ] = None,
) -> None:
    """Download the trained weights, verify their checksum, print their path."""
    print(fetch_weights(name, folder, url))


_EXPECTED = (
    ValueError,  # ImageError and WeightsError among them
    TypeError,
    OSError,
    ImportError,
    MemoryError,
    NotImplementedError,
)


@contextmanager
def _errors_in_one_line() -> Iterator[None]:
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


def main() -> None:
    """Run `open-nsfw`."""
    with _errors_in_one_line():
        app(prog_name="open-nsfw")


def classify_nsfw() -> None:
    """Run `classify_nsfw.py`."""
    with _errors_in_one_line():
        original(prog_name="classify_nsfw.py")
