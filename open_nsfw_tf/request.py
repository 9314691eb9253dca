"""Bodies of requests for TF Serving's REST interface and for Google's ML Engine.

- TF Serving takes ``{"signature_name": ..., "instances": [...]}``, posted to
  ``http://HOST:8501/v1/models/NAME:predict``.
- ML Engine's prediction command takes files with one ``{"inputs": ...}`` a line, for
  the model's default signature or the one named to the command.
"""

import base64
import json
from typing import Any

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.export.savedmodel import DEFAULTS
from open_nsfw_tf.image import (
    Picture,
    create_yahoo_image_loader,
    describe,
    load_rgb,
    read_file,
)

TARGETS = ("tf-serving", "ml-engine")
INPUT_TYPES = tuple(DEFAULTS)
LOADERS = ("yahoo", "tensorflow")


def predict_request(
    picture: Picture,
    target: str = "tf-serving",
    input_type: str = "tensor",
    image_loader: str = "yahoo",
    signature_name: str | None = None,
) -> str:
    """Write the body of a request for the scores of one picture.

    Args:
        picture: for "tensor" as for `load_rgb`; else a picture file, by its path, bytes
            or binary file object, which is sent as it is.
        target: "tf-serving" or "ml-engine".
        input_type: what is sent: "tensor", the prepared picture (224, 224, 3), BGR,
            0..255 minus (104, 117, 123), as nested lists, exact; "base64_jpeg", the
            file as urlsafe base64 text; "bytes", the file as ``{"b64": ...}``.
        image_loader: what prepares a "tensor": "yahoo", or "tensorflow" for the same
            pixels by TensorFlow ops.
        signature_name: for "tf-serving". None names the one for the input type, which
            every export of ours has, whatever its default is. "serving_default" suits
            models of the first port, which have no other.

    Returns:
        One line of JSON.

    Raises:
        ValueError: an unknown target, input type or loader, or a signature for a
            target whose requests name none.
        ImageError: the picture cannot be read.
    """
    _check("target", target, TARGETS)
    _check("input type", input_type, INPUT_TYPES)
    _check("image loader", image_loader, LOADERS)
    if target == "ml-engine" and signature_name is not None:
        raise ValueError(
            "a request for ml-engine names no signature: name it to the command that "
            "sends it, by --signature-name"
        )
    instance = _instance(picture, input_type, image_loader)
    if target == "ml-engine":
        return json.dumps({"inputs": instance})
    name = signature_name or DEFAULTS[input_type]
    return json.dumps({"signature_name": name, "instances": [instance]})


def _check(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"no {what} {value!r}: choose one of {', '.join(choices)}")


def _instance(picture: Picture, input_type: str, image_loader: str) -> Any:
    if input_type == "tensor":
        # Python's floats hold float32 exactly, and JSON gets their shortest exact text.
        return _loader(image_loader)(picture).tolist()
    data = read_file(picture)
    try:
        load_rgb(data)  # what is no picture is not sent
    except ImageError as error:
        raise ImageError(
            str(error).replace(describe(data), describe(picture))
        ) from error
    if input_type == "base64_jpeg":
        return base64.urlsafe_b64encode(data).decode("ascii")
    return {"b64": base64.b64encode(data).decode("ascii")}


def _loader(image_loader: str) -> Any:
    if image_loader == "yahoo":
        return create_yahoo_image_loader(expand_dims=False)
    from open_nsfw_tf.tf_image import create_tensorflow_image_loader

    return create_tensorflow_image_loader(expand_dims=False)
