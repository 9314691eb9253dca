"""OpenAI's ``POST /v1/moderations`` for pictures, so that its clients need no change.

Only one of OpenAI's categories is the network's: ``sexual``, with the NSFW score. The
others are not looked at. As in OpenAI's answers for categories that do not apply, they
are false and 0, and their ``category_applied_input_types`` are empty. As there, too, all
pictures of a request have one result: here that of the picture with the highest score.

What cannot be answered is refused, and never answered as safe: text, and addresses of
pictures, because nothing is fetched. Only ``data:`` URLs are read.
"""

import re
from collections.abc import Sequence
from typing import Any
from uuid import uuid4

from fastapi import APIRouter, Request

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.classifier import AnyScores, ClassScores
from open_nsfw_tf.serve.limits import RequestError, decode_base64, parse_json
from open_nsfw_tf.serve.service import Outcome, Service

MODEL_NAME = "open_nsfw"
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
_NO_TEXT = f"text is not judged here, only pictures: expected only {_FORM}"


# -- requests


def parse_request(document: Any, most: int) -> list[bytes]:
    """The picture files of a request.

    Args:
        document: the body, parsed as JSON.
        most: the number of pictures that a request may have.

    Raises:
        RequestError: 400, or 413 for too many pictures.
    """
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
    if kind == "text":
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


def positive_score(scores: AnyScores, positive: Sequence[str]) -> float:
    """The sum of the scores of the classes that are looked for, 0..1."""
    classes = scores.classes if isinstance(scores, ClassScores) else LABELS
    found = (
        score for name, score in zip(classes, scores, strict=True) if name in positive
    )
    return min(1.0, sum(found))


def _answer(outcomes: Sequence[Outcome], positive: Sequence[str]) -> dict[str, Any]:
    """The answer to a request: one result for all its pictures."""
    scores = []
    for number, outcome in enumerate(outcomes):
        if outcome.scores is None:
            message = f"input {number}: {outcome.message}"
            raise _refusal(message, outcome.code or "bad_picture")
        scores.append(positive_score(outcome.scores, positive))
    flagged = any(outcome.decision == "block" for outcome in outcomes)
    results = [result(max(scores), flagged)]
    return {"id": f"modr-{uuid4().hex}", "model": MODEL_NAME, "results": results}


def routes(service: Service) -> APIRouter:
    """The route of OpenAI's moderation API."""
    router = APIRouter()

    @router.post("/v1/moderations", openapi_extra=_SCHEMA)
    async def moderations(request: Request) -> dict[str, Any]:
        """Score pictures as OpenAI's moderation API does: category sexual only."""
        document = parse_json(await service.read_body(request))
        most = service.settings.max_pictures
        pictures = await service.in_thread(parse_request, document, most)
        outcomes = await service.score(request, pictures)
        return _answer(outcomes, service.settings.positive)

    return router
