"""A pre-forking server, as gunicorn --preload is one: made once, scored by many.

    python examples/prefork.py photo.jpg another.png

makes a classifier, forks two workers that share a socket, sends them the pictures over
HTTP, prints each score with the worker that gave it, and ends.
"""

import http.client
import os
import signal
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

from open_nsfw_tf import Classifier, ImageError

WORKERS = 2
LONGEST = 1 << 26  # bytes of a picture
classifier = Classifier()  # before the fork: each worker opens this network again


class Handler(BaseHTTPRequestHandler):
    """Answers the bytes of a picture, sent with POST, with its score."""

    def do_POST(self) -> None:
        """Score one picture."""
        size = int(self.headers.get("Content-Length", 0))
        try:
            if size > LONGEST:
                raise ImageError(f"more than {LONGEST >> 20} MiB")
            score = classifier.classify(self.rfile.read(size)).nsfw
            status, answer = 200, f"{score:.4f} by worker {os.getpid()}"
        except ImageError as error:
            status, answer = 400, f"no score: {error}"
        self.send_response(status)
        self.end_headers()
        self.wfile.write(answer.encode())

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


def ask(port: int, path: str) -> str:
    """The server's answer for a file."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    with open(path, "rb") as file:
        connection.request("POST", "/", file.read())
    answer = connection.getresponse().read().decode()
    connection.close()
    return answer


def main(paths: list[str]) -> None:
    """Start the workers, have the pictures scored, and end the workers."""
    workers = []
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        for _ in range(WORKERS):
            worker = os.fork()
            if not worker:
                signal.alarm(300)  # an example does not stay for ever
                server.serve_forever()
            workers.append(worker)
        try:
            for path in paths:
                print(f"{path}\t{ask(server.server_port, path)}")
        finally:
            for worker in workers:
                os.kill(worker, signal.SIGTERM)
                os.waitpid(worker, 0)


if __name__ == "__main__":
    main(sys.argv[1:])
