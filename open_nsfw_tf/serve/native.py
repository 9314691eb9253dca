"""The service's own protocol: ``POST /v1/classify``, and what its answers say."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.datastructures import Headers, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser

from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.serve.limits import Settings, decode_base64, parse_json
from open_nsfw_tf.serve.service import Answer, Outcome, Service
from open_nsfw_tf.tables.decision import ACCEPT, BLOCK, ERROR, REVIEW

CHUNK = 1 << 16  # bytes that the multipart parser gets at once
FIELDS = ("name", "decision", "error")  # of a result, beside the model's classes
JSON, FORM = "application/json", "multipart/form-data"
# Statuses of requests that are refused.
REFUSALS = (400, 401, 408, 413, 415, 422, 431, 500, 503, 504)


class Refusal(BaseModel):
    """Why there is no answer, or no score."""

    code: str
    message: str


class Refused(BaseModel):
    """The body of every answer that is no success."""

    error: Refusal


class Model(BaseModel):
    """What computed the scores."""

    name: str
    version: str
    classes: list[str]
    engine: str
    precision: str
    decode: str
    weights_sha256: str | None


def _result_schema(classes: list[str]) -> dict[str, Any]:
    score = {"type": ["number", "null"], "minimum": 0, "maximum": 1}
    properties: dict[str, Any] = {
        "name": {"type": ["string", "null"]},
        **dict.fromkeys(classes, score),
        "decision": {"enum": [ACCEPT, REVIEW, BLOCK, ERROR]},
        "error": {
            "anyOf": [{"$ref": "#/components/schemas/Refusal"}, {"type": "null"}]
        },
    }
    return {"type": "object", "properties": properties, "required": list(properties)}


def _classified(classes: list[str]) -> dict[str, Any]:
    results = {"type": "array", "items": _result_schema(classes)}
    return {
        "type": "object",
        "properties": {
            "model": Model.model_json_schema(),
            "results": results,
        },
        "required": ["model", "results"],
    }


_BINARY = {"schema": {"type": "string", "format": "binary"}}
_PICTURE = {
    "type": "object",
    "properties": {
        "name": {"type": ["string", "null"]},
        "b64": {"type": "string", "description": "base64 of a picture file"},
    },
    "required": ["b64"],
    "additionalProperties": False,
}
_BODY = {
    "required": True,
    "content": {
        "image/*": _BINARY,
        "application/octet-stream": _BINARY,
        FORM: {
            "schema": {
                "type": "object",
                "additionalProperties": {"type": "string", "format": "binary"},
            }
        },
        JSON: {
            "schema": {
                "type": "object",
                "properties": {
                    "pictures": {"type": "array", "minItems": 1, "items": _PICTURE}
                },
                "required": ["pictures"],
                "additionalProperties": False,
            }
        },
    },
}


def routes(service: Service) -> APIRouter:
    """The route, for `create_app`."""
    router = APIRouter(default_response_class=Answer)
    content = {JSON: {"schema": _classified(service.model["classes"])}}
    responses: dict[int | str, dict[str, Any]] = {
        code: {"model": Refused, "description": "Refused"} for code in REFUSALS
    }
    responses[200] = {"content": content, "description": "A result for each picture"}

    @router.post(
        "/v1/classify",
        responses=responses,
        openapi_extra={"requestBody": _BODY},
        response_model=None,
    )
    async def classify(request: Request) -> Response:
        """Score one picture as the body, or several as multipart or JSON.

        A picture that cannot be read is a result with its error and the decision
        "error"; if it is the whole body, the status is 422, or 413 if it is too large.
        """
        if "url" in request.query_params:
            raise _url_refused()
        body = await service.read_body(request)
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind == JSON:
            items = await service.work(len(body), _from_json, body)
        elif kind == FORM:
            items = await _from_multipart(request.headers, body, service.settings)
        else:
            items = [(None, body)]
        results = await _results(service, request, items)
        answer = {"model": service.model, "results": results}
        error = results[0]["error"]
        if error and kind not in (JSON, FORM):
            status = 413 if error["code"] == "too_large" else 422
            return Answer({"error": error, **answer}, status)
        return Answer(answer)

    return router


Item = tuple[str | None, bytes | None]  # name, and bytes: None if it was not base64


async def _results(
    service: Service, request: Request, items: list[Item]
) -> list[dict[str, Any]]:
    """The results of some pictures, in their order."""
    names, pictures = [name for name, _ in items], [picture for _, picture in items]
    each = len(pictures) > 1
    outcomes = await service.score(request, pictures, names, each)
    return [
        result(service, name, outcome)
        for name, outcome in zip(names, outcomes, strict=True)
    ]


def result(service: Service, name: str | None, outcome: Outcome) -> dict[str, Any]:
    """What the answer says of one picture."""
    classes = service.classifier.classes
    scores = outcome.scores or [None] * len(classes)
    error = outcome.code and {"code": outcome.code, "message": outcome.message}
    return {
        "name": name,
        **dict(zip(classes, scores, strict=True)),
        "decision": outcome.decision,
        "error": error,
    }


def _from_json(body: bytes) -> list[Item]:
    document = parse_json(body)
    pictures = document.get("pictures") if isinstance(document, dict) else None
    if isinstance(document, dict) and "url" in document:
        raise _url_refused()
    if not isinstance(pictures, list) or not pictures:
        raise RequestError(
            400, "invalid_request", 'expected {"pictures": [{"name": ..., "b64": ...}]}'
        )
    return [_json_item(number, entry) for number, entry in enumerate(pictures)]


def _json_item(number: int, entry: Any) -> Item:
    if isinstance(entry, dict) and "url" in entry:
        raise _url_refused()
    if not isinstance(entry, dict) or not {"b64"} <= set(entry) <= {"b64", "name"}:
        raise RequestError(
            400,
            "invalid_request",
            f'picture {number}: expected {{"name": ..., "b64": ...}}, b64 is required',
        )
    name, text = entry.get("name"), entry["b64"]
    if not isinstance(text, str) or not isinstance(name, str | None):
        raise RequestError(
            400, "invalid_request", f"picture {number}: expected name and b64 as text"
        )
    try:
        return name, decode_base64(text)
    except ValueError:
        return name, None


async def _from_multipart(
    headers: Headers, body: bytes, settings: Settings
) -> list[Item]:
    """The files of a form, with their names or those of their fields."""
    most = settings.most_pictures

    async def chunks() -> AsyncIterator[bytes]:
        for start in range(0, len(body), CHUNK):
            yield body[start : start + CHUNK]
            await asyncio.sleep(0)  # others may go on

    parser = _FormParser(headers, chunks(), max_files=most, max_fields=most)  # type: ignore[arg-type]
    parser.spool_max_size = len(body) + 1  # no picture is written to a disk
    try:
        form = await parser.parse()
    except MultiPartException as error:
        if error.message.startswith("Too many"):
            raise RequestError(
                413, "too_many_pictures", f"expected at most {most} pictures a request"
            ) from None
        raise _bad_form() from None
    except (ValueError, KeyError, LookupError, AttributeError, TypeError):
        raise _bad_form() from None
    try:
        items = [await _form_item(name, value) for name, value in form.multi_items()]
        if not items or not parser.ended:
            raise _bad_form()
        return items
    finally:
        await form.close()


class _FormParser(MultiPartParser):
    """Knows whether the form's end has come: a part that is cut is left out."""

    ended = False

    def on_end(self) -> None:
        self.ended = True


def _url_refused() -> RequestError:
    message = "no URL is ever fetched: send the bytes of the picture"
    return RequestError(400, "url_refused", message)


def _bad_form() -> RequestError:
    return RequestError(
        400, "invalid_multipart", "expected a multipart form with picture files"
    )


async def _form_item(name: str, value: UploadFile | str) -> Item:
    if isinstance(value, UploadFile):
        return value.filename or name, await value.read()
    if name == "url":
        raise _url_refused()
    raise RequestError(
        400, "invalid_multipart", "expected files, got a field that has no file name"
    )
