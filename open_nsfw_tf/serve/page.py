"""The page that scores in the browser, at the service's root."""

import asyncio
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable

from fastapi import Request, Response
from fastapi.responses import StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.routing import Route

from open_nsfw_tf.errors import RequestError
from open_nsfw_tf.page import ISOLATION, PAGE, POLICY, Site, check_installed
from open_nsfw_tf.serve.service import logger

PIECE = 1 << 18  # bytes of a file that are sent at once
# Which browsers refuse if a script or WebAssembly has another.
TYPES = {
    ".js": "text/javascript",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
HEADERS = {
    "content-security-policy": POLICY,
    "cache-control": "no-cache",  # kept by browsers, and asked for by its ETag
    "referrer-policy": "no-referrer",
    **{name.lower(): value for name, value in ISOLATION.items()},
}


def routes(site: Site) -> list[Route]:
    """A route for each file of the page; the model is made when one is first asked for.

    Where the page's files are not installed there is one route, which says how to get
    them.
    """
    try:
        check_installed()
    except (OSError, ValueError) as error:
        # The system's own words have no path of this machine, which is not for clients.
        reason = getattr(error, "strerror", None) or str(error)
        return [_route("/", _missing(reason))]
    lock = asyncio.Lock()
    found = {f"/{name}": name for name in site.names} | {"/": PAGE}
    return [_route(path, _file(site, name, lock)) for path, name in found.items()]


Endpoint = Callable[[Request], Awaitable[Response]]


def _route(path: str, endpoint: Endpoint) -> Route:
    return Route(path, endpoint, methods=["GET"], include_in_schema=False)


def _missing(reason: str) -> Endpoint:
    async def missing(_: Request) -> Response:
        raise RequestError(404, "no_page", reason)

    return missing


def _sums(site: Site) -> dict[str, str]:
    try:
        return site.sums
    except (OSError, ValueError) as error:  # of the weights, or of a file of the page
        logger.error("the page cannot be made: %s", error)
        reason = "a file that the page is made of is gone, or has changed"
        raise RequestError(503, "no_page", reason, 60) from error


async def _pieces(content: bytes) -> AsyncIterator[bytes]:
    """A file in pieces: whole, each slow client would hold a copy in memory."""
    for start in range(0, len(content), PIECE):
        yield content[start : start + PIECE]


def _file(site: Site, name: str, lock: asyncio.Lock) -> Endpoint:
    suffix = name[name.rfind(".") :]
    kind = TYPES.get(suffix) or mimetypes.guess_type(name)[0] or "text/plain"

    async def file(request: Request) -> Response:
        async with lock:  # or the model would be made several times
            sums = await run_in_threadpool(_sums, site)
        headers = {**HEADERS, "etag": f'"{sums[name]}"'}
        if request.headers.get("if-none-match") == headers["etag"]:
            return Response(status_code=304, headers=headers)
        content = site.files[name]
        headers["content-length"] = str(len(content))
        return StreamingResponse(_pieces(content), headers=headers, media_type=kind)

    return file
