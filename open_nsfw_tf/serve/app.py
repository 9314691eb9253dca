"""`create_app`: the routes, the native protocol, and what surrounds every request."""

import asyncio
import hashlib
import hmac
import html
import time
import traceback
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from typing import Any

from fastapi import APIRouter, FastAPI, Request, Response
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from open_nsfw_tf import __version__
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.page import Site
from open_nsfw_tf.serve import moderations, native, page, tfserving
from open_nsfw_tf.serve.limits import Settings
from open_nsfw_tf.serve.native import FIELDS, Refused
from open_nsfw_tf.serve.service import Answer, Call, Service, logger

PROTOCOLS = (native, tfserving, moderations)
HEALTH = "/health/"
TENSORFLOW = "/v1/models"  # below it errors have TF Serving's form
MAX_HEADERS = 1 << 14  # bytes, with the address; h11 refuses more only if it must wait


# -- the application


def create_app(
    classifier: Classifier, settings: Settings | None = None, site: Site | None = None
) -> FastAPI:
    """The service as an ASGI application, to be run or mounted.

    `open-nsfw serve` runs it by uvicorn with deadlines for slow connections, which
    another server must have of its own.

    Args:
        classifier: that scores the pictures.
        settings: how it decides, and its limits; None: the defaults.
        site: the page at the root, which needs no token; None: no page.

    Returns:
        The application; its `state.service` is the `Service`.

    Raises:
        OSError: the audit file cannot be opened.
        ValueError: a class of the model is called like another field of an answer, or
            as `positive_columns`, of `settings.positive`.
    """
    settings = settings or Settings()
    if clash := set(FIELDS) & set(classifier.classes):
        raise ValueError(f"a class must not be called {' or '.join(sorted(clash))}")
    service = Service(classifier, settings)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        await service.warm_up()
        yield
        service.close()

    app = FastAPI(
        title="open_nsfw_tf",
        version=__version__,
        description="Scores of pictures: the probability that they are pornographic.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        redirect_slashes=False,
    )
    app.state.service = service
    app.include_router(_operation(service, app))
    for protocol in PROTOCOLS:
        routes = protocol.routes(service)
        if isinstance(routes, APIRouter):
            app.include_router(routes)
        else:
            app.router.routes.extend(routes)
    pages = page.routes(site) if site else []
    app.router.routes.extend(pages)
    service.open_paths = frozenset(route.path for route in pages)
    app.add_exception_handler(RequestError, _refused)
    app.add_exception_handler(HTTPException, _not_routed)
    app.add_middleware(Gate, service=service)
    return app


def error_answer(error: RequestError, path: str) -> Answer:
    """The answer to a request that is refused."""
    body: Any = {"error": {"code": error.code, "message": error.message}}
    if path.lower().startswith(TENSORFLOW):
        body = {"error": error.message}
    headers = {}
    if error.retry_after is not None:
        headers["retry-after"] = str(error.retry_after)
    if error.status == 401:
        headers["www-authenticate"] = "Bearer"
    return Answer(body, error.status, headers)


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestError)
    return error_answer(error, route_path(request.scope))


async def _not_routed(request: Request, error: Exception) -> Response:
    """404 and 405, which Starlette raises."""
    assert isinstance(error, HTTPException)
    words = {404: "there is nothing here", 405: "this path has other methods"}
    message = words.get(error.status_code, "the request is refused")
    code = {404: "not_found", 405: "method_not_allowed"}.get(
        error.status_code, "refused"
    )
    refused = RequestError(error.status_code, code, message)
    answer = error_answer(refused, route_path(request.scope))
    answer.headers.update(error.headers or {})
    return answer


def route_path(scope: Scope) -> str:
    """The path below the one that the application is mounted at."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


def header_size(scope: Scope) -> int:
    """Bytes of a request's address and headers."""
    address = len(scope.get("raw_path") or b"") + len(scope.get("query_string", b""))
    return address + sum(len(name) + len(value) for name, value in scope["headers"])


# -- around every request


class Gate:
    """Tokens, request ids, counting, and an end to requests whose client has left.

    Args:
        app: the routes.
        service: of the routes.
    """

    def __init__(self, app: ASGIApp, service: Service) -> None:
        self.app, self.service = app, service
        tokens = service.settings.tokens
        self._tokens = [hashlib.sha256(token.encode()).digest() for token in tokens]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        call = Call.begin(scope, self.service.settings.timeout)
        status = 0

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                known = dict(message["headers"])
                ours = [each for each in self._headers(call) if each[0] not in known]
                message["headers"] = [*message["headers"], *ours]
            await send(message)

        try:
            presence = Presence(receive)
            await presence.run(self._answer(scope, presence.receive, sending))
        except Exception as error:  # noqa: BLE001 - the last resort
            _log(error)
            if not status:
                failed = RequestError(500, "internal", "this is a bug in the server")
                await error_answer(failed, route_path(scope))(scope, receive, sending)
        finally:
            self.service.end(call)
            self._count(scope, status, time.monotonic() - call.start)

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = route_path(scope)
        try:
            if header_size(scope) > MAX_HEADERS:
                raise RequestError(
                    431,
                    "headers_too_large",
                    f"expected an address and headers of at most {MAX_HEADERS:,} bytes",
                )
            if not path.startswith(HEALTH) and path not in self.service.open_paths:
                self._check_token(Headers(scope=scope))
                await self.service.wait_until_warm()
            await self.app(scope, receive, send)
        except RequestError as error:
            await error_answer(error, path)(scope, receive, send)
        except ClientDisconnect:
            pass

    def _check_token(self, headers: Headers) -> None:
        if not self._tokens:
            return
        kind, _, bearer = headers.get("authorization", "").partition(" ")
        given = headers.get("x-api-key", "")
        if kind.lower() == "bearer":
            given = bearer.strip()
        digest = hashlib.sha256(given.encode()).digest()
        # Every token is compared, and each in the same time.
        if not sum(hmac.compare_digest(digest, token) for token in self._tokens):
            raise RequestError(
                401,
                "unauthorized",
                "expected a token: Authorization: Bearer ..., or X-API-Key: ...",
            )

    def _headers(self, call: Call) -> list[tuple[bytes, bytes]]:
        headers = [
            (b"x-request-id", call.id.encode()),
            (b"x-content-type-options", b"nosniff"),
            (b"cache-control", b"no-store"),
        ]
        if self.service.draining:
            headers.append((b"connection", b"close"))
        return headers

    def _count(self, scope: Scope, status: int, seconds: float) -> None:
        route = getattr(scope.get("route"), "path", "other")
        if route_path(scope).lower().startswith(TENSORFLOW):
            route = TENSORFLOW
        metrics = self.service.metrics
        metrics.requests.labels(route, str(status or "gone")).inc()
        metrics.request_seconds.labels(route).observe(seconds)


class Presence:
    """Cancels the task of a request when its client leaves.

    An ASGI server says that only to those who ask, after the body.

    Args:
        receive: of the request.
    """

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._task = asyncio.current_task()
        self._watcher: asyncio.Task[Message] | None = None
        self._left = False

    async def receive(self) -> Message:
        """The next message; after the whole body, that the client has left."""
        if self._watcher is not None:
            return await asyncio.shield(self._watcher)
        message = await self._receive()
        if message["type"] == "http.request" and not message.get("more_body"):
            self._watcher = asyncio.create_task(self._watch())
        return message

    async def _watch(self) -> Message:
        message = await self._receive()
        if self._task is not None:
            self._left = True
            self._task.cancel()
        return message

    async def run(self, answering: Coroutine[Any, Any, None]) -> None:
        """Answer the request, unless the client leaves before that is done."""
        task = self._task
        try:
            await answering
        except asyncio.CancelledError:
            if not self._left or task is None:
                raise
            task.uncancel()
        finally:
            self._task = None
            if self._watcher is not None:
                self._watcher.cancel()


def _log(error: Exception) -> None:
    """Log where an error was raised, without its message: that may quote a client."""
    frames = traceback.extract_tb(error.__traceback__)
    lines = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames[-8:]]
    logger.error("%s at %s", type(error).__name__, " < ".join(reversed(lines)))


# -- health, metrics, documentation


def _operation(service: Service, app: FastAPI) -> APIRouter:
    router = APIRouter(default_response_class=Answer)
    text = {"content": {"text/plain": {"schema": {"type": "string"}}}}
    closed: dict[int | str, dict[str, Any]] = {
        401: {"model": Refused, "description": "Refused"}
    }

    @router.head("/health/live", include_in_schema=False)
    @router.get("/health/live")
    async def live() -> dict[str, str]:
        """Whether the process answers."""
        return {"status": "live"}

    @router.head("/health/ready", include_in_schema=False)
    @router.get(
        "/health/ready",
        responses={503: {"model": Refused, "description": "Not ready"}},
    )
    async def ready() -> dict[str, str]:
        """Whether requests are wanted: after the warm-up, and before the end."""
        if service.draining:
            raise RequestError(503, "draining", "the server is about to end", 5)
        await service.wait_until_warm()
        return {"status": "ready"}

    @router.get("/metrics", response_class=Response, responses={200: text, **closed})
    async def metrics() -> Response:
        """Figures for Prometheus."""
        return Response(service.metrics.page(), media_type=service.metrics.media_type)

    @router.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        """The routes for people; nothing is loaded from elsewhere."""
        headers = {
            "content-security-policy": "default-src 'none'; style-src 'unsafe-inline'"
        }
        content = docs_page(app.openapi(), len(service.open_paths) > 1)
        return Response(content, 200, headers, "text/html")

    return router


# Routes that OpenAPI has no words for.
_TENSORFLOW_DOCS = (
    f"<h2>GET, POST {TENSORFLOW}/...</h2><p>TF Serving's REST interface: status and "
    f"metadata of the model {tfserving.MODEL_NAME}, and its scores by :predict.</p>"
)
_PAGE_DOCS = "<h2>GET /</h2><p>The page that scores in the browser, and its files.</p>"


def docs_page(schema: dict[str, Any], with_page: bool) -> str:
    """A page of HTML that says what an OpenAPI document says of each route.

    Args:
        schema: the document.
        with_page: whether the page that scores in the browser is there.
    """
    rows = [_TENSORFLOW_DOCS, _PAGE_DOCS if with_page else ""]
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            description = html.escape(operation.get("description", ""))
            bodies = operation.get("requestBody", {}).get("content", {})
            taken = html.escape(", ".join(bodies))
            codes = html.escape(", ".join(operation.get("responses", {})))
            rows.append(
                f"<h2>{method.upper()} {html.escape(path)}</h2><p>{description}</p>"
                f"<p>Body: {taken or 'none'}<br>Status: {codes}</p>"
            )
    title = html.escape(f"{schema['info']['title']} {schema['info']['version']}")
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>{title}</title>"
        "<style>body{font:16px/1.5 sans-serif;max-width:48em;margin:2em auto}</style>"
        f"<h1>{title}</h1><p>{html.escape(schema['info']['description'])} "
        'The whole schema: <a href="openapi.json">openapi.json</a></p>' + "".join(rows)
    )
