"""OpenAI's moderation API of the service, as OpenAI's own client asks it."""

import asyncio
import base64
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pictures
import pytest
from serve_process import Serving, serving
from trained_models import open_nsfw_of_three

from open_nsfw_tf import Classifier
from open_nsfw_tf.backbones.trained import write_trained
from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.serve import Settings, create_app
from open_nsfw_tf.serve.moderations import parse_request, result

MOST = 4


def url(data: bytes = b"hello", start: str = "data:image/png;base64,") -> str:
    return start + base64.b64encode(data).decode()


def image(address: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": address}}


@pytest.mark.parametrize(
    "address",
    [
        url(),
        url(start="data:image/jpeg;base64,"),
        url(start="data:image/svg+xml;base64,"),
        url(start="DATA:Image/WebP;BASE64,"),
        url().rstrip("="),
        url().replace(",", ",\r\n "),
    ],
)
def test_pictures_in_data_urls(address: str) -> None:
    document = {"input": [image(address)] * 2, "model": "omni-moderation-latest"}
    assert parse_request(json.dumps(document).encode(), MOST) == [b"hello"] * 2


TEXT = {"type": "text", "text": "a text"}
REFUSED = [
    ([], "JSON object"),
    ("text", "JSON object"),
    (None, "JSON object"),
    ({}, "expected input, a list"),
    ({"input": None}, "expected input, a list"),
    ({"input": 5}, "expected input, a list"),
    ({"input": []}, "expected input, a list"),
    ({"input": image(url())}, "expected input, a list"),
    ({"input": "a text"}, "text is not scored here"),
    ({"input": ""}, "text is not scored here"),
    ({"input": url()}, "text is not scored here"),
    ({"input": ["a text", "another"]}, "text is not scored here"),
    ({"input": [image(url()), "a text"]}, "text is not scored here"),
    ({"input": [TEXT]}, "input 0: text is not scored here"),
    ({"input": [image(url()), TEXT]}, "input 1: text is not scored here"),
    ({"input": [{**image(url()), "text": "a text"}]}, "input 0: text is not scored"),
    ({"input": [[image(url())]]}, "input 0: expected"),
    ({"input": [{"type": "image_url"}]}, "input 0: expected"),
    ({"input": [{"type": "image_url", "image_url": url()}]}, "input 0: expected"),
    ({"input": [image(None)]}, "input 0: expected"),
    ({"input": [{"type": "audio", "image_url": {"url": url()}}]}, "input 0: expected"),
    ({"input": [{"type": ["text"]}]}, "input 0: expected"),
    ({"input": [image(url())] * (MOST + 1)}, "at most 4 pictures, got 5"),
    *(
        ({"input": [image(url()), image(address)]}, "input 1: no URL is ever fetched")
        for address in (
            "http://example.com/picture.png",
            "https://example.com/data:image/png;base64,aGVsbG8=",
            "//example.com/picture.png",
            "ftp://example.com/a.png",
            "file:///etc/passwd",
            "/etc/passwd",
            "blob:https://example.com/1",
            "",
            " data:image/png;base64,aGVsbG8=",
            "data:,hello",
            "data:image/png,hello",
            "data:text/plain;base64,aGVsbG8=",
            "data:image/png;base64",
            "aGVsbG8=",
        )
    ),
    *(
        ({"input": [image(url()[:-8] + text)]}, "input 0: not base64")
        for text in ("!", "aGVsb", "aGVs=G8=", "aGVsbG8%3D", "\ud800", "aGVsb===")
    ),
]


@pytest.mark.parametrize(("document", "message"), REFUSED)
def test_what_is_refused(document: Any, message: str) -> None:
    with pytest.raises(RequestError) as raised:
        parse_request(json.dumps(document).encode(), MOST)
    error = raised.value
    assert error.status == (413 if "at most" in message else 400)
    assert message in error.message
    assert "example.com" not in error.message
    assert "a text" not in error.message
    codes = {"text is": "text_input", "fetched": "url_input", "most": "too_many"}
    for words, code in codes.items():
        assert (words in message) == error.code.startswith(code)


def test_only_sexual_is_scored() -> None:
    found = result(0.25, False)
    assert found["flagged"] is False
    assert found["category_scores"].pop("sexual") == 0.25
    assert set(found["category_scores"].values()) == {0.0}
    assert not any(found["categories"].values())
    assert found["category_applied_input_types"].pop("sexual") == ["image"]
    assert set(map(len, found["category_applied_input_types"].values())) == {0}
    flagged = result(0.9, True)
    assert flagged["flagged"] is True
    assert [name for name, value in flagged["categories"].items() if value] == [
        "sexual"
    ]


# -- the server, asked by OpenAI's client

NAMES = ("rocket.jpg", "coffee.png")
TOKEN = "sk-local"


@pytest.fixture(scope="module")
def server(
    weights_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Serving]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(TOKEN)
    options = ("--weights", weights_path, "--band", "0.0001:0.01", "--max-pictures", 3)
    with serving(*options, "--token-file", tokens) as server:
        yield server


@pytest.fixture(scope="module")
def client(server: Serving) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


def client_of(server: Serving, token: str = TOKEN) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.address}/v1", api_key=token, max_retries=0)


def sent(*files: bytes) -> Any:
    return [image(url(data, "data:image/jpeg;base64,")) for data in files]


@pytest.mark.parametrize("name", NAMES)
def test_openais_client(
    client: openai.OpenAI, classifier: Classifier, name: str
) -> None:
    data = pictures.path(name).read_bytes()
    nsfw = classifier.classify(data)[1]
    answer = client.moderations.create(model="omni-moderation-latest", input=sent(data))
    assert answer.id.startswith("modr-")
    assert answer.model == "open_nsfw"
    (found,) = answer.results
    assert found.category_scores.sexual == pytest.approx(nsfw, abs=1e-6)
    assert found.flagged is found.categories.sexual is bool(nsfw >= 0.01)
    assert found.category_applied_input_types.sexual == ["image"]
    assert found.categories.violence_graphic is False
    assert found.category_scores.hate_threatening == 0
    assert found.category_applied_input_types.violence == []


def test_pictures_of_a_request_have_one_result(
    client: openai.OpenAI, classifier: Classifier
) -> None:
    files = [pictures.path(name).read_bytes() for name in NAMES]
    scores = [classifier.classify(data)[1] for data in files]
    low, high = np.array(files, object)[np.argsort(scores)]
    assert min(scores) < 0.01 <= max(scores)
    for order in ((low, high), (high, low), (low, high, low)):
        (found,) = client.moderations.create(input=sent(*order)).results
        assert found.category_scores.sexual == pytest.approx(max(scores), abs=1e-6)
        assert found.flagged is True
    (found,) = client.moderations.create(input=sent(low, low)).results
    assert found.flagged is False


def test_refusals_reach_openais_client(client: openai.OpenAI, server: Serving) -> None:
    good = pictures.path("rocket.jpg").read_bytes()
    for given, code in (
        ("a text", "text_input"),
        (["a text"], "text_input"),
        ([*sent(good), TEXT], "text_input"),
        ([image("https://example.com/a.png")], "url_input"),
        (sent(good, b"words"), "unreadable"),
        (sent(good, good[:-500]), "unreadable"),
        (sent(b""), "unreadable"),
    ):
        with pytest.raises(openai.BadRequestError) as refused:
            client.moderations.create(input=given)
        assert refused.value.code == code
        assert "a text" not in str(refused.value)
    with pytest.raises(openai.APIStatusError) as refused:
        client.moderations.create(input=sent(*[good] * 4))
    assert (refused.value.status_code, refused.value.code) == (413, "too_many_pictures")
    with (
        client_of(server, "another") as stranger,
        pytest.raises(openai.AuthenticationError),
    ):
        stranger.moderations.create(input=sent(good))


def test_positive_scores_are_added_up(weights: Any, tmp_path: Path) -> None:
    write_trained(tmp_path, open_nsfw_of_three(weights))
    data = pictures.path("rocket.jpg").read_bytes()
    drawing, _, nsfw = Classifier(model=tmp_path).classify(data)
    options = ("--model", tmp_path, "--positive", "nsfw", "--positive", "drawing")
    with serving(*options) as server, client_of(server) as client:
        (found,) = client.moderations.create(input=sent(data)).results
        assert found.category_scores.sexual == pytest.approx(drawing + nsfw, abs=1e-6)


def test_a_model_without_a_positive_class_has_no_answer(
    weights: Any, tmp_path: Path
) -> None:
    model = replace(open_nsfw_of_three(weights), classes=("one", "two", "three"))
    audit = tmp_path / "audit"
    classifier = Classifier(engine="onnxruntime", model=model)
    app = create_app(classifier, Settings(audit=audit))

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(app)
        async with httpx.AsyncClient(transport=transport) as client:
            data = pictures.path("rocket.jpg").read_bytes()
            document = {"input": sent(data)}
            return await client.post("http://test/v1/moderations", json=document)

    answer = asyncio.run(ask())
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "no_positive_class"
    assert audit.read_text() == ""  # no picture was scored
