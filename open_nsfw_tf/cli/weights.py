"""`open-nsfw weights`: where the weights are, and fetching them."""

from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.cli.app import app, one_of
from open_nsfw_tf.image import describe
from open_nsfw_tf.weights import PUBLISHED, fetch_weights, find_weights, locations

weights_app = typer.Typer(
    help="The trained weights: where they are, and fetching them.",
    no_args_is_help=True,
)
app.add_typer(weights_app, name="weights")


@weights_app.command("where")
def weights_where() -> None:
    """Print the path of the weights that would be used; nothing is downloaded."""
    print(find_weights(download=False))


@weights_app.command("list")
def weights_list() -> None:
    """Print every location that is tried, best first, and what is there."""
    chosen = False
    for location in locations():
        mark = "-"
        if location.path is not None:
            mark = "+" if chosen else "*" if location.path.is_file() else "!"
            chosen = True
        at = f": {describe(location.path)}" if location.path is not None else ""
        print(f"{mark} {location.title}{at}")
    for name, copy in PUBLISHED.items():
        if copy.url:
            print(f"  to fetch: {name} ({copy.title}; {copy.licence})")
    print("* is used, + is there too, - is not there, ! is named but no file")


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[
        str,
        typer.Argument(
            callback=one_of(k for k, copy in PUBLISHED.items() if copy.url),
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
