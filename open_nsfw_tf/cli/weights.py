"""`open-nsfw weights`: finding weights; `open-nsfw convert`: converting them."""

from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones import nsfwjs
from open_nsfw_tf.cli.export import named_pictures
from open_nsfw_tf.cli.options import (
    Destination,
    OverwriteOption,
    choice,
    grouped,
    one_of,
)
from open_nsfw_tf.convert import TITLES, convert, fetch_model, inspect
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.formats import FORMATS
from open_nsfw_tf.image import describe
from open_nsfw_tf.weights import PUBLISHED, fetch_weights, find_weights, locations

commands = typer.Typer()
weights_app = typer.Typer(
    help="The trained weights: where they are, and fetching them.",
    no_args_is_help=True,
)
commands.add_typer(weights_app, name="weights")

FETCHED = (*(key for key, copy in PUBLISHED.items() if copy.url), *nsfwjs.NETWORKS)
SOURCE_HELP = "Without it, the format is recognised by the content, then by the suffix."
TARGET_HELP = "Without it, the destination's suffix sets the format: " + ", ".join(
    known.suffixes[0] for known in FORMATS.values()
)


@commands.command("convert")
@grouped
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="A file of weights of any layout, the folder of a trained model, or "
            "that of a TensorFlow.js layers model.",
        ),
    ],
    destination: Destination,
    source_format: Annotated[
        str | None, choice(FORMATS, "--from", help=SOURCE_HELP)
    ] = None,
    target_format: Annotated[
        str | None, choice(FORMATS, "--to", help=TARGET_HELP)
    ] = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="To score with both files: a picture, a folder of them or a glob in "
            "quotes; may be given many times. Without it: sample pictures."
        ),
    ] = None,
    unfold: Annotated[
        int | None,
        typer.Option(
            metavar="SEED",
            min=0,
            help="Add random batch norms and change the convolutions to compensate for "
            "them, to test other software.",
        ),
    ] = None,
    classes: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="The classes of a TensorFlow.js model, in the order of its scores. "
            f"Without it: {','.join(nsfwjs.CLASSES)}.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert weights, and prove that they are the same.

    The destination is read back: every array is compared, and both files score
    pictures. A caffemodel gets its deploy.prototxt beside it.
    """
    convert_and_print(
        source,
        destination.path,
        source_format,
        target_format,
        pictures=named_pictures(pictures),
        unfold=unfold,
        overwrite=overwrite,
        classes=None if classes is None else classes.split(","),
    )


def convert_and_print(
    source: Path, destination: Path, *formats: Any, **options: Any
) -> None:
    done = convert(source, destination, *formats, **options)
    print_layers(done.weights)
    for line in done.notes:
        print(f"note: {line}")
    print(f"{TITLES[done.source]} -> {TITLES[done.target]}: {sanitize(done.path)}")
    print(
        f"read back: arrays differ by {done.array_difference:g}, scores of "
        f"{done.compared} pictures by at most {done.score_difference:.1e}"
    )
    if done.network:
        print(f"its network: {sanitize(done.network)}")


def print_layers(weights: Weights) -> None:
    for name, fields in weights.items():
        shapes = ", ".join(
            f"{sanitize(field)} {'x'.join(map(str, array.shape))}"
            for field, array in fields.items()
        )
        print(f"{sanitize(name):36} {shapes}")


@weights_app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A file of weights of any layout.")],
) -> None:
    """Describe a file of weights: format, layers, checksum, differences."""
    found = inspect(file)
    print_layers(found.weights)
    dtype = np.dtype(np.float32).name
    print(f"format       {TITLES[found.format]}")
    print(f"layers       {len(found.weights)}, {found.parameters:,} numbers, {dtype}")
    for line in found.notes:
        print(f"note         {line}")
    print(f"sha256       {found.sha256}")
    print(f"git blob     {found.git_blob}")
    print(f"published    {found.published or 'not one of the published copies'}")
    if found.mismatch:
        print(f"fits         no: {found.mismatch}")
        raise typer.Exit(1)
    print("fits         yes, the 107 layers of this network")
    print(f"batch norms  {'folded (the identity)' if found.folded else 'not folded'}")
    print(f"difference   {found.difference}")


@weights_app.command("where")
def weights_where() -> None:
    """Print the path of the weights that would be used; nothing is downloaded."""
    print(find_weights(download=False))


@weights_app.command("list")
def weights_list() -> None:
    """Print every location that is tried, in order, and whether it has weights."""
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
    for name, network in nsfwjs.NETWORKS.items():
        print(f"  to fetch: {name} ({network.title}; {nsfwjs.LICENCE})")
    print("* is used, + exists too, - does not exist, ! is named but is not a file")


@weights_app.command("fetch")
def weights_fetch(
    name: Annotated[
        str,
        typer.Argument(
            callback=one_of(FETCHED),
            metavar=f"[{'|'.join(FETCHED)}]",
            help="npy: converted for TensorFlow; caffemodel: Yahoo's original; the "
            "others: nsfwjs's networks of five classes.",
        ),
    ] = "npy",
    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            help="The folder for it. Without it: the user's cache. Of nsfwjs's "
            "networks, which need it, the folder of the trained model to make.",
        ),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="A mirror. The checksum must still be upstream's."),
    ] = None,
) -> None:
    """Download the trained weights, verify their checksum, print their path."""
    if name not in nsfwjs.NETWORKS:
        print(fetch_weights(name, output, url))
        return
    if output is None:
        raise typer.BadParameter(f"{name} needs a folder for its model: -o RUN")
    print(sanitize(fetch_model(name, output, url).path))
