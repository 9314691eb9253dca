"""`classify_nsfw.py`, the original's and the first port's script: one picture's score.

It has a file of its own so that it starts quickly: the other scripts need the exports.
"""

import base64
from typing import TYPE_CHECKING, Annotated

import typer

from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.cli.options import ModelWeightsOption, choice, picture_at
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import (
    IMAGE_LOADERS,
    Picture,
    create_yahoo_image_loader,
    describe,
    read_file,
)

if TYPE_CHECKING:
    import numpy as np

classify = typer.Typer(
    name="classify_nsfw.py", add_completion=False, pretty_exceptions_enable=False
)


@classify.command()
def classify_nsfw(
    input_file: Annotated[
        str, typer.Argument(help="Path of the picture; - reads standard input.")
    ],
    model_weights: ModelWeightsOption = None,
    image_loader: Annotated[
        str,
        choice(
            IMAGE_LOADERS,
            "--image_loader",
            "-l",
            help="What prepares the picture: Pillow, or the same in TensorFlow ops. "
            "The score is the same.",
        ),
    ] = "yahoo",
    input_type: Annotated[
        str,
        choice(
            ("tensor", "base64_jpeg"),
            "--input_type",
            "-i",
            help="What the network takes: the prepared picture, or its file as base64 "
            "text, which it prepares itself by TensorFlow ops whatever -l says. The "
            "score is the same.",
        ),
    ] = "tensor",
) -> None:
    """Score one picture with Yahoo's Open-NSFW, with the flags of the first port."""
    picture = picture_at(input_file)
    load = create_yahoo_image_loader()
    if input_type == "base64_jpeg":
        load = _load_base64
    elif image_loader == "tensorflow":
        from open_nsfw_tf.tf_image import create_tensorflow_image_loader

        load = create_tensorflow_image_loader()
    batch = load(picture)  # before loading weights, which takes longer
    sfw, nsfw = Classifier(weights=model_weights).predict(batch)[0].tolist()
    print(f"Results for '{describe(input_file)}'")
    print(f"\tSFW score:\t{sfw}\n\tNSFW score:\t{nsfw}")


def _load_base64(picture: Picture) -> "np.ndarray":
    """The batch of one picture, decoded from base64 text by TensorFlow ops."""
    from open_nsfw_tf.libraries import import_tensorflow
    from open_nsfw_tf.tf_image import error_reason, load_base64_tensor

    tf = import_tensorflow()
    text = base64.urlsafe_b64encode(read_file(picture))
    try:
        batch: np.ndarray = load_base64_tensor(tf.constant([text])).numpy()
    except tf.errors.OpError as error:
        raise ImageError(f"{describe(picture)}: {error_reason(error)}") from error
    return batch
