"""A server's two interfaces, as our requests, the example and the docs ask them."""

import base64
import json
import re
import shutil
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.error import HTTPError

import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from serving_servers import NAME, Served, grpc_server, rest_server, run

from open_nsfw_tf.export.request import IMAGE_LOADERS, INPUT_TYPES, predict_request

ROOT = Path(__file__).parent.parent
CLIENT = ROOT / "examples" / "serving_client.py"
PAGE = (ROOT / "docs" / "tf-serving.md").read_text(encoding="utf-8")
ROCKET = pictures.path("rocket.jpg")
GOOD = ROCKET.read_bytes()
GOOD_TEXT = base64.b64encode(GOOD)


def caffe(name: str) -> float:
    return float(GOLDEN["samples"][name]["nsfw"])


@pytest.fixture(scope="session")
def url(served: Served) -> Iterator[str]:
    with rest_server(served) as url:
        yield url


@pytest.fixture(scope="session")
def address(served: Served) -> Iterator[str]:
    with grpc_server(served) as address:
        yield address


# -- REST


def post(url: str, body: str) -> Any:
    request = urllib.request.Request(f"{url}:predict", body.encode())
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(request, timeout=300) as answer:
            return json.load(answer)
    except HTTPError as error:
        with error:
            return {"status": error.code, **json.load(error)}


@pytest.mark.parametrize("input_type", INPUT_TYPES)
@pytest.mark.parametrize("image_loader", IMAGE_LOADERS)
def test_rest_answers_our_requests(
    url: str, input_type: str, image_loader: str
) -> None:
    body = predict_request(ROCKET, "tf-serving", input_type, image_loader)
    (row,) = post(url, body)["predictions"]
    assert abs(row[1] - caffe("rocket.jpg")) <= SCORE_TOLERANCE
    assert sum(row) == pytest.approx(1)


@pytest.mark.parametrize(
    "instances, reason",
    [
        ([{"b64": GOOD_TEXT.decode()}, {"b64": "QUJD"}], "picture 1: not a JPEG"),
        ([{"b64": ""}], "picture 0: empty"),
        ([{"b64": "!"}], "Unable to base64 decode"),
        ([], "Missing 'instances'"),
        ([1.5], "Failed to process 'instances'"),
    ],
)
def test_rest_refuses_with_a_reason(url: str, instances: Any, reason: str) -> None:
    body = json.dumps({"signature_name": "predict_bytes", "instances": instances})
    answer = post(url, body)
    assert answer["status"] == 400
    assert reason in answer["error"]


# -- the example client


def test_rest_client(url: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    pictures.sample("coffee.png").convert("CMYK").save(bad)  # which Pillow would read
    coffee = pictures.path("coffee.png")
    done = run(sys.executable, CLIENT, "--rest", url, ROCKET, bad, "none.jpg", coffee)
    check_client(
        done, bad, coffee, "a JPEG of 4 components"
    )  # refused before it is sent


def test_grpc_client(address: str, tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    pictures.sample("coffee.png").convert("CMYK").save(bad)  # which Pillow would read
    coffee = pictures.path("coffee.png")
    flags = ["-W", "error", CLIENT, "--grpc", address]
    done = run(sys.executable, *flags, ROCKET, bad, "none.jpg", coffee)
    check_client(done, bad, coffee)


def check_client(
    done: Any,
    bad: Path,
    coffee: Path,
    refusal: str = "picture 0: a JPEG of 4 components",
) -> None:
    assert not done.stderr
    first, second, third, fourth = done.stdout.splitlines()
    for line, path in (first, ROCKET), (fourth, coffee):
        score, found = line.split(" ", 1)
        assert found == str(path)
        assert abs(float(score) - caffe(path.name)) <= SCORE_TOLERANCE
    assert second.startswith(f"no score: {bad}: ")
    assert refusal in second
    assert third == "no score: none.jpg: No such file or directory"
    assert done.returncode == 1


@pytest.mark.parametrize(
    "flags, reason",
    [
        (["--rest", "http://127.0.0.1:1/v1/models/x"], "Connection refused"),
        (["--rest", "file:///etc/passwd"], "expected http://HOST:PORT/v1/models/NAME"),
        (["--grpc", "127.0.0.1:1"], "UNAVAILABLE: "),
    ],
)
def test_client_without_a_server(flags: list[str], reason: str) -> None:
    done = run(sys.executable, CLIENT, *flags, ROCKET)
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: no answer from {flags[1]}: ")
    assert reason in done.stderr
    assert done.stderr.count("\n") == 1


def test_client_with_the_wrong_model(url: str, address: str) -> None:
    done = run(sys.executable, CLIENT, "--rest", f"{url}x", ROCKET)
    assert done.stdout.startswith(f"no score: {ROCKET}: 404: Malformed request: POST ")
    done = run(sys.executable, CLIENT, "--grpc", address, "--model", "x", ROCKET)
    assert "NOT_FOUND: Servable not found" in done.stdout
    assert done.returncode == 1


def test_client_without_the_extra() -> None:
    code = (
        "import runpy, sys; sys.modules['tensorflow_serving'] = None\n"
        f"sys.argv = ['client', '--grpc', '127.0.0.1:1', 'x']\n"
        f"runpy.run_path({str(CLIENT)!r}, run_name='__main__')"
    )
    done = run(sys.executable, "-c", code)
    expected = "--grpc needs: pip install 'open_nsfw_tf[serving]'\n"
    assert done.stderr.endswith(expected)
    assert done.stderr.count("\n") == 1


# -- docs/tf-serving.md: its blocks marked `bash` need a running server


def server_commands() -> list[str]:
    blocks = re.findall(r"^```bash\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [line for line in lines if re.search(r"localhost:850[01]", line)]


def test_the_page_has_commands_for_a_server() -> None:
    commands = server_commands()
    assert len(commands) >= 4
    assert any("curl" in line for line in commands)
    assert any("--grpc" in line for line in commands)


@pytest.mark.parametrize("command", server_commands())
def test_commands_of_the_page(
    command: str, url: str, address: str, tmp_path: Path
) -> None:
    shutil.copy(ROCKET, tmp_path / "photo.jpg")
    shutil.copy(pictures.path("coffee.png"), tmp_path / "another.png")
    (tmp_path / "examples").symlink_to(ROOT / "examples")
    command = command.replace("localhost:8500", address)
    command = command.replace(f"http://localhost:8501/v1/models/{NAME}", url)
    done = run("sh", "-ec", command, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    scores = [float(number) for number in re.findall(r"\b0\.\d+", done.stdout)]
    found = [score for score in scores if abs(score - caffe("rocket.jpg")) < 1e-5]
    assert found, done.stdout
