"""`open-nsfw request`: the body of a request to TF Serving or ML Engine."""

from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.options import choice
from open_nsfw_tf.cli.pictures import picture_at
from open_nsfw_tf.export.request import INPUT_TYPES, TARGETS, predict_request
from open_nsfw_tf.image import IMAGE_LOADERS

commands = typer.Typer()

TargetOption = Annotated[
    str,
    choice(
        TARGETS,
        "--target",
        "-t",
        help="Who answers it: TF Serving's REST interface, or Google's ML Engine.",
    ),
]


def _input_type(help: str) -> Any:
    return choice(INPUT_TYPES, "--input-type", "--input_type", "-i", help=help)


NetworkInputOption = Annotated[
    str,
    _input_type(
        "What the network takes: preprocessed floats, base64 text of picture files, or "
        "picture files (bytes)."
    ),
]
RequestInputOption = Annotated[
    str,
    _input_type(
        "What is sent: the prepared picture as numbers, its file as base64 text, or "
        'its file as {"b64": ...}. The score is the same; the files are far smaller.'
    ),
]
ImageLoaderOption = Annotated[
    str,
    choice(
        IMAGE_LOADERS,
        "--image-loader",
        "--image_loader",
        "-l",
        help="What prepares a tensor: Pillow, or the same in TensorFlow ops. The "
        "numbers are the same.",
    ),
]
SignatureOption = Annotated[
    str | None,
    typer.Option(
        "--signature-name",
        "--signature_name",
        help="For tf-serving. Without it: the one for the input type, which every "
        "export has. serving_default suits models of the first port.",
    ),
]


@commands.command()
def request(
    image: Annotated[
        str, typer.Argument(help="A picture file; - reads it from standard input.")
    ],
    target: TargetOption,
    input_type: RequestInputOption = "tensor",
    image_loader: ImageLoaderOption = "yahoo",
    signature_name: SignatureOption = None,
) -> None:
    """Print the body of a request for the scores of a picture: one line of JSON."""
    print(
        predict_request(
            picture_at(image), target, input_type, image_loader, signature_name
        )
    )
