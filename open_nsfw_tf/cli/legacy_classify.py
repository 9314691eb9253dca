"""`classify_nsfw.py`, the original's and the first port's script: one picture's score.

It is for one picture, so it must start quickly: Typer, which imports Pydantic, would
take as long as the score itself.
"""

import argparse
import base64
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.cli.pictures import picture_at
from open_nsfw_tf.cli.process import LONGEST
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import (
    IMAGE_LOADERS,
    Picture,
    create_yahoo_image_loader,
    describe,
    read_file,
)

if TYPE_CHECKING:
    import numpy as np


def main() -> None:
    """Score one picture."""
    asked = _parser().parse_args()
    picture = picture_at(asked.input_file)
    load = create_yahoo_image_loader()
    if asked.input_type == "base64_jpeg":
        load = _load_base64
    elif asked.image_loader == "tensorflow":
        from open_nsfw_tf.tf_image import create_tensorflow_image_loader

        load = create_tensorflow_image_loader()
    batch = load(picture)  # before loading weights, which takes longer
    sfw, nsfw = Classifier(weights=asked.model_weights).predict(batch)[0].tolist()
    print(f"Results for '{describe(asked.input_file)}'")
    print(f"\tSFW score:\t{sfw}\n\tNSFW score:\t{nsfw}")


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        # It has what was given, control characters too.
        super().error(sanitize(message, LONGEST))


def _parser() -> _Parser:
    parser = _Parser(
        "classify_nsfw.py",
        description="Score one picture with Yahoo's Open-NSFW, with the flags of the "
        "first port.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "input_file", help="path of the picture; - reads standard input"
    )
    parser.add_argument(
        "-m",
        "--model_weights",
        type=Path,
        metavar="FILE",
        help="path of the trained weights, in any known format; without it they are "
        "looked for: see `open-nsfw weights list`",
    )
    parser.add_argument(
        "-l",
        "--image_loader",
        choices=tuple(IMAGE_LOADERS),
        default="yahoo",
        help="what prepares the picture: Pillow, or the same in TensorFlow ops; the "
        "score is the same (default: %(default)s)",
    )
    parser.add_argument(
        "-i",
        "--input_type",
        choices=("tensor", "base64_jpeg"),
        default="tensor",
        help="what the network takes: the prepared picture, or its file as base64 "
        "text, which it prepares itself by TensorFlow ops whatever -l says; the score "
        "is the same (default: %(default)s)",
    )
    return parser


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
