"""A plain web server for the page, as any host of static files is one."""

import mimetypes
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

mimetypes.add_type("text/javascript", ".js")
mimetypes.add_type("application/wasm", ".wasm")
BLANK = b"<!doctype html><title>blank</title>"  # at /blank


class Server(ThreadingHTTPServer):
    """Serves a folder below a path.

    Attributes:
        folder: that is served.
        headers: that every answer has.
        asked: the paths of all requests.
    """

    def __init__(self, folder: Path, headers: dict[str, str]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder, self.headers = folder, headers
        self.asked: list[str] = []

    @property
    def address(self) -> str:
        """Of the page, below a path of the host, as on GitHub Pages."""
        return f"http://127.0.0.1:{self.server_port}/some/place/"


class _Handler(BaseHTTPRequestHandler):
    server: Server
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self.server.asked.append(self.path)
        name = self.path.partition("?")[0].removeprefix("/some/place/") or "index.html"
        path = self.server.folder / name
        if name == "/favicon.ico":
            self._send(204, b"", "image/x-icon")
        elif name == "blank":
            self._send(200, BLANK, "text/html")
        elif path.is_file():
            kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
            self._send(200, path.read_bytes(), kind)
        else:
            self._send(404, b"", "text/plain")

    def _send(self, status: int, content: bytes, kind: str) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in self.server.headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except ConnectionError:  # the browser has left
            self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Nothing is printed."""


@contextmanager
def serving_folder(
    folder: Path, headers: dict[str, str] | None = None
) -> Iterator[Server]:
    """A server of the folder, until the end of the context."""
    server = Server(folder, headers or {})
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
