"""README, docs and --help cannot drift: every command and every example is run."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from serve_process import serving
from video_clips import write_clip

from open_nsfw_tf import Classifier

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = [ROOT / "README.md", *sorted(ROOT.glob("docs/*.md"))]
OTHERS = [ROOT / name for name in ("CONTRIBUTING.md", "CHANGELOG.md")]
SCRIPTS = Path(sys.executable).parent
SERVICE = "127.0.0.1:8501"  # commands that ask it are sent to a server
# These take TensorFlow, train, or compare an export: more than all others together.
SLOW = (
    "open-nsfw train",
    "open-nsfw export",
    "base64_jpeg",
    "OpenNsfwModel",
    "create_tensorflow_image_loader",
    "open-nsfw doctor",
)


def blocks(page: Path, *kinds: str) -> list[str]:
    """The page's blocks of these languages, as they are run one after the other."""
    found = re.findall(
        r"^```(\w+)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL
    )
    return [text.strip() for kind, text in found if kind in kinds]


def to_run(kind: str) -> list[Any]:
    """Every page's blocks of a language, but those that have a test of their own.

    What stands on two pages is run once.
    """
    names = {
        block: f"{page.stem}-{number}"
        for page in PAGES
        for number, block in enumerate(blocks(page, kind))
        if block not in (FIRST, SECOND)
        and not all(SERVICE in line for line in block.splitlines())
    }
    return [
        pytest.param(block, id=name, marks=marks(block))
        for block, name in names.items()
    ]


def marks(block: str) -> list[pytest.MarkDecorator]:
    """Those of a test that runs the block."""
    if "--ray" in block:
        return [pytest.mark.ray]
    return [pytest.mark.slow] if any(word in block for word in SLOW) else []


FIRST, SECOND = blocks(ROOT / "README.md", "sh")[:2]
SHELL, PYTHON = to_run("sh"), to_run("python")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a reader might stand: with some pictures."""
    shutil.copy(pictures.path("rocket.jpg"), tmp_path / "photo.jpg")
    shutil.copy(pictures.path("coffee.png"), tmp_path / "another.png")
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return tmp_path


@pytest.fixture(scope="session")
def holiday(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A video, for the blocks that name it."""
    folder = tmp_path_factory.mktemp("video")
    return write_clip(folder / "holiday.mp4", [i / 10 for i in range(30)])


@pytest.fixture
def environment() -> dict[str, str]:
    path = f"{SCRIPTS}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path}


def run(
    command: list[Any], cwd: Path | None = None, env: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed."""
    done = subprocess.run(
        command, cwd=cwd, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, (command, done.stderr)
    return done


def test_there_is_something_to_run() -> None:
    assert len(SHELL) >= 19
    assert len(PYTHON) >= 10


@pytest.mark.parametrize("block", SHELL)
def test_commands(
    block: str, folder: Path, holiday: Path, environment: dict[str, str]
) -> None:
    if holiday.name in block or "--videos" in block:
        shutil.copy(holiday, folder)
    if "examples/" in block:  # the reader stands in a checkout
        (folder / "examples").symlink_to(ROOT / "examples")
    for command in block.splitlines():
        done = run(["sh", "-ec", command], cwd=folder, env=environment)
        assert done.stdout
        assert not done.stderr


@pytest.mark.parametrize("block", PYTHON)
def test_python(
    block: str, folder: Path, holiday: Path, environment: dict[str, str]
) -> None:
    if holiday.name in block:
        shutil.copy(holiday, folder)
    run([sys.executable, "-W", "error", "-c", block], cwd=folder, env=environment)


def test_the_page_of_the_service(folder: Path, environment: dict[str, str]) -> None:
    """All commands that ask it are sent to a server that is started as it says."""
    page = ROOT / "docs" / "serve.md"
    commands = [
        line for block in blocks(page, "sh", "bash") for line in block.splitlines()
    ] + [
        line
        for other in PAGES
        if other != page
        for block in blocks(other, "sh", "bash")
        for line in block.splitlines()
        if SERVICE in line
    ]
    (token,) = [line for line in commands if line.endswith(" > tokens")]
    run(["sh", "-ec", token], cwd=folder, env=environment)
    asking = [line for line in commands if SERVICE in line]
    assert len(asking) >= 8
    other = [line for line in commands if line not in (token, *asking)]
    assert {" ".join(line.split()[:2]) for line in other} == {
        "pip install",
        "open-nsfw serve",
    }
    expected = '"(nsfw|sexual)":0|"predictions":\\[\\[0|"DT_FLOAT"|ready|accept'
    for options in ([], ["--token-file", folder / "tokens"]):
        with serving(*options) as server:
            for command in asking:
                if options and "a-long-random-token" not in command:
                    continue
                command = command.replace(f"http://{SERVICE}", server.address)
                done = run(["sh", "-ec", command], cwd=folder, env=environment)
                assert re.search(expected, done.stdout), command


def test_the_first_command_prints_caffes_score(tmp_path: Path) -> None:
    """Its last part; all of it is run by `.ci/run`, where nothing is installed."""
    (tmp_path / ".venv").symlink_to(sys.prefix)
    done = run(["sh", "-ec", FIRST.split(" && ")[-1]], cwd=tmp_path)
    score = float(re.search(r"NSFW score:\t(.+)", done.stdout)[1])  # type: ignore[index]
    golden = GOLDEN["samples"]["astronaut.png"]["nsfw"]
    assert abs(score - golden) <= SCORE_TOLERANCE


def test_ci_runs_both_commands_in_their_order() -> None:
    done = run(["bash", ROOT / ".ci" / "run", "--print"])
    assert done.stdout.splitlines() == [FIRST, SECOND]


def test_ci_runs_every_test() -> None:
    """What the second command leaves out comes after it."""
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["pytest"]
    (left_out,) = re.findall(r'-m "not \((.+)\)"', settings["ini_options"]["addopts"])
    lines = (ROOT / ".ci" / "run").read_text().splitlines()
    slow = f'.venv/bin/python -m pytest -m "{left_out}" < /dev/null || failed=$?'
    assert slow in map(str.strip, lines)
    markers = {line.split(":")[0] for line in settings["ini_options"]["markers"]}
    assert set(left_out.split(" or ")) == markers


def test_the_commands_install_where_no_tool_looks() -> None:
    """Git, ruff, mypy and pytest all pass over a folder called .venv."""
    for command in (FIRST, SECOND):
        made, installed, *_ = command.split(" && ")
        assert made == "python3 -m venv --upgrade-deps .venv"
        assert installed.startswith(".venv/bin/pip install ")
    ignored = (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()
    assert ".venv" in ignored


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 150


def anchors(page: Path) -> set[str]:
    """What a link to a heading of a page may say, as GitHub makes it."""
    text = re.sub(
        r"^```.*?^```$", "", page.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL
    )
    titles = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("page", [*PAGES, *OTHERS], ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if re.match(r"https?://", target):
            continue
        name, _, anchor = target.partition("#")
        found = page.parent / name if name else page
        assert found.exists(), target
        assert not anchor or anchor in anchors(found), target


def test_every_page_is_found() -> None:
    """From the list of pages, and so by those who begin with README."""
    pages = {page.name for page in PAGES} - {"README.md", "index.md"}
    index = (ROOT / "docs" / "index.md").read_text("utf-8")
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))
    assert "](docs/index.md)" in README
    site = tomllib.loads((ROOT / "zensical.toml").read_text("utf-8"))
    assert pages <= set(re.findall(r"[\w-]+\.md", str(site["project"]["nav"])))


def test_the_table_of_scores_is_true(any_classifier: Classifier) -> None:
    page = (ROOT / "docs" / "exactness.md").read_text("utf-8")
    (titles,) = re.findall(r"^\| picture \| (Caffe \| .+) \|$", page, re.MULTILINE)
    rows = re.findall(
        r"^\| `(.+\.\w+)`" + 5 * r" \| ([\d.]+)" + r" \|$", page, re.MULTILINE
    )
    assert len(rows) >= 5
    column = 1 + titles.split(" | ").index(any_classifier.engine_name)
    for row in rows:
        golden = GOLDEN["samples"][row[0]]["nsfw"]
        assert float(row[1]) == pytest.approx(golden, abs=5.1e-8)
        score = any_classifier.classify(pictures.path(row[0])).nsfw
        # Another processor may round otherwise: within the tolerance it stays true.
        assert float(row[column]) == pytest.approx(score, abs=SCORE_TOLERANCE)


HELP = [
    ["open-nsfw", "--help"],
    ["open-nsfw", "classify", "--help"],
    ["open-nsfw", "batch", "--help"],
    ["open-nsfw", "rank", "--help"],
    ["open-nsfw", "video", "--help"],
    ["open-nsfw", "weights", "--help"],
    ["open-nsfw", "weights", "fetch", "--help"],
    ["open-nsfw", "evaluate", "--help"],
    ["open-nsfw", "models", "--help"],
    ["open-nsfw", "train", "--help"],
    ["open-nsfw", "dataset", "--help"],
    ["open-nsfw", "export", "--help"],
    ["open-nsfw", "page", "--help"],
    ["open-nsfw", "request", "--help"],
    ["open-nsfw", "serve", "--help"],
    ["open-nsfw", "doctor", "--help"],
    ["classify_nsfw.py", "--help"],
]


@pytest.mark.parametrize("command", HELP, ids=" ".join)
def test_help_is_there(command: list[str], environment: dict[str, str]) -> None:
    environment["COLUMNS"] = "100"
    done = run([SCRIPTS / command[0], *command[1:]], env=environment)
    assert "usage: " in done.stdout.lower()
    assert not done.stderr


def test_examples_run(folder: Path, environment: dict[str, str]) -> None:
    done = run(
        [sys.executable, ROOT / "examples" / "classify_pictures.py", "photo.jpg", "x"],
        cwd=folder,
        env=environment,
    )
    lines = done.stdout.splitlines()
    golden = GOLDEN["samples"]["rocket.jpg"]["nsfw"]
    assert float(lines[0].split()[0]) == pytest.approx(golden, abs=1e-4)
    assert lines[1].startswith("no score: x: No such file")


@pytest.mark.slow
def test_the_benchmark_runs(
    folder: Path, tmp_path: Path, environment: dict[str, str]
) -> None:
    command = [
        "-m",
        "benchmarks.cold_start",
        "--runs",
        "1",
        "--warm-ups",
        "0",
        "--json",
    ]
    done = run(
        [sys.executable, *command, tmp_path / "out.json", folder / "photo.jpg"],
        cwd=ROOT,
        env=environment,
    )
    assert "classify_nsfw.py, very first run" in done.stdout
    assert (tmp_path / "out.json").exists()
