"""The scripts of the first port, under their names and with their flags.

`legacy_classify` has `classify_nsfw.py`.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.classifier import MAX_BATCH_SIZE, Classifier
from open_nsfw_tf.cli.compare import compare_command
from open_nsfw_tf.cli.options import (
    ModelWeightsOption,
    OverwriteOption,
    ResumeOption,
    Writing,
    choice,
)
from open_nsfw_tf.cli.request import NetworkInputOption
from open_nsfw_tf.cli.request import request as print_request
from open_nsfw_tf.image import IMAGE_LOADERS


class _Script(typer.Typer):
    def __init__(self, name: str) -> None:
        super().__init__(
            name=name, add_completion=False, pretty_exceptions_enable=False
        )

    def __call__(self) -> Any:
        return super().__call__(prog_name=self.info.name)


batch = _Script("batch_classify.py")
compare = _Script("eval.py")
savedmodel = _Script("export_savedmodel.py")
graph = _Script("export_graph.py")
tflite = _Script("export_tflite.py")
request = _Script("create_predict_request.py")
caffe = _Script("convert_caffe.py")

TFLITE_PRECISIONS = ("float32", "float16", "int8")


request.command(help="Print the body of a request, with the flags of the first port.")(
    print_request
)


def _export(format: str, target: Path, **options: Any) -> None:
    # Imported late: the other commands do not need it.
    from open_nsfw_tf.cli.export import export_and_print

    export_and_print(format, target, **options)


@savedmodel.command()
def savedmodel_command(
    target: Annotated[Path, typer.Argument(help="Output directory.")],
    model_weights: ModelWeightsOption = None,
    export_version: Annotated[
        int,
        typer.Option("--export_version", "-v", min=1, help="Export model version."),
    ] = 1,
    input_type: NetworkInputOption = "base64_jpeg",
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
    input_type: NetworkInputOption = "base64_jpeg",
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
        choice(TFLITE_PRECISIONS, "--precision", help="float32 is exact."),
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


@caffe.command()
def convert_caffe(
    caffemodel: Annotated[Path, typer.Argument(help="Caffe's binary .caffemodel.")],
    destination: Annotated[
        Path, typer.Argument(help="The file to write, such as open_nsfw-weights.npy.")
    ],
    overwrite: OverwriteOption = False,
) -> None:
    """Convert a caffemodel without Caffe: `open-nsfw convert --from caffemodel`."""
    from open_nsfw_tf.cli.weights import convert_and_print

    convert_and_print(caffemodel, destination, "caffemodel", overwrite=overwrite)


@batch.command()
def batch_classify(
    source: Annotated[
        str, typer.Option("--source", "-s", help="Folder of the pictures to classify.")
    ],
    output_file: Annotated[
        Path,
        typer.Option(
            "--output_file", "-o", help="The table: .csv, .jsonl or .parquet."
        ),
    ],
    model_weights: ModelWeightsOption = None,
    batch_size: Annotated[
        int,
        typer.Option(
            "--batch_size",
            "-b",
            min=1,
            max=MAX_BATCH_SIZE,
            help="Pictures to classify at once.",
        ),
    ] = 64,
    image_loader: Annotated[
        str,
        choice(
            IMAGE_LOADERS,
            "--image_loader",
            "-l",
            help="Pillow prepares the pictures for both: the scores are the same.",
        ),
    ] = "yahoo",
    resume: ResumeOption = False,
    overwrite: OverwriteOption = False,
) -> None:
    """Score a folder of pictures into a table, with the flags of the first port."""
    from open_nsfw_tf.batch import BatchOptions
    from open_nsfw_tf.batch.sources import check_sources
    from open_nsfw_tf.cli.batch import print_summary, run, score_here

    mode = Writing(resume, overwrite).mode
    check_sources([source], "either")
    score = score_here(Classifier(weights=model_weights), [source])
    options = BatchOptions(batch_size=batch_size)
    print_summary(run(score, [source], output_file, mode, options), output_file)


compare.command()(compare_command)
