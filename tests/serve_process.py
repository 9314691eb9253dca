"""`open-nsfw serve` as a process of its own, and a client that sends anything."""

import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

COMMAND = Path(sys.executable).with_name("open-nsfw")


@contextmanager
def serving(*options: Any) -> Iterator[str]:
    """Run the server on a free port; gives its URL. It must end well."""
    command = [COMMAND, "serve", "--port", "0", *map(str, options)]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        line = process.stdout.readline()
        found = re.match(r"listening at (http://\S+);", line)
        try:
            if not found:
                process.kill()
            assert found, process.communicate()[1]
            yield found[1]
        finally:
            process.terminate()
            _, errors = process.communicate(timeout=60)
    assert process.returncode == 0
    assert errors == ""


def ask(
    url: str,
    body: bytes | str | dict[str, Any] | None = None,
    verb: str | None = None,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, Any, Mapping[str, str]]:
    """Send one request, with only these headers.

    Returns:
        The status, the answer as JSON, and its headers.
    """
    parts = urlsplit(url)
    if isinstance(body, dict):
        body = json.dumps(body)
    connection = HTTPConnection(parts.netloc, timeout=60)
    try:
        verb = verb or ("GET" if body is None else "POST")
        connection.request(verb, parts.path, body, dict(headers or {}))
        with connection.getresponse() as answer:
            content = answer.read()
            assert answer.headers["content-type"] == "application/json"
            document = json.loads(content) if content else None
            return answer.status, document, answer.headers
    finally:
        connection.close()
