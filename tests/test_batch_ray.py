"""Ray: the local batch's rows, whatever dies. Clusters run in other processes."""

import os
import re
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import SCORE_TOLERANCE
from ray_commands import RayCommands
from test_batch import archive_of
from test_files import APPLE_DOUBLE

from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import RayCluster, score_batch, score_on_ray
from open_nsfw_tf.tables import Table, read_table
from open_nsfw_tf.tables.parquet_folder import PartsWriter, files

pytestmark = pytest.mark.ray
OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
ROOT = Path(__file__).parent.parent
ODD = "two\nlines \udcff.png"
# Blocks of few pictures and parts of few rows, so that there is something to end.
DRIVER = """
import os, signal, sys
from pathlib import Path
from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import BatchOptions, RayCluster, ray, score_on_ray

ray.BLOCK_BYTES = 1000
ray.PART_SECONDS = 0.0
workers = Path("workers")
workers.mkdir(exist_ok=True)
here = workers.absolute()

class Deadly(Classifier):
    def classify_many(self, pictures, **options):
        def alive():
            for picture in pictures:
                if "/lethal" in str(picture):
                    os.kill(os.getpid(), signal.SIGKILL)
                yield picture
        return super().classify_many(alive(), **options)

def make():
    made = Deadly("onnxruntime", threads=1)
    (here / str(os.getpid())).touch()
    return made

def run(**options):
    cluster = RayCluster(actors=2)
    return score_on_ray(["photos"], "out", cluster=cluster, network=make, **options)
"""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RayCommands]:
    """A process with a Ray, for the tests that end no more of it than a worker."""
    with RayCommands(tmp_path_factory.mktemp("home")) as commands:
        yield commands


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current folder, with 60 small pictures and some that are none in `photos`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))  # Ray leaves a secret there
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    Path("photos/inner").mkdir(parents=True)
    names = ("coffee.png", "rocket.jpg", "astronaut.png")
    small = [
        pictures.encoded(pictures.sample(name).resize((64, 48)), "PNG")
        for name in names
    ]
    for index in range(60):
        Path(f"photos/{index:02}.png").write_bytes(small[index % len(small)])
    shutil.copy(pictures.path("rocket.jpg"), "photos/inner/rocket.jpg")
    Path("photos/inner", ODD).write_bytes(small[0])
    Path("photos/bad.jpg").write_bytes(b"no picture")
    Path("photos/empty.jpg").touch()
    Path("photos/gone.jpg").symlink_to("nowhere")
    Path("photos/inner/up").symlink_to("..")
    return tmp_path


def command(*arguments: str) -> Any:
    return subprocess.run(
        [OPEN_NSFW, *arguments], capture_output=True, text=True, check=False
    )


def driver(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", DRIVER + code],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def ended(process: subprocess.Popen[str]) -> str:
    """The last line of what it says; Ray talks of dead workers before."""
    told, _ = process.communicate()
    assert process.returncode == 0
    return told.splitlines()[-1]


def wait(condition: Callable[[], object], process: subprocess.Popen[str]) -> None:
    while not condition():
        assert process.poll() is None, "it ended too soon"
        time.sleep(0.01)


def by_path(table: Table) -> dict[str, tuple[float, str | None]]:
    scores = table.columns["nsfw"]
    rows = zip(table.paths, zip(scores, table.errors, strict=True), strict=True)
    return dict(rows)


def assert_same(first: Table, second: Table) -> None:
    assert sorted(first.paths) == sorted(second.paths)
    ours, theirs = by_path(first), by_path(second)
    for path, (score, error) in ours.items():
        assert error == theirs[path][1]
        assert np.isnan(score) == (error is not None)
        assert error or abs(score - theirs[path][0]) <= SCORE_TOLERANCE


@pytest.fixture
def local(folder: Path, classifier: Classifier) -> Table:
    """The rows of the local batch."""
    score_batch(classifier, ["photos"], "local.csv")
    return read_table("local.csv")


def test_the_rows_are_those_of_the_local_batch(folder: Path, local: Table) -> None:
    done = command("batch", "--ray", "photos", "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("out: 66 pictures, 4 without a score; ")
    assert len(done.stdout.splitlines()) == 1
    assert not done.stderr
    assert_same(read_table("out"), local)
    ranked = command("rank", "out", "--top", "1")
    assert ranked.stdout.endswith(".png\n")
    again = command("batch", "--ray", "local", "photos", "-o", "out")
    assert again.returncode == 1
    assert again.stderr.startswith("error: out has a table in it")
    assert len(again.stderr.splitlines()) == 1


def test_the_example_runs(folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "ray_cluster.py", "out"]
        + ["photos/00.png", "photos/inner/rocket.jpg", "photos/bad.jpg"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines()[0] == "3 new rows, 1 without a score"
    assert len(done.stdout.splitlines()) == 3


def test_a_killed_worker_loses_and_doubles_nothing(
    folder: Path, local: Table, shared: RayCommands
) -> None:
    told = shared.driver(
        DRIVER
        + """
killed = []
def kill(count):
    if not killed:
        killed.extend(workers.iterdir())
        os.kill(int(killed[0].name), signal.SIGKILL)
summary = run(progress=kill)
print(len(killed), summary.rows, summary.failed, summary.finished)
"""
    )
    assert int(told.split()[0]) >= 1
    assert told.split()[1:] == ["66", "4", "True"]
    assert_same(read_table("out"), local)


def test_a_deadly_picture_is_named_and_the_rest_scored(
    folder: Path, local: Table, shared: RayCommands
) -> None:
    for name in ("lethal1.png", "lethal2.png"):
        shutil.copy("photos/00.png", f"photos/{name}")
    told = shared.driver(
        DRIVER + "print(run(options=BatchOptions(hashes=True)).failed)"
    )
    assert told == "6"
    table = read_table("out")
    deadly = {
        path: error
        for path, (_, error) in by_path(table).items()
        if "lethal" in path and error
    }
    assert set(deadly) == {"photos/lethal1.png", "photos/lethal2.png"}
    assert all("ended its worker 2 times" in error for error in deadly.values())
    assert len(table) == len(set(table.paths)) == 68
    for name in ("lethal1.png", "lethal2.png"):
        Path("photos", name).unlink()
    kept = [index for index, path in enumerate(table.paths) if path not in deadly]
    rest = Table(
        [table.paths[index] for index in kept],
        {name: column[kept] for name, column in table.columns.items()},
        [table.errors[index] for index in kept],
        None,
    )
    assert_same(rest, local)


def test_a_killed_run_goes_on_exactly(
    folder: Path, local: Table, shared: RayCommands
) -> None:
    process = driver("print(run().rows)")
    wait(lambda: len(files(Path("out"))) >= 2, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    driver("""
from open_nsfw_tf.files import replacing
with replacing(Path("out/part-000099.parquet")) as torn:
    torn.touch()
    os.kill(os.getpid(), signal.SIGKILL)
""").communicate()
    assert list(Path("out").glob(".part-000099.*"))
    before = len(read_table("out"))
    assert 0 < before < 66
    told = shared.driver(
        DRIVER + "s = run(mode='resume'); print(s.rows, s.skipped, s.finished)"
    )
    assert told == f"{66 - before} {before} True"
    assert_same(read_table("out"), local)
    assert not list(Path("out").glob(".*"))


def test_nothing_is_sent_home_and_nothing_left(folder: Path) -> None:
    told = ended(
        driver(
            """
from open_nsfw_tf.batch.ray import connected
with connected(RayCluster()) as ray:
    from ray._common.usage.usage_lib import usage_stats_enabled
    node = ray._private.worker._global_node
    print(usage_stats_enabled(), node.webui_url or None, node.get_session_dir_path())
"""
        )
    )
    enabled, page, place = told.split()
    assert enabled == "False"
    assert page == "None"
    assert not Path(place).parent.exists()


WRONG = {
    "expected at least one": ([], "local"),
    "foo://x: ": (["foo://x"], "local"),
    "s3://: expected a bucket": (["s3://"], "local"),
    "(-) cannot be read by Ray": (["-"], "local"),
    "no Ray at 127.0.0.1:1 ": (["photos"], "127.0.0.1:1"),
}


@pytest.mark.parametrize("message", WRONG)
def test_errors_are_one_line(folder: Path, message: str) -> None:
    sources, address = WRONG[message]
    with pytest.raises((ValueError, OSError), match=re.escape(message)) as caught:
        score_on_ray(sources, "out", cluster=RayCluster(address))
    assert "\n" not in str(caught.value)
    assert not Path("out").exists()


def test_archives_and_what_is_passed_over(
    folder: Path, classifier: Classifier, shared: RayCommands
) -> None:
    small = Path("photos/00.png").read_bytes()
    archive_of("a.zip", [("a.png", small), ("a.png", small), ("._a.png", APPLE_DOUBLE)])
    Path("notes").mkdir()
    for name in ("notes.md", ".DS_Store"):
        Path("notes", name).write_text("no picture")
    sources = ("a.zip", "photos/00.png", "photos/inner", "notes")
    done = shared.command("batch", "--ray", *sources, "-o", "out")
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(
        "; passed over as no pictures: 2 of the operating system, 1 .md\n"
    )
    score_batch(classifier, sources, "local.csv")
    assert_same(read_table("out"), read_table("local.csv"))
    assert {"a.zip/a.png", "a.zip/a-2.png"} < set(read_table("out").paths)
    again = shared.command("batch", "--ray", *sources, "-o", "out", "--resume")
    assert again.stdout.startswith("out: 0 pictures, 0 without a score, 6 skipped")


def test_options_without_ray_are_refused(folder: Path) -> None:
    done = command("batch", "photos", "-o", "t.csv", "--actors", "2")
    assert done.returncode == 2
    assert "go with --ray" in done.stderr


def test_parts(tmp_path: Path) -> None:
    columns = ["path", "sfw", "nsfw", "error"]
    rows = [
        {"path": path, "sfw": 0.25, "nsfw": 0.75, "error": None}
        for path in ("a.png", ODD, "b.png")
    ]
    with PartsWriter(tmp_path / "t", columns) as table:
        table.write(rows[:1])
        table.write(rows[1:2])
        with pytest.raises(ValueError, match="another run is writing"):
            PartsWriter(tmp_path / "t", columns, "resume")
    with pytest.raises(FileExistsError, match="has a table in it"):
        PartsWriter(tmp_path / "t", columns)
    with PartsWriter(tmp_path / "t", columns, "resume") as table:
        assert len(table.done) == 2
        table.write(rows[2:])
    assert read_table(tmp_path / "t").paths == ["a.png", ODD, "b.png"]
    with pytest.raises(ValueError, match="expected the columns path"):
        PartsWriter(tmp_path / "t", [*columns, "sha256"], "resume")
    (tmp_path / "t" / "part-000002.parquet").write_bytes(b"PAR1")
    with pytest.raises(ValueError, match="cut, broken or no Parquet file"):
        read_table(tmp_path / "t")
    with PartsWriter(tmp_path / "t", columns, "overwrite") as table:
        assert not table.done
    with pytest.raises(ValueError, match="there are none in it"):
        read_table(tmp_path / "t")
    with pytest.raises(ValueError, match="expected a folder"):
        PartsWriter(tmp_path / "t.csv", columns)
    assert os.listdir(tmp_path / "t") == []


def test_parts_keep_the_last_row_of_a_path(tmp_path: Path) -> None:
    columns = ["path", "sfw", "nsfw", "error", "size", "mtime_ns"]

    def row(path: str, nsfw: float, size: int | None = 1) -> dict[str, Any]:
        scores = {"path": path, "sfw": 1 - nsfw, "nsfw": nsfw, "error": None}
        return {**scores, "size": size, "mtime_ns": size}

    with PartsWriter(tmp_path / "t", columns[:4]) as table:  # as before there were six
        table.write([row("a", 0.25), row(ODD, 0.25), row("old", 0.25)])
        table.finish()
    with PartsWriter(tmp_path / "t", columns, "resume") as table:
        assert set(table.done.values()) == {b""}
        table.write([row("a", 0.5)])
        table.write([row("b", 0.5), row(ODD, 0.5)])
        table.finish()
    with PartsWriter(tmp_path / "t", columns, "resume") as table:
        table.write([row("a", 0.75)])  # killed before it is finished
    with PartsWriter(tmp_path / "t", columns, "resume") as table:
        table.finish()
    found = read_table(tmp_path / "t")
    scores = dict(zip(found.paths, found.columns["nsfw"].tolist(), strict=True))
    assert scores == {"old": 0.25, ODD: 0.5, "b": 0.5, "a": 0.75}
    assert len(found) == 4
    assert [found.stamp(row) for row in range(4)] == [None, (1, 1), (1, 1), (1, 1)]
    assert not list((tmp_path / "t").glob(".*"))


def test_changed_files_are_scored_again_and_only_named_ones_moved(
    folder: Path, local: Table, shared: RayCommands
) -> None:
    sort = ("--move-to", "sorted", "--threshold", "0.5", "--resume")
    small = Path("photos/00.png").read_bytes()
    Path("inbox").mkdir()
    Path("inbox/new.png").write_bytes(small)
    with tarfile.open("a.tar", "w") as archive:
        archive.add("photos/01.png")
    whole = shared.command("batch", "--ray", "local", "photos", "-o", "out")
    assert whole.returncode == 0, whole.stderr
    before = by_path(read_table("out"))
    Path("photos/00.png").write_bytes(Path("photos/01.png").read_bytes())
    os.utime("photos/02.png", ns=(0, 1))  # a change that keeps the size
    Path("photos/03.png").unlink()
    Path("gone.txt").write_text("photos/03.png\n")
    first = shared.command(
        "batch",
        "--ray",
        "local",
        "inbox",
        "photos/0[0-2].png",
        "a.tar",
        "gone.txt",
        "-o",
        "out",
        *sort,
    )
    assert first.returncode == 0, first.stderr
    assert "2 scored again that had changed or were not read, 2 skipped" in first.stdout
    assert first.stdout.splitlines()[1] == "sorted: 4 sfw, 2 absent"
    assert first.stdout.splitlines()[2].startswith("undo with: ")
    assert len(os.listdir("photos")) == 60
    table = read_table("out")
    assert len(table) == len(set(table.paths)) == 68
    after = by_path(table)
    assert abs(after["photos/00.png"][0] - before["photos/01.png"][0]) < SCORE_TOLERANCE
    assert abs(after["photos/02.png"][0] - before["photos/02.png"][0]) < SCORE_TOLERANCE
    assert after["photos/03.png"] == before["photos/03.png"]
    assert table.stamp(table.paths.index("a.tar/photos/01.png"))
    again = shared.command(
        "batch", "--ray", "local", "photos", "a.tar", "-o", "out", "--resume"
    )
    assert again.stdout.startswith("out: 0 pictures, 0 without a score, 63 skipped")
