"""`open-nsfw convert` and `weights inspect`, and the scripts for Caffe and MMdnn."""

from pathlib import Path
from typing import Annotated

import numpy as np
import typer

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.cli.app import app, choice
from open_nsfw_tf.cli.export import named_pictures
from open_nsfw_tf.cli.weights import weights_app
from open_nsfw_tf.convert import TITLES, convert, inspect
from open_nsfw_tf.formats import FORMATS
from open_nsfw_tf.messages import shown

caffe = typer.Typer(
    name="convert_caffe.py", add_completion=False, pretty_exceptions_enable=False
)
mmdnn = typer.Typer(
    name="convert_mmdnn.py", add_completion=False, pretty_exceptions_enable=False
)

FORMAT_HELP = "Without it, the format is told by the content, then by the suffix."
OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace an existing destination.")
]


@app.command("convert")
def convert_command(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="SRC",
            help="A file of weights of any layout, or the folder of a trained model.",
        ),
    ],
    destination: Annotated[
        Path,
        typer.Argument(
            metavar="DST",
            help="The file to write; its suffix says the format: "
            + ", ".join(f"{known.suffixes[0]}" for known in FORMATS.values()),
        ),
    ],
    source_format: Annotated[
        str | None, choice(FORMATS, "--from", help=FORMAT_HELP)
    ] = None,
    target_format: Annotated[
        str | None, choice(FORMATS, "--to", help="Without it, the suffix says it.")
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
            help="Give the convolutions random batch norms that they make up for, to "
            "test other software with.",
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert weights, and prove that they are the same.

    The destination is read back: every array is compared, and both files score pictures.
    A caffemodel gets its deploy.prototxt beside it.
    """
    done = convert(
        source,
        destination,
        source_format,
        target_format,
        pictures=named_pictures(pictures),
        unfold=unfold,
        overwrite=overwrite,
    )
    _print_layers(done.weights)
    for line in done.said:
        print(f"note: {line}")
    print(f"{TITLES[done.source]} -> {TITLES[done.target]}: {shown(done.path)}")
    print(
        f"read back: arrays differ by {done.array_difference:g}, scores of "
        f"{done.compared} pictures by at most {done.score_difference:.1e}"
    )
    if done.network:
        print(f"its network: {shown(done.network)}")


def _print_layers(weights: Weights) -> None:
    for name, fields in weights.items():
        shapes = ", ".join(
            f"{shown(field)} {'x'.join(map(str, array.shape))}"
            for field, array in fields.items()
        )
        print(f"{shown(name):36} {shapes}")


@weights_app.command("inspect")
def inspect_command(
    file: Annotated[Path, typer.Argument(help="A file of weights of any layout.")],
) -> None:
    """Describe a file of weights: format, layers, checksum, differences."""
    found = inspect(file)
    _print_layers(found.weights)
    dtype = np.dtype(np.float32).name
    print(f"format       {TITLES[found.format]}")
    print(f"layers       {len(found.weights)}, {found.parameters:,} numbers, {dtype}")
    for line in found.said:
        print(f"note         {line}")
    print(f"sha256       {found.sha256}")
    print(f"git blob     {found.git_blob}")
    print(f"published    {found.published or 'not one of the published copies'}")
    if found.complaint:
        print(f"fits         no: {found.complaint}")
        raise typer.Exit(1)
    print("fits         yes, the 107 layers of this network")
    print(f"batch norms  {'folded (the identity)' if found.folded else 'not folded'}")
    print(f"difference   {found.difference}")


@caffe.command()
def convert_caffe(
    caffemodel: Annotated[Path, typer.Argument(help="Caffe's binary .caffemodel.")],
    destination: Annotated[
        Path, typer.Argument(help="The file to write, such as open_nsfw-weights.npy.")
    ],
    overwrite: OverwriteOption = False,
) -> None:
    """Convert a caffemodel without Caffe: `open-nsfw convert --from caffemodel`."""
    convert_command(
        caffemodel, destination, source_format="caffemodel", overwrite=overwrite
    )


@mmdnn.command()
def convert_mmdnn(
    caffemodel: Annotated[Path, typer.Argument(help="Caffe's binary .caffemodel.")],
    destination: Annotated[
        Path, typer.Argument(help="MMdnn's .npy, to be written by MMdnn itself.")
    ],
    deploy: Annotated[
        Path | None,
        typer.Option(
            "--prototxt", "-n", help="The network's prototxt. Without it: ours."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Convert a caffemodel with MMdnn, in a virtual environment of its own.

    The environment is made when it is first needed, in the user's cache.
    """
    from open_nsfw_tf.mmdnn_route import convert as convert_by_mmdnn

    if destination.exists() and not overwrite:
        raise FileExistsError(
            f"{shown(destination)} exists: name another, or --overwrite"
        )
    _print_layers(convert_by_mmdnn(caffemodel, destination, deploy))
    print(f"MMdnn's .npy: {shown(destination)}")
