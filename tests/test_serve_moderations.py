"""OpenAI's moderation API of the service, as OpenAI's own client asks it."""

import base64
import json
from typing import Any

import pytest

from open_nsfw_tf.serve.limits import RequestError
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
    ({"input": "a text"}, "text is not judged here"),
    ({"input": ""}, "text is not judged here"),
    ({"input": url()}, "text is not judged here"),
    ({"input": ["a text", "another"]}, "text is not judged here"),
    ({"input": [image(url()), "a text"]}, "text is not judged here"),
    ({"input": [TEXT]}, "input 0: text is not judged here"),
    ({"input": [image(url()), TEXT]}, "input 1: text is not judged here"),
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
