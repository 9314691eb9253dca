"""TF Serving's REST interface of the service, case by case.

The cases are those of TF Serving's own http_rest_api_handler_test.cc,
http_rest_api_util_test.cc and json_tensor_test.cc that a model of one input can have.
"""

import base64
import json
import os
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf.serve.limits import RequestError, decode_base64
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
    for given, answer in (
        ({"instances": [{"inputs": one}, {"inputs": ZERO}]}, "predictions"),
        ({"inputs": [one, ZERO]}, "outputs"),
        ({"inputs": {"inputs": [one, ZERO]}}, "outputs"),
    ):
        same = predict(signature, **given)
        assert same.answer == answer
        assert np.array_equal(same.pictures, rows.pictures)


@pytest.mark.parametrize("signature", ["predict_bytes", "predict_base64"])
def test_batches_of_files(signature: str) -> None:
    files = [b"hello", b"\xff\xd8\xff\xe0"]
    texts = [base64.b64encode(data) for data in files]
    sent = texts if "64" in signature else files
    values = [b64(data) for data in sent]
    for given in (
        {"instances": values},
        {"instances": [{"inputs": value} for value in values]},
        {"inputs": values},
        {"inputs": {"inputs": values}},
    ):
        assert predict(signature, **given).pictures == files


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
