"""Batches that go on and move files: only what was named, scored, and is the same."""

import io
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pictures
import pytest
from test_batch import SUFFIXES

from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import BatchOptions, Summary, score_batch
from open_nsfw_tf.batch.item import file_key
from open_nsfw_tf.batch.sorting import check_destination, sort_files
from open_nsfw_tf.errors import MoveError
from open_nsfw_tf.moves import Journal
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import TableWriter
from open_nsfw_tf.undo import undo

OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
# These two pictures score on either side of this threshold.
LOW, HIGH = "rocket.jpg", "coffee.png"


@pytest.fixture
def data() -> dict[str, bytes]:
    return {
        name: pictures.encoded(pictures.sample(name).resize((64, 48)), "PNG")
        for name in (LOW, HIGH)
    }


@pytest.fixture
def threshold(classifier: Classifier, data: dict[str, bytes]) -> float:
    low, high = (classifier.classify(data[name]).nsfw for name in (LOW, HIGH))
    if low > high:
        data[LOW], data[HIGH] = data[HIGH], data[LOW]
    assert abs(high - low) > 1e-3
    return (low + high) / 2


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: str, content: bytes) -> Path:
    found = Path(path)
    found.parent.mkdir(parents=True, exist_ok=True)
    found.write_bytes(content)
    return found


def resumed(
    classifier: Classifier, *sources: str, output: str = "t.csv", **options: Any
) -> Summary:
    return score_batch(classifier, sources, output, mode="resume", **options)


def moved(
    classifier: Classifier,
    *sources: str,
    threshold: float = 0.0,
    output: str = "t.csv",
    to: str = "out",
    **options: Any,
) -> tuple[dict[str, int], Journal | None]:
    summary = resumed(classifier, *sources, output=output)
    table = read_table(output)
    return sort_files(table, summary.named, Path(to), threshold, **options)


def names(folder: str) -> list[str]:
    return sorted(os.listdir(folder)) if os.path.isdir(folder) else []


def score(path: str, output: str = "t.csv") -> float:
    """A path's score, of which there must be one."""
    table = read_table(output)
    (row,) = [row for row, name in enumerate(table.paths) if name == path]
    return float(table.columns["nsfw"][row])


# -- what is moved


def test_only_what_this_run_names_is_moved(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    for path in ("library/a.png", "library/b.png", "inbox/c.png"):
        put(path, data[LOW])
    resumed(classifier, "library")
    resumed(classifier, "inbox")
    # Its own files are moved, though they were scored by an earlier run.
    counts, _ = moved(classifier, "inbox", threshold=threshold)
    assert counts == {"sfw": 1}
    assert names("library") == ["a.png", "b.png"]
    assert names("inbox") == []
    counts, _ = moved(classifier, "inbox", threshold=threshold)
    assert counts == {}
    put("list.txt", b"library/b.png\n")
    moved(classifier, "list.txt", "library/a*", threshold=threshold)
    assert names("library") == []
    assert names("out/sfw") == ["a.png", "b.png", "c.png"]
    assert len(read_table("t.csv")) == 3


@SUFFIXES
def test_a_new_file_of_an_old_name_is_scored_and_sorted_by_its_own_score(
    classifier: Classifier, data: dict[str, bytes], threshold: float, suffix: str
) -> None:
    options: dict[str, Any] = {"threshold": threshold, "output": f"t{suffix}"}
    put("in/upload.png", data[LOW])
    put("in/stays.png", data[LOW])
    assert moved(classifier, "in/upload.png", **options)[0] == {"sfw": 1}
    put("in/upload.png", data[HIGH])
    assert moved(classifier, "in", **options)[0] == {"nsfw": 1, "sfw": 1}
    assert Path("out/nsfw/upload.png").read_bytes() == data[HIGH]
    assert score("in/upload.png", f"t{suffix}") >= threshold
    put("in/upload.png", data[LOW])
    assert moved(classifier, "in", **options)[0] == {"sfw": 1}
    assert names("out/sfw") == ["stays.png", "upload-2.png", "upload.png"]
    assert score("in/upload.png", f"t{suffix}") < threshold


def test_equal_paths_from_another_folder(
    classifier: Classifier,
    data: dict[str, bytes],
    threshold: float,
    here: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("one/in/x.png", data[LOW])
    put("two/in/x.png", data[HIGH])
    output = str(here / "t.csv")
    for folder, scored in (("one", 1), ("two", 1), ("two", 0)):
        monkeypatch.chdir(here / folder)
        summary = resumed(classifier, "in", output=output)
        assert (summary.rows, summary.skipped) == (scored, 1 - scored)
    table = read_table(output)
    assert sort_files(table, summary.named, here / "out", threshold)[0] == {"nsfw": 1}
    monkeypatch.chdir(here / "one")  # where it is not what was scored
    assert sort_files(table, summary.named, here / "out", 0.0)[0] == {}
    named = [file_key("in/x.png")]
    assert sort_files(table, named, here / "out", 0.0)[0] == {"changed": 1}
    assert names("in") == ["x.png"]


def test_what_changes_after_it_was_scored_is_left(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    for name in ("a", "b", "c"):
        put(f"in/{name}.png", data[LOW])
    summary = resumed(classifier, "in")
    put("in/b.png", data[HIGH])
    os.utime("in/c.png", ns=(0, 1))  # of the same size, and another time
    table = read_table("t.csv")
    counts, _ = sort_files(table, summary.named, Path("out"), threshold)
    assert counts == {"sfw": 1, "changed": 2}
    assert names("in") == ["b.png", "c.png"]
    linked, _ = sort_files(table, summary.named, Path("out"), threshold, link=True)
    assert linked == {"absent": 1, "changed": 2}
    again = resumed(classifier, "in")
    assert (again.rows, again.again, again.skipped) == (2, 2, 0)
    assert score("in/b.png") >= threshold


def test_what_is_no_file_any_more(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    for name in ("pipe", "folder", "link", "gone"):
        put(f"in/{name}.png", data[LOW])
    assert resumed(classifier, "in").rows == 4
    for name in names("in"):
        os.unlink(f"in/{name}")
    os.mkfifo("in/pipe.png")
    os.mkdir("in/folder.png")
    Path("in/link.png").symlink_to("nowhere")
    put("list.txt", "".join(f"in/{n}.png\n" for n in NO_FILES).encode())
    again = resumed(classifier, "list.txt")
    assert (again.rows, again.again, again.skipped) == (2, 2, 2)
    table = read_table("t.csv")
    scored = {p for p, e in zip(table.paths, table.errors, strict=True) if e is None}
    assert scored == {"in/link.png", "in/gone.png"}  # of which the rows are as before
    assert resumed(classifier, "list.txt").rows == 0
    counts, journal = moved(classifier, "list.txt")
    assert (counts, journal) == ({"changed": 1, "absent": 1}, None)


NO_FILES = ("pipe", "folder", "link", "gone")


def test_a_changed_file_that_cannot_be_read_loses_its_score(
    classifier: Classifier, data: dict[str, bytes], nobodys: Path
) -> None:
    path = put(str(nobodys / "in/a.png"), data[LOW])
    options: dict[str, Any] = {"output": str(nobodys / "t.csv")}
    assert resumed(classifier, str(nobodys / "in"), **options).rows == 1
    path.chmod(0)  # and is what was scored
    assert resumed(classifier, str(nobodys / "in"), **options).rows == 0
    path.chmod(0o600)
    put(str(path), data[HIGH])
    path.chmod(0)
    again = resumed(classifier, str(nobodys / "in"), **options)
    assert (again.rows, again.again, again.failed) == (1, 1, 1)
    to = str(nobodys / "out")
    assert moved(classifier, str(nobodys / "in"), to=to, **options) == ({}, None)
    assert read_table(options["output"]).errors == ["Permission denied"]


def test_a_change_that_keeps_the_size(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    size = max(map(len, data.values()))
    low, high = (data[name].ljust(size, b"\0") for name in (LOW, HIGH))
    put("in/a.png", low)
    resumed(classifier, "in", options=BatchOptions(hashes=True))
    assert score("in/a.png") < threshold
    put("in/a.png", high)
    assert resumed(classifier, "in", options=BatchOptions(hashes=True)).again == 1
    assert score("in/a.png") >= threshold


@pytest.mark.parametrize("source", ["list", "glob", "deep glob", "archive", "pipe"])
def test_other_sources_move_nothing_of_the_library(
    classifier: Classifier, data: dict[str, bytes], source: str
) -> None:
    for path in ("library/a.png", "library/deep/b.png", "inbox/deep/a.png"):
        put(path, data[LOW])
    resumed(classifier, "library", "inbox")
    put("l.txt", b"inbox/deep/a.png\n")
    with tarfile.open("a.tar", "w") as archive:
        archive.add("library")
    named = {"list": "l.txt", "glob": "in*/deep/*.png", "deep glob": "inbox/**"}
    named |= {"archive": "a.tar", "pipe": "-"}
    summary = resumed(classifier, named[source], stdin=io.BytesIO(b"inbox/deep/a.png"))
    counts, _ = sort_files(read_table("t.csv"), summary.named, Path("out"), 0.0)
    assert counts == ({"absent": 2} if source == "archive" else {"nsfw": 1})
    assert names("library") == ["a.png", "deep"]
    assert names("library/deep") == ["b.png"]
    assert names("inbox/deep") == (["a.png"] if source == "archive" else [])


def test_what_changes_between_the_plan_and_the_move_is_left(
    classifier: Classifier,
    data: dict[str, bytes],
    threshold: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    put("in/a.png", data[LOW])
    put("in/b.png", data[LOW])
    summary = resumed(classifier, "in")
    run = Journal.run

    def late(journal: Journal) -> None:
        put("in/b.png", data[HIGH])
        run(journal)

    monkeypatch.setattr(Journal, "run", late)
    table = read_table("t.csv")
    counts, journal = sort_files(table, summary.named, Path("out"), threshold)
    assert counts == {"sfw": 1, "changed": 1}
    assert names("in") == ["b.png"]
    assert journal is not None
    assert undo(journal.path, apply=True).whole
    assert names("in") == ["a.png", "b.png"]


def test_gone_files_keep_their_rows(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    put("in/a.png", data[LOW])
    put("list.txt", b"in/a.png\nin/never.png\n")
    assert moved(classifier, "list.txt")[0] == {"nsfw": 1}
    before = Path("t.csv").read_bytes()
    assert moved(classifier, "list.txt")[0] == {"absent": 1}
    assert Path("t.csv").read_bytes() == before
    put("in/never.png", data[LOW])
    assert moved(classifier, "list.txt")[0] == {"nsfw": 1, "absent": 1}
    assert read_table("t.csv").errors == [None, None]


@pytest.mark.parametrize("kind", ["zip", "tar", "tgz"])
def test_members_of_an_archive_that_was_replaced(
    classifier: Classifier, data: dict[str, bytes], threshold: float, kind: str
) -> None:
    def pack(*members: tuple[str, bytes]) -> None:
        Path("a").unlink(missing_ok=True)
        if kind == "zip":
            with zipfile.ZipFile("a", "w") as archive:
                for name, content in members:
                    archive.writestr(name, content)
        else:
            with tarfile.open("a", "w:gz" if kind == "tgz" else "w") as tar:
                for name, content in members:
                    info = tarfile.TarInfo(name)
                    info.size = len(content)
                    tar.addfile(info, io.BytesIO(content))

    pack(("x.png", data[LOW]), ("deep/y.png", data[LOW]))
    assert resumed(classifier, "a").rows == 2
    assert resumed(classifier, "a").rows == 0
    pack(("x.png", data[HIGH]), ("deep/y.png", data[LOW]))
    counts, journal = moved(classifier, "a", threshold=threshold)
    assert (counts, journal) == ({"absent": 2}, None)
    assert score("a/x.png") >= threshold
    assert len(read_table("t.csv")) == 2
    assert not os.path.exists("out")


def test_a_member_whose_name_leads_out_of_its_archive(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    with tarfile.open("a.tar", "w") as archive:
        info = tarfile.TarInfo("../x.png")
        info.size = len(data[LOW])
        archive.addfile(info, io.BytesIO(data[LOW]))
    put("x.png", data[LOW])
    assert moved(classifier, "a.tar")[0] == {"absent": 1}
    assert os.path.exists("x.png")


def test_standard_input_is_scored_each_time(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    for name in (LOW, HIGH):
        summary = resumed(classifier, "-", stdin=io.BytesIO(data[name]))
        assert (score("-") >= threshold) == (name == HIGH)
    table = read_table("t.csv")
    assert sort_files(table, summary.named, Path("out"), 0.0) == ({}, None)


# -- tables


@SUFFIXES
def test_an_older_table_is_gone_on_with(
    classifier: Classifier, data: dict[str, bytes], suffix: str
) -> None:
    output = f"t{suffix}"
    for name in ("a", "b"):
        put(f"in/{name}.png", data[LOW])
    resumed(classifier, "in", output="new.jsonl")
    rows = [
        {**row, "path": path}
        for path in ("in/a.png", "elsewhere/x.png")
        for row in [{"path": "", "sfw": 0.9, "nsfw": 0.1, "error": None}]
    ]
    with TableWriter(output, list(rows[0])) as table:
        table.write(rows)
        table.finish()
    counts, _ = moved(classifier, "in", output=output)
    assert counts == {"nsfw": 2}
    found = read_table(output)
    assert sorted(found.paths) == ["elsewhere/x.png", "in/a.png", "in/b.png"]
    assert found.stamp(found.paths.index("elsewhere/x.png")) is None
    assert score("in/a.png", output) == pytest.approx(score("in/a.png", "new.jsonl"))
    assert score("elsewhere/x.png", output) == 0.1
    # What the table knew nothing of is not moved, nor lost when its file is gone.
    assert moved(classifier, "in", output=output)[0] == {}
    assert resumed(classifier, "in", output=output).rows == 0


@SUFFIXES
def test_a_run_that_was_stopped_in_the_middle_of_changed_files(
    classifier: Classifier, data: dict[str, bytes], threshold: float, suffix: str
) -> None:
    output = f"t{suffix}"
    for index in range(6):
        put(f"in/{index}.png", data[LOW])
    resumed(classifier, "in", output=output)
    for index in range(1, 6):
        put(f"in/{index}.png", data[HIGH])
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 2

    first = resumed(classifier, "in", output=output, stop=stop)
    assert (first.rows, first.finished) == (2, False)
    put("in/1.png", data[LOW])  # and one changes once more
    second = resumed(classifier, "in", output=output)
    assert (second.rows, second.skipped) == (4, 2)
    found = read_table(output)
    assert sorted(found.paths) == [f"in/{index}.png" for index in range(6)]
    high = {
        path
        for path, value in zip(found.paths, found.columns["nsfw"], strict=True)
        if value >= threshold
    }
    assert high == {f"in/{index}.png" for index in range(2, 6)}


@SUFFIXES
def test_other_commands_read_the_table(
    classifier: Classifier, data: dict[str, bytes], suffix: str
) -> None:
    path = put("in/a.png", data[LOW])
    put("in/bad.png", b"no picture")
    resumed(classifier, "in", output=f"t{suffix}", options=BatchOptions(hashes=True))
    table = read_table(f"t{suffix}")
    assert list(table.columns) == ["sfw", "nsfw"]
    status = path.stat()
    assert table.stamp(0) == (status.st_size, status.st_mtime_ns)
    ranked = subprocess.run(
        [OPEN_NSFW, "rank", f"t{suffix}"], capture_output=True, text=True, check=True
    )
    assert ranked.stdout.endswith("in/a.png\n")


def test_a_table_that_a_spreadsheet_saved(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    put("in/a.png", data[LOW])
    summary = resumed(classifier, "in")
    header, row = Path("t.csv").read_text().splitlines()
    *fields, size, mtime_ns = row.split(",")
    rounded = ",".join([*fields, f"{size}.0", f"{float(mtime_ns):.6e}"])
    Path("t.csv").write_text(f"{header}\n{rounded}\n")
    table = read_table("t.csv")
    assert sort_files(table, summary.named, Path("out"), 0.0)[0] == {"changed": 1}
    Path("t.csv").write_text(f"{header}\n{','.join(fields)},unknown,\n")
    assert read_table("t.csv").stamp(0) is None
    assert moved(classifier, "in")[0] == {"nsfw": 1}


# -- names


LONG = "n" * 246 + ".jpg"
WIDE = "\u6f22" * 83 + ".jpeg"  # 254 bytes
ODD = os.fsdecode(b"\xff" * 100 + b" '\"\n.png")


@pytest.mark.parametrize(
    "name", ["IMG_1.jpg", "no_suffix", ".hidden", LONG, WIDE, ODD, "a.b" + "c" * 60]
)
def test_one_name_again_and_again(
    classifier: Classifier, data: dict[str, bytes], name: str
) -> None:
    for delivery in range(4):
        put(f"in/{name}", data[LOW])
        put(f"in/other{delivery}.png", data[LOW])
        sources = (f"in/{name}", "in")
        counts, _ = moved(classifier, *sources, output=f"{delivery}.csv")
        assert counts == {"nsfw": 2}
        assert names("in") == []
    assert len(names("out/nsfw")) == 8
    assert all(len(os.fsencode(name)) <= 255 for name in names("out/nsfw"))


def test_a_name_that_a_folder_has(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    Path("out/nsfw/a.png").mkdir(parents=True)
    put("in/a.png", data[LOW])
    assert moved(classifier, "in")[0] == {"nsfw": 1}
    assert names("out/nsfw") == ["a-2.png", "a.png"]


def test_names_that_differ_in_case(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    put("in/A.png", data[LOW])
    put("in/a.png", data[HIGH])
    assert moved(classifier, "in")[0] == {"nsfw": 2}
    assert sorted(map(os.path.getsize, Path("out/nsfw").iterdir())) == sorted(
        map(len, data.values())
    )


def test_files_that_are_in_the_destination_already(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    put("out/nsfw/a.png", data[LOW])
    put("out/nsfw/b.png", data[HIGH])
    put("out/sfw/a.png", data[LOW])
    for _ in range(2):
        counts, _ = moved(classifier, "out/nsfw", "out/sfw/a.png", threshold=threshold)
    assert names("out/nsfw") == ["b.png"]
    assert names("out/sfw") == ["a-2.png", "a.png"]
    assert counts == {"nsfw": 1, "sfw": 1}


def test_a_file_in_the_place_of_the_destination(data: dict[str, bytes]) -> None:
    put("out/nsfw", b"")
    with pytest.raises(ValueError, match="out/nsfw: expected a folder"):
        check_destination(Path("out"), [])
    with pytest.raises(ValueError, match="out/nsfw: expected a folder"):
        check_destination(Path("out/nsfw"), [])


# -- links, and other disks


@pytest.fixture
def disk() -> Iterator[Path]:
    """A folder on another file system than the current one."""
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == os.stat(".").st_dev:
        pytest.skip("needs a second file system")
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        yield Path(folder)


@pytest.fixture(params=["here", "another disk"])
def to(request: pytest.FixtureRequest) -> str:
    return "out" if request.param == "here" else str(request.getfixturevalue("disk"))


def test_links_lead_to_what_they_led_to(
    classifier: Classifier, data: dict[str, bytes], here: Path, to: str
) -> None:
    put("in/m.png", data[LOW])
    put("outside/kept.png", data[HIGH])
    links = {
        "in/a.png": "m.png",  # before what it leads to
        "in/z.png": "m.png",  # and after
        "in/b.png": "z.png",  # a link to a link
        "in/absolute.png": str(here / "in/m.png"),
        "outside/back.png": "../in/m.png",
        "in/over.png": "../outside/back.png",  # by a link that stays
        "in/kept.png": "../outside/kept.png",
    }
    for link, leads in links.items():
        Path(link).symlink_to(leads)
    contents = {name: (Path("in") / name).read_bytes() for name in names("in")}
    counts, journal = moved(classifier, "in", to=to)
    assert counts == {"nsfw": len(contents)}
    assert names("in") == []
    assert {
        name: (Path(to) / "nsfw" / name).read_bytes() for name in contents
    } == contents
    assert os.readlink(Path(to, "nsfw/b.png")).endswith("nsfw/z.png")
    assert journal is not None
    assert undo(journal.path, apply=True).whole
    assert {link: os.readlink(link) for link in links} == links
    assert {name: (Path("in") / name).read_bytes() for name in contents} == contents
    assert undo(journal.path, apply=True).whole


def test_a_link_whose_file_gets_a_number_or_stays(
    classifier: Classifier,
    data: dict[str, bytes],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("a", "b"):
        put(f"in/{name}.png", data[LOW])
        Path(f"in/to_{name}.png").symlink_to(f"{name}.png")
    run = Journal.run

    def late(journal: Journal) -> None:
        put("out/nsfw/a.png", b"somebody's")
        put("in/b.png", data[HIGH])
        run(journal)

    monkeypatch.setattr(Journal, "run", late)
    counts, journal = moved(classifier, "in")
    assert counts == {"nsfw": 2, "changed": 2}
    assert names("in") == ["b.png", "to_b.png"]
    assert Path("out/nsfw/to_a.png").read_bytes() == data[LOW]
    assert Path("out/nsfw/a.png").read_bytes() == b"somebody's"
    assert journal is not None
    assert undo(journal.path, apply=True).whole
    assert Path("in/to_a.png").read_bytes() == data[LOW]
    assert os.readlink("in/to_a.png") == "a.png"


def test_links_that_lead_nowhere_stay(
    classifier: Classifier, data: dict[str, bytes]
) -> None:
    put("in/a.png", data[LOW])
    Path("in/dangling.png").symlink_to("nowhere.png")
    Path("in/loop.png").symlink_to("loop.png")
    Path("in/folder.png").symlink_to("..")
    assert moved(classifier, "in")[0] == {"nsfw": 1}
    assert names("in") == ["dangling.png", "folder.png", "loop.png"]


def test_hard_links(classifier: Classifier, data: dict[str, bytes]) -> None:
    path = put("in/a.png", data[LOW])
    os.link(path, "in/b.png")
    Path("in/deep").mkdir()
    os.link(path, "in/deep/a.png")
    counts, journal = moved(classifier, "in")
    assert counts == {"nsfw": 3}
    assert names("out/nsfw") == ["a-2.png", "a.png", "b.png"]
    assert journal is not None
    assert undo(journal.path, apply=True).whole
    assert names("in") == ["a.png", "b.png", "deep"]


def test_links_are_made_once(
    classifier: Classifier, data: dict[str, bytes], here: Path
) -> None:
    for folder in ("c", "b", "a"):
        put(f"in/{folder}/x.png", data[LOW])
    for sources in (["in"], ["in/c", "in/b", "in"], ["in"]):
        counts, _ = moved(classifier, *sources, link=True)
        assert counts == {"nsfw": 3}
    assert {os.readlink(path) for path in Path("out/nsfw").iterdir()} == {
        str(here / f"in/{folder}/x.png") for folder in "abc"
    }
    assert names("out/nsfw") == ["x-2.png", "x-3.png", "x.png"]


def test_links_of_earlier_scores_are_reported(
    classifier: Classifier, data: dict[str, bytes], threshold: float
) -> None:
    put("in/a.png", data[LOW])
    assert moved(classifier, "in", threshold=threshold, link=True)[0] == {"sfw": 1}
    put("in/a.png", data[HIGH])
    counts, _ = moved(classifier, "in", threshold=threshold, link=True)
    assert counts == {"nsfw": 1, "linked twice": 1}


@SUFFIXES
def test_dates_that_64_bits_cannot_hold(
    classifier: Classifier, data: dict[str, bytes], suffix: str
) -> None:
    put("in/a.png", data[LOW])
    os.utime("in/a.png", (2**34, 2**34))  # in the year 2514
    first = resumed(classifier, "in", output=f"t{suffix}")
    again = resumed(classifier, "in", output=f"t{suffix}")
    assert (first.rows, again.rows, again.skipped) == (1, 0, 1)
    assert moved(classifier, "in", output=f"t{suffix}")[0] == {"nsfw": 1}


def test_files_are_moved_where_nobody_reads_the_summary(data: dict[str, bytes]) -> None:
    put("in/a.png", data[LOW])
    options = ("-o", "t.csv", "--move-to", "out", "--threshold", "0")
    done = subprocess.run(
        ["sh", "-c", '"$@" | true', "sh", OPEN_NSFW, "batch", "in", *options],
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" not in done.stderr
    assert names("out/nsfw") == ["a.png"]


def test_a_file_that_cannot_be_moved_does_not_keep_the_others(
    classifier: Classifier, data: dict[str, bytes], nobodys: Path
) -> None:
    for name in ("a/1", "b/2", "c/3"):
        put(str(nobodys / "in" / f"{name}.png"), data[LOW])
    (nobodys / "in/b").chmod(0o500)
    output = str(nobodys / "t.csv")
    options: dict[str, Any] = {"output": output, "to": str(nobodys / "out")}
    with pytest.raises(
        MoveError, match=r"b/2\.png.*Permission denied; 2 of 3 were done"
    ):
        moved(classifier, str(nobodys / "in"), **options)
    assert names(str(nobodys / "out/nsfw")) == ["1.png", "3.png"]
    (nobodys / "in/b").chmod(0o700)
    assert moved(classifier, str(nobodys / "in"), **options)[0] == {"nsfw": 1}


def test_a_read_only_destination(
    classifier: Classifier, data: dict[str, bytes], nobodys: Path
) -> None:
    put(str(nobodys / "in/a.png"), data[LOW])
    (nobodys / "out").mkdir(mode=0o500)
    output = str(nobodys / "t.csv")
    with pytest.raises(PermissionError, match="Permission denied: .*out"):
        moved(classifier, str(nobodys / "in"), output=output, to=str(nobodys / "out"))
    assert names(str(nobodys / "in")) == ["a.png"]
    assert len(read_table(output)) == 1


# -- the command


def command(*arguments: object, status: int = 0) -> list[str]:
    done = subprocess.run(
        [OPEN_NSFW, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout.splitlines()


def test_the_command_says_what_it_did_and_how_to_undo_it(
    data: dict[str, bytes], threshold: float, here: Path
) -> None:
    sort = ("--resume", "--move-to", "out", "--threshold", threshold)
    put("in/a.png", data[LOW])
    first = command("batch", "in", "-o", "t.jsonl", *sort)
    assert first[1] == "out: 1 sfw"
    put("in/a.png", data[HIGH])
    second = command("batch", "in", "-o", "t.jsonl", *sort)
    assert "1 scored again that had changed or were not read" in second[0]
    assert second[1] == "out: 1 nsfw"
    undoing = second[-1].removeprefix("undo with: open-nsfw ").split()
    shutil.move("out", "renamed")
    gone = command(*undoing[:-1], here / "renamed" / Path(undoing[-1]).name)
    assert gone[0] == (
        f"{here / 'out'} was renamed to {here / 'renamed'}: the files are looked for "
        "there"
    )
    assert Path("in/a.png").read_bytes() == data[HIGH]
    empty = command("batch", "empty.txt", "-o", "e.jsonl", *sort, status=1)
    assert not empty
    put("empty.txt", b"")
    assert command("batch", "empty.txt", "-o", "e.jsonl", *sort)[1] == "out: no files"


KILLED = """
import os, signal, sys
from pathlib import Path
from open_nsfw_tf import moves
from open_nsfw_tf.cli import main
run = moves.Journal._step
def step(self, number, *rest):
    if number == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return run(self, number, *rest)
moves.Journal._step = step
sys.exit(main())
"""


def test_kill_9_between_the_manifest_and_a_move(
    data: dict[str, bytes], threshold: float
) -> None:
    for name in ("a", "b", "c"):
        put(f"in/{name}.png", data[LOW])
    batch = ["batch", "in", "-o", "t.csv", "--resume", "--move-to", "out"]
    batch += ["--threshold", str(threshold)]
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, *batch], check=False, capture_output=True
    )
    assert killed.returncode == -9
    assert names("out/sfw") == ["a.png"]
    assert command(*batch)[1] == "out: 2 sfw"
    manifests = sorted(Path("out").glob("undo-*"))
    assert len(manifests) == 2
    for manifest in manifests:
        command("dataset", "undo", "--apply", manifest)
    assert names("in") == ["a.png", "b.png", "c.png"]
