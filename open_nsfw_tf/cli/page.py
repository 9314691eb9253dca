"""`open-nsfw page`: the page and module that score pictures in the browser."""

from typing import Annotated

import typer

from open_nsfw_tf.cli.export import export_and_print, named_pictures
from open_nsfw_tf.cli.options import (
    Destination,
    ModelOption,
    OverwriteOption,
    WeightsOption,
    choice,
    grouped,
)
from open_nsfw_tf.export import EXPORTERS

commands = typer.Typer()


@commands.command("page")
@grouped
def page_command(
    destination: Destination,
    precision: Annotated[
        str,
        choice(
            EXPORTERS["page"].tolerances,
            "--precision",
            help="float32 is exact; int8 loads less, and is approximate.",
        ),
    ] = "float32",
    weights: WeightsOption = None,
    model: ModelOption = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="To compare with, and to calibrate int8 with: a picture, a folder of "
            "them or a glob in quotes; may be given many times. Without it: samples."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a page that scores pictures in the browser: a folder for any web server.

    Nothing that its visitors open is uploaded. The folder is also an npm package with
    the ES module open-nsfw.js. See docs/page.md. The same as `open-nsfw export page`.
    """
    export_and_print(
        "page",
        destination.path,
        precision=precision,
        weights=weights,
        model=model,
        pictures=named_pictures(pictures),
        overwrite=overwrite,
    )
