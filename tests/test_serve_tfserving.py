"""TF Serving's REST interface of the service, case by case.

The cases are those of TF Serving's own http_rest_api_handler_test.cc,
http_rest_api_util_test.cc and json_tensor_test.cc that a model of one input can have.
"""

import asyncio
import base64
import gzip
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from serve_process import Serving, serving
from serving_servers import run
from starlette.applications import Starlette
from starlette.routing import Mount
from trained_models import CLASSES, open_nsfw_of_three

from open_nsfw_tf import Classifier
from open_nsfw_tf.backbones.trained import write_trained
from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.export.request import INPUT_TYPES, predict_request
from open_nsfw_tf.image import tensor
from open_nsfw_tf.serve import create_app
from open_nsfw_tf.serve.limits import decode_base64
from open_nsfw_tf.serve.tfserving import (
    MODEL_NAME,
    parse_path,
    parse_predict,
    refuse_examples,
)

ROOT = "/v1/models"
OURS = f"{ROOT}/{MODEL_NAME}"
TOO_LARGE = 2**64 - 1
RESERVED = "modelname%21%23%24%25%26%27%28%29%2A%2B%2C%2F%3A%3B%3D%3F%40%5B%5D"
SIDE, MOST = 2, 4  # of the small inputs here
ZERO = [[[0.0] * 3] * SIDE] * SIDE


def b64(data: bytes) -> dict[str, str]:
    return {"b64": base64.b64encode(data).decode()}


# -- paths


@pytest.mark.parametrize(
    ("verb", "path", "what"),
    [
        ("GET", OURS, "status"),
        ("GET", f"{OURS}/versions/1", "status"),
        ("GET", f"{OURS}/versions/001", "status"),
        ("GET", f"{OURS}/metadata", "metadata"),
        ("GET", f"{OURS}/versions/1/metadata", "metadata"),
        ("POST", f"{OURS}:predict", "predict"),
        ("POST", f"{OURS}/versions/1:predict", "predict"),
        ("POST", f"{OURS}/versions/1:classify", "classify"),
        ("POST", f"{OURS}:regress", "regress"),
        ("POST", "/V1/Models/open_nsfw:Predict", "predict"),
        ("GET", "/V1/MODELS/open_nsfw/METADATA", "metadata"),
        ("POST", f"{ROOT}/open%5fnsfw/Versions/1:predict", "predict"),
    ],
)
def test_paths(verb: str, path: str, what: str) -> None:
    assert parse_path(verb, path) == what


@pytest.mark.parametrize(
    ("verb", "path", "status", "message"),
    [
        ("GET", ROOT, 400, "Missing model name"),
        ("GET", f"{ROOT}/versions/1", 400, "Missing model name"),
        ("POST", ROOT, 400, "Malformed request: POST /v1/models"),
        ("GET", f"{ROOT}/", 400, "Malformed request: GET /v1/models/"),
        ("GET", f"{ROOT}/debug/model_name", 400, "Malformed request"),
        ("GET", f"{OURS}/", 400, "Malformed request"),
        ("GET", f"{OURS}:predict", 400, "Malformed request"),
        ("GET", f"{OURS}/version/50:predict", 400, "Malformed request"),
        ("POST", OURS, 400, "Malformed request"),
        ("POST", f"{OURS}:explain", 400, "Malformed request"),
        ("POST", f"{OURS}:predict/", 400, "Malformed request"),
        ("POST", f"{OURS}/version/50:regress", 400, "Malformed request"),
        ("POST", f"{OURS}/versions/HELLO:regress", 400, "Malformed request"),
        ("POST", f"{OURS}/versions/-1:predict", 400, "Malformed request"),
        ("POST", f"{OURS}/metadata", 400, "Malformed request"),
        ("POST", f"{OURS}/label/some_label:regress", 400, "Malformed request"),
        ("POST", f"{OURS}/versions/1/labels/a:regress", 400, "Malformed request"),
        ("PUT", f"{OURS}:predict", 400, "Malformed request: PUT"),
        ("DELETE", OURS, 400, "Malformed request: DELETE"),
        ("HEAD", OURS, 400, "Malformed request: HEAD"),
        ("GET", f"{ROOT}x", 400, "Malformed request"),
        ("POST", f"{OURS}/versions/{TOO_LARGE}:regress", 400, "convert version"),
        ("GET", f"{OURS}/versions/{'9' * 5000}", 400, "convert version"),
        ("POST", f"{OURS}/labels/stable:predict", 400, "servable version label: st"),
        ("GET", f"{OURS}/labels/stable", 400, "servable version label: stable"),
        ("GET", f"{ROOT}/foo", 404, "Servable not found for request: Latest(foo)"),
        ("GET", f"{ROOT}/foo/metadata", 404, "Servable not found"),
        ("GET", f"{OURS}/versions/2", 404, "request: Specific(open_nsfw, 2)"),
        ("POST", f"{ROOT}/foo:predict", 404, "Latest(foo)"),
        ("POST", f"{ROOT}/foo/versions/50:predict", 404, "Specific(foo, 50)"),
        ("POST", f"{OURS}99:predict", 404, "Latest(open_nsfw99)"),
        ("POST", f"{ROOT}/Open_NSFW:predict", 404, "Latest(Open_NSFW)"),
        ("POST", f"{OURS}/versions/0:predict", 404, "Specific(open_nsfw, 0)"),
        ("GET", f"{ROOT}/{RESERVED}", 404, "(modelname!#$%&'()*+,/:;=?@[])"),
        ("GET", f"{ROOT}/a%0Ab", 404, "Latest(a\\nb)"),
    ],
)
def test_paths_that_are_refused(
    verb: str, path: str, status: int, message: str
) -> None:
    with pytest.raises(RequestError) as raised:
        parse_path(verb, path)
    assert raised.value.status == status
    assert message in raised.value.message
    assert len(raised.value.message) < 300


# -- bodies


def predict(signature: str | None = None, **document: Any) -> Any:
    if signature is not None:
        document["signature_name"] = signature
    return parse_predict(json.dumps(document).encode(), SIDE, MOST)


def one_and(*values: Any) -> list[Any]:
    return [ZERO, *values]


@pytest.mark.parametrize("signature", [None, "", "serving_default", "predict_images"])
def test_batches_of_numbers(signature: str | None) -> None:
    """Whole numbers, too, as clients write those that have no fraction."""
    one = [[[1, 2.0, 3], [4, 5.003, 0.007]], [[0.0, -1, 1e-3], [2**24 - 1, 0.2, -7]]]
    rows = predict(signature, instances=[one, ZERO])
    assert rows.answer == "predictions"
    assert rows.pictures.dtype == np.float32
    assert np.array_equal(rows.pictures, np.array([one, ZERO], np.float32))
    for form, answer in (
        ({"instances": [{"inputs": one}, {"inputs": ZERO}]}, "predictions"),
        ({"inputs": [one, ZERO]}, "outputs"),
        ({"inputs": {"inputs": [one, ZERO]}}, "outputs"),
    ):
        same = predict(signature, **form)
        assert same.answer == answer
        assert np.array_equal(same.pictures, rows.pictures)


@pytest.mark.parametrize("signature", ["predict_bytes", "predict_base64"])
def test_batches_of_files(signature: str) -> None:
    files = [b"hello", b"\xff\xd8\xff\xe0"]
    texts = [base64.b64encode(data) for data in files]
    sent = texts if "64" in signature else files
    values = [b64(data) for data in sent]
    for form in (
        {"instances": values},
        {"instances": [{"inputs": value} for value in values]},
        {"inputs": values},
        {"inputs": {"inputs": values}},
    ):
        assert predict(signature, **form).pictures == files


def test_texts() -> None:
    """As they are for `predict_bytes`; as base64 for `predict_base64`."""
    assert predict("predict_bytes", instances=["foo", "bär"]).pictures == [
        b"foo",
        "bär".encode(),
    ]
    assert predict("predict_base64", inputs=["aGVsbG8=", "_-8"]).pictures == [
        b"hello",
        b"\xff\xef",
    ]


FLOATS = [
    # a document's keys and values, and a part of the message
    ({}, "Missing 'inputs' or 'instances' key"),
    ({"instances": [ZERO], "inputs": [ZERO]}, "expecting only one of"),
    ({"instances": []}, "No values in 'instances'"),
    ({"inputs": []}, "No values in 'inputs'"),
    ({"inputs": {"inputs": []}}, "No values in 'inputs'"),
    ({"instances": None}, "'instances' to be a list"),
    ({"instances": 1.0}, "'instances' to be a list"),
    ({"instances": "x"}, "'instances' to be a list"),
    ({"instances": {"inputs": [ZERO]}}, "'instances' to be a list"),
    ({"inputs": 1.0}, "'inputs' to be a list"),
    ({"inputs": {"other": [ZERO]}}, "Missing named input: inputs"),
    ({"inputs": {}}, "Missing named input: inputs"),
    ({"instances": [{"other": ZERO}]}, "keys must be equal to: inputs"),
    ({"instances": [{"inputs": ZERO, "b": 1}]}, "keys must be equal to: inputs"),
    ({"instances": [{}]}, "keys must be equal to: inputs"),
    ({"instances": [{"inputs": ZERO}, ZERO]}, "object but got list at item 1"),
    ({"instances": [ZERO, {"inputs": ZERO}]}, "value/list but got object at item 1"),
    ({"instances": one_and(1.0)}, "element: 1 of 'instances' list. Error: Expecting"),
    ({"inputs": one_and(1.0)}, "element: 1 of 'inputs' list. Error: Expecting shape"),
    ({"instances": ZERO}, "Expecting shape [2,2,3]"),
    ({"inputs": ZERO}, "Expecting shape [2,2,3]"),
    ({"instances": one_and(ZERO[:1])}, "Expecting shape"),
    ({"instances": one_and([*ZERO, ZERO[0]])}, "Expecting shape"),
    ({"instances": one_and([ZERO[0], [[0, 0, 0], [0, 0]]])}, "Expecting shape"),
    ({"instances": one_and([ZERO[0], [[0, 0, 0], 0]])}, "Expecting shape"),
    ({"instances": one_and([ZERO[0], [[0, 0, 0], [0, 0, [0]]]])}, "Type: Array is"),
    ({"instances": one_and([[[]], [[]]])}, "Expecting shape"),
    ({"instances": [[]]}, "Expecting shape"),
    ({"instances": ["x", "y"]}, "Expecting shape"),
    ({"instances": [b64(b"x")]}, "Expecting shape"),
    ({"instances": [ZERO] * (MOST + 1)}, "at most 4 pictures, got 5"),
    ({"inputs": [0] * 900_000}, "at most 4 pictures, got 900000"),
]
VALUES = [
    ("x", "Type: String is not of expected type: float"),
    ("1.5", "Type: String is not of expected type: float"),
    (True, "Type: Bool is not of expected type: float"),
    (None, "Type: Null is not of expected type: float"),
    ({"b64": "aGVsbG8="}, "Type: Object is not of expected type: float"),
    (2**24 + 1, "loss of precision"),
    (-(2**24) - 1, "loss of precision"),
    (10**400, "loss of precision"),
    (1.7976931348623157e308, "loss of precision"),
    (-3.5e38, "loss of precision"),
    (float("nan"), "JSON Parse error: "),
    (float("inf"), "JSON Parse error: "),
    (float("-inf"), "JSON Parse error: "),
]


def check_refused(message: str, *arguments: Any, **document: Any) -> None:
    with pytest.raises(RequestError) as raised:
        predict(*arguments, **document)
    assert raised.value.status == (413 if "at most" in message else 400)
    assert message in raised.value.message
    assert len(raised.value.message) < 300
    assert raised.value.message.isprintable()


@pytest.mark.parametrize(("document", "message"), FLOATS)
@pytest.mark.parametrize("signature", [None, "predict_images"])
def test_numbers_that_are_refused(
    signature: str | None, document: Any, message: str
) -> None:
    check_refused(message, signature, **document)


@pytest.mark.parametrize(("value", "message"), VALUES)
@pytest.mark.parametrize("beside", [0, 0.5])
def test_values_that_are_refused(value: Any, beside: float, message: str) -> None:
    picture = [[[0.0, beside, 1]] * 2, [[1, 2.0, 3], [4, 5, value]]]
    check_refused(message, instances=[ZERO, picture])
    check_refused(message, inputs=[ZERO, picture])


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (1.5, "element: 1 of 'instances' list. Error: JSON Value: Type: Number is not"),
        (True, "Type: Bool is not of expected type: string"),
        (None, "Type: Null is not of expected type: string"),
        ([b64(b"x")], "Type: Array is not of expected type: string"),
        (["x"], "Type: Array is not of expected type: string"),
        ({"b64": "!"}, "Unable to base64 decode"),
        ({"b64": "Q"}, "Unable to base64 decode"),
        ({"b64": "QQ===="}, "Unable to base64 decode"),
        ({"b64": "QQ==QQ=="}, "Unable to base64 decode"),
        ({"b64": "ü"}, "Unable to base64 decode"),
        ({"b64": "\ud800"}, "Unable to base64 decode"),
        ({"b64": 1}, "value/list but got object at item 1"),
        ({"b64": "QQ==", "other": 1}, "value/list but got object at item 1"),
        ({"inputs": "x"}, "value/list but got object at item 1"),
    ],
)
@pytest.mark.parametrize("signature", ["predict_bytes", "predict_base64"])
def test_strings_that_are_refused(signature: str, value: Any, message: str) -> None:
    check_refused(message, signature, instances=[b64(b"QQ=="), value])


def test_strings_in_columns_that_are_refused() -> None:
    check_refused("'inputs' to be a list", "predict_bytes", inputs=b64(b"x"))
    check_refused("Type: Object is not", "predict_bytes", inputs=[{"inputs": "x"}])
    check_refused("keys must be", "predict_bytes", instances=[{"b64": 1}])
    check_refused("at most 4", "predict_bytes", instances=["x"] * 5)


def test_every_text_that_is_not_base64_is_named() -> None:
    message = "picture 0: not base64: expected A-Z a-z 0-9 with +/ or -_, = only at"
    check_refused(message, "predict_base64", instances=["!", "QQ==", "Q", "\ud800"])
    with pytest.raises(RequestError, match="picture 2: not.*picture 3: not"):
        predict("predict_base64", instances=["!", "QQ==", "Q", "\ud800"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "JSON Parse error: The document is empty"),
        (b"instances = [1, 2]", "JSON Parse error: "),
        (b'{"instances": [1, 2]}X', "JSON Parse error: "),
        (b'{"instances": [1, 2}', "JSON Parse error: "),
        (b'{"instances": ["\xff"]}', "JSON Parse error: "),
        (b"[" * 100_000, "JSON Parse error: the JSON is nested too deep"),
        (b'{"instances": [[' + b"1," * 10**6 + b"1]]}", "JSON Parse error: expected"),
        (b'{"instances": [[[[0, 0, 0], [0, 0, 1e999]]]]}', "Expecting shape"),
        (
            b'{"inputs": [[[[0, 0, 0], [0, 0, 1e999]], [[0, 0, 0], [0, 0, 0]]]]}',
            "picture 0: NaN or infinity in its values",
        ),
        (b"[]", "Is not object"),
        (b'"x"', "Is not object"),
        (b"null", "Is not object"),
    ],
)
def test_bodies_that_are_refused(body: bytes, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_predict(body, SIDE, MOST)
    assert raised.value.status == 400
    assert message in raised.value.message


@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"signature_name": 5, "instances": [ZERO]}, "must be a string value."),
        ({"signature_name": ["x"], "instances": [ZERO]}, "must be a string value."),
        ({"signature_name": None, "instances": [ZERO]}, "must be a string value."),
        (
            {"signature_name": "regress\n", "instances": [ZERO]},
            "Serving signature name not found in signature def: serving_default, ",
        ),
    ],
)
def test_documents_that_are_refused(document: Any, message: str) -> None:
    check_refused(message, **document)


WORDS = ["inputs", "instances", "b64", "signature_name", "predict_bytes", "QUJD", ""]
LEAVES = (
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(WORDS)
)
VALUE = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(WORDS), inner, max_size=3)
        | st.just(ZERO)
    ),
    max_leaves=8,
)
DOCUMENT = st.fixed_dictionaries(
    {},
    optional={
        "instances": st.lists(VALUE, max_size=5) | VALUE,
        "inputs": st.lists(VALUE, max_size=5) | VALUE,
        "signature_name": st.sampled_from(["predict_bytes", "predict_base64", ""]),
    },
)


@given(DOCUMENT | VALUE)
def test_any_document_is_read_or_refused(document: Any) -> None:
    try:
        found = parse_predict(json.dumps(document).encode(), SIDE, MOST).pictures
    except RequestError as error:
        assert error.status in (400, 413)
        assert error.message.isprintable()
    else:
        assert 1 <= len(found) <= MOST
        if isinstance(found, np.ndarray):
            assert found.shape[1:] == (SIDE, SIDE, 3)
            assert np.isfinite(found).all()
        else:
            assert all(isinstance(data, bytes) for data in found)


@given(st.binary(max_size=50))
def test_any_body_is_read_or_refused(body: bytes) -> None:
    with pytest.raises(RequestError):
        parse_predict(body, SIDE, MOST)


@pytest.mark.parametrize("method", ["classify", "regress"])
@pytest.mark.parametrize(
    ("document", "message"),
    [
        ({"examples": [{"x": 80.0}]}, "signature method_name to be tensorflow/serving"),
        ({"examples": [{}], "signature_name": "predict_bytes"}, "method_name to be"),
        ({"examples": [{}], "signature_name": "other"}, "No signature was found"),
        ({"examples": [{}], "signature_name": ["x"]}, "must be a string value"),
        ({"examples": {"x": 1}}, "list/array"),
        ({"examples": []}, "'examples'"),
        ({}, "'examples'"),
    ],
)
def test_classify_and_regress(method: str, document: Any, message: str) -> None:
    """As TF Serving answers for a model that has neither of these signatures."""
    with pytest.raises(RequestError) as raised:
        raise refuse_examples(document, method)
    assert raised.value.status == 400
    assert message in raised.value.message


def test_base64_as_the_loader_reads_it() -> None:
    for length in (*range(70), 3 << 18, (3 << 18) + 1, 10**6):
        data = os.urandom(length)
        texts = {base64.b64encode(data), base64.urlsafe_b64encode(data)}
        texts |= {text.rstrip(b"=") for text in texts}
        texts |= {base64.encodebytes(data), b" \r\n\t\f\v" + min(texts) + b"\n"}
        for text in texts:
            assert decode_base64(text.decode()) == data


# -- the server

ROCKET = pictures.path("rocket.jpg")
COFFEE = pictures.path("coffee.png")
EXAMPLES = Path(__file__).parent.parent / "examples"
PAGE = EXAMPLES.parent / "docs" / "tf-serving.md"


def caffe(path: Path) -> float:
    return float(GOLDEN["samples"][path.name]["nsfw"])


@pytest.fixture(scope="module")
def server(weights_path: Path) -> Iterator[Serving]:
    with serving("--weights", weights_path) as server:
        yield server


def ask(
    server: Serving,
    path: str,
    body: bytes | str | dict[str, Any] | None = None,
    verb: str | None = None,
    headers: dict[str, str] | None = None,
) -> tuple[int, Any, Mapping[str, str]]:
    """The status, the answer as JSON, and its headers."""
    content = json.dumps(body) if isinstance(body, dict) else body
    verb = verb or ("GET" if body is None else "POST")
    answer = server.client.request(verb, path, content=content, headers=headers)
    assert answer.headers["content-type"] == "application/json"
    return answer.status_code, answer.json(), answer.headers


@pytest.mark.parametrize("input_type", INPUT_TYPES)
def test_our_requests(server: Serving, input_type: str) -> None:
    body = predict_request(ROCKET, "tf-serving", input_type)
    status, answer, _ = ask(server, f"{OURS}:predict", body)
    assert status == 200
    ((sfw, nsfw),) = answer["predictions"]
    assert abs(nsfw - caffe(ROCKET)) <= SCORE_TOLERANCE
    assert sfw + nsfw == pytest.approx(1)


def test_rows_and_columns(server: Serving, classifier: Classifier) -> None:
    """Every signature, both forms, and any headers: one pair of scores."""
    files = [path.read_bytes() for path in (ROCKET, COFFEE)]
    texts = [base64.b64encode(data).decode() for data in files]
    batch = np.stack([tensor(path) for path in (ROCKET, COFFEE)])
    expected = [list(classifier.classify(data)) for data in files]
    for signature, values in (
        ("predict_bytes", [{"b64": text} for text in texts]),
        ("predict_base64", texts),
        ("", batch.tolist()),
    ):
        for key, answer, value in (
            ("instances", "predictions", values),
            ("instances", "predictions", [{"inputs": v} for v in values]),
            ("inputs", "outputs", values),
            ("inputs", "outputs", {"inputs": values}),
        ):
            body = {"signature_name": signature, key: value}
            status, found, _ = ask(server, f"{OURS}/versions/1:predict", body)
            assert (status, list(found)) == (200, [answer])
            assert np.abs(np.subtract(found[answer], expected)).max() < 1e-6


def test_every_golden_picture_has_caffes_score(
    server: Serving, classifier: Classifier
) -> None:
    """Or is refused, as `Classifier.classify` refuses it."""
    files = {name: pictures.path(name).read_bytes() for name in GOLDEN["samples"]}
    expected = {name: row["nsfw"] for name, row in GOLDEN["samples"].items()}
    for name, row in GOLDEN["made"].items():
        made = pictures.MADE[name]()
        if isinstance(made, Image.Image):
            made = pictures.encoded(made, "PNG")
        files[name], expected[name] = made, row["nsfw"]
    names = list(files)
    scored = 0
    for start in range(0, len(names), 16):
        part = names[start : start + 16]
        body = {
            "signature_name": "predict_bytes",
            "instances": [b64(files[n]) for n in part],
        }
        status, answer, _ = ask(server, f"{OURS}:predict", body)
        assert status == 200, answer
        for name, (_, nsfw) in zip(part, answer["predictions"], strict=True):
            assert abs(nsfw - expected[name]) <= SCORE_TOLERANCE, name
            scored += 1
    assert scored == len(expected) >= 45


REQUEST = json.dumps(
    {"signature_name": "predict_bytes", "instances": [b64(ROCKET.read_bytes())]}
).encode()


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": ""},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "multipart/form-data"},
        {"Content-Encoding": "gzip"},
        {"Content-Encoding": "GZIP", "Content-Type": "application/json"},
    ],
)
def test_headers_do_not_matter(server: Serving, headers: dict[str, str]) -> None:
    body = gzip.compress(REQUEST) if "Content-Encoding" in headers else REQUEST
    status, answer, sent = ask(server, f"{OURS}:predict", body, "POST", headers)
    assert status == 200
    assert abs(answer["predictions"][0][1] - caffe(ROCKET)) <= SCORE_TOLERANCE
    assert sent["Content-Type"] == "application/json"


AVAILABLE = {
    "model_version_status": [
        {
            "version": "1",
            "state": "AVAILABLE",
            "status": {"error_code": "OK", "error_message": ""},
        }
    ]
}


@pytest.mark.parametrize("path", ["", "/versions/1", "/Versions/01"])
def test_status(server: Serving, path: str) -> None:
    assert ask(server, OURS + path)[:2] == (200, AVAILABLE)


@pytest.mark.parametrize("path", ["/metadata", "/versions/1/metadata", "/MetaData"])
def test_metadata(server: Serving, path: str) -> None:
    """tests/test_serving.py compares it with an exported SavedModel."""
    status, answer, _ = ask(server, OURS + path)
    assert status == 200
    spec = {"name": "open_nsfw", "signature_name": "", "version": "1"}
    assert answer["model_spec"] == spec
    assert list(answer["metadata"]["signature_def"]["signature_def"]) == [
        "serving_default",
        "predict_images",
        "predict_bytes",
        "predict_base64",
    ]


@pytest.mark.parametrize(
    ("verb", "path", "status", "message"),
    [
        ("GET", "/v1/models", 400, "Missing model name in request."),
        ("GET", "/v1/modelsx", 400, "Malformed request: GET /v1/modelsx"),
        ("GET", "/V1/MODELS/a/b", 400, "Malformed request: GET /V1/MODELS/a/b"),
        ("PUT", f"{OURS}:predict", 400, f"Malformed request: PUT {OURS}:predict"),
        ("PATCH", OURS, 400, f"Malformed request: PATCH {OURS}"),
        ("OPTIONS", OURS, 400, f"Malformed request: OPTIONS {OURS}"),
        ("BREW", OURS, 400, f"Malformed request: BREW {OURS}"),
        ("GET", f"{OURS}:predict", 400, f"Malformed request: GET {OURS}:predict"),
        ("GET", f"{ROOT}/a%2Fb", 404, "Servable not found for request: Latest(a/b)"),
        ("GET", f"{ROOT}/a%0Ab", 404, "Servable not found for request: Latest(a\\nb)"),
        ("GET", f"{ROOT}/%ff", 404, "Servable not found for request: Latest(\ufffd)"),
        ("POST", f"{ROOT}/foo:predict", 404, "Servable not found for request: Latest"),
        (
            "POST",
            f"{OURS}/labels/x:predict",
            400,
            "Unrecognized servable version label",
        ),
        ("POST", f"{OURS}:predict", 400, "JSON Parse error: The document is empty"),
        ("POST", f"{OURS}:classify", 400, "JSON Parse error: The document is empty"),
    ],
)
def test_refused_requests(
    server: Serving, verb: str, path: str, status: int, message: str
) -> None:
    found, answer, _ = ask(server, path, None, verb)
    assert found == status
    assert list(answer) == ["error"]
    assert answer["error"].startswith(message)


def test_other_refusals_have_the_same_form(server: Serving) -> None:
    body = b"x" * (110 << 20)
    for content, headers, status in (
        (b"x", {"Content-Encoding": "br"}, 415),
        (b"x", {"Content-Encoding": "gzip"}, 400),
        (gzip.compress(body, 1), {"Content-Encoding": "gzip"}, 413),
    ):
        found, answer, _ = ask(server, f"{OURS}:predict", content, "POST", headers)
        assert found == status
        assert list(answer) == ["error"]
        assert isinstance(answer["error"], str)
    status, answer, _ = ask(server, f"{OURS}:classify", {"examples": [{"x": 1.0}]})
    assert status == 400
    assert "method_name to be tensorflow/serving/classify" in answer["error"]


def test_bad_pictures_fail_the_request(server: Serving) -> None:
    """As TF Serving: all or nothing. Nothing of the picture is in the message."""
    files = [ROCKET.read_bytes(), b"secret words", ROCKET.read_bytes()[:-500], b""]
    for signature, values in (
        ("predict_bytes", [b64(data) for data in files]),
        ("predict_base64", [b64(data)["b64"] for data in files]),
    ):
        body = {"signature_name": signature, "instances": values}
        status, answer, _ = ask(server, f"{OURS}:predict", body)
        assert (status, list(answer)) == (400, ["error"])
        bad = re.findall(r"picture (\d): \w", answer["error"])
        assert bad == ["1", "2", "3"]
        assert "secret" not in answer["error"]
        assert answer["error"].isprintable()


@pytest.mark.parametrize("value", ["NaN", "Infinity", "1e999", "3e38", "null", '"0"'])
def test_numbers_without_a_score(server: Serving, value: str) -> None:
    picture = np.zeros((224, 224, 3)).tolist()
    body = json.dumps({"instances": [picture]}).replace("0.0", value)
    status, answer, _ = ask(server, f"{OURS}:predict", body)
    assert (status, list(answer)) == (400, ["error"])


def test_it_can_be_mounted(classifier: Classifier) -> None:
    outer = Starlette(routes=[Mount("/pictures", create_app(classifier))])

    async def ask_for(*paths: str) -> list[Any]:
        transport = httpx.ASGITransport(outer)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test/pictures"
        ) as client:
            return [(await client.get(path)).json() for path in paths]

    status, missing, malformed = asyncio.run(
        ask_for("/V1/Models/open%5Fnsfw", f"{ROOT}/a%2Fb", f"{OURS}/x")
    )
    assert status == AVAILABLE
    assert missing == {"error": "Servable not found for request: Latest(a/b)"}
    assert malformed == {"error": f"Malformed request: GET {OURS}/x"}


def test_requests_are_counted(server: Serving) -> None:
    ask(server, OURS)
    page = server.client.get("/metrics").text
    counted = r'open_nsfw_requests_total{code="200",route="/v1/models[^"]*"} [1-9]'
    assert re.search(counted, page)


def test_example_client(server: Serving, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(ROCKET.read_bytes()[:-500])
    client = EXAMPLES / "serving_client.py"
    done = run(
        sys.executable,
        client,
        "--rest",
        f"{server.address}{OURS}",
        ROCKET,
        bad,
        "none.jpg",
        COFFEE,
    )
    assert not done.stderr
    first, second, third, fourth = done.stdout.splitlines()
    for line, path in (first, ROCKET), (fourth, COFFEE):
        score, found = line.split(" ", 1)
        assert found == str(path)
        assert abs(float(score) - caffe(path)) <= SCORE_TOLERANCE
    assert second.startswith(f"no score: {bad}: ")
    assert third == "no score: none.jpg: No such file or directory"
    assert done.returncode == 1


def test_commands_of_the_page(server: Serving, tmp_path: Path) -> None:
    """Those for TF Serving, as they are, but for the address."""
    shutil.copy(ROCKET, tmp_path / "photo.jpg")
    shutil.copy(COFFEE, tmp_path / "another.png")
    (tmp_path / "examples").symlink_to(EXAMPLES)
    address = f"http://localhost:8501{OURS}"
    commands = [
        line for line in PAGE.read_text("utf-8").splitlines() if address in line
    ]
    assert len(commands) >= 4
    for command in commands:
        done = run(
            "sh",
            "-ec",
            command.replace("http://localhost:8501", server.address),
            cwd=tmp_path,
        )
        scores = [float(number) for number in re.findall(r"\b0\.\d+", done.stdout)]
        assert any(abs(score - caffe(ROCKET)) < 1e-5 for score in scores), done


# -- a trained model, and a short queue


def test_a_trained_model(weights: Any, tmp_path: Path) -> None:
    """Its classes are the columns; too many requests at once are refused."""
    (tmp_path / "run").mkdir()
    write_trained(tmp_path / "run", open_nsfw_of_three(weights))
    expected = Classifier(model=tmp_path / "run").classify(ROCKET)
    options = ("--model", tmp_path / "run", "--queue", 1)
    with serving(*options) as server, ThreadPoolExecutor(16) as pool:
        _, answer, _ = ask(server, f"{OURS}/metadata")
        signature = answer["metadata"]["signature_def"]["signature_def"][
            "predict_bytes"
        ]
        dim = signature["outputs"]["outputs"]["tensor_shape"]["dim"]
        assert [entry["size"] for entry in dim] == ["-1", str(len(CLASSES))]
        numbers = predict_request(ROCKET, input_type="tensor")
        for body in REQUEST, numbers:
            status, answer, _ = ask(server, f"{OURS}:predict", body)
            assert status == 200
            assert answer["predictions"] == [pytest.approx(expected, abs=1e-6)]
        two = {"instances": [b64(b"")] * 2, "signature_name": "predict_bytes"}
        status, answer, _ = ask(server, f"{OURS}:predict", two)
        assert (status, list(answer)) == (413, ["error"])
        answers = list(
            pool.map(lambda _: ask(server, f"{OURS}:predict", REQUEST), range(64))
        )
    assert {status for status, *_ in answers} == {200, 503}
    for status, answer, headers in answers:
        if status == 503:
            assert list(answer) == ["error"]
            assert headers["Retry-After"] == "1"
        else:
            assert answer["predictions"] == [pytest.approx(expected, abs=1e-6)]
