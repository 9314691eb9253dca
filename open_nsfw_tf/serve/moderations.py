"""OpenAI's ``POST /v1/moderations`` for pictures, so that its clients need no change.

Only one of OpenAI's categories is the network's: ``sexual``, with the NSFW score. The
others are not looked at. As in OpenAI's answers for categories that do not apply, they
are false and 0, and their ``category_applied_input_types`` are empty. As there, too,
all pictures of a request have one result: here that of the picture with the highest
score.

What cannot be answered is refused, and never answered as safe: text, and addresses of
pictures, because nothing is fetched. Only ``data:`` URLs are read.
"""

import re
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request

from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.serve.limits import decode_base64, parse_json
from open_nsfw_tf.serve.native import REFUSALS, Refused
from open_nsfw_tf.serve.service import Answer, Service
from open_nsfw_tf.tables.decision import BLOCK

SCORED = "sexual"
CATEGORIES = (  # of omni-moderation-2024-09-26
    "harassment",
    "harassment/threatening",
    "hate",
    "hate/threatening",
    "illicit",
    "illicit/violent",
    "self-harm",
    "self-harm/instructions",
    "self-harm/intent",
    SCORED,
    "sexual/minors",
    "violence",
    "violence/graphic",
)
_DATA_URL = re.compile(r"data:image/[a-z0-9.+-]{1,40};base64,", re.IGNORECASE)
_FORM = '{"type": "image_url", "image_url": {"url": "data:image/jpeg;base64,..."}}'
_NO_TEXT = f"text is not scored here, only pictures: expected only {_FORM}"


# -- requests


def parse_request(body: bytes, most: int) -> list[bytes]:
    """The picture files of a request.

    Args:
        body: JSON.
        most: the number of pictures that a request may have.

    Raises:
        RequestError: 400, or 413 for too many pictures.
    """
    document = parse_json(body)
    if not isinstance(document, dict):
        raise _refusal('expected a JSON object {"input": [...]}')
    items = document.get("input")
    texts = items if isinstance(items, list) else [items]
    if any(isinstance(text, str) for text in texts):
        raise _refusal(_NO_TEXT, "text_input")
    if not isinstance(items, list) or not items:
        raise _refusal(f"expected input, a list of one or more {_FORM}")
    if len(items) > most:
        message = f"expected at most {most} pictures, got {len(items)}"
        raise RequestError(413, "too_many_pictures", message)
    return [_picture(number, item) for number, item in enumerate(items)]


def _picture(number: int, item: Any) -> bytes:
    kind = item.get("type") if isinstance(item, dict) else None
    if kind == "text" or (kind and "text" in item):
        raise _refusal(f"input {number}: {_NO_TEXT}", "text_input")
    image = item.get("image_url") if kind == "image_url" else None
    url = image.get("url") if isinstance(image, dict) else None
    if not isinstance(url, str):
        raise _refusal(f"input {number}: expected {_FORM}")
    start = _DATA_URL.match(url)
    if not start:
        raise _refusal(
            f"input {number}: no URL is ever fetched: send the picture's bytes, as "
            "data:image/jpeg;base64,...",
            "url_input",
        )
    try:
        return decode_base64(url[start.end() :])
    except ValueError as error:
        raise _refusal(f"input {number}: {error}") from error


def _refusal(message: str, code: str = "invalid_request") -> RequestError:
    return RequestError(400, code, message)


_SCHEMA = {  # of the body, for /openapi.json
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["input"],
                    "properties": {
                        "input": {
                            "type": "array",
                            "minItems": 1,
                            "items": {
                                "type": "object",
                                "required": ["type", "image_url"],
                                "properties": {
                                    "type": {"const": "image_url"},
                                    "image_url": {
                                        "type": "object",
                                        "required": ["url"],
                                        "properties": {"url": {"type": "string"}},
                                    },
                                },
                            },
                        },
                        "model": {"type": "string"},
                    },
                }
            }
        },
    }
}


# -- answers


def result(score: float, flagged: bool) -> dict[str, Any]:
    """A result of OpenAI's, of one picture's score."""
    return {
        "flagged": flagged,
        "categories": {name: name == SCORED and flagged for name in CATEGORIES},
        "category_scores": {
            name: score if name == SCORED else 0.0 for name in CATEGORIES
        },
        "category_applied_input_types": {
            name: ["image"] if name == SCORED else [] for name in CATEGORIES
        },
    }


def routes(service: Service) -> APIRouter:
    """The route of OpenAI's moderation API."""
    router = APIRouter(default_response_class=Answer)
    responses: dict[int | str, dict[str, Any]] = {
        code: {"model": Refused, "description": "Refused"} for code in REFUSALS
    }

    @router.post("/v1/moderations", openapi_extra=_SCHEMA, responses=responses)
    async def moderations(request: Request) -> dict[str, Any]:
        """Score pictures as OpenAI's moderation API does: category sexual only."""
        body = await service.read_body(request)
        if not service.columns:
            raise _refusal(
                "the model has none of the classes that are looked for: start the "
                "server with --positive, or ask /v1/classify",
                "no_positive_class",
            )
        most = service.settings.most_pictures
        pictures = await service.work(len(body), parse_request, body, most)
        return await _answer(service, request, pictures)

    return router


async def _answer(
    service: Service, request: Request, pictures: list[bytes]
) -> dict[str, Any]:
    """One result for all pictures."""
    outcomes = await service.score(request, pictures)
    scores = []
    for number, outcome in enumerate(outcomes):
        if outcome.scores is None:
            message = f"input {number}: {outcome.message}"
            raise _refusal(message, outcome.code or "unreadable")
        scores.append(service.positive_score(outcome.scores))
    flagged = any(outcome.decision == BLOCK for outcome in outcomes)
    return {
        "id": f"modr-{uuid4().hex}",
        "model": service.model["name"],
        "results": [result(max(scores), flagged)],
    }
