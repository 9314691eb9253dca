"""The environment without TensorFlow: made as docker/Dockerfile makes it, and used.

There is no docker here: the commands of the Dockerfile's stages are run as they stand,
those of the environment by a user who is not root, in a folder of their own.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from dockerfile import (
    DOCKERFILE,
    ROOT,
    Instruction,
    environment,
    exec_form,
    stages,
    values,
)
from packaging.requirements import Requirement

from open_nsfw_tf.formats import CHECKSUMS

NOBODY = 65534
LEFT_OUT = ("h5py", "tensorflow")
LARGEST = 300  # MB of the environment, with Yahoo's weights
PYTHONS = (Path(sys.base_prefix) / "bin" / "python3", Path("/usr/bin/python3"))
PAGE, BUILD, FINAL = stages()
SLIM = (ROOT / "requirements" / "slim.txt").read_text(encoding="utf-8")


# -- what needs no installing


def setup_requirements() -> dict[str, set[str]]:
    """What setup.py asks for: always (under the name "") and by extra."""
    code = (
        "import json, setuptools\n"
        "setuptools.setup = lambda **given: print(json.dumps(["
        "given['install_requires'], given['extras_require']]))\n"
        "exec(compile(open('setup.py').read(), 'setup.py', 'exec'), "
        "{'__file__': 'setup.py', '__name__': 'setup'})"
    )
    done = subprocess.check_output([sys.executable, "-c", code], cwd=ROOT, text=True)
    core, extras = json.loads(done)
    return {name: set(lines) for name, lines in {"": core, **extras}.items()}


def test_the_slim_requirements_are_those_of_setup() -> None:
    wanted = setup_requirements()
    core = {line for line in wanted[""] if Requirement(line).name not in LEFT_OUT}
    lines = {line for line in SLIM.splitlines() if not line.startswith("#")}
    assert lines == core | wanted["serve"] | wanted["weights"]
    assert len(wanted[""]) == len(core) + len(LEFT_OUT)


def test_the_container_bakes_the_published_weights() -> None:
    assert environment(BUILD)["WEIGHTS_SHA256"] == CHECKSUMS["onnx"]
    assert sum("sha256sum --check" in run for run in values(BUILD, "RUN")) == 1


def test_the_build_gets_what_it_copies() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    copies = values(PAGE, "COPY") + values(BUILD, "COPY")
    words = [
        word for value in copies if "--from" not in value for word in value.split()[:-1]
    ]
    sources = {word.split("/")[0] for word in words}
    assert {line[1:] for line in lines if line.startswith("!")} == sources


def test_the_container_is_for_nobody() -> None:
    (user,) = values(FINAL, "USER")
    assert len(numbers := list(map(int, user.split(":")))) == 2  # with its group
    assert 0 not in numbers
    assert values(FINAL, "COPY") == ["--from=build /opt/open-nsfw /opt/open-nsfw"]
    assert environment(BUILD)["VENV"] == "/opt/open-nsfw"
    assert not values(FINAL, "RUN")
    assert "apt" not in DOCKERFILE.read_text(encoding="utf-8")
    assert exec_form(values(FINAL, "ENTRYPOINT")[0]) == ["open-nsfw"]


# -- the environment


@dataclass(frozen=True)
class Slim:
    """The environment that the Dockerfile's stage `build` makes.

    Attributes:
        home: of its user, with the environment in `venv` and the checkout in `src`.
        user: who may use it: not root.
    """

    home: Path
    user: dict[str, Any]

    def environment(self) -> dict[str, str]:
        """What the container sets, with paths of here; nothing of this process's."""
        set_there = environment(FINAL)
        path = set_there["PATH"].replace("/opt/open-nsfw", str(self.home / "venv"))
        return {
            **{key: value for key, value in os.environ.items() if "PIP_" in key},
            **set_there,
            "HOME": str(self.home),
            "PATH": path.replace("$PATH", os.defpath),
            "XDG_CACHE_HOME": str(self.home / "cache"),
        }

    def start(self, *command: Any, **options: Any) -> "subprocess.Popen[str]":
        """Start a command in its work folder."""
        given = {
            "cwd": self.home / "work",
            "env": self.environment(),
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
            "text": True,
            **self.user,
            **options,
        }
        return subprocess.Popen(list(map(str, command)), **given)

    def run(self, *command: Any, code: int = 0, **options: Any) -> str:
        """Run a command; its standard output, or with another code its errors."""
        process = self.start(*command, **options)
        output, errors = process.communicate(timeout=600)
        assert process.returncode == code, (command, output, errors)
        return errors if code else output


def python_for(user: dict[str, Any]) -> Path:
    """A Python that this user may start, of an age that the package supports."""
    check = "import ensurepip, pip, venv, sys; sys.exit(sys.version_info < (3, 11))"
    for python in PYTHONS:
        try:
            subprocess.run([python, "-c", check], check=True, cwd="/", **user)
        except (OSError, subprocess.CalledProcessError):
            continue
        return python
    pytest.skip("no Python with pip and venv that a user other than root may start")


@pytest.fixture(scope="module")
def slim() -> Iterator[Slim]:
    """Built by the commands of the Dockerfile, as a user who is not root."""
    root = os.geteuid() == 0
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if root else {}
    python = python_for(user)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        for folder in ("bin", "src", "work"):
            (home / folder).mkdir()
        if shutil.which("npm"):  # without it, all but the page works
            copy_sources(PAGE, home / "src")
            for command in values(PAGE, "RUN"):
                subprocess.run(["sh", "-ec", command], cwd=home / "src", check=True)
            shutil.rmtree(home / "src" / "web")
        copy_sources(BUILD, home / "src")
        shutil.copy(pictures.path("rocket.jpg"), home / "work" / "photo.jpg")
        shutil.copy(pictures.path("coffee.png"), home / "work" / "another.png")
        (home / "bin" / "python").write_text(f'#!/bin/sh\nexec {python} "$@"\n')
        (home / "bin" / "python").chmod(0o755)
        if root:
            for path in (home, *home.rglob("*")):
                os.chown(path, NOBODY, NOBODY)
        made = Slim(home, user)
        variables = {
            **made.environment(),
            **environment(BUILD),
            "PATH": f"{home / 'bin'}:{os.defpath}",
            "VENV": str(home / "venv"),
        }
        for command in values(BUILD, "RUN"):
            made.run("sh", "-ec", command, cwd=home / "src", env=variables)
        yield made


def copy_sources(stage: list[Instruction], target: Path) -> None:
    """What a stage copies, from this checkout."""
    ignored = shutil.ignore_patterns("__pycache__", "node_modules", "vendor")
    for value in values(stage, "COPY"):
        *sources, destination = value.split()
        if sources[0].startswith("--from=page"):
            continue  # they were made in their place
        for source in sources:
            if (ROOT / source).is_dir():
                shutil.copytree(
                    ROOT / source,
                    target / destination,
                    ignore=ignored,
                    dirs_exist_ok=True,
                )
            else:
                (target / destination).mkdir(exist_ok=True)
                shutil.copy(ROOT / source, target / destination)


def score(answer: dict[str, Any], name: str) -> None:
    golden = GOLDEN["samples"][name]["nsfw"]
    assert answer["nsfw"] == pytest.approx(golden, abs=SCORE_TOLERANCE)


@pytest.mark.install
def test_it_is_small_and_has_no_tensorflow(slim: Slim) -> None:
    files = [path for path in (slim.home / "venv").rglob("*") if path.is_file()]
    sizes = {path: path.stat().st_size for path in files if not path.is_symlink()}
    assert sum(sizes.values()) / 1e6 < LARGEST
    installed = (slim.home / "venv").glob("lib/*/site-packages/*")
    names = {path.name.lower() for path in installed}
    assert not names & {"tensorflow", "keras", "pip", "jax", "torch"}
    report = json.loads(slim.run("open-nsfw", "doctor", "--json"))
    assert report["engines"]["onnxruntime"]["devices"] == {"cpu": None}
    install = "pip install 'h5py>=3.11' 'tensorflow>=2.18'"
    assert report["core"]["install"] == install
    assert report["extras"]["serve"]["missing"] == []
    errors = slim.run("open-nsfw", "classify", "--engine", "tensorflow", "x", code=1)
    assert errors == (
        "error: the engine tensorflow needs tensorflow: pip install tensorflow\n"
    )
    (slim.home / "work" / "weights.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(99))
    command = ["open-nsfw", "classify", "-m", "weights.h5", "photo.jpg"]
    assert slim.run(*command, code=1) == "error: this needs h5py: pip install h5py\n"
    command = ["classify_nsfw.py", "-i", "base64_jpeg", "photo.jpg"]
    errors = slim.run(*command, code=1)
    assert errors == "error: this needs tensorflow: pip install tensorflow\n"


@pytest.mark.install
def test_pictures_are_scored_and_explained_there(slim: Slim) -> None:
    lines = slim.run("open-nsfw", "classify", "--json", "photo.jpg", "another.png")
    first, second = map(json.loads, lines.splitlines())
    score(first, "rocket.jpg")
    score(second, "coffee.png")
    assert "2 pictures" in slim.run("open-nsfw", "batch", ".", "-o", "t.jsonl")
    rows = (slim.home / "work" / "t.jsonl").read_text().splitlines()
    assert len(rows) == 2
    slim.run("open-nsfw", "explain", "photo.jpg", "-o", "maps")
    (drawn,) = (slim.home / "work" / "maps").iterdir()
    assert drawn.stat().st_size > 1000


@pytest.mark.install
def test_the_page_is_written_there(slim: Slim) -> None:
    if not shutil.which("npm"):
        pytest.skip("npm is not installed, which brings the page's ONNX Runtime")
    page = json.loads(slim.run("open-nsfw", "doctor", "--json"))["page"]
    assert page["error"] is None
    assert page["bytes"] > 10_000_000
    assert "(allowed: 5e-06)" in slim.run("open-nsfw", "page", "site")
    assert (slim.home / "work" / "site" / "index.html").is_file()


@pytest.mark.install
def test_nothing_need_be_written(slim: Slim) -> None:
    """As in a container whose root, and all of it, can only be read."""
    variables = {**slim.environment(), "XDG_CACHE_HOME": "/proc/none"}
    code = (
        "import sys, tempfile; tempfile._candidate_tempdir_list = lambda: ['/proc']\n"
        "from open_nsfw_tf.cli import main; sys.argv[1:] = ['classify', '--json', "
        "'photo.jpg']; main()"
    )
    answer = slim.run(slim.home / "venv/bin/python", "-c", code, env=variables)
    score(json.loads(answer), "rocket.jpg")


@pytest.mark.install
def test_the_service_runs_there(slim: Slim) -> None:
    """The container's own command and health check, at a free port of loopback."""
    tokens = slim.home / "work" / "tokens"
    tokens.write_text("secret-token\n")
    tokens.chmod(0o644)
    parts = (exec_form(*values(FINAL, name)) for name in ("ENTRYPOINT", "CMD"))
    words = [word for part in parts for word in part]
    places = {"0.0.0.0": "127.0.0.1", "/run/secrets/tokens": str(tokens)}
    command = [places.get(word, word) for word in words]
    process = slim.start(*command, "--port", 0)
    try:
        assert process.stdout is not None
        line = process.stdout.readline()
        address, port = re.findall(r"(http://127\.0\.0\.1:(\d+));", line)[0]
        healthy = exec_form(values(FINAL, "HEALTHCHECK")[0])
        healthy = [word.replace("8501", port) for word in healthy]
        slim.run(*healthy)
        asked = httpx.post(
            f"{address}/v1/classify",
            content=pictures.path("rocket.jpg").read_bytes(),
            headers={"Authorization": "Bearer secret-token"},
            trust_env=False,
            timeout=300,
        )
        score(asked.json()["results"][0], "rocket.jpg")
        page = httpx.get(address, trust_env=False, timeout=300)
        assert page.status_code == (200 if shutil.which("npm") else 404)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    assert process.returncode == 0
    slim.run(*healthy, code=1)


# -- the wheel


@pytest.mark.install
def test_the_wheel_alone_works(slim: Slim, tmp_path: Path) -> None:
    """Made from the source archive, as `python -m build` does; then installed."""
    checkout = tmp_path / "checkout"
    built = ("__pycache__", "*.egg-info", "build")
    ignored = shutil.ignore_patterns(".git", ".*cache", ".venv", *built)
    shutil.copytree(ROOT, checkout, ignore=ignored)
    build = [sys.executable, "-m", "build", "--outdir", tmp_path / "dist", checkout]
    subprocess.run(build, check=True, capture_output=True)
    made = sorted((tmp_path / "dist").iterdir())
    check = [sys.executable, "-m", "twine", "check", "--strict", *made]
    assert subprocess.check_output(check, text=True).count("PASSED") == 2
    (wheel,) = [path for path in made if path.suffix == ".whl"]
    shutil.copy(wheel, slim.home / "work")
    python = slim.home / "bin" / "python"
    pip = [python, "-m", "pip", "--python", slim.home / "venv/bin/python", "install"]
    again = ["--no-deps", "--force-reinstall", wheel.name]
    slim.run(*pip, *again, env={**os.environ, **slim.environment()})
    files = slim.home.glob("venv/lib/*/site-packages/open_nsfw_tf/**/*.*")
    assert {path.suffix for path in files} >= {".py", ".json", ".html", ".css"}
    answer = slim.run("classify_nsfw", "photo.jpg")
    found = float(answer.rpartition("NSFW score:")[2])
    assert found == pytest.approx(
        GOLDEN["samples"]["rocket.jpg"]["nsfw"], abs=SCORE_TOLERANCE
    )
    assert "rocket" not in answer
