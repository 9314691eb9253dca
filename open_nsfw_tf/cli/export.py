"""`open-nsfw export`, and the first port's export scripts."""

from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.app import ModelOption, WeightsOption, app, choice
from open_nsfw_tf.export import FORMATS, export

PRECISIONS = tuple(dict.fromkeys(p for f in FORMATS.values() for p in f.tolerances))
INPUT_TYPES = FORMATS["savedmodel"].input_types

savedmodel = typer.Typer(
    name="export_savedmodel.py", add_completion=False, pretty_exceptions_enable=False
)
graph = typer.Typer(
    name="export_graph.py", add_completion=False, pretty_exceptions_enable=False
)
tflite = typer.Typer(
    name="export_tflite.py", add_completion=False, pretty_exceptions_enable=False
)

OverwriteOption = Annotated[
    bool, typer.Option("--overwrite", help="Replace what exists at the destination.")
]
ModelWeightsOption = Annotated[
    Path | None,
    typer.Option(
        "--model_weights",
        "-m",
        help="Path of the trained weights, in any known format. Without it they are "
        "looked for: see `open-nsfw weights list`.",
    ),
]
InputTypeOption = Annotated[
    str,
    choice(
        INPUT_TYPES,
        "--input-type",
        "--input_type",
        "-i",
        help="What the network takes: preprocessed floats, base64 text of picture "
        "files, or picture files (bytes).",
    ),
]


@app.command("export")
def export_command(
    format: Annotated[
        str,
        choice(
            FORMATS,
            argument=True,
            help="; ".join(f"{name}: {known.title}" for name, known in FORMATS.items()),
        ),
    ],
    destination: Annotated[Path, typer.Argument(help="The file or folder to make.")],
    weights: WeightsOption = None,
    model: ModelOption = None,
    precision: Annotated[
        str | None,
        choice(
            PRECISIONS,
            "--precision",
            help="float32 is exact; float16 and int8 are smaller and approximate.",
        ),
    ] = None,
    input_type: InputTypeOption = "tensor",
    layout: Annotated[
        str, choice(("nhwc", "nchw"), "--layout", help="Of the ONNX input.")
    ] = "nhwc",
    version: Annotated[
        int, typer.Option(min=1, help="Of the SavedModel: the folder's name.")
    ] = 1,
    text: Annotated[
        bool, typer.Option("--text", help="Write graphs as text (graph only).")
    ] = False,
    pictures: Annotated[
        list[Path] | None,
        typer.Option(
            help="A picture to compare with, and to calibrate int8 with; may be given "
            "many times. Without it: sample pictures."
        ),
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write the network in another format, and prove that it answers the same.

    What was written is loaded again with its own runtime and compared with the model;
    above the format's tolerance nothing is left at DESTINATION.
    """
    _export(
        format,
        destination,
        weights=weights,
        model=model,
        precision=precision,
        input_type=input_type,
        layout=layout,
        version=version,
        text=text,
        pictures=pictures or (),
        overwrite=overwrite,
    )


def _export(format: str, destination: Path, **options: Any) -> None:
    made = export(format, destination, **options)
    for line in made.notes:
        print(f"note: {line}")
    print(
        f"{made.path}: {made.size / 1e6:.1f} MB; scores differ by at most "
        f"{made.difference:.1e} over {made.compared} pictures "
        f"(allowed: {made.tolerance:.0e})"
    )


@savedmodel.command()
def savedmodel_command(
    target: Annotated[Path, typer.Argument(help="Output directory.")],
    model_weights: ModelWeightsOption = None,
    export_version: Annotated[
        int,
        typer.Option("--export_version", "-v", min=1, help="Export model version."),
    ] = 1,
    input_type: InputTypeOption = "base64_jpeg",
    overwrite: OverwriteOption = False,
) -> None:
    """Write a SavedModel for TF Serving, with the flags of the first port.

    serving_default takes base64 text, as the first port's did; predict_images and
    predict_bytes are there too.
    """
    _export(
        "savedmodel",
        target,
        weights=model_weights,
        version=export_version,
        input_type=input_type,
        overwrite=overwrite,
    )


@graph.command()
def graph_command(
    target: Annotated[Path, typer.Argument(help="Output directory.")],
    model_weights: ModelWeightsOption = None,
    input_type: InputTypeOption = "base64_jpeg",
    freeze: Annotated[
        bool,
        typer.Option("--freeze/--no-freeze", "-f", help="Also write the frozen graph."),
    ] = True,
    optimize: Annotated[
        bool,
        typer.Option(
            "--optimize/--no-optimize", "-o", help="Also write the optimised graph."
        ),
    ] = True,
    text: Annotated[
        bool, typer.Option("--text", "-t", help="Write graphs as text (.pbtxt).")
    ] = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Write checkpoint, graph, frozen and optimised graph, as the first port did."""
    _export(
        "graph",
        target,
        weights=model_weights,
        input_type=input_type,
        freeze=freeze,
        optimize=optimize,
        text=text,
        overwrite=overwrite,
    )


@tflite.command()
def tflite_command(
    target: Annotated[Path, typer.Argument(help="Output file, such as nsfw.tflite.")],
    model_weights: ModelWeightsOption = None,
    precision: Annotated[
        str,
        choice(FORMATS["tflite"].tolerances, "--precision", help="float32 is exact."),
    ] = "float32",
    overwrite: OverwriteOption = False,
) -> None:
    """Write a TensorFlow Lite network and its description, a JSON file beside it."""
    _export(
        "tflite",
        target,
        weights=model_weights,
        precision=precision,
        overwrite=overwrite,
    )
