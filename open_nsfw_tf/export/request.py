"""Bodies of requests for TF Serving's REST interface and for Google's ML Engine.

- TF Serving takes ``{"signature_name": ..., "instances": [...]}``, posted to
  ``http://HOST:8501/v1/models/NAME:predict``.
- ML Engine's prediction command takes files with one ``{"inputs": ...}`` a line, for
  the model's default signature or the one that is given to the command.
"""

import base64
import json
from io import BytesIO
from typing import Any

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import (
    IMAGE_LOADERS,
    MAX_PIXELS,
    Picture,
    create_yahoo_image_loader,
    decoding,
    describe,
    identify,
    load_rgb,
    read_file,
)
from open_nsfw_tf.model import InputType
from open_nsfw_tf.tf_image import create_tensorflow_image_loader
from open_nsfw_tf.tf_image.loader import MAX_SIDE

TARGETS = ("tf-serving", "ml-engine")
INPUT_TYPES = tuple(kind.value for kind in InputType)
# The formats that exported networks decode, and Pillow's modes that are always decoded.
SERVED = {
    "JPEG": {"L", "RGB"},  # except for progressive ones, which may lack scans
    "PNG": {"1", "L", "LA", "P", "RGB", "RGBA", "I", "I;16"},
    "WEBP": {"RGB", "RGBA"},
    "GIF": set[str](),
    "BMP": set[str](),
}


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
        signature_name: for "tf-serving". None: the signature for the input type, which
            every export of this package has. Models of the first port have only
            "serving_default".

    Returns:
        One line of JSON.

    Raises:
        ValueError: an unknown target, input type or loader, or a signature for
            "ml-engine", whose requests have none.
        ImageError: the picture cannot be read; or its file is to be sent, but the
            exported networks refuse its kind, such as TIFF.
        ImportError: TensorFlow is needed to check an unusual file, and is missing.
    """
    _check("target", target, TARGETS)
    _check("input type", input_type, INPUT_TYPES)
    _check("image loader", image_loader, IMAGE_LOADERS)
    if target == "ml-engine" and signature_name is not None:
        raise ValueError(
            "a request for ml-engine has no signature: give it to the command that "
            "sends the request, by --signature-name"
        )
    instance = _instance(picture, input_type, image_loader)
    if target == "ml-engine":
        return json.dumps({"inputs": instance})
    if signature_name is None:
        from open_nsfw_tf.export.savedmodel import DEFAULTS

        signature_name = DEFAULTS[input_type]
    return json.dumps({"signature_name": signature_name, "instances": [instance]})


def _check(what: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"no {what} {value!r}: choose one of {', '.join(choices)}")


def _instance(picture: Picture, input_type: str, image_loader: str) -> Any:
    if input_type == "tensor":
        # Python's floats represent float32 exactly, and JSON their shortest exact text.
        return _loader(image_loader)(picture).tolist()
    data = read_file(picture)
    try:
        load_rgb(data)  # raises if it is not a picture
        _check_served(data)
    except ImageError as error:
        raise ImageError(
            str(error).replace(describe(data), describe(picture))
        ) from error
    if input_type == "base64_jpeg":
        return base64.urlsafe_b64encode(data).decode("ascii")
    return {"b64": base64.b64encode(data).decode("ascii")}


def _check_served(data: bytes) -> None:
    """Refuse a picture file that the exported networks do not decode.

    Most files are checked without TensorFlow; the others by the networks' own loader.

    Raises:
        ImageError: the networks would refuse it.
        ImportError: TensorFlow is needed to check this file, and is missing.
    """
    with decoding(), BytesIO(data) as file, identify(file, MAX_PIXELS) as image:
        kind, mode = image.format, image.mode
        plain = max(image.size) <= MAX_SIDE and not image.info.get("progressive")
    advice = "send it prepared, as input type tensor (-i tensor)"
    if kind not in SERVED:
        raise ImageError(
            f"{describe(data)}: a server cannot decode a {kind} file, only "
            f"{', '.join(SERVED)}: {advice}"
        )
    if plain and mode in SERVED[kind]:
        return
    try:
        _loader("tensorflow")(data)
    except ImageError as error:
        raise ImageError(f"{error}; a server would refuse it: {advice}") from error


def _loader(image_loader: str) -> Any:
    if image_loader == "yahoo":
        return create_yahoo_image_loader(expand_dims=False)
    return create_tensorflow_image_loader(expand_dims=False)
