"""Batches: every source, bad input among good, and runs that are ended in all ways."""

import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tarfile
import time
import warnings
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import GOLDEN, HEEDING, SCORE_TOLERANCE
from PIL import Image
from test_files import APPLE_DOUBLE, heif
from test_tables_append import grown

from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import BatchOptions, Summary, score_batch
from open_nsfw_tf.batch.item import MAX_BYTES, SELECT
from open_nsfw_tf.batch.sorting import check_destination
from open_nsfw_tf.batch.sources import count, items
from open_nsfw_tf.files import by_content
from open_nsfw_tf.tables import Table, read_table

ROOT = Path(__file__).parent.parent
OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
ODD = "two\nlines \udcff.png"
ALL = BatchOptions(select="all")


@pytest.fixture
def small() -> bytes:
    return pictures.encoded(pictures.sample("coffee.png").resize((64, 48)), "PNG")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bytes) -> Path:
    """The current folder, with pictures of all sorts in `photos`."""
    monkeypatch.chdir(tmp_path)
    inner = tmp_path / "photos" / "inner"
    inner.mkdir(parents=True)
    shutil.copy(pictures.path("coffee.png"), "photos/coffee.png")
    shutil.copy(pictures.path("rocket.jpg"), "photos/rocket.jpg")
    Path("photos/bad.jpg").write_bytes(b"no picture")
    Path("photos/empty.jpg").touch()
    Path("photos/notes.md").write_text("BM is no bitmap")
    (inner / "no_suffix").write_bytes(small)
    (inner / ODD).write_bytes(small)
    (inner / "loop").symlink_to("..")
    (inner / "itself.jpg").symlink_to("itself.jpg")
    return tmp_path


def scored(
    classifier: Classifier, *sources: str, output: str = "t.csv", **options: Any
) -> tuple[Table, Summary]:
    summary = score_batch(classifier, sources, output, mode="overwrite", **options)
    table = read_table(output)
    assert len(table) == summary.rows
    for has_score, error in zip(
        ~np.isnan(table.columns["nsfw"]), table.errors, strict=True
    ):
        assert has_score == (error is None)
    return table, summary


def errors(table: Table) -> dict[str, str]:
    pairs = zip(table.paths, table.errors, strict=True)
    return {path: error for path, error in pairs if error is not None}


@SUFFIXES
def test_a_folder(folder: Path, classifier: Classifier, suffix: str) -> None:
    steps: list[int] = []
    table, summary = scored(
        classifier,
        "photos",
        output=f"t{suffix}",
        options=BatchOptions(batch_size=2),
        progress=steps.append,
    )
    assert table.paths == [
        "photos/bad.jpg",
        "photos/coffee.png",
        "photos/empty.jpg",
        "photos/inner/itself.jpg",
        "photos/inner/loop",
        "photos/inner/no_suffix",
        f"photos/inner/{ODD}",
        "photos/rocket.jpg",
    ]
    found = errors(table)
    assert found["photos/bad.jpg"].startswith("not a picture this library reads")
    assert found["photos/empty.jpg"].startswith("empty: expected a picture")
    assert found["photos/inner/itself.jpg"] == "Too many levels of symbolic links"
    assert found["photos/inner/loop"].startswith("a link to a folder is not followed")
    assert len(found) == summary.failed == 4
    for row, name in ((1, "coffee.png"), (7, "rocket.jpg")):
        golden = GOLDEN["samples"][name]["nsfw"]
        assert abs(table.columns["nsfw"][row] - golden) <= SCORE_TOLERANCE
    assert sum(steps) == 8
    assert summary.finished
    assert count(["photos"]) == 8


@pytest.mark.parametrize("select", SELECT)
def test_what_is_a_picture(folder: Path, select: str) -> None:
    found = {Path(item.path).name for item in items(["photos"], _all, select)}
    assert ("no_suffix" in found) == (select != "suffix")
    assert ("bad.jpg" in found) == (select != "content")
    assert ("notes.md" in found) == (select == "all")
    assert "coffee.png" in found


def _all(path: str) -> bool:
    return True


def test_contents_of_pictures() -> None:
    made = {
        format: pictures.encoded(Image.new("RGB", (20, 20)), format)
        for format in [
            "JPEG",
            "PNG",
            "GIF",
            "WEBP",
            "BMP",
            "TIFF",
            "AVIF",
            "JPEG2000",
            "ICO",
            "PPM",
        ]
    }
    assert {name for name, data in made.items() if by_content(data[:512])} == set(made)
    others = (
        b"",
        b"BM",
        b"BMI is a text",
        b"P1",
        b"PK\3\4",
        b"\0\0\1\0",
        b"RIFFxxxxWAVE",
    )
    assert not any(map(by_content, others))


def test_hashes(folder: Path, classifier: Classifier) -> None:
    scored(classifier, "photos", output="t.jsonl", options=BatchOptions(hashes=True))
    rows = [json.loads(line) for line in Path("t.jsonl").read_text().splitlines()]
    found = {row["path"]: row["sha256"] for row in rows}
    for name in ("photos/coffee.png", "photos/bad.jpg"):
        assert found[name] == sha256(Path(name).read_bytes()).hexdigest()
    assert found["photos/inner/loop"] is None


def test_globs_and_repeated_sources(folder: Path, classifier: Classifier) -> None:
    table, summary = scored(classifier, "photos/*.png", "photos", "photos/**/*.jpg")
    assert table.paths[0] == "photos/coffee.png"
    assert len(set(table.paths)) == len(table.paths) == 8
    assert summary.skipped == 5
    globs = {
        "**/no_suffix": ["photos/inner/no_suffix"],
        "ph*/**/c*.png": ["photos/coffee.png"],
        f"{folder}/photos/inner/**": sorted(
            f"{folder}/photos/inner/{name}" for name in ("itself.jpg", "no_suffix", ODD)
        ),
        "photos/*": [
            f"photos/{name}"
            for name in ["bad.jpg", "coffee.png", "empty.jpg", "notes.md"]
        ]
        + ["photos/rocket.jpg"],
    }
    for pattern, paths in globs.items():
        assert sorted(item.path for item in items([pattern], _all)) == paths


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\0"])
def test_lists(folder: Path, classifier: Classifier, end: bytes) -> None:
    lines = [b"photos/coffee.png", b"", b"photos/gone.jpg", b"photos", b""]
    if end == b"\0":
        lines.append(os.fsencode(f"photos/inner/{ODD}"))
    Path("list.txt").write_bytes(end.join(lines))
    table, _ = scored(classifier, "list.txt")
    again, _ = scored(
        classifier, "-", output="u.csv", stdin=io.BytesIO(Path("list.txt").read_bytes())
    )
    assert table.paths[:3] == ["photos/coffee.png", "photos/gone.jpg", "photos"]
    assert table.paths == again.paths
    assert len(table) == (4 if end == b"\0" else 3)
    assert errors(table) == errors(again)
    assert errors(table)["photos/gone.jpg"] == "No such file or directory"


def test_a_list_that_is_none(folder: Path) -> None:
    Path("list.txt").write_bytes(b"x" * 200_000)
    (item,) = items(["list.txt"], _all)
    assert item.path == "list.txt"
    assert item.error == "a path is longer than 65536 bytes"


def tar(path: str, mode: str = "w") -> bytes:
    with tarfile.open(path, mode) as archive:  # type: ignore[call-overload]
        archive.add("photos")
    return Path(path).read_bytes()


@pytest.mark.parametrize("name", ["a.tar", "a.tgz", "a.tar.xz", "a.zip"])
def test_archives(folder: Path, classifier: Classifier, name: str) -> None:
    if name == "a.zip":
        with zipfile.ZipFile(name, "w") as archive:
            for path in ("coffee.png", "bad.jpg", "notes.md", "inner/no_suffix"):
                archive.write(f"photos/{path}")
        data = None
    else:
        data = tar(name, {"a.tar": "w", "a.tgz": "w:gz", "a.tar.xz": "w:xz"}[name])
    table, _ = scored(classifier, name, options=BatchOptions(hashes=True))
    scores = dict(zip(table.paths, table.columns["nsfw"], strict=True))
    golden = GOLDEN["samples"]["coffee.png"]["nsfw"]
    assert abs(scores[f"{name}/photos/coffee.png"] - golden) <= SCORE_TOLERANCE
    assert f"{name}/photos/inner/no_suffix" in scores
    assert f"{name}/photos/notes.md" not in scores
    bad = errors(table)[f"{name}/photos/bad.jpg"]
    assert bad.startswith("not a picture this library reads")
    if data is None:
        with pytest.raises(ValueError, match="a zip cannot be read from a pipe"):
            list(items(["-"], _all, stdin=io.BytesIO(Path(name).read_bytes())))
    else:
        link = errors(table)[f"{name}/photos/inner/itself.jpg"]
        assert link == "a link within the archive is not followed"
        piped = [item.path for item in items(["-"], _all, stdin=io.BytesIO(data))]
        assert piped == [path.replace(name, "-", 1) for path in table.paths]
    assert count([name]) is None


def test_archives_that_are_cut_are_reported(folder: Path) -> None:
    whole = tar("a.tar")
    with tarfile.open("a.tar") as archive:
        ends = [member.offset for member in archive.getmembers()]
    for size in (*ends[1:], ends[2] + 100, ends[2] + 700, len(whole) // 2):
        Path("cut.tar").write_bytes(whole[:size])
        *_, last = items(["cut.tar"], _all)
        assert last.path == "cut.tar"
        assert str(last.error).startswith("cut or broken after ")
    assert "a.tar" not in {item.path for item in items(["a.tar"], _all)}
    zipped = tar("a.tgz", "w:gz")
    Path("cut.tgz").write_bytes(zipped[: len(zipped) // 2])
    *_, last = items(["cut.tgz"], _all)
    assert str(last.error).startswith("cut or broken after ")
    Path("cut.zip").write_bytes(b"PK\x03\x04" + whole[:1000])
    (only,) = items(["cut.zip"], _all)
    assert str(only.error).startswith("cut or broken zip")


def test_huge_members_are_refused(folder: Path, small: bytes) -> None:
    zeros = bytes(MAX_BYTES + 1)
    with zipfile.ZipFile("bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("huge.jpg", zeros)
        archive.writestr("fine.png", small)
    with tarfile.open("bomb.tgz", "w:gz", compresslevel=1) as archive:
        for name, data in (("huge.jpg", zeros), ("fine.png", small)):
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    for name in ("bomb.zip", "bomb.tgz"):
        huge, fine = items([name], _all)
        assert huge.error == "more than 64 MiB in an archive: unpack it"
        assert huge.picture == b""
        assert fine.picture == small


def archive_of(name: str, members: list[tuple[str, bytes]]) -> bytes:
    """A zip or a tar of members, whose names may come again; its bytes."""
    if name.endswith(".zip"):
        with zipfile.ZipFile(name, "w") as zipped, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # two members of one name
            for member, data in members:
                zipped.writestr(member, data)
    else:
        with tarfile.open(name, "w:gz" if name.endswith("z") else "w") as tarred:
            for member, data in members:
                info = tarfile.TarInfo(member)
                info.size = len(data)
                tarred.addfile(info, io.BytesIO(data))
    return Path(name).read_bytes()


NUMBERED = {  # names of members, and what they are called in the table
    "three": (["d/a.png", "d/a.png", "d/a.png"], ["d/a.png", "d/a-2.png", "d/a-3.png"]),
    "before": (["a-2.png", "a.png", "a.png"], ["a-2.png", "a.png", "a-3.png"]),
    "after": (["a.png", "a.png", "a-2.png"], ["a.png", "a-3.png", "a-2.png"]),
    "both": (
        ["a.png", "a.png", "a-2.png", "a-2.png"],
        ["a.png", "a-3.png", "a-2.png", "a-2-2.png"],
    ),
    "no suffix": (["x", "x"], ["x", "x-2"]),
}


@pytest.mark.parametrize("archive", ["a.zip", "a.tar", "a.tgz"])
@pytest.mark.parametrize("case", NUMBERED)
def test_no_member_hides_another_of_its_name(
    folder: Path, archive: str, case: str
) -> None:
    members, paths = NUMBERED[case]
    data = [
        pictures.encoded(Image.new("RGB", (9, 9 + number)), "PNG")
        for number in range(len(members))
    ]
    archive_of(archive, list(zip(members, data, strict=True)))
    expected = [f"{archive}/{path}" for path in paths]
    found = list(items([archive], _all))
    assert [item.path for item in found] == expected
    assert [item.picture for item in found] == data
    # Whatever had its row in an earlier run, the others are called the same.
    for done in range(len(members)):
        left = items([archive], lambda path, done=done: path != expected[done])
        assert [item.path for item in left] == expected[:done] + expected[done + 1 :]


@pytest.mark.parametrize("kind", [b"Z", b"7"])
def test_a_member_of_an_odd_type_is_read_as_a_file(
    folder: Path, small: bytes, kind: bytes
) -> None:
    """Unpacking makes a file of what it does not know: nothing can be hidden so."""
    data = bytearray(archive_of("a.tar", [("first.png", small), ("last.png", small)]))
    data[156:157] = kind
    data[148:156] = b" " * 8  # the header's checksum
    data[148:156] = b"%06o\0 " % sum(data[:512])
    Path("a.tar").write_bytes(data)
    found = list(items(["a.tar"], _all))
    assert [item.path for item in found] == ["a.tar/first.png", "a.tar/last.png"]
    assert all(item.picture == small for item in found)


@SUFFIXES
@pytest.mark.parametrize("letter", ["n", "\udcff", "\U0001f600", '"'])
def test_a_member_whose_name_no_table_could_hold(
    folder: Path, classifier: Classifier, small: bytes, suffix: str, letter: str
) -> None:
    names = [f"{letter * 200_000}{end}.png" for end in "ab"] + ["c.png"]
    archive_of("a.tar", [(name, small) for name in names])
    output = f"t{suffix}"
    assert score_batch(classifier, ["a.tar"], output).rows == 3
    again = score_batch(classifier, ["a.tar"], output, mode="resume")
    assert (again.rows, again.skipped) == (0, 3)
    table = read_table(output)
    assert table.errors == [None] * 3
    assert table.paths[0].startswith(f"a.tar/{letter * 1000}")
    assert table.paths[1] == f"{table.paths[0]}-2"
    assert table.paths[2] == "a.tar/c.png"


def test_members_of_one_name_in_a_pipe(folder: Path, small: bytes) -> None:
    names = ["a.png", "a.png", "a-2.png", "a.png"]
    piped = io.BytesIO(archive_of("a.tar", [(name, small) for name in names]))
    found = [item.path for item in items(["-"], _all, stdin=Unseekable(piped))]
    assert found == ["-/a.png", "-/a-2.png", "-/a-2-2.png", "-/a-3.png"]


class Unseekable(io.RawIOBase):
    """A pipe, which can be read once."""

    def __init__(self, data: io.BytesIO) -> None:
        self.data = data

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self.data.readinto(buffer)


@SUFFIXES
def test_resume_with_members_of_one_name(
    folder: Path, classifier: Classifier, small: bytes, suffix: str
) -> None:
    other = Path("photos/rocket.jpg").read_bytes()
    archive_of("a.zip", [("a.png", small), ("a.png", other), ("a.png", b"no picture")])
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 1

    table = f"t{suffix}"
    assert score_batch(classifier, ["a.zip"], table, stop=stop).rows == 1
    again = score_batch(classifier, ["a.zip"], table, mode="resume")
    assert (again.rows, again.skipped) == (2, 1)
    last = score_batch(classifier, ["a.zip"], table, mode="resume")
    assert (last.rows, last.skipped) == (0, 3)
    found = read_table(table)
    assert found.paths == [f"a.zip/{name}.png" for name in ("a", "a-2", "a-3")]
    golden = GOLDEN["samples"]["rocket.jpg"]["nsfw"]
    assert abs(found.columns["nsfw"][1] - golden) <= SCORE_TOLERANCE
    assert list(errors(found)) == ["a.zip/a-3.png"]


@pytest.mark.parametrize("archive", [None, "a.zip", "a.tar"])
def test_what_is_passed_over_is_counted(
    folder: Path,
    classifier: Classifier,
    small: bytes,
    archive: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    files = {
        "in/IMG_1.HEIC": heif(b"heic", b"mif1"),
        "in/deep/IMG_2.heic": heif(b"mif1", b"heic"),
        "in/notes.md": b"no picture",
        "in/README": b"no picture",
        "in/._photo.jpg": APPLE_DOUBLE,
        "__MACOSX/in/._IMG_1.HEIC": APPLE_DOUBLE,
        "in/.DS_Store": b"\0\0\0\1Bud1",
        "in/Thumbs.db": b"\xd0\xcf\x11\xe0",
        "in/photo.jpg": small,
        "in/._hidden.jpg": small,  # which its name does not hide
    }
    if archive is None:
        source = "some"
        for name, data in files.items():
            Path(source, name).parent.mkdir(exist_ok=True, parents=True)
            Path(source, name).write_bytes(data)
    else:
        source = archive
        archive_of(archive, list(files.items()))
    table, summary = scored(classifier, source)
    assert sorted(table.paths) == [
        f"{source}/in/._hidden.jpg",
        f"{source}/in/photo.jpg",
    ]
    assert summary.failed == 0
    assert summary.passed_over == {
        ".heic": 2,
        ".md": 1,
        "without a suffix": 1,
        "of the operating system": 4,
    }
    _, everything = scored(classifier, source, options=ALL)
    assert everything.rows == len(files)
    assert not everything.passed_over


@SUFFIXES
def test_the_runs_own_files_are_not_counted(
    folder: Path, classifier: Classifier, suffix: str
) -> None:
    Path("photos/inner/table").symlink_to("..")
    for options in (BatchOptions(), ALL):
        output = f"photos/inner/table/t{suffix}"
        table, summary = scored(classifier, "photos", output=output, options=options)
        expected = {} if options is ALL else {".md": 1}
        assert summary.passed_over == expected
        assert not [path for path in table.paths if f"t{suffix}" in path]
        Path(output).unlink()
    Path("photos/link.csv").symlink_to("inner/t.csv")
    _, summary = scored(classifier, "photos", output="photos/link.csv")
    assert summary.passed_over == {".md": 1}


def test_what_a_list_names_of_the_operating_system_is_passed_over(
    folder: Path, classifier: Classifier, small: bytes
) -> None:
    """As `find` on a disk that a Mac has written gives it."""
    Path("disk").mkdir()
    for name, data in {
        "._photo.jpg": APPLE_DOUBLE,
        "photo.jpg": small,
        "._hidden.jpg": small,
        "Thumbs.db": b"\xd0\xcf\x11\xe0",
        "notes.md": b"no picture",
    }.items():
        Path("disk", name).write_bytes(data)
    names = sorted(os.listdir("disk"))
    Path("list.txt").write_text("".join(f"disk/{name}\n" for name in names))
    table, summary = scored(classifier, "list.txt")
    assert summary.passed_over == {"of the operating system": 2}
    assert table.paths == ["disk/._hidden.jpg", "disk/notes.md", "disk/photo.jpg"]
    assert list(errors(table)) == ["disk/notes.md"]
    _, everything = scored(classifier, "list.txt", options=ALL)
    assert everything.rows == 5


def test_a_heic_that_is_named_has_its_row(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    Path("a.HEIC").write_bytes(heif(b"heic"))
    Path("list.txt").write_text("a.HEIC\n")
    for source in ("a.HEIC", "list.txt", "*.HEIC"):
        assert [item.path for item in items([source], _all)] == ["a.HEIC"]


def test_the_command_says_what_it_passed_over(folder: Path) -> None:
    Path("ph").mkdir()
    Path("ph/IMG_1.HEIC").write_bytes(heif(b"heic"))
    Path("ph/._IMG_1.HEIC").write_bytes(APPLE_DOUBLE)
    code = (
        "import sys; sys.modules['pillow_heif'] = None; "
        "from open_nsfw_tf.cli import main; main()"
    )
    done = run(sys.executable, "-c", code, "batch", "ph", "-o", "t.csv")
    assert done.returncode == 0
    assert done.stdout.startswith("t.csv: 0 pictures, ")
    assert done.stdout.endswith(
        "; passed over as no pictures: 1 .heic (to read them: pip install "
        "'open_nsfw_tf[heif]'), 1 of the operating system\n"
    )


def test_a_picture_on_standard_input(
    folder: Path, classifier: Classifier, small: bytes
) -> None:
    table, _ = scored(classifier, "-", stdin=io.BytesIO(small))
    assert table.paths == ["-"]
    assert table.errors == [None]


def test_a_folder_that_goes_away(folder: Path) -> None:
    found = items(["photos"], _all)
    next(found)
    shutil.rmtree("photos/inner")
    gone = {item.path: item.error for item in found}
    assert gone["photos/inner"] == "No such file or directory"
    assert "photos/rocket.jpg" in gone


def test_sources_that_are_none(folder: Path, classifier: Classifier) -> None:
    Path("empty").mkdir()
    for sources, words in (
        ([], "at least one source"),
        (["photos", "gone"], "gone: no such file or folder"),
        (["photos/*.xyz"], "no glob that matches"),
        (["-", "-"], "only once"),
    ):
        with pytest.raises(ValueError, match=words):
            score_batch(classifier, sources, "t.csv")
    with pytest.raises(ValueError, match="expected select either, suffix"):
        score_batch(
            classifier, ["photos"], "t.csv", options=BatchOptions(select="some")
        )
    assert not Path("t.csv").exists()
    table, summary = scored(classifier, "empty")
    assert len(table) == summary.rows == 0


def test_stop_finishes_what_is_in_flight(folder: Path, classifier: Classifier) -> None:
    asked: list[bool] = []

    def stop() -> bool:
        asked.append(True)
        return len(asked) > 3

    first = score_batch(classifier, ["photos"], "t.parquet", stop=stop)
    assert (first.rows, first.finished) == (3, False)
    second = score_batch(classifier, ["photos"], "t.parquet", mode="resume")
    assert (second.rows, second.skipped, second.finished) == (5, 3, True)
    whole, _ = scored(classifier, "photos")
    assert read_table("t.parquet").paths == whole.paths


def test_a_destination_within_a_source_is_refused(folder: Path) -> None:
    with pytest.raises(ValueError, match="not within the source photos"):
        check_destination(Path("photos/inner/../sorted"), ["photos"])
    with pytest.raises(ValueError, match="not within the source photos"):
        check_destination(Path("photos/sorted"), ["photos/**/*.jpg"])
    for pattern in ("photos/*/*.jpg", "*/sfw/*.jpg", f"{Path.cwd()}/p*/[ns]*/*"):
        with pytest.raises(ValueError, match="not within the source"):
            check_destination(Path("photos"), [pattern])
    for pattern in ("photos/*.jpg", "photos/*/*.jpg", "other/*/*/*.jpg"):
        check_destination(Path("photos/sorted"), [pattern])


# -- the command, as a process


@pytest.fixture
def many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, small: bytes) -> list[str]:
    """The paths of 80 pictures in the folder `many`, in the order of a walk."""
    monkeypatch.chdir(tmp_path)
    Path("many").mkdir()
    names = [f"many/{i:03d}.png" for i in range(79)] + [f"many/{ODD}"]
    for name in names:
        Path(name).write_bytes(small)
    Path(names[60]).write_bytes(b"no picture")
    return names


def start(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", HEEDING, str(OPEN_NSFW), "batch", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def until(condition: Callable[[], bool], process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 300
    while not condition() and process.poll() is None:
        assert time.monotonic() < end
        time.sleep(0.001)


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


@SUFFIXES
def test_kill_minus_nine(many: list[str], suffix: str) -> None:
    table = Path(f"t{suffix}")
    generator = random.Random(suffix)
    killed = 0
    for _ in range(3):
        with start("many", "-o", str(table), "--resume") as process:
            more = size(grown(table)) + generator.randrange(1, 2000)
            until(lambda more=more: size(grown(table)) >= more, process)
            process.kill()
            process.communicate()
            killed += process.returncode == -signal.SIGKILL
    assert killed
    with start("many", "-o", str(table), "--resume") as process:
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (0, "")
    assert out.startswith(f"{table}: ")
    found = read_table(table)
    assert found.paths == many
    assert list(errors(found)) == [many[60]]
    assert os.listdir(".") in ([table.name, "many"], ["many", table.name])


def test_interrupt(many: list[str]) -> None:
    with start("many", "-o", "t.csv") as process:
        until(lambda: size(Path("t.csv")) > 300, process)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert process.returncode == 130
    assert not out
    assert "finishing the pictures in flight" in err
    assert "--resume" in err
    rows = len(read_table("t.csv"))
    assert f"stopped: {rows} new rows are safe" in err
    assert 0 < rows < len(many)
    with start("many", "-o", "t.csv", "--resume") as process:
        out, _ = process.communicate(timeout=300)
    assert process.returncode == 0
    assert f"{len(many) - rows} pictures, " in out
    assert read_table("t.csv").paths == many


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        list(map(str, command)),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert "Traceback" not in done.stderr
    return done


def test_the_command_and_what_follows(folder: Path) -> None:
    done = run(OPEN_NSFW, "batch", "photos", "-o", "t.csv", "--hash")
    assert done.returncode == 0
    assert done.stdout.startswith("t.csv: 8 pictures, 4 without a score; ")
    assert not done.stderr  # quiet: this is no terminal
    again = run(OPEN_NSFW, "batch", "photos", "-o", "t.csv")
    assert again.returncode == 1
    assert again.stderr.startswith("error: t.csv exists")
    alone = run(OPEN_NSFW, "batch", "photos", "-o", "u.csv", "--action", "link")
    assert alone.returncode == 2
    assert "--action link needs --move-to and --threshold." in alone.stderr
    both = ("--resume", "--overwrite")
    assert run(OPEN_NSFW, "batch", "photos", "-o", "t.csv", *both).returncode == 2

    ranked = run(OPEN_NSFW, "rank", "t.csv", "--top", "2").stdout.splitlines()
    assert [float(line.split()[0]) for line in ranked] == sorted(
        (float(line.split()[0]) for line in ranked), reverse=True
    )
    (best,) = run(
        OPEN_NSFW, "rank", "t.csv", "--top", "1", "--json"
    ).stdout.splitlines()
    assert json.loads(best)["nsfw"] == np.nanmax(read_table("t.csv").columns["nsfw"])

    places = ("--move-to", "sorted", "--threshold", "0.8")
    moved = run(OPEN_NSFW, "batch", "photos", "-o", "m.parquet", *places)
    counts, undo = moved.stdout.splitlines()[1:]
    assert counts == "sorted: 4 sfw"
    assert Path("sorted/sfw/rocket.jpg").exists()
    assert undo.startswith("undo with: open-nsfw dataset undo --apply ")
    assert run(OPEN_NSFW, *undo.split()[3:]).returncode == 0
    assert sorted(path.name for path in Path("sorted").iterdir()) == [
        Path(undo.split()[-1]).name
    ]
    assert Path("photos/rocket.jpg").exists()


def test_the_originals_tools(folder: Path) -> None:
    tool = (sys.executable, ROOT / "tools" / "batch_classify.py")
    done = run(*tool, "-s", "photos", "-o", "a.csv", "-b", "4", "-l", "yahoo")
    assert done.returncode == 0, done.stderr
    table = read_table("a.csv")
    scored = [i for i, error in enumerate(table.errors) if error is None]
    rows = ["File\tSFW Score\tNSFW Score"] + [
        f"{table.paths[i]}\t{table.columns['sfw'][i]}\t{table.columns['nsfw'][i]}"
        for i in scored
        if "\n" not in table.paths[i]
    ]
    Path("b.txt").write_text("\n".join(rows))
    judge = (sys.executable, ROOT / "tools" / "eval.py", "a.csv", "b.txt")
    refused = run(*judge)
    assert refused.returncode == 1
    assert refused.stderr.startswith("error: the second table lacks 5 of 8 pictures")
    compared = run(*judge, "--common", "--top", "1")
    assert compared.returncode == 0
    assert "nsfw: 3 pictures" in compared.stdout
    assert "correlation 1.000000000" in compared.stdout


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    import pty

    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)


def test_progress_on_a_terminal(folder: Path, terminal: tuple[int, int]) -> None:
    ours, theirs = terminal
    with subprocess.Popen(
        [OPEN_NSFW, "batch", "photos", "-o", "t.csv"],
        stdout=subprocess.PIPE,
        stderr=theirs,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:
        os.close(theirs)
        shown = b""
        try:
            while data := os.read(ours, 4096):
                shown += data
        except OSError:  # Linux's word for the end of a terminal
            pass
        process.communicate(timeout=300)
    assert process.returncode == 0
    assert b"8/8" in shown
    assert b"left" in shown


def test_a_closed_standard_error_is_not_the_table(tmp_path: Path) -> None:
    """What is opened first would be number 2, where C libraries print."""
    shutil.copy(pictures.path("coffee.png"), tmp_path)
    Image.effect_noise((300, 300), 50).save(
        tmp_path / "cut.tif", compression="tiff_lzw"
    )
    whole = (tmp_path / "cut.tif").read_bytes()
    (tmp_path / "cut.tif").write_bytes(whole[:-2000] + b"\0" * 2000)
    table = tmp_path / "t.csv"
    command = f"exec '{OPEN_NSFW}' batch '{tmp_path}' -o '{table}' 2>&-"
    subprocess.run(["sh", "-c", command], check=True, stdout=subprocess.DEVNULL)
    assert len(read_table(table).paths) == 2


def test_lists_of_windows(tmp_path: Path) -> None:
    path = pictures.path("coffee.png")
    (tmp_path / "utf8.txt").write_bytes(f"{path}\r\n".encode("utf-8-sig"))
    (tmp_path / "utf16.txt").write_text(f"{path}\n", encoding="utf-16")
    (tmp_path / "cut.txt").write_bytes(f"{path}\n".encode("utf-16")[:-1])
    names = [str(tmp_path / name) for name in ("utf8.txt", "utf16.txt", "cut.txt")]
    rows = list(items(names, lambda name: True))
    assert [row.path for row in rows] == [str(path), str(path), names[2]]
    assert "UTF-16" in str(rows[2].error)
