"""`open-nsfw dataset`, as people run it: it says what it will do, and does no more."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pictures
import pytest
from PIL import Image
from typer.testing import CliRunner

from open_nsfw_tf.cli.app import app

COMMANDS = ("check", "dedupe", "split", "clean", "sort", "undo")
MAIN = "from open_nsfw_tf.cli import main; main()"
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command in this process; its output."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def run(*arguments: str | Path, status: int = 0) -> str:
        done = CliRunner().invoke(app, ["dataset", *map(str, arguments)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        assert done.exit_code == status, done.output
        return done.stdout if not status else done.output

    return run


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Six pictures in two classes: one broken, one a smaller copy, one in both."""
    root = tmp_path / "data"
    for label, names in {
        "sfw": ("coffee.png", "rocket.jpg", "astronaut.png"),
        "nsfw": ("retina.jpg", "astronaut.png"),
    }.items():
        (root / label).mkdir(parents=True)
        for name in names:
            shutil.copy(pictures.path(name), root / label)
    os.utime(root / "nsfw/astronaut.png", (0, 0))  # the oldest copy
    small = pictures.sample("coffee.png").resize((300, 200), Image.Resampling.BICUBIC)
    small.save(root / "sfw" / "small.jpg")
    (root / "sfw" / "broken.jpg").write_bytes(
        pictures.path("rocket.jpg").read_bytes()[:9000]
    )
    return root


@pytest.fixture
def scores(tmp_path: Path) -> Path:
    rows = ["path,sfw,nsfw,error"]
    for label, name, nsfw in (
        ("sfw", "coffee.png", 0.1),
        ("sfw", "rocket.jpg", 0.9),
        ("sfw", "astronaut.png", 0.2),
        ("sfw", "small.jpg", 0.0),
        ("nsfw", "retina.jpg", 1.0),
        ("nsfw", "astronaut.png", 0.25),
    ):
        rows.append(f"data/{label}/{name},{1 - nsfw:.2f},{nsfw:.2f},")
    rows.append("data/sfw/broken.jpg,,,truncated")
    path = tmp_path / "scores.csv"
    path.write_text("\n".join([*rows, ""]))
    return path


def tree(root: Path) -> set[str]:
    return {str(p.relative_to(root)) for p in root.rglob("*") if not p.is_dir()}


def manifest(folder: Path) -> Path:
    (found,) = folder.glob("undo-*.jsonl")
    return found


CHANGING = {
    "check": ("data", "--output", "out"),
    "dedupe": ("data", "--output", "out"),
    "split": ("data", "--output", "out", "--train", ".5", "--test", ".5"),
    "clean": ("data", "--output", "out", "--every", "--scores", "scores.csv"),
    "sort": ("data", "--output", "out", "--action", "move", "--scores", "scores.csv"),
}


@pytest.mark.parametrize("command", CHANGING)
def test_nothing_happens_without_apply_and_undo_takes_it_back(
    command: str, run: Run, data: Path, scores: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    said = run(command, *CHANGING[command])
    assert "nothing was touched: --apply does " in said
    assert tree(tmp_path) == before
    planned = {line for line in said.splitlines() if line.startswith("move ")}
    assert planned

    done = run(command, *CHANGING[command], "--apply")
    assert {line for line in done.splitlines() if line.startswith("move ")} == planned
    assert f"move: {len(planned)} done" in done
    for line in planned:
        source, target = line.removeprefix("move ").split(" -> ")
        assert Path(target).is_file()
        assert not Path(source).exists()

    undo = manifest(tmp_path / "out")
    assert "--apply takes it back" in run("undo", undo)
    assert tree(tmp_path) != before
    assert "taken back" in run("undo", undo, "--apply")
    assert tree(tmp_path) - before == {str(undo.relative_to(tmp_path))}
    assert before <= tree(tmp_path)
    assert "nothing to take back" in run("undo", undo, "--apply")


def test_check_prints_a_table(run: Run, data: Path) -> None:
    lines = run("check", "data").splitlines()
    assert lines[1].split()[:2] == ["1", "truncated"]
    assert lines[6].split() == ["6", "good"]
    assert lines[7].startswith("truncated: sfw/broken.jpg: image file is truncated")
    assert len(lines) == 8
    quarantined = run("check", "data", "--output", "q", "--kind", "tiny")
    assert "nothing to move" in quarantined


def test_dedupe_reports_apart(run: Run, data: Path) -> None:
    lines = run("dedupe", "data").splitlines()
    assert lines[0] == "1 files are no readable pictures; `dataset check` says why"
    assert lines[1] == "inside: 1 copies in 1 groups in one class"
    assert lines[2:4] == ["  sfw/coffee.png", "    sfw/small.jpg (near, 0 bits)"]
    assert lines[4] == "leaks: 0 copies in 0 groups across train, test and val"
    assert lines[5] == "classes: 1 copies in 1 groups across classes"
    assert lines[6:8] == ["  nsfw/astronaut.png", "    sfw/astronaut.png (file)"]
    both = run("dedupe", "data", "--move", "inside", "--move", "classes")
    assert "--apply does 3 x move" in both


def test_split_in_place(run: Run, data: Path) -> None:
    before = tree(data)
    said = run("split", "data", "--train", ".5", "--test", ".5", "--apply")
    assert "2 groups of look-alikes are kept together; the largest has 2" in said
    names = tree(data)
    assert sum(name.startswith(("train/", "test/")) for name in names) == 6
    assert "sfw/broken.jpg" in names
    with pytest.raises(ValueError, match="a folder of classes, this one is divided"):
        run("split", "data")
    leaks = run("dedupe", "data")
    assert "leaks: 0 copies" in leaks
    run("undo", manifest(data), "--apply")
    assert before == {name for name in tree(data) if not name.startswith("undo-")}
    with pytest.raises(ValueError, match="--action copy needs --output"):
        run("split", "data", "--action", "copy")


def test_clean_prints_lists(run: Run, data: Path, scores: Path) -> None:
    lines = run("clean", "data", "--scores", "scores.csv").splitlines()
    assert lines[0].endswith(": 1, such as sfw/broken.jpg: truncated")
    assert lines[1] == "6 pictures with a label and scores"
    assert lines[3].split() == ["sfw", "3", "1"]
    assert lines[4].split() == ["nsfw", "1", "1"]
    assert lines[5].startswith("2 labels are not what was predicted, ")
    assert "true class sfw, predicted nsfw: 1" in lines
    command = ("clean", "data", "--scores", "scores.csv")
    with pytest.raises(
        ValueError, match="pictures that could not be scored .*: 1, such as sfw/broken"
    ):
        run(*command, "--strict")
    assert "expected LABEL=CLASS, got 'x'" in run(*command, "--map", "x", status=2)


def test_sort_links_and_draws(
    run: Run, data: Path, scores: Path, tmp_path: Path
) -> None:
    before = tree(tmp_path)
    options = ("data", "--scores", "scores.csv", "--sheets", "1", "--blur")
    assert "contact sheets would be written" in run("sort", *options)
    assert tree(tmp_path) == before
    run("sort", *options, "--threshold", "0.24", "--apply")
    out = tmp_path / "sorted"
    assert {name for name in tree(out) if not name.startswith("undo")} == {
        "fp/0.9000_sfw_as_nsfw_rocket.jpg",
        "tn/0.0000_sfw_as_sfw_small.jpg",
        "tn/0.1000_sfw_as_sfw_coffee.png",
        "tn/0.2000_sfw_as_sfw_astronaut.png",
        "tp/0.2500_nsfw_as_nsfw_astronaut.png",
        "tp/1.0000_nsfw_as_nsfw_retina.jpg",
        "sheets/fp-1.jpg",
        "sheets/tn-1.jpg",
        "sheets/tp-1.jpg",
    }
    link = out / "tp/1.0000_nsfw_as_nsfw_retina.jpg"
    assert link.resolve() == data / "nsfw/retina.jpg"
    run("undo", manifest(out), "--apply")
    assert [path.name for path in out.iterdir()] == [manifest(out).name]
    assert before <= tree(tmp_path)


def test_errors_are_one_line(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    done = subprocess.run(
        [sys.executable, "-c", MAIN, "dataset", "check", "empty"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.endswith("expected a folder of pictures, found no file in it\n")
    assert not done.stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "missing"),
        ("undo", "missing.jsonl"),
        ("clean", "data", "--scores", "missing.csv"),
    ],
)
def test_what_is_missing(arguments: tuple[str, ...], run: Run, data: Path) -> None:
    with pytest.raises(FileNotFoundError, match="missing"):
        run(*arguments)


def test_wrong_usage(run: Run, data: Path) -> None:
    assert "not one of" in run("check", "data", "--kind", "x", status=2)
    with pytest.raises(ValueError, match="distance of 0 to 11 bits, got 99"):
        run("dedupe", "data", "--distance", "99")


def test_undo_that_is_not_whole_fails(run: Run, data: Path, tmp_path: Path) -> None:
    run("dedupe", "data", "--output", "out", "--apply")
    (tmp_path / "out/inside/sfw/small.jpg").unlink()
    done = run("undo", manifest(tmp_path / "out"), "--apply", status=1)
    assert "1 gone: neither here nor where it came from" in done
    assert "sfw/small.jpg" in done


def test_undo_after_kill_9(run: Run, tmp_path: Path) -> None:
    """The whole command, killed while it moves; where exactly is chance."""
    data = tmp_path / "data"
    picture = pictures.path("rocket.jpg").read_bytes()
    (data / "sfw").mkdir(parents=True)
    for number in range(300):
        (data / f"sfw/{number}.jpg").write_bytes(picture)
    before = tree(data)
    command = [sys.executable, "-c", MAIN, "dataset", "dedupe", "data", "--apply"]
    process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL)
    moved = tmp_path / "duplicates/inside/sfw"
    while process.poll() is None and not moved.is_dir():
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    run("undo", manifest(tmp_path / "duplicates"), "--apply")
    assert tree(data) == before
    assert not moved.exists()


@pytest.mark.parametrize("command", COMMANDS)
def test_help_is_there(command: str, run: Run) -> None:
    assert "Usage: open-nsfw dataset" in run(command, "--help")


@pytest.mark.parametrize(
    "arguments",
    [
        ("check", "data", "--output", "data"),
        ("dedupe", "data", "--output", "./data/"),
        ("clean", "data", "--scores", "scores.csv", "--output", "link"),
        (
            "sort",
            "data",
            "--scores",
            "scores.csv",
            "--action",
            "move",
            "--output",
            "data",
        ),
    ],
)
def test_nothing_goes_into_the_folder_itself(
    arguments: tuple[str, ...], run: Run, data: Path, scores: Path, tmp_path: Path
) -> None:
    (tmp_path / "link").symlink_to(data)
    before = tree(data)
    with pytest.raises(ValueError, match="own folder"):
        run(*arguments, "--apply")
    assert tree(data) == before
    run("split", "data", "--output", "data", "--apply")


def test_odd_scores_are_counted(run: Run, data: Path, scores: Path) -> None:
    with scores.open("a") as file:
        file.write("data/sfw/broken.jpg,nan,1.5,\n")
    text = scores.read_text().replace("data/sfw/broken.jpg,,,truncated\n", "")
    scores.write_text(text)
    done = run("sort", "data", "--scores", "scores.csv")
    assert "rows with NaN or no score, and no error (left out): 1, such as" in done
    assert "6 pictures with a label and scores" in done
    with pytest.raises(ValueError, match="rows with NaN or no score"):
        run("sort", "data", "--scores", "scores.csv", "--strict")


def test_a_file_that_changed_since_it_was_scored_is_not_sorted(
    run: Run, data: Path, scores: Path, tmp_path: Path
) -> None:
    header, *rows = scores.read_text().splitlines()
    stamped = [f"{header},size,mtime_ns"]
    for row in rows:
        status = (tmp_path / row.split(",")[0]).stat()
        stamped.append(f"{row},{status.st_size},{status.st_mtime_ns}")
    scores.write_text("\n".join([*stamped, ""]))
    shutil.copyfile(data / "sfw/coffee.png", data / "sfw/rocket.jpg")
    arguments = ("sort", data, "--output", tmp_path / "out", "--scores", scores)
    said = run(*arguments, "--action", "move", "--apply")
    changed = "pictures that have changed since they were scored (left out): 1, such as"
    assert f"{changed} sfw/rocket.jpg" in said
    assert (data / "sfw/rocket.jpg").exists()
    assert not (data / "sfw/coffee.png").exists()


def test_links_are_not_made_twice(
    run: Run, data: Path, scores: Path, tmp_path: Path
) -> None:
    arguments = (
        "sort",
        data,
        "--output",
        tmp_path / "out",
        "--scores",
        scores,
        "--apply",
    )
    run(*arguments)
    before = tree(tmp_path)
    assert "nothing to link" in run(*arguments, "--sheets", "1")
    assert tree(tmp_path) == before
