"""`open-nsfw serve`: a real process on loopback, and real clients."""

import asyncio
import base64
import gzip
import hashlib
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import IO, Any

import httpx
import numpy as np
import pictures
import pytest
import trained_models
from conftest import GOLDEN, SCORE_TOLERANCE
from PIL import Image
from serve_process import CLASSIFY, Serving, serving
from starlette.requests import Request
from typer.testing import CliRunner

from open_nsfw_tf import Classifier, ImageError, image
from open_nsfw_tf.architecture import DENSE
from open_nsfw_tf.cli.app import app as command_line
from open_nsfw_tf.cli.serve import Limits, read_tokens
from open_nsfw_tf.errors import DeadlineExpired, QueueFull, RequestError
from open_nsfw_tf.serve import Settings, create_app, is_loopback
from open_nsfw_tf.serve.batcher import Batcher
from open_nsfw_tf.serve.records import Metrics
from open_nsfw_tf.serve.service import Call
from open_nsfw_tf.weights import PUBLISHED

COFFEE = pictures.path("coffee.png").read_bytes()
ROCKET = pictures.path("rocket.jpg").read_bytes()
ROOT = Path(__file__).parent.parent
SECRET = "a-name-nobody-may-read"


def golden_files() -> dict[str, tuple[bytes, float]]:
    """Every picture that Caffe scored: its bytes and its NSFW score."""
    found = {
        name: (pictures.path(name).read_bytes(), row["nsfw"])
        for name, row in GOLDEN["samples"].items()
    }
    for name, row in GOLDEN["made"].items():
        made = pictures.MADE[name]()
        if isinstance(made, Image.Image):
            made = pictures.encoded(made, "PNG")
        found[name] = made, row["nsfw"]
    return found


BAD = {
    "text": b"these are words",
    "cut": ROCKET[:-1000],
    "no end": ROCKET[:-2],
    "broken": COFFEE[:500] + bytes(99) + COFFEE[599:],
    "no pixels": b"P6 0 0 255\n",
    "token": b"P6 " + SECRET.encode() + b" 3 255\n",
    "huge": b"P6 20000 20000 255\n",
}


@pytest.fixture(scope="module")
def audit(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit") / "audit.jsonl"


@pytest.fixture(scope="module")
def server(audit: Path) -> Iterator[Serving]:
    with serving("--audit", audit, "--max-picture-mb", 5) as server:
        yield server


def as_json(*pairs: tuple[str | None, bytes]) -> dict[str, Any]:
    entries = [
        {"name": name, "b64": base64.b64encode(data).decode()} for name, data in pairs
    ]
    return {"pictures": entries}


# -- scores


def test_every_golden_picture(server: Serving) -> None:
    for name, (data, nsfw) in golden_files().items():
        answer = server.classify(data)
        assert answer.status_code == 200, (name, answer.text)
        (result,) = answer.json()["results"]
        assert result["nsfw"] == pytest.approx(nsfw, abs=SCORE_TOLERANCE), name
        assert result["sfw"] == pytest.approx(1 - nsfw, abs=SCORE_TOLERANCE)
        expected = "block" if nsfw >= 0.8 else "review" if nsfw >= 0.2 else "accept"
        assert (result["decision"], result["error"]) == (expected, None)


@pytest.mark.parametrize("name", BAD)
def test_what_the_command_line_refuses(
    name: str, server: Serving, classifier: Classifier
) -> None:
    with pytest.raises(ImageError) as refused:
        classifier.classify(BAD[name])
    answer = server.classify(BAD[name])
    assert answer.status_code == 422
    (result,) = answer.json()["results"]
    error = result["error"]
    assert answer.json()["error"] == error
    assert error["code"] == ("too_many_pixels" if name == "huge" else "unreadable")
    assert error["message"][:20] in str(refused.value)
    assert SECRET not in answer.text
    assert result == {
        "name": None,
        "sfw": None,
        "nsfw": None,
        "decision": "error",
        "error": error,
    }


def test_neighbours_change_no_bit_and_fail_nobody(
    server: Serving, classifier: Classifier
) -> None:
    files = [data for data, _ in golden_files().values()][:24] + list(BAD.values())
    alone = [server.classify(data).json()["results"][0] for data in files]
    with ThreadPoolExecutor(16) as pool:
        together = list(pool.map(server.classify, 2 * files))
    assert [row.json()["results"][0] for row in together] == 2 * alone
    first = classifier.classify(files[0])
    assert (alone[0]["sfw"], alone[0]["nsfw"]) == first


# -- forms of requests


def test_many_pictures_as_json_and_as_a_form(server: Serving) -> None:
    files = {"c.png": COFFEE, "bad": b"words", "r.jpg": ROCKET}
    document = as_json(*files.items())
    document["pictures"].append({"name": "not base64 \ud800", "b64": "?"})
    document["pictures"].append({"b64": ""})
    sent = json.dumps(document)
    answer = server.client.post(
        CLASSIFY, content=sent, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 200
    results = answer.json()["results"]
    assert [row["name"] for row in results][:3] == list(files)
    codes = [row["error"] and row["error"]["code"] for row in results]
    assert codes == [None, "unreadable", None, "invalid_base64", "unreadable"]
    assert [row["decision"] for row in results][1] == "error"
    form = server.client.post(
        CLASSIFY, files=[("file", (name, data)) for name, data in files.items()]
    )
    assert form.json()["results"] == results[:3]
    assert form.json()["model"]["classes"] == ["sfw", "nsfw"]


def test_compressed_bodies(server: Serving) -> None:
    answer = server.classify(gzip.compress(COFFEE), **{"content-encoding": "gzip"})
    assert answer.json() == server.classify(COFFEE).json()
    for encoding, body, code in (
        ("gzip", COFFEE, 400),
        ("gzip", gzip.compress(COFFEE)[:-9], 400),
        ("gzip", gzip.compress(COFFEE) * 2, 400),
        ("br", COFFEE, 415),
    ):
        answer = server.classify(body, **{"content-encoding": encoding})
        assert answer.status_code == code


@pytest.mark.parametrize(
    "document",
    [
        {"url": "http://127.0.0.1:1/"},
        {"pictures": [{"url": "http://127.0.0.1:1/"}]},
        {"pictures": [{"name": "x", "url": "data:,"}]},
    ],
)
def test_no_url_is_fetched(server: Serving, document: Any) -> None:
    answer = server.client.post(CLASSIFY, json=document)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "url_refused"
    assert "send the bytes" in answer.json()["error"]["message"]


def test_urls_elsewhere_are_refused_too(server: Serving) -> None:
    for answer in (
        server.client.post(CLASSIFY, params={"url": "http://127.0.0.1:1/"}),
        server.client.post(CLASSIFY, files={"url": (None, "http://127.0.0.1:1/")}),
    ):
        assert answer.json()["error"]["code"] == "url_refused"


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"[]",
        b"{",
        b"\xff",
        b'{"pictures": []}',
        b'{"pictures": {}}',
        b'{"pictures": [1]}',
        b'{"pictures": [{}]}',
        b'{"pictures": [{"b64": 1}]}',
        b'{"pictures": [{"b64": "", "name": 1}]}',
        b'{"pictures": [{"b64": "", "more": 1}]}',
        b'{"pictures": NaN}',
        b'{"pictures": ' + b"9" * 5000 + b"}",
        json.dumps({"secret": SECRET}).encode(),
    ],
)
def test_wrong_json(server: Serving, body: bytes) -> None:
    answer = server.client.post(
        CLASSIFY, content=body, headers={"content-type": "application/json"}
    )
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"code", "message"}
    assert SECRET not in answer.text


# -- health, metrics, documentation


def test_health_and_errors_of_routes(server: Serving) -> None:
    assert server.client.get("/health/live").json() == {"status": "live"}
    assert server.client.get("/health/ready").json() == {"status": "ready"}
    assert server.client.get("/nothing").json()["error"]["code"] == "not_found"
    for path in ("/health/live", "/health/ready"):
        head = server.client.head(path)
        assert (head.status_code, head.content) == (200, b"")
    wrong = server.client.get(CLASSIFY)
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")
    assert wrong.json()["error"]["code"] == "method_not_allowed"


def test_metrics(server: Serving) -> None:
    accepted = 'pictures_total{outcome="accept"}'
    answered = 'requests_total{code="200",route="/v1/classify"}'
    before = server.metric(accepted), server.metric(answered)
    server.classify(COFFEE)
    assert server.metric(accepted) == before[0] + 1
    assert server.metric(answered) == before[1] + 1
    page = server.client.get("/metrics")
    assert page.headers["content-type"].startswith("text/plain")
    sha256 = server.classify(COFFEE).json()["model"]["weights_sha256"]
    assert re.search(rf'open_nsfw_model_info{{.*weights_sha256="{sha256}"', page.text)
    for name in (
        *("queue_seconds", "decode_seconds", "network_seconds", "batch_pictures"),
        *('request_seconds_bucket{le="1.0"', 'score_bucket{class="nsfw"'),
        *("queue_pictures", "ready 1.0", "body_bytes 0.0", "process_resident"),
    ):
        assert name in page.text, name


def test_documentation_loads_nothing_from_elsewhere(server: Serving) -> None:
    page = server.client.get("/docs").text
    assert "/v1/classify" in page
    assert "/v1/moderations" in page
    assert "/v1/models/" in page
    assert "http" not in page.replace("http-equiv", "")
    assert "src=" not in page


def test_request_ids(server: Serving) -> None:
    assert server.classify(COFFEE, **{"x-request-id": "a-1"}).headers[
        "x-request-id"
    ] == ("a-1")
    made = server.classify(COFFEE, **{"x-request-id": "a b" * 99}).headers[
        "x-request-id"
    ]
    assert re.fullmatch("[0-9a-f]{32}", made)


# -- behind another server


@pytest.fixture
def proxy(server: Serving, tmp_path: Path) -> Iterator[str]:
    """The address of nginx with the lines of docs/serve.md before the server."""
    program = shutil.which("nginx", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("nginx is not installed")
    page = (ROOT / "docs" / "serve.md").read_text()
    (block,) = re.findall(r"```nginx\n(.*?)```", page, re.DOTALL)
    block = block.replace("http://127.0.0.1:8501", server.address)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(f"""
        daemon off; master_process off; pid nginx.pid; error_log stderr;
        events {{ }}
        http {{
            access_log off; client_body_temp_path bodies; proxy_temp_path answers;
            fastcgi_temp_path a; uwsgi_temp_path b; scgi_temp_path c;
            server {{ listen 127.0.0.1:{port}; {block} }}
        }}""")
    arguments = [program, "-p", str(tmp_path), "-c", "nginx.conf"]
    with subprocess.Popen(arguments) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()


def test_behind_nginx(server: Serving, proxy: str) -> None:
    transport = httpx.HTTPTransport(retries=8)  # until it listens
    with httpx.Client(base_url=proxy, transport=transport, trust_env=False) as client:
        answer = client.post(CLASSIFY, content=COFFEE)
        assert answer.json() == server.classify(COFFEE).json()
        assert re.fullmatch("[0-9a-f]{32}", answer.headers["x-request-id"])
        large = client.post(CLASSIFY, content=bytes(6 << 20))
        assert large.json()["error"]["code"] == "too_large"
        assert client.get("/health/live").status_code == 404  # only /v1/ is passed on


# -- the audit file


def audited(audit: Path, request: str) -> list[Any]:
    """The audit file's lines of a request."""
    lines = [json.loads(line) for line in audit.read_text().splitlines()]
    return [line for line in lines if line["request"] == request]


def test_audit_of_numbers(server: Serving, audit: Path, batch: np.ndarray) -> None:
    answer = server.client.post(
        "/v1/models/open_nsfw:predict",
        json={"instances": batch[:1].tolist()},
        headers={"x-request-id": "numbers"},
    )
    (line,) = audited(audit, "numbers")
    assert line["sha256"] == hashlib.sha256(batch[0].tobytes()).hexdigest()
    assert list(line["scores"].values()) == answer.json()["predictions"][0]


def test_audit_file(server: Serving, audit: Path) -> None:
    document = as_json((SECRET, COFFEE), (None, b"words"))
    document["pictures"].append({"b64": "?"})
    no_base64 = 'pictures_total{outcome="invalid_base64"}'
    before = server.metric(no_base64)
    answer = server.client.post(
        CLASSIFY, json=document, headers={"x-request-id": "for-the-audit"}
    )
    assert server.metric(no_base64) == before + 1
    good, bad, none = audited(audit, "for-the-audit")
    assert (none["sha256"], none["error"]) == (None, "invalid_base64")
    assert good["sha256"] == hashlib.sha256(COFFEE).hexdigest()
    assert good["scores"]["nsfw"] == answer.json()["results"][0]["nsfw"]
    assert good["weights_sha256"] == answer.json()["model"]["weights_sha256"]
    assert (good["decision"], good["band"]) == ("accept", [0.2, 0.8])
    assert (bad["scores"], bad["decision"], bad["error"]) == (
        None,
        "error",
        "unreadable",
    )
    assert SECRET not in audit.read_text()
    assert audit.stat().st_mode & 0o077 == 0

    moved = audit.with_suffix(".1")
    audit.rename(moved)
    server.signal(signal.SIGHUP)
    for _ in range(100):
        if audit.exists():
            break
        time.sleep(0.05)
    server.classify(ROCKET)
    (line,) = audit.read_text().splitlines()
    assert json.loads(line)["sha256"] == hashlib.sha256(ROCKET).hexdigest()


# -- who may ask


def test_a_port_that_is_taken(server: Serving) -> None:
    done = CliRunner().invoke(command_line, ["serve", "--port", str(server.port)])
    assert isinstance(done.exception, OSError)
    assert f"cannot listen at 127.0.0.1:{server.port}: " in str(done.exception)


def test_calibrating_is_announced(tmp_path: Path) -> None:
    missing = str(tmp_path / "missing")
    command = ["serve", "--precision", "int8", "--weights", missing]
    done = CliRunner().invoke(command_line, command)
    assert "int8 is calibrated at the first start" in done.stderr
    assert done.exit_code != 0


def test_other_addresses_need_tokens(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "some.host"):
        done = CliRunner().invoke(command_line, ["serve", "--host", host])
        assert done.exit_code == 2
        assert "--token-file" in done.output
    tokens = tmp_path / "tokens"
    for content in (b"# none\n", b"two words\n", b"good\n\xff\xfe\n"):
        tokens.write_bytes(content)
        done = CliRunner().invoke(command_line, ["serve", "--token-file", str(tokens)])
        assert isinstance(done.exception, ValueError)
        assert f"{tokens}: expected a token a line" in str(done.exception)
    tokens.write_bytes(b"\xef\xbb\xbffirst\r\n\r\n second \r\n")  # by Notepad
    assert read_tokens(tokens) == ("first", "second")
    with pytest.raises(ValueError, match="a file with tokens, got a folder"):
        read_tokens(tmp_path)
    assert all(map(is_loopback, ("localhost", "127.0.0.1", "127.9.9.9", "::1")))


def test_tokens(tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    tokens.write_text("# ours\nfirst-token\nsecond-token\n")
    with serving("--token-file", tokens) as server:
        assert server.client.get("/health/ready").status_code == 200
        for path in ("/metrics", "/docs", "/openapi.json", "/nothing"):
            assert server.client.get(path).status_code == 401
        assert server.client.get("/v1/models/open_nsfw").json().keys() == {"error"}
        for headers in (
            {},
            {"authorization": "Bearer first-toke"},
            {"authorization": "Basic first-token"},
            {"authorization": "Bearer"},
            {"x-api-key": "\xe9"},
        ):
            answer = server.classify(COFFEE, **headers)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == "Bearer"
        for headers in (
            {"authorization": "Bearer first-token"},
            {"authorization": "bearer second-token"},
            {"x-api-key": "second-token"},
        ):
            assert server.classify(COFFEE, **headers).status_code == 200


# -- in this process: settings, models, the queue


def ask(app: Any, *requests: tuple[str, dict[str, Any]]) -> list[httpx.Response]:
    """The answers of an application to some requests at once."""

    async def all_of_them() -> list[httpx.Response]:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://x"
        ) as client:
            posts = (client.post(path, **options) for path, options in requests)
            return await asyncio.gather(*posts)

    return asyncio.run(all_of_them())


def test_the_band_is_inclusive(classifier: Classifier) -> None:
    score = classifier.classify(COFFEE).nsfw
    above = float(np.nextafter(score, 1))
    for band, decision in (
        ((0, score), "block"),
        ((score, above), "review"),
        ((above, 1), "accept"),
    ):
        app = create_app(classifier, Settings(band=band))
        (answer,) = ask(app, (CLASSIFY, {"content": COFFEE}))
        assert answer.json()["results"][0]["decision"] == decision
    for band in ((0.5, 0.4), (-0.1, 1), (0, float("nan"))):
        with pytest.raises(ValueError, match="band"):
            Settings(band=band)


def test_a_trained_model_answers_its_classes(weights: Any) -> None:
    model = trained_models.open_nsfw_of_three(weights)
    classifier = Classifier(engine="onnxruntime", model=model)
    scores = classifier.classify(COFFEE)
    cases = ((("nsfw",), scores["nsfw"]), (("drawing", "neutral"), sum(scores[:2])))
    for positive, score in cases:
        settings = Settings(positive=positive, band=(score, score))
        (answer,) = ask(
            create_app(classifier, settings), (CLASSIFY, {"content": COFFEE})
        )
        (result,) = answer.json()["results"]
        assert [result[name] for name in trained_models.CLASSES] == list(scores)
        assert result["decision"] == "block"
    for positive in (("other",), ("nsfw", "drawign"), trained_models.CLASSES, ()):
        named = ", ".join(positive) or "none"
        with pytest.raises(ValueError, match=f"some of the classes .*, got {named}: "):
            create_app(classifier, Settings(positive=positive))
    # Only the default class may be missing.
    other = replace(model, classes=("drawing", "neutral", "bad"))
    without = Classifier(engine="onnxruntime", model=other)
    (answer,) = ask(create_app(without, Settings()), (CLASSIFY, {"content": COFFEE}))
    assert answer.json()["results"][0]["decision"] == "review"
    with pytest.raises(ValueError, match="got nsfw: name them"):
        create_app(without, Settings(positive=("nsfw",)))


def test_limits(classifier: Classifier) -> None:
    settings = Settings(
        max_picture_mb=0.3, max_pictures=2, max_pixels=250_000, max_memory_mb=1
    )
    small = as_json(("big", bytes(400_000)), ("pixels", b"P6 600 500 255\n"))
    many = as_json(*3 * [("x", b"")])
    app = create_app(classifier, settings)
    large, three, body, busy = ask(
        app,
        (CLASSIFY, {"json": small}),
        (CLASSIFY, {"json": many}),
        (CLASSIFY, {"content": bytes(settings.max_body + 1)}),
        (CLASSIFY, {"content": bytes(settings.max_body)}),
    )
    codes = [row["error"]["code"] for row in large.json()["results"]]
    assert codes == ["too_large", "too_many_pixels"]
    assert [three.status_code, body.status_code, busy.status_code] == [413, 413, 503]
    assert busy.headers["retry-after"] == "1"
    assert app.state.service._held == 0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("timeout", float("inf")),
        ("max_picture_mb", float("inf")),
        ("max_memory_mb", float("nan")),
        ("max_pixels", 0),
        ("batch_size", 0),
        ("batch_size", -1),
        ("header_timeout", -1),
        ("batch_wait", -0.1),
        ("drain", float("inf")),
    ],
)
def test_settings_that_are_no_limits(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"expected {name} .* got {value}"):
        Settings(**{name: value})


def test_the_usual_limits() -> None:
    limits = Limits()
    assert (limits.header_timeout, limits.body_timeout, limits.timeout) == (10, 30, 30)
    assert Settings(**limits.settings()) == Settings()


def test_inflating_holds_up_nobody(classifier: Classifier) -> None:
    """A small body becomes large in steps, each counted before the next is made."""
    service = create_app(classifier, Settings(max_memory_mb=8)).state.service
    bomb = gzip.compress(bytes(50 << 20))
    scope = {"type": "http", "headers": [(b"content-encoding", b"gzip")]}

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": bomb}

    async def held_meanwhile() -> set[int]:
        Call.begin(scope, 30)
        reading = asyncio.create_task(service.read_body(Request(scope, receive)))
        held = set()
        while not reading.done():
            held.add(service._held)
            await asyncio.sleep(0)
        with pytest.raises(RequestError, match="too many bodies"):
            reading.result()
        return held

    held = asyncio.run(held_meanwhile())
    assert len(held) > 5
    assert max(held) <= 8 << 20


def test_a_full_queue_and_a_passed_deadline(classifier: Classifier) -> None:
    full = create_app(classifier, Settings(queue=1))
    answers = ask(full, *12 * [(CLASSIFY, {"content": COFFEE})])
    codes = [answer.status_code for answer in answers]
    assert set(codes) == {200, 503}
    assert codes.count(200) >= 1 + classifier.workers
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert refused.headers["retry-after"] == "1"
    assert refused.json()["error"]["code"] == "queue_full"
    slow = create_app(classifier, Settings(timeout=0.001))
    (answer,) = ask(slow, (CLASSIFY, {"content": COFFEE}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (504, "timeout")


def test_a_picture_that_memory_is_missing_for_is_not_at_fault(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = image.decode._decode

    def no_memory(file: IO[bytes], *arguments: Any) -> Image.Image:
        if file.read() == ROCKET:
            raise MemoryError
        return decode(file, *arguments)

    monkeypatch.setattr(image.decode, "_decode", no_memory)
    b64 = base64.b64encode(ROCKET).decode()
    url = {"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{b64}"}}
    tensorflow = {"signature_name": "predict_bytes", "instances": [{"b64": b64}]}
    two, *alone = ask(
        create_app(classifier),
        (CLASSIFY, {"json": as_json((None, COFFEE), (None, ROCKET))}),
        (CLASSIFY, {"content": ROCKET}),
        ("/v1/moderations", {"json": {"input": [url]}}),
        ("/v1/models/open_nsfw:predict", {"json": tensorflow}),
    )
    for answer in alone:
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")
        assert "not enough memory" in answer.text
    good, bad = two.json()["results"]
    assert (good["decision"], bad["error"]["code"]) == ("accept", "busy")


def test_a_picture_that_a_library_is_missing_for(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    heif = b"\0\0\0\x18ftypheic" + bytes(12)
    (answer,) = ask(create_app(classifier), (CLASSIFY, {"content": heif}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "not_read")


def computed(batcher: Batcher) -> float:
    registry = batcher.metrics.registry
    return registry.get_sample_value("open_nsfw_batch_pictures_sum") or 0.0


@pytest.fixture
def batcher(classifier: Classifier) -> Iterator[Batcher]:
    batcher = Batcher(classifier, Settings(), Metrics({"name": "x"}))
    yield batcher
    batcher.close()


def test_cancelled_and_expired_requests_are_not_computed(batcher: Batcher) -> None:
    async def cancel() -> None:
        soon = time.monotonic() + 300
        first = asyncio.create_task(batcher.score(batcher.threads * [COFFEE], soon))
        second = asyncio.create_task(batcher.score(10 * [COFFEE], soon))
        await asyncio.sleep(0)
        assert batcher.pending == batcher.threads + 10
        second.cancel()
        await asyncio.wait([second])
        assert batcher.pending == batcher.threads
        with pytest.raises(DeadlineExpired):
            await batcher.score([COFFEE], time.monotonic() - 1)
        await first
        assert (await batcher.score([ROCKET], soon))[0] is not None

    asyncio.run(cancel())
    assert batcher.pending == 0
    assert computed(batcher) == batcher.threads + 1


def test_batches_form_from_what_waits(classifier: Classifier) -> None:
    settings = Settings(batch_size=4, batch_wait=0.05, queue=99)
    batcher = Batcher(classifier, settings, Metrics({"name": "x"}))
    files = [data for data, _ in golden_files().values()][:9] + [b"words", COFFEE]

    async def score() -> list[Any]:
        return await batcher.score(files, time.monotonic() + 300)

    results = asyncio.run(score())
    batcher.close()
    assert isinstance(results[9], ImageError)
    expected = [classifier.classify(file) for file in (*files[:9], COFFEE)]
    assert [row for row in results if not isinstance(row, ImageError)] == expected
    registry = batcher.metrics.registry
    batches = registry.get_sample_value("open_nsfw_batch_pictures_count")
    assert batches is not None
    assert batches < 10


def test_nothing_waits_for_a_batch_that_is_full(classifier: Classifier) -> None:
    """On a CPU one picture is a batch, and later ones find a thread that computes."""
    batcher = Batcher(classifier, Settings(batch_wait=90), Metrics({"name": "x"}))

    async def one_after_the_other() -> list[Any]:
        files = (classifier.workers + 2) * [COFFEE]
        soon = time.monotonic() + 300
        return [(await batcher.score([file], soon))[0] for file in files]

    assert batcher.batch_size == 1
    scores = asyncio.run(one_after_the_other())
    batcher.close()
    assert set(scores) == {classifier.classify(COFFEE)}


def test_one_request_takes_no_more_than_the_queue_has(batcher: Batcher) -> None:
    async def ask_for(count: int) -> None:
        await batcher.score(count * [b"words"], time.monotonic() + 300)

    most = batcher.settings.queue + batcher.threads
    asyncio.run(ask_for(most))
    with pytest.raises(QueueFull):
        asyncio.run(ask_for(most + 1))


def test_preprocessed_batches(batcher: Batcher, batch: np.ndarray) -> None:
    async def predict(values: np.ndarray) -> np.ndarray:
        return await batcher.predict(values, time.monotonic() + 300)

    expected = batcher.classifier.predict(batch)
    assert np.array_equal(asyncio.run(predict(batch)), expected)
    assert asyncio.run(predict(batch[:0])).shape == (0, 2)
    with pytest.raises(ValueError, match="float32 batch"):
        asyncio.run(predict(batch[:, :100]))


def test_it_can_be_mounted(classifier: Classifier) -> None:
    from fastapi import FastAPI

    outer = FastAPI()
    outer.mount("/pictures", create_app(classifier, Settings(tokens=("t",))))
    refused, answer = ask(
        outer,
        ("/pictures/v1/classify", {"content": COFFEE}),
        (
            "/pictures/v1/classify",
            {"content": COFFEE, "headers": {"x-api-key": "t"}},
        ),
    )
    assert refused.status_code == 401
    score = answer.json()["results"][0]["nsfw"]
    assert score == classifier.classify(COFFEE).nsfw


def test_a_wrong_warm_up_is_an_end(weights: Any) -> None:
    """The weights are not those whose checksum is claimed: their score differs."""
    last = {**weights[DENSE], "biases": weights[DENSE]["biases"] + np.float32([0, 1])}
    other = Classifier(engine="onnxruntime", weights={**weights, DENSE: last})
    app = create_app(other, Settings(weights_sha256=PUBLISHED["onnx"].sha256))
    with pytest.raises(RuntimeError, match="gray picture"):
        asyncio.run(app.state.service.warm_up())
    assert not app.state.service.ready
    (answer,) = ask(app, (CLASSIFY, {"content": COFFEE}))
    assert (answer.status_code, answer.json()["error"]["code"]) == (503, "not_ready")
    assert int(answer.headers["retry-after"]) > 0


def test_a_failed_warm_up_is_tried_again(
    classifier: Classifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = create_app(classifier)
    with monkeypatch.context() as patch:
        patch.setattr(classifier, "engine", None)  # AttributeError
        for _ in range(2):
            (answer,) = ask(app, (CLASSIFY, {"content": COFFEE}))
            assert answer.status_code == 503
            assert answer.json()["error"]["code"] == "not_ready"
    assert not app.state.service.ready
    (answer,) = ask(app, (CLASSIFY, {"content": COFFEE}))
    assert answer.status_code == 200
    assert app.state.service.ready
