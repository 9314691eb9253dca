"""`open-nsfw export`: the network in other formats."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.options import (
    Destination,
    ModelOption,
    OverwriteOption,
    WeightsOption,
    choice,
    grouped,
)
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.export import EXPORTERS, export
from open_nsfw_tf.image import Picture

commands = typer.Typer()


@dataclass(frozen=True)
class ExportOptions:
    """The options of the format."""

    precision: Annotated[
        str | None,
        choice(
            dict.fromkeys(p for known in EXPORTERS.values() for p in known.tolerances),
            "--precision",
            help="float32 is exact; float16 and int8 are smaller and approximate.",
        ),
    ] = None
    input_type: Annotated[
        str,
        choice(
            dict.fromkeys(t for known in EXPORTERS.values() for t in known.input_types),
            "--input",
            "--input-type",
            "--input_type",
            "-i",
            help="What the network takes: preprocessed floats (tensor); base64 text of "
            "picture files, or picture files (bytes), which TensorFlow decodes; or "
            "decoded pictures of any size (picture, for ONNX).",
        ),
    ] = "tensor"
    layout: Annotated[
        str,
        choice(EXPORTERS["onnx"].layouts, "--layout", help="Of the ONNX input."),
    ] = "nhwc"
    version: Annotated[
        int, typer.Option(min=1, help="Of the SavedModel: the folder's name.")
    ] = 1
    text: Annotated[
        bool, typer.Option("--text", help="Write graphs as text (graph only).")
    ] = False


@commands.command("export")
@grouped
def export_command(
    format: Annotated[
        str,
        choice(
            EXPORTERS,
            argument=True,
            help="; ".join(
                f"{name}: {known.title}" for name, known in EXPORTERS.items()
            ),
        ),
    ],
    destination: Destination,
    options: ExportOptions,
    weights: WeightsOption = None,
    model: ModelOption = None,
    pictures: Annotated[
        list[str] | None,
        typer.Option(
            help="To compare with, and to calibrate int8 with: a picture, a folder of "
            "them or a glob in quotes; may be given many times. Without it: sample "
            "pictures."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the network in another format, and prove that it answers the same.

    What was written is loaded again with its own runtime and compared with the model.
    If scores differ by more than the format's tolerance, nothing is written.
    """
    export_and_print(
        format,
        destination.path,
        weights=weights,
        model=model,
        **asdict(options),
        pictures=named_pictures(pictures),
        overwrite=overwrite,
    )


def named_pictures(sources: list[str] | None) -> list[Picture]:
    """The pictures of files, folders, globs, lists and archives.

    Raises:
        ValueError: a source does not exist, or there is no picture in them.
    """
    if not sources:
        return []
    from open_nsfw_tf.batch.sources import check_sources, items

    found = items(check_sources(sources), lambda path: True)
    pictures: list[Picture] = [item.picture or item.path for item in found]
    if not pictures:
        raise ValueError(f"no picture in {sanitize(', '.join(sources))}")
    return pictures


def export_and_print(format: str, destination: Path, **options: Any) -> None:
    """Export, and print the notes, the size and how far the scores differ.

    Args:
        format: a key of `EXPORTERS`.
        destination: the file or folder to make.
        options: of `open_nsfw_tf.export.export`.
    """
    result = export(format, destination, **options)
    for line in result.notes:
        print(f"note: {line}")
    print(
        f"{result.path}: {result.size / 1e6:.1f} MB; scores differ by at most "
        f"{result.difference:.1e} over {result.compared} pictures "
        f"(allowed: {result.tolerance:.0e})"
    )
