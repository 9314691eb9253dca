"""What `--resume` tries again, and one row for each file however it is named."""

import os
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import pictures
import pytest
from PIL import Image
from test_batch import OPEN_NSFW, SUFFIXES, archive_of
from test_files import heif

from open_nsfw_tf import Classifier, ImageError, image
from open_nsfw_tf.batch import BatchOptions, Summary, score_batch
from open_nsfw_tf.batch.item import file_key
from open_nsfw_tf.batch.scoring import Unscored
from open_nsfw_tf.batch.sources import count, items
from open_nsfw_tf.errors import NotReadError
from open_nsfw_tf.files import LONGEST_PATH, make_stamp
from open_nsfw_tf.tables import STAMP, read_table
from open_nsfw_tf.tables.append import TableWriter


@pytest.fixture
def small() -> bytes:
    return pictures.encoded(pictures.sample("coffee.png").resize((64, 48)), "PNG")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(path: str, data: bytes) -> None:
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    Path(path).write_bytes(data)


def resumed(
    classifier: Classifier, *sources: str, output: str = "t.csv", **options: Any
) -> Summary:
    return score_batch(classifier, sources, output, mode="resume", **options)


def errors(output: str = "t.csv") -> dict[str, str | None]:
    table = read_table(output)
    assert len(set(table.paths)) == len(table.paths)
    return dict(zip(table.paths, table.errors, strict=True))


# -- what is tried again


@SUFFIXES
def test_a_missing_library_is_no_fault_of_the_picture(
    here: Path,
    classifier: Classifier,
    small: bytes,
    suffix: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pillow_heif = pytest.importorskip("pillow_heif")
    picture = Image.effect_noise((64, 48), 60).convert("RGB")
    pillow_heif.from_pillow(picture).save("in.heic")
    archive_of("a.zip", [("b.heic", Path("in.heic").read_bytes())])
    put("bad.jpg", b"no picture")
    put("list.txt", b"in.heic\nbad.jpg\n")
    sources, output = ("list.txt", "a.zip"), f"t{suffix}"
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        for run in range(3):
            # The member of the archive is passed over where nobody could read it.
            summary = resumed(classifier, *sources, output=output)
            assert (summary.rows, summary.skipped) == ((2, 0), (1, 1))[run > 0]
            assert summary.again == (run > 0)
            assert "need pillow-heif" in str(errors(output)["in.heic"])
        resumed(classifier, "a.zip", output=output, options=BatchOptions(select="all"))
        assert "need pillow-heif" in str(errors(output)["a.zip/b.heic"])
    summary = resumed(classifier, *sources, output=output)
    assert (summary.rows, summary.again, summary.skipped) == (2, 2, 1)
    found = errors(output)
    assert len(found) == 3
    assert found["in.heic"] is found["a.zip/b.heic"] is None
    assert str(found["bad.jpg"]).startswith("not a picture")
    assert resumed(classifier, *sources, output=output).rows == 0


def test_permissions_are_no_fault_of_the_picture(
    nobodys: Path, classifier: Classifier, small: bytes
) -> None:
    folder, output = str(nobodys / "in"), str(nobodys / "t.jsonl")
    for name in ("a.png", "closed/b.png", "c.png", "closed.zip"):
        put(f"{folder}/{name}", small)
    archive_of(f"{folder}/closed.zip", [("d.png", small)])
    closed = [f"{folder}/{name}" for name in ("c.png", "closed", "closed.zip")]
    sources = (folder, f"{folder}/closed.zip")
    for path in closed:
        os.chmod(path, 0)
    for run in range(3):
        summary = resumed(classifier, *sources, output=output)
        counts = summary.rows, summary.failed, summary.again
        # The folder is tried too, and its row stands for it as it is.
        assert counts == ((4, 3, 0), (2, 2, 2))[run > 0]
        assert {path for path, error in errors(output).items() if error} == {*closed}
    for path in closed:
        os.chmod(path, 0o700)
    summary = resumed(classifier, *sources, output=output)
    assert (summary.rows, summary.failed, summary.skipped) == (3, 0, 1)
    # Nothing is left of what was wrong with the folder and the archive.
    assert errors(output) == dict.fromkeys(
        f"{folder}/{name}"
        for name in ("a.png", "c.png", "closed/b.png", "closed.zip/d.png")
    )


def test_a_vanished_file_is_tried_when_it_is_back(
    here: Path, classifier: Classifier, small: bytes
) -> None:
    put("list.txt", b"a.png\nbad.png\n")
    put("bad.png", small[:200])
    resumed(classifier, "list.txt")
    assert errors()["a.png"] == "No such file or directory"
    assert resumed(classifier, "list.txt").rows == 0
    put("a.png", small)
    summary = resumed(classifier, "list.txt")
    assert (summary.rows, summary.again, summary.skipped) == (1, 1, 1)
    assert errors()["a.png"] is None


def test_a_cut_archive_that_is_whole_again(
    here: Path, classifier: Classifier, small: bytes
) -> None:
    whole = archive_of("a.tar", [("a.png", small), ("b.png", small)])
    put("a.tar", whole[:700])
    resumed(classifier, "a.tar")
    assert "a.tar" in errors()
    assert resumed(classifier, "a.tar").rows == 0  # it is the archive's own fault
    put("a.tar", whole)
    resumed(classifier, "a.tar")
    assert errors() == {"a.tar/a.png": None, "a.tar/b.png": None}


def test_whose_fault_an_error_is(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("cut.jpg", pictures.path("rocket.jpg").read_bytes()[:3000])
    put("a.heic", heif(b"heic"))
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    for picture, kind in {
        "gone.jpg": NotReadError,
        "a.heic": NotReadError,
        "cut.jpg": ImageError,
        ".": ImageError,
    }.items():
        with pytest.raises(ImageError) as caught:
            image.load_rgb(picture)
        assert type(caught.value) is kind
        assert str(caught.value).startswith(f"{picture}: ")

    def no_memory(*arguments: object) -> None:
        raise MemoryError

    monkeypatch.setattr(image.decode, "_decode", no_memory)
    with pytest.raises(NotReadError, match="cut.jpg: not enough memory"):
        image.load_rgb("cut.jpg")


def test_a_picture_of_a_kind_that_this_pillow_lacks(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put("a.avif", b"\0\0\0\x20ftypavif" + bytes(600))
    put("b.avif", b"no picture")
    Image.init()
    monkeypatch.setitem(Image.OPEN, "AVIF", (None, None))
    for path, kind in {"a.avif": NotReadError, "b.avif": ImageError}.items():
        with pytest.raises(ImageError, match="no decoder for AVIF") as caught:
            image.load_rgb(path)
        assert type(caught.value) is kind


@SUFFIXES
def test_an_archive_of_a_far_future(
    here: Path, classifier: Classifier, small: bytes, suffix: str
) -> None:
    archive_of("a.zip", [("a.png", small)])
    os.utime("a.zip", (0, 1 << 34))  # 2514, or what the disk can keep
    for rows in (1, 0):
        assert resumed(classifier, "a.zip", output=f"t{suffix}").rows == rows
    assert make_stamp(1, 1 << 64) == (1, (1 << 63) - 1)


def test_a_list_that_is_repaired(
    here: Path, classifier: Classifier, small: bytes
) -> None:
    put("a.png", small)
    put("list.txt", b"a.png\n" + b"x" * (LONGEST_PATH + 1))
    for _ in range(2):
        resumed(classifier, "list.txt")
        assert errors().keys() == {"a.png", "list.txt"}
    put("list.txt", b"a.png\n")
    resumed(classifier, "list.txt")
    assert errors() == {"a.png": None}


def test_a_folder_below_a_glob_that_can_be_read_again(
    nobodys: Path, classifier: Classifier, small: bytes
) -> None:
    folder, output = str(nobodys / "in"), str(nobodys / "t.csv")
    put(f"{folder}/closed/a.png", small)
    put(f"{folder}/b.jpg", small)
    os.chmod(f"{folder}/closed", 0)
    globs = f"{folder}/**/*.png", f"{folder}/**/*.jpg"
    resumed(classifier, *globs, output=output)
    assert errors(output).keys() == {f"{folder}/closed", f"{folder}/b.jpg"}
    os.chmod(f"{folder}/closed", 0o700)
    resumed(classifier, *globs, output=output)
    assert errors(output) == {f"{folder}/closed/a.png": None, f"{folder}/b.jpg": None}


@SUFFIXES
def test_a_stop_leaves_no_row_that_was_replaced(
    here: Path, classifier: Classifier, small: bytes, suffix: str
) -> None:
    for name in "abc":
        put(f"in/{name}.png", small)
    output = f"t{suffix}"
    resumed(classifier, "in", output=output)
    for name in "abc":
        put(f"in/{name}.png", small + b"\0")
    asked = iter([False, True])
    summary = resumed(classifier, "in", output=output, stop=lambda: next(asked))
    assert (summary.rows, summary.again, summary.finished) == (1, 1, False)
    assert len(errors(output)) == 3
    assert resumed(classifier, "in", output=output).rows == 2
    assert len(errors(output)) == 3


def test_memory_of_a_picture_that_has_a_row(here: Path) -> None:
    count = 15_000
    tracemalloc.start()
    with TableWriter("t.csv", ["path", *STAMP], "new") as table:
        unscored = Unscored(table.done)
        for number in range(count):
            path = f"photos/{number}.jpg"
            assert unscored(path)
            table.write([{"path": path, "size": number, "mtime_ns": number}])
    used = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()
    assert used < 120 * count


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_runs_that_never_end_do_not_make_the_table_longer(
    here: Path, suffix: str
) -> None:
    columns = ["path", "sfw", "nsfw", "error", "size", "mtime_ns"]
    row = dict.fromkeys(columns) | {"path": "a.heic", "error": "needs a library"}
    sizes = []
    for _ in range(4):
        with TableWriter(f"t{suffix}", columns, "resume") as table:
            table.write([row])  # and then the run is ended
        sizes.append(Path(f"t{suffix}").stat().st_size)
    assert sizes[1] == sizes[2] == sizes[3]


# -- one file, one row


def test_the_key_of_a_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put("d/z.zip", b"")
    Path("link").symlink_to("d")
    names = "gone.png", "./gone.png", "d/../gone.png", str(here / "gone.png")
    before = {file_key(name) for name in names}
    assert file_key("link/gone.png") == file_key("d/gone.png")
    put("gone.png", b"")
    assert before == {file_key("gone.png")}
    member = "/../" + "a/" * 30_000 + "b.png"
    looked: list[str] = []
    lexists = os.path.lexists

    def look(path: str) -> bool:
        looked.append(path)
        return lexists(path)

    with monkeypatch.context() as counted:
        counted.setattr(os.path, "lexists", look)
        keys = {file_key(f"{folder}/z.zip{member}") for folder in ("d", "./link")}
    assert len(keys) == 1
    assert len(looked) < 10
    os.unlink("d/z.zip")
    assert keys == {file_key(f"d/z.zip{member}")}


@pytest.mark.parametrize("mode", ["new", "resume"])
def test_one_row_for_all_spellings_of_a_path(
    here: Path, classifier: Classifier, small: bytes, mode: Any
) -> None:
    put("d/a.png", small)
    put("b.png", small)
    Path("link").symlink_to("d")
    Path("d/other.png").symlink_to("a.png")  # a link to a file is one of its own
    os.link("b.png", "hard.png")
    archive_of("z.zip", [("../b.png", small), ("./x.png", small), ("x.png", small)])
    spellings = ["./d/a.png", "d/a.png", "d/../d/a.png", str(here / "d/a.png")]
    spellings += ["link/a.png", "d//a.png"]
    sources = [*spellings, "z.zip", "./z.zip", "b.png", "hard.png", "d", "./gone/../d"]
    put("l.txt", b"gone.png\n./gone.png\n")
    paths = ["./d/a.png", "z.zip/../b.png", "z.zip/./x.png", "z.zip/x.png", "b.png"]
    paths += ["hard.png", "d/other.png", "gone.png"]
    for _ in range(2):
        summary = score_batch(classifier, [*sources[:-1], "l.txt"], "t.csv", mode=mode)
        assert read_table("t.csv").paths == paths
        assert summary.finished
        mode = "resume"
    assert (summary.rows, summary.skipped) == (0, len(paths) + 7)


def test_what_overlapping_sources_pass_over_is_counted_once(
    here: Path, classifier: Classifier, small: bytes
) -> None:
    put("a/x.png", small)
    put("a/notes.md", b"no picture")
    put("a/b/notes.md", b"no picture")
    put("a/b/y.png", small)
    shutil.copytree("a", "z")
    with zipfile.ZipFile("z.zip", "w") as archive:
        archive.write("a/notes.md")
        archive.write("a/x.png")
    Path("link").symlink_to("a")
    for number, sources in enumerate(
        (("a", "a/b"), ("a/b", "./a"), ("a", str(here / "a")), ("link", "a"))
    ):
        summary = score_batch(classifier, sources, f"{number}.csv")
        assert (summary.rows, summary.passed_over) == (2, {".md": 2})
        assert count(sources) == 2
    summary = score_batch(classifier, ["z.zip", "./z.zip"], "zip.csv")
    assert (summary.rows, summary.passed_over) == (1, {".md": 1})
    assert len(list(items(["a", "a"], lambda path: True))) == 2


@SUFFIXES
def test_names_are_the_same_in_every_locale(
    here: Path, small: bytes, suffix: str
) -> None:
    put("in/é.png", small)
    put("in/日本.png", small)
    ascii_only = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"}
    ascii_only["PYTHONCOERCECLOCALE"] = "0"
    command = [str(OPEN_NSFW), "batch", "in", "-o", f"t{suffix}", "--resume"]
    for environment, words in (
        (ascii_only, "2 pictures, 0 without a score; "),
        (dict(os.environ), "0 pictures, 0 without a score, 2 skipped"),
        (ascii_only, "0 pictures, 0 without a score, 2 skipped"),
    ):
        done = subprocess.run(
            command, env=environment, capture_output=True, text=True, check=False
        )
        assert words in done.stdout, done.stderr
    assert errors(f"t{suffix}") == {"in/é.png": None, "in/日本.png": None}
    sort = ["--move-to", "out", "--threshold", "0"]
    done = subprocess.run(
        command + sort, env=ascii_only, capture_output=True, text=True, check=False
    )
    assert "out: 2 nsfw" in done.stdout, done.stderr
    assert sorted(os.listdir("out/nsfw")) == ["é.png", "日本.png"]
