"""TF Serving's REST interface, so that programs which ask TF Serving need no change.

One model, version 1, with the signatures of the SavedModel that `open_nsfw_tf.export`
writes by default. Each takes ``inputs`` and answers ``outputs``, float32 (N, 2),
columns SFW, NSFW; a trained model has one column for each of its classes.

- ``predict_images``: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123)
- ``predict_bytes``: strings (N,), picture files: what ``{"b64": ...}`` delivers
- ``predict_base64``: strings (N,), base64 of picture files
- ``serving_default``: the same as ``predict_images``

What is accepted, and the status of what is refused, are TF Serving's: of its
http_rest_api_util.cc for paths, and json_tensor.cc for bodies. Three things differ:
every kind of picture that `open_nsfw_tf.image` reads is accepted, base64 may be
urlsafe, and messages do not repeat the values that were sent.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

import numpy as np
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from open_nsfw_tf.architecture import CHANNELS
from open_nsfw_tf.errors import RequestError, sanitize
from open_nsfw_tf.serve.limits import decode_base64, parse_json
from open_nsfw_tf.serve.service import Answer, Service

MODEL_NAME = "open_nsfw"
VERSION = 1
DEFAULT_SIGNATURE = "serving_default"

_MODEL = "(?:/versions/([0-9]+)|/labels/([^/:]+))?"
_PATHS = {  # the patterns of TF Serving
    "GET": re.compile(f"(?i)/v1/models(?:/([^/:]+))?{_MODEL}(?:/(metadata))?"),
    "POST": re.compile(f"(?i)/v1/models/([^/:]+){_MODEL}:(classify|regress|predict)"),
}
_MAX_VERSION = 2**63 - 1  # int64
_MAX_WHOLE = 2**24 - 1  # larger whole numbers are not all exact in float32
_MAX_FLOAT = float(np.finfo(np.float32).max)
_JSON_TYPES = {
    dict: "Object",
    list: "Array",
    str: "String",
    bool: "Bool",
    type(None): "Null",
    int: "Number",
    float: "Number",
}


class Predict(NamedTuple):
    """A request for scores.

    Attributes:
        pictures: picture files, or a preprocessed batch, float32 (N, 224, 224, 3).
        answer: the key of the scores in the answer.
    """

    pictures: list[bytes] | np.ndarray
    answer: str


def refusal(message: str, status: int = 400) -> RequestError:
    """An error that TF Serving's clients understand."""
    return RequestError(status, "invalid_argument", message)


# -- paths


def parse_path(verb: str, path: str) -> str:
    """What a request asks of the model.

    Args:
        verb: GET, POST or another one.
        path: as it was sent: URL-encoded, without a query.

    Returns:
        "status", "metadata", "classify", "regress" or "predict".

    Raises:
        RequestError: 400, or 404 for another model or version.
    """
    pattern = _PATHS.get(verb)
    found = pattern.fullmatch(path) if pattern else None
    if not found:
        raise refusal(f"Malformed request: {sanitize(verb)} {sanitize(path)}")
    name, version, label, what = found.groups()
    if name is None:
        raise refusal("Missing model name in request.")
    _check_model(unquote(name), version, label)
    return (what or "status").lower()


def _check_model(name: str, version: str | None, label: str | None) -> None:
    number = int(version[:20]) if version else None  # 2**63 has 19 digits
    if number is not None and number > _MAX_VERSION:
        raise refusal(f"Failed to convert version: {sanitize(version)} to numeric.")
    if label is not None:
        raise refusal(
            f"Unrecognized servable version label: {sanitize(unquote(label))}"
        )
    if name != MODEL_NAME or number not in (None, VERSION):
        wanted = f"Latest({sanitize(name)})"
        if number is not None:
            wanted = f"Specific({sanitize(name)}, {number})"
        raise refusal(f"Servable not found for request: {wanted}", 404)


# -- bodies of predict


def parse_predict(body: bytes, size: int, most: int) -> Predict:
    """Read the body of a request for scores.

    Args:
        body: JSON.
        size: pixels, both sides, of the network's input.
        most: the number of pictures that a request may have.

    Raises:
        RequestError: 400, or 413 for too many pictures.
    """
    document = _parse_json(body)
    signature = _signature_name(document)
    if signature not in SIGNATURES:
        names = ", ".join(SIGNATURES)
        raise refusal(f"Serving signature name not found in signature def: {names}")
    key, values = _values(document)
    if len(values) > most:
        raise refusal(f"expected at most {most} pictures, got {len(values)}", 413)
    return Predict(SIGNATURES[signature](values, key, size), _ANSWERS[key])


_ANSWERS = {"instances": "predictions", "inputs": "outputs"}


def _parse_json(body: bytes) -> dict[str, Any]:
    if not body:
        raise refusal("JSON Parse error: The document is empty")
    try:
        document = parse_json(body)
    except RequestError as error:
        raise refusal(f"JSON Parse error: {error.message}") from error
    if not isinstance(document, dict):
        raise refusal("JSON Value: Is not object")
    return document


def _signature_name(document: dict[str, Any]) -> str:
    name = document.get("signature_name", "")
    if not isinstance(name, str):
        raise refusal(
            "JSON Value: not formatted correctly. 'signature_name' key must be a "
            "string value."
        )
    return name or DEFAULT_SIGNATURE


def _values(document: dict[str, Any]) -> tuple[str, list[Any]]:
    """The key of the input, and the input's values: one a picture."""
    keys = [key for key in _ANSWERS if key in document]
    if not keys:
        raise refusal("Missing 'inputs' or 'instances' key")
    if len(keys) > 1:
        raise refusal(
            "JSON Value: Not formatted correctly expecting only one of 'inputs' or "
            "'instances' keys to exist"
        )
    key = keys[0]
    value = document[key]
    if key == "inputs" and _is_named(value):
        if "inputs" not in value:
            raise refusal("Missing named input: inputs in 'inputs' object.")
        value = value["inputs"]
    if not isinstance(value, list):
        raise refusal(f"JSON Value: Expecting '{key}' to be a list/array")
    if not value:
        raise refusal(f"JSON Value: No values in '{key}' array")
    return key, _rows(value) if key == "instances" else value


def _rows(rows: list[Any]) -> list[Any]:
    """Take the values out of ``{"inputs": value}``, where all rows have that form."""
    named = _is_named(rows[0])
    for number, row in enumerate(rows):
        if _is_named(row) != named:
            expected, got = ("object", "list") if named else ("value/list", "object")
            raise refusal(
                f"Expecting {expected} but got {got} at item {number} of input list"
            )
        if named and list(row) != ["inputs"]:
            raise refusal(
                f"Failed to process element: {number} of 'instances' list. JSON "
                "object: keys must be equal to: inputs"
            )
    return [row["inputs"] for row in rows] if named else rows


def _is_named(value: Any) -> bool:
    return isinstance(value, dict) and not _is_base64(value)


def _is_base64(value: Any) -> bool:
    """Whether a value is ``{"b64": text}``, with no other key."""
    return (
        isinstance(value, dict)
        and list(value) == ["b64"]
        and isinstance(value["b64"], str)
    )


def _images(values: list[Any], key: str, size: int) -> np.ndarray:
    """Nested lists of numbers as a batch, float32 (N, size, size, 3)."""
    shape = (size, size, CHANNELS)
    batch = np.empty((len(values), *shape), np.float32)
    for number, value in enumerate(values):
        with _element(number, key):
            batch[number] = _numbers(value, shape).reshape(shape)
    finite = [bool(np.isfinite(image).all()) for image in batch]
    check_pictures(["" if good else "NaN or infinity in its values" for good in finite])
    return batch


def _numbers(value: Any, shape: tuple[int, ...]) -> np.ndarray:
    """The numbers of nested lists of this shape, one after the other."""
    level = [value]
    for length in shape:
        if any(not isinstance(part, list) or len(part) != length for part in level):
            expected = ",".join(map(str, shape))
            raise ValueError(f"Expecting shape [{expected}] but got another one")
        level = list(chain.from_iterable(level))
    kinds = set(map(type, level))
    if wrong := kinds - {int, float}:
        raise ValueError(_other_type(wrong, "float"))
    wide = int in kinds and any(
        isinstance(number, int) and abs(number) > _MAX_WHOLE for number in level
    )
    numbers = np.array([] if wide else level)
    if wide or (np.isfinite(numbers) & (np.abs(numbers) > _MAX_FLOAT)).any():
        raise ValueError("Cannot convert JSON value to float without loss of precision")
    return numbers


def _other_type(found: set[type], expected: str) -> str:
    names = ", ".join(sorted(_JSON_TYPES[kind] for kind in found))
    return f"JSON Value: Type: {names} is not of expected type: {expected}"


def _files(values: list[Any], key: str, _: int) -> list[bytes]:
    """Strings as TF Serving takes them: text as it is, or ``{"b64": ...}`` decoded."""
    files = []
    for number, value in enumerate(values):
        with _element(number, key):
            files.append(_string(value))
    return files


def _string(value: Any) -> bytes:
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if _is_base64(value):
        try:
            return decode_base64(value["b64"])
        except ValueError as error:
            raise ValueError("Unable to base64 decode") from error
    raise ValueError(_other_type({type(value)}, "string"))


def _base64_files(values: list[Any], key: str, size: int) -> list[bytes]:
    files, reasons = [], []
    for text in _files(values, key, size):
        try:
            files.append(decode_base64(text.decode("ascii", "replace")))
            reasons.append("")
        except ValueError as error:
            reasons.append(str(error))
    check_pictures(reasons)
    return files


@contextmanager
def _element(number: int, key: str) -> Iterator[None]:
    """Name the element that a ValueError is about."""
    try:
        yield
    except ValueError as error:
        raise refusal(
            f"Failed to process element: {number} of '{key}' list. Error: {error}"
        ) from error


def check_pictures(reasons: Sequence[str]) -> None:
    """Refuse a request for its bad pictures.

    Args:
        reasons: one a picture, "" for a good one.

    Raises:
        RequestError: 400, which names every bad picture.
    """
    bad = [f"picture {n}: {reason}" for n, reason in enumerate(reasons) if reason]
    if bad:
        raise refusal("; ".join(bad))


_Load = Callable[[list[Any], str, int], list[bytes] | np.ndarray]
SIGNATURES: dict[str, _Load] = {
    DEFAULT_SIGNATURE: _images,
    "predict_images": _images,
    "predict_bytes": _files,
    "predict_base64": _base64_files,
}


# -- classify and regress, which the model does not offer


def refuse_examples(document: dict[str, Any], method: str) -> RequestError:
    """The error of `classify` and `regress`, whose signatures the model lacks."""
    signature = _signature_name(document)
    examples = document.get("examples")
    if not isinstance(examples, list) or not examples:
        return refusal("JSON Value: Expecting 'examples', a list/array of one or more")
    if signature not in SIGNATURES:
        return refusal("No signature was found with the name that was sent")
    kind = {"classify": "classification", "regress": "regression"}[method]
    return refusal(
        f"Expected {kind} signature method_name to be tensorflow/serving/{method}. "
        "Was: tensorflow/serving/predict"
    )


# -- status and metadata


def status() -> dict[str, Any]:
    """The answer to a request for the model's status."""
    good = {"error_code": "OK", "error_message": ""}
    version = {"version": str(VERSION), "state": "AVAILABLE", "status": good}
    return {"model_version_status": [version]}


def metadata(classes: int, size: int) -> dict[str, Any]:
    """The answer to a request for the model's signatures, a SignatureDefMap.

    Args:
        classes: the number of the model's classes.
        size: pixels, both sides, of the network's input.
    """
    images, strings = ("DT_FLOAT", -1, size, size, CHANNELS), ("DT_STRING", -1)
    signatures = {
        name: {
            "inputs": {"inputs": _tensor(*(images if load is _images else strings))},
            "outputs": {"outputs": _tensor("DT_FLOAT", -1, classes)},
            "method_name": "tensorflow/serving/predict",
        }
        for name, load in SIGNATURES.items()
    }
    spec = {"name": MODEL_NAME, "signature_name": "", "version": str(VERSION)}
    found = {"signature_def": {"signature_def": signatures}}
    return {"model_spec": spec, "metadata": found}


def _tensor(dtype: str, *shape: int) -> dict[str, Any]:
    dim = [{"size": str(size), "name": ""} for size in shape]
    return {"dtype": dtype, "tensor_shape": {"dim": dim, "unknown_rank": False}}


# -- HTTP


def routes(service: Service) -> list[Route]:
    """The route of every path below ``/v1/models``, in any case, with any verb.

    Append it to an application's routes: copies by `include_router` are of one case.
    """

    async def answer(request: Request) -> Response:
        request.scope["route"] = route  # the name under which requests are counted
        return Answer(await _answer(service, request))

    route = Route("/v1/models{rest:path}", answer, include_in_schema=False)
    route.methods = None
    route.path_regex = re.compile(route.path_regex.pattern, re.IGNORECASE | re.DOTALL)
    return [route]


async def _answer(service: Service, request: Request) -> dict[str, Any]:
    classifier = service.classifier
    size = classifier.preprocessing.crop
    what = parse_path(request.method, _path(request))
    if what == "status":
        return status()
    if what == "metadata":
        return metadata(len(classifier.classes), size)
    body = await service.read_body(request)
    if what != "predict":
        raise refuse_examples(_parse_json(body), what)
    most = service.settings.most_pictures
    sent = await service.work(len(body), parse_predict, body, size, most)
    if isinstance(sent.pictures, np.ndarray):
        return {sent.answer: (await service.predict(request, sent.pictures)).tolist()}
    outcomes = await service.score(request, sent.pictures)
    check_pictures([outcome.message or "" for outcome in outcomes])
    return {sent.answer: [list(outcome.scores or ()) for outcome in outcomes]}


def _path(request: Request) -> str:
    """The path as it was sent, after the one that the application is mounted at."""
    sent = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    path: str = sent.decode("latin-1").partition("?")[0]
    return path.removeprefix(quote(request.scope.get("root_path", "")))
