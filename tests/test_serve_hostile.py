"""What strangers send to `open-nsfw serve`: nothing ends it, no bytes give a 500."""

import contextlib
import gzip
import json
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from typing import Any

import httpx
import pictures
import pytest
from PIL import Image
from serve_process import CLASSIFY, Serving, received, serving

COFFEE = pictures.path("coffee.png").read_bytes()
ROCKET = pictures.path("rocket.jpg").read_bytes()
POST = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n"
LIVE = b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n"
LAST = LIVE[:-2] + b"Connection: close\r\n\r\n"
HEADERS, BODY = 3, 4  # seconds; the usual ones are 10 and 30
CONNECTIONS = 230
MEGABYTE = 1 << 20


@pytest.fixture(scope="module")
def server() -> Iterator[Serving]:
    deadlines = ("--header-timeout", HEADERS, "--body-timeout", BODY)
    connections = ("--max-connections", CONNECTIONS)
    with serving("--max-picture-mb", 2, *deadlines, *connections) as server:
        yield server
        assert server.metric('requests_total{code="500",route="/v1/classify"}') == 0
        assert server.metric('requests_total{code="500",route="other"}') == 0


@pytest.fixture(autouse=True)
def goes_on(server: Serving) -> Iterator[None]:
    """After each attack the server scores pictures, and holds nothing back."""
    yield
    assert server.classify(COFFEE).status_code == 200
    for _ in range(100):
        if server.metric("body_bytes") == 0:
            break
        time.sleep(0.05)
    assert server.metric("body_bytes") == 0
    assert server.metric("queue_pictures") == 0


def sent(server: Serving, data: bytes) -> bytes:
    """What the server answers to some bytes, until it closes the connection."""
    with server.connect() as connection:
        with contextlib.suppress(OSError):
            connection.sendall(data)
        return received(connection)


def status(answer: bytes) -> int:
    assert answer.startswith(b"HTTP/1.1 "), answer[:80]
    return int(answer[9:12])


def body(answer: bytes) -> Any:
    return json.loads(answer.partition(b"\r\n\r\n")[2])


# -- too much


def test_a_chunked_body_without_end(server: Serving) -> None:
    chunk = b"10000\r\n" + bytes(1 << 16) + b"\r\n"
    start = worked(server)
    with server.connect() as connection:
        connection.sendall(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        with contextlib.suppress(OSError):
            while worked(server) - start < 30:
                connection.sendall(chunk)
        assert worked(server) - start < 15
        answer = received(connection)
    assert not answer or status(answer) == 413


def test_a_declared_size_is_believed(server: Serving) -> None:
    answer = sent(server, POST + b"Content-Length: 99999999999\r\n\r\n")
    assert status(answer) == 413
    assert body(answer)["error"]["code"] == "too_large"


def test_gzip_bombs(server: Serving) -> None:
    bomb = gzip.compress(bytes(100 * MEGABYTE))
    before = server.metric("body_bytes")
    answer = server.classify(bomb, **{"content-encoding": "gzip"})
    assert answer.status_code == 413
    twice = gzip.compress(bomb)
    answer = server.classify(twice, **{"content-encoding": "gzip"})
    assert answer.status_code == 422
    answer = server.classify(twice, **{"content-encoding": "gzip, gzip"})
    assert answer.status_code == 415
    assert server.metric("body_bytes") == before


def test_a_png_of_20000_by_20000(server: Serving) -> None:
    file = BytesIO()
    Image.new("1", (20000, 20000)).save(file, "PNG")
    start = worked(server)
    answer = server.classify(file.getvalue())
    assert answer.status_code == 422
    assert answer.json()["error"]["code"] == "too_many_pixels"
    assert worked(server) - start < 5


def form(parts: int, headers: bytes = b"", content: bytes = b"x") -> bytes:
    disposition = b'Content-Disposition: form-data; name="f"; filename="f"\r\n'
    part = b"--b\r\n" + disposition + headers + b"\r\n" + content + b"\r\n"
    return parts * part + b"--b--\r\n"


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (form(10_000), 413),
        (form(17), 413),
        (form(1, 100 * b"X: y\r\n"), 400),
        (form(1, b"X: " + bytes(100_000) + b"\r\n"), 400),
        (form(1)[:-7], 400),
        (form(2)[:-7], 400),
        (form(2)[:-20], 400),
        (b"--b" * 100_000, 400),
        (b"\r\n" * 100_000, 400),
        (b"", 400),
        (form(0), 400),
        (b'--b\r\nContent-Disposition: form-data; name="f"\r\n\r\nx\r\n--b--\r\n', 400),
        (b"--b\r\n\r\nx\r\n--b--\r\n", 400),
        (form(1, b"Content-Type: \xff\xfe\r\n"), 200),
    ],
)
def test_forms(server: Serving, sent: bytes, code: int) -> None:
    kind = {"content-type": "multipart/form-data; boundary=b"}
    start = worked(server)
    assert server.classify(sent, **kind).status_code == code
    assert worked(server) - start < 3


@pytest.mark.parametrize(
    "kind",
    [
        "multipart/form-data",
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + 5000 * "b",
        "multipart/form-data; boundary=b; charset=rot13",
        'multipart/form-data; boundary="\xe9',
        "multipart/form-data; boundary*=x'y'z",
    ],
)
def test_boundaries(server: Serving, kind: str) -> None:
    answer = server.client.post(
        CLASSIFY, content=form(1), headers={"content-type": kind.encode("latin-1")}
    )
    assert answer.status_code in (200, 400)


@pytest.mark.parametrize(
    "document",
    [
        b"[" * 100_000,
        b'{"pictures":' + b"[" * 5000 + b"]" * 5000 + b"}",
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b"[" + b"1," * 2_000_000 + b"1]",
        b"1" * 1_000_000,
        b'"' + b"\\u0000" * 200_000,
        b"1e999",
    ],
)
@pytest.mark.parametrize(
    "path", [CLASSIFY, "/v1/moderations", "/v1/models/open_nsfw:predict"]
)
def test_deep_and_long_json(server: Serving, document: bytes, path: str) -> None:
    kind = {"content-type": "application/json"}
    start = worked(server)
    answer = server.client.post(path, content=document, headers=kind)
    assert answer.status_code in (400, 413)
    assert worked(server) - start < 3


def test_memory_is_bounded(server: Serving) -> None:
    """Twenty such attacks later the process is hardly larger."""
    bomb = gzip.compress(bytes(10 * MEGABYTE))

    def attack(number: int) -> int:
        if number % 2:
            return server.classify(bytes(10 * MEGABYTE)).status_code
        return server.classify(bomb, **{"content-encoding": "gzip"}).status_code

    attack(0), attack(1)
    before = resident(server)
    with ThreadPoolExecutor(8) as pool:
        codes = set(pool.map(attack, range(40)))
    assert codes <= {413, 422, 503}
    assert resident(server) - before < 300 * MEGABYTE


def worked(server: Serving) -> float:
    """Seconds of the processor that the server has used."""
    with open(f"/proc/{server.process.pid}/stat", encoding="ascii") as file:
        _, _, rest = file.read().rpartition(")")
    return sum(map(int, rest.split()[11:13])) / os.sysconf("SC_CLK_TCK")


def resident(server: Serving) -> int:
    with open(f"/proc/{server.process.pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


# -- too slow; all of these wait at the same time


def slow_headers(server: Serving) -> float:
    return trickle(server, b"", POST + b"X-Slow: " + b"x" * 1000)


def no_bytes(server: Serving) -> float:
    return trickle(server, b"", b"")


def slow_body(server: Serving) -> float:
    return trickle(server, POST + b"Content-Length: 1000\r\n\r\n", b"x" * 1000)


def slow_chunks(server: Serving) -> float:
    start = POST + b"Transfer-Encoding: chunked\r\n\r\n"
    return trickle(server, start, b"1\r\nx\r\n" * 200)


def slow_second_request(server: Serving) -> float:
    return trickle(server, LIVE, POST + b"X-Slow: " + b"x" * 1000)


def slow_unread_body(server: Serving) -> float:
    start = b"POST /nothing HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n"
    return trickle(server, start, b"x" * 1000)


def trickle(server: Serving, start: bytes, rest: bytes) -> float:
    """Send a byte each half second; after how many seconds the server closed."""
    began = time.monotonic()
    with server.connect() as connection:
        connection.sendall(start)
        connection.settimeout(0.5)
        for byte in rest or 100 * b"\0":
            try:
                if rest:
                    connection.sendall(bytes([byte]))
                if not connection.recv(1 << 16):
                    break
            except TimeoutError:
                continue
            except OSError:
                break
    return time.monotonic() - began


def test_slow_connections_are_cut(server: Serving) -> None:
    attacks: dict[Callable[[Serving], float], float] = {
        slow_headers: HEADERS,
        no_bytes: HEADERS,
        slow_second_request: HEADERS,
        slow_unread_body: 2,
        slow_body: BODY,
        slow_chunks: BODY,
    }
    with ThreadPoolExecutor(len(attacks)) as pool:
        seconds = pool.map(lambda attack: attack(server), attacks)
        for attack, taken in zip(attacks, seconds, strict=True):
            least, most = attacks[attack] - 1, attacks[attack] + 200
            assert least <= taken <= most, attack.__name__


def test_it_is_alive_under_trickling_connections(server: Serving) -> None:
    connections = [server.connect() for _ in range(200)]
    for number, connection in enumerate(connections):
        connection.sendall((POST + b"Content-Length: 99\r\n\r\n")[: 20 + number])
    seconds = []
    for _ in range(20):
        start = time.monotonic()
        assert server.client.get("/health/live").status_code == 200
        seconds.append(time.monotonic() - start)
    for connection in connections:
        connection.close()
    assert sorted(seconds)[10] < 0.1


def test_one_connection_too_many(server: Serving) -> None:
    connections = [server.connect() for _ in range(CONNECTIONS + 1)]
    answer = received(connections[-1])
    assert status(answer) == 503
    assert b"\r\nretry-after: 1\r\n" in answer
    assert body(answer)["error"]["code"] == "busy"
    early = connections[CONNECTIONS // 2]
    early.sendall(LIVE)
    assert status(early.recv(1 << 16)) == 200
    for connection in connections:
        connection.close()


def test_large_headers_in_one_piece(server: Serving) -> None:
    for large in (b"X: " + 20_000 * b"x", 300 * (b"X: " + 60 * b"x" + b"\r\n") + b"Y:"):
        answer = sent(server, LAST[:-2] + large + b"\r\n\r\n")
        assert status(answer) == 431
        assert body(answer)["error"]["code"] == "headers_too_large"
    answer = sent(server, LAST.replace(b" HTTP", b"?" + 20_000 * b"x" + b" HTTP"))
    assert status(answer) == 431


# -- not HTTP, or HTTP that two servers may read differently


@pytest.mark.parametrize(
    "request_",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS
        b"GET /\r\n\r\n",
        b"\r\n\r\n\r\n\r\n\x00",
        POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\nhello!",
        POST + b"Content-Length: -5\r\n\r\n",
        POST + b"Content-Length: +5\r\n\r\nhello",
        POST + b"Content-Length: 5x\r\n\r\nhello",
        POST
        + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        POST + b"Transfer-Encoding: gzip\r\n\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\nnot a number\r\n",
        POST + b"Transfer-Encoding: chunked\r\n\r\n-1\r\n",
        POST + b"X: " + b"x" * MEGABYTE + b"\r\n\r\n",
        POST + 200_000 * b"X: y\r\n" + b"\r\n",
        b"POST /v1/classify HTTP/1.1\r\n\r\n",  # no host
        b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n",
        POST + b"Bad Header: x\r\n\r\n",
        POST + b"X: a\x00b\r\n\r\n",
    ],
)
def test_requests_that_are_none(server: Serving, request_: bytes) -> None:
    answer = sent(server, request_)
    assert status(answer) == 400
    assert body(answer)["error"]["code"] == "invalid_http"


def test_both_lengths_are_never_two_requests(server: Serving) -> None:
    """Chunked wins over a length, and the connection ends, or it is refused."""
    smuggled = b"GET /health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    length = str(len(b"0\r\n\r\n" + smuggled)).encode()
    headers = b"Content-Length: " + length + b"\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = sent(server, POST + headers + b"0\r\n\r\n" + smuggled)
    assert answer.count(b"HTTP/1.1 ") >= 1
    assert status(answer) in (400, 422)


def test_equal_lengths_twice(server: Serving) -> None:
    lengths = 2 * b"Content-Length: 5\r\n"
    answer = sent(server, POST + lengths + b"Connection: close\r\n\r\nhello")
    assert status(answer) in (400, 422)


def test_pipelining(server: Serving) -> None:
    length = str(len(ROCKET)).encode()
    classify = POST + b"Content-Length: " + length + b"\r\n\r\n" + ROCKET
    answer = sent(server, classify + LIVE + classify + LIVE + LAST)
    assert answer.count(b"HTTP/1.1 200 ") == 5
    scores = answer.split(b'"nsfw":')[1:]
    assert len(scores) == 2
    assert scores[0].split(b",")[0] == scores[1].split(b",")[0]


def test_odd_methods_paths_and_encodings(server: Serving) -> None:
    for method, path in (
        ("DELETE", CLASSIFY),
        ("POST", CLASSIFY + "/"),
        ("PATCH", "/"),
        ("GET", "/../../etc/passwd"),
        ("GET", "/%2e%2e/%00"),
        ("GET", "/%ff%fe"),
        ("GET", "//health/live"),
        ("GET", "/health/"),
        ("OPTIONS", "/metrics"),
        ("HEAD", "/docs"),
        ("GET", "/static/x"),
    ):
        answer = server.client.request(method, path)
        assert answer.status_code in (404, 405), (method, path)
    for headers in (
        {"content-encoding": "gzip", "content-type": "\xff"},
        {"content-type": "application/json; charset=utf-16"},
        {"x-request-id": "\xe9" * 5000},
        {"upgrade": "websocket", "connection": "upgrade"},
        {"authorization": "Bearer \xff"},
    ):
        raw = {key: value.encode("latin-1") for key, value in headers.items()}
        answer = server.client.post(CLASSIFY, content=b"x", headers=raw)
        assert answer.status_code in (400, 422)


# -- leaving


def test_leaving_at_any_moment(server: Serving) -> None:
    length = str(len(ROCKET)).encode()
    request_ = POST + b"Content-Length: " + length + b"\r\n\r\n" + ROCKET
    for number in range(60):
        with server.connect() as connection:
            cut = number * len(request_) // 40  # the later ones are whole
            connection.sendall(request_[:cut])
            if number % 3 == 0:  # a reset instead of an end
                option = (1).to_bytes(4, "little") + bytes(4)
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, option)
    deadline = time.monotonic() + 300
    while server.metric('requests_total{code="gone",route="/v1/classify"}') < 20:
        assert time.monotonic() < deadline
        time.sleep(0.1)


# -- random bytes


def test_broken_pictures(server: Serving) -> None:
    chance = random.Random(5)
    small = pictures.encoded(Image.open(BytesIO(COFFEE)).resize((60, 40)), "PNG")
    files = [small]
    for kind in ("JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM", "ICO"):
        files.append(pictures.encoded(Image.open(BytesIO(small)), kind))
    for file in files:
        for _ in range(12):
            broken = bytearray(file)
            for _ in range(chance.randrange(1, 20)):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            cut = broken[: chance.randrange(1, len(broken) + 1)]
            answer = server.classify(bytes(chance.choice([broken, cut])))
            assert answer.status_code in (200, 422)


def test_requests_by_the_schema(server: Serving) -> None:
    """schemathesis: what the OpenAPI document allows, and what it does not."""
    schemathesis = pytest.importorskip("schemathesis")
    from hypothesis import HealthCheck, Phase, given, settings

    schema = schemathesis.openapi.from_url(f"{server.address}/openapi.json")
    schema.validate()
    checks = [
        schemathesis.checks.not_a_server_error,
    ]
    quick = settings(
        max_examples=15,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    for result in schema.get_all_operations():
        operation = result.ok()

        @quick
        @given(case=operation.as_strategy())
        def conforms(case: Any) -> None:
            case.call_and_validate(checks=checks)

        conforms()


# -- the end


def test_the_end_answers_what_was_accepted() -> None:
    with serving() as server:
        answers: list[int] = []
        stopped = threading.Event()
        ended = threading.Event()

        def ask() -> None:
            with httpx.Client(timeout=300, trust_env=False) as client:
                while not stopped.is_set():
                    try:
                        answer = client.post(server.address + CLASSIFY, content=ROCKET)
                    except (
                        httpx.ConnectError,
                        httpx.RemoteProtocolError,
                        httpx.ReadError,
                    ):
                        if not ended.is_set():
                            raise
                        return
                    answers.append(answer.status_code)

        with ThreadPoolExecutor(17) as pool:
            asking = [pool.submit(ask) for _ in range(16)]
            while len(answers) <= 16 and not any(one.done() for one in asking):
                time.sleep(0.1)
            waiting = server.connect()
            head = POST + b"Content-Length: " + str(len(ROCKET)).encode() + b"\r\n\r\n"
            waiting.sendall(head + ROCKET[:1000])  # accepted, and not yet whole
            time.sleep(0.3)
            ended.set()
            server.signal(signal.SIGTERM)
            ready, unready = f"{server.address}/health/ready", None
            while unready is None or unready.status_code == 200:
                unready = httpx.get(ready, timeout=300, trust_env=False)
            assert (unready.status_code, unready.headers["connection"]) == (
                503,
                "close",
            )
            assert int(unready.headers["retry-after"]) > 0
            time.sleep(2)
            waiting.sendall(ROCKET[1000:])
            answer = received(waiting)
            waiting.close()
            assert status(answer) == 200
            assert server.process.wait(timeout=300) == 0
            stopped.set()
            for one in asking:
                one.result()
        assert len(answers) > 16
        assert set(answers) == {200}
