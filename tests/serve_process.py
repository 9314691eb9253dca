"""A real `open-nsfw serve` on loopback, and raw connections to it."""

import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

SCRIPT = Path(sys.executable).parent / "open-nsfw"
CLASSIFY = "/v1/classify"


class Serving:
    """A server process.

    Attributes:
        address: such as ``http://127.0.0.1:40123``.
        client: that asks it.
    """

    def __init__(self, *options: Any) -> None:
        command = [str(part) for part in (SCRIPT, "serve", "--port", 0, *options)]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.match(r"listening at (http://127\.0\.0\.1:(\d+));", line)
        assert found, self.process.communicate()
        self.address, self.port = found[1], int(found[2])
        self.client = httpx.Client(base_url=self.address, timeout=300, trust_env=False)

    def classify(self, picture: bytes, **headers: str) -> httpx.Response:
        """The answer to one picture as the body."""
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        return self.client.post(CLASSIFY, content=picture, headers=raw)

    def connect(self) -> socket.socket:
        """A connection that the test writes to."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=300)

    def metric(self, name: str) -> float:
        """The value of a metric, with its labels in the name."""
        page = self.client.get("/metrics").text
        found = re.search(rf"^open_nsfw_{re.escape(name)} (\S+)$", page, re.MULTILINE)
        return float(found[1]) if found else 0.0

    def signal(self, number: signal.Signals) -> None:
        """Send the process a signal."""
        os.kill(self.process.pid, number)

    def end(self) -> tuple[int, str]:
        """End it as an orchestrator does; its exit status, and what it printed."""
        self.client.close()
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
        output, errors = self.process.communicate(timeout=300)
        return self.process.returncode, output + errors


@contextmanager
def serving(*options: Any) -> Iterator[Serving]:
    """A server, which must end well and have printed nothing."""
    server = Serving(*options)
    try:
        yield server
    finally:
        code, printed = server.end()
        server.process.kill()
    assert (code, printed) == (0, "")


def received(connection: socket.socket) -> bytes:
    """All that comes until the server closes the connection."""
    parts = []
    try:
        while part := connection.recv(1 << 16):
            parts.append(part)
    except ConnectionResetError:
        pass
    return b"".join(parts)
