"""Tables that are written: what a kill tears, and what resuming makes of it."""

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf.files import lock
from open_nsfw_tf.tables import DigestMap, digest, rank, read_table
from open_nsfw_tf.tables.append import TableWriter
from open_nsfw_tf.tables.parquet_folder import PartsWriter

COLUMNS = ["path", "sfw", "nsfw", "error"]
NAMES = [
    "a.jpg",
    "two\nlines.jpg",
    'quo"ted,.jpg',
    "bytes-\udcff.jpg",
    "é 漢\r.png",
    " ",
]
SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])


def row(path: str, nsfw: float | None = 0.25) -> dict[str, Any]:
    if nsfw is None:
        return {"path": path, "sfw": None, "nsfw": None, "error": 'no,\n"picture"'}
    return {"path": path, "sfw": 1 - nsfw, "nsfw": nsfw, "error": None}


def grown(path: Path) -> Path:
    """The file that grows while a table is written."""
    return Path(f"{path}.partial") if path.suffix == ".parquet" else path


@SUFFIXES
def test_what_is_written_is_read(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.write([row(name, i / 8) for i, name in enumerate(NAMES)])
        table.write([row("bad", None)])
        table.finish()
    found = read_table(path)
    assert found.paths == [*NAMES, "bad"]
    assert found.columns["nsfw"][:6].tolist() == [i / 8 for i in range(6)]
    assert np.isnan(found.columns["sfw"][6])
    assert found.errors == [*[None] * 6, 'no,\n"picture"']
    assert os.listdir(tmp_path) == [path.name]


def test_a_blank_line_among_the_rows_of_a_parquet_table(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TableWriter(path, COLUMNS) as table:
        table.write([row("a.jpg"), row("b.jpg")])
    with grown(path).open("a") as rows:
        rows.write("\n")
    with TableWriter(path, COLUMNS, "resume") as table:
        table.write([row("a.jpg", 0.75)])
        table.finish()
    assert read_table(path).paths == ["b.jpg", "a.jpg"]


def test_a_digest_map_is_a_dict(tmp_path: Path) -> None:
    digests, expected = DigestMap(3), {}
    for number in range(4000):
        key = digest(str(number % 2500))
        digests[key] = expected[key] = b"abc"[: number % 4]
        if number % 3 == 0:
            gone = digest(str(number // 2))
            assert digests.pop(gone, None) == expected.pop(gone, None)
    assert dict(digests) == expected
    assert len(digests) == len(expected)
    with pytest.raises(KeyError):
        del digests[digest("never")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
def test_blank_lines_are_skipped_and_utf16_is_refused(
    tmp_path: Path, suffix: str
) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.write([row("a.jpg"), row("b.jpg")])
    text = path.read_text()
    path.write_text(text + "\n  \r\n")
    with TableWriter(path, COLUMNS, "resume") as table:
        assert len(table.done) == 2
        table.write([row("c.jpg")])
    assert read_table(path).paths == ["a.jpg", "b.jpg", "c.jpg"]
    with TableWriter(path, COLUMNS, "resume") as table:
        table.write([row("a.jpg", 0.75)])  # and the older row goes
        table.finish()
    assert read_table(path).paths == ["b.jpg", "c.jpg", "a.jpg"]
    path.write_text(text, encoding="utf-16")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="expected text in UTF-8, got UTF-16"):
        TableWriter(path, COLUMNS, "resume")
    assert path.read_bytes() == before
    assert read_table(path).paths == ["a.jpg", "b.jpg"]


@SUFFIXES
def test_a_table_cut_anywhere_goes_on(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.write([row(name, i / 8) for i, name in enumerate(NAMES)])
    whole = grown(path).read_bytes()
    for size in range(len(whole)):
        grown(path).write_bytes(whole[:size])
        with TableWriter(path, COLUMNS, "resume") as table:
            missing = [name for name in NAMES if digest(name) not in table.done]
            table.write([row(name, NAMES.index(name) / 8) for name in missing])
            assert missing == NAMES[len(NAMES) - len(missing) :]
        assert grown(path).read_bytes() == whole, size


@SUFFIXES
def test_a_finished_table_is_added_to(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    for name in ("a", "b", "c-\udcff"):  # the last one turns Parquet's texts to bytes
        with TableWriter(path, COLUMNS, "resume") as table:
            assert digest(name) not in table.done
            table.write([row(name)])
            table.finish()
    assert read_table(path).paths == ["a", "b", "c-\udcff"]


def test_a_kill_between_parquet_and_its_rows(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    with TableWriter(path, COLUMNS) as table:
        table.write([row("a"), row("b")])
        rows = grown(path).read_bytes()
        table.finish()
    grown(path).write_bytes(rows)  # as if it had not been removed
    with TableWriter(path, COLUMNS, "resume") as table:
        table.write([row("c")])
        table.finish()
    assert read_table(path).paths == ["a", "b", "c"]


@SUFFIXES
def test_tables_that_exist(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.write([row("a")])
    with pytest.raises(FileExistsError, match=r"--resume, or begin anew"):
        TableWriter(path, COLUMNS)
    with pytest.raises(ValueError, match="expected the columns path, nsfw, error, got"):
        TableWriter(path, ["path", "nsfw", "error"], "resume")
    with TableWriter(path, COLUMNS, "overwrite") as table:
        assert not table.done
        table.write([row("b")])
        table.finish()
    assert read_table(path).paths == ["b"]
    with pytest.raises(FileExistsError, match=r"--resume, or begin anew"):
        TableWriter(path, COLUMNS)
    with TableWriter(path, COLUMNS, "overwrite") as table:
        table.finish()
    if suffix != ".jsonl":  # whose columns are only in its rows
        assert read_table(path).paths == []


@SUFFIXES
def test_two_runs_at_once(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        for mode in ("resume", "overwrite"):
            with pytest.raises(ValueError, match="another run is writing to it"):
                TableWriter(path, COLUMNS, mode)  # type: ignore[arg-type]
        table.write([row("a")])
    with TableWriter(path, COLUMNS, "resume") as table:
        assert set(table.done) == {digest("a")}


FULL = """
import resource, signal, sys
from open_nsfw_tf.tables.append import TableWriter
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
with TableWriter(sys.argv[1], ["path", "sfw", "nsfw", "error"]) as table:
    for start in range(0, 1000, 7):
        names = [f"{i}.jpg" for i in range(start, start + 7)]
        try:
            table.write([dict(path=p, sfw=.5, nsfw=.5, error=None) for p in names])
        except OSError as error:
            print(start, error)
            break
"""


@SUFFIXES
def test_a_full_disk(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"t{suffix}"
    done = subprocess.run(
        [sys.executable, "-c", FULL, path], capture_output=True, text=True, check=True
    )
    count, message = done.stdout.strip().split(" ", 1)
    assert message == (
        f"{path}: File too large; the rows before are whole: make room, then go on "
        "with --resume"
    )
    assert 0 < grown(path).stat().st_size <= 5000
    with TableWriter(path, COLUMNS, "resume") as table:
        assert set(table.done) == {digest(f"{i}.jpg") for i in range(int(count))}
        table.write([row("last")])
        table.finish()
    assert read_table(path).paths == [*(f"{i}.jpg" for i in range(int(count))), "last"]
    assert resource.getrlimit(resource.RLIMIT_FSIZE)[0] != 5000


def test_rows_of_others_are_named(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("path,sfw,nsfw,error\na,1,0,\nb,1\n")
    with pytest.raises(ValueError, match="row 2: expected 4 fields, got 2"):
        TableWriter(path, COLUMNS, "resume")
    path = tmp_path / "t.jsonl"
    path.write_text(json.dumps(row("a")) + "\nnothing\n")
    with pytest.raises(ValueError, match=r"t\.jsonl: row 2: Expecting value"):
        TableWriter(path, COLUMNS, "resume")
    with pytest.raises(ValueError, match="expected a table of scores as .csv, .jsonl"):
        TableWriter(tmp_path / "t.tsv", COLUMNS)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "t.csv")
    with pytest.raises(ValueError, match="expected a regular file"):
        TableWriter(tmp_path / "t.csv", COLUMNS, "overwrite")
    (tmp_path / "t.jsonl").mkdir()
    with pytest.raises(OSError, match="directory"):
        TableWriter(tmp_path / "t.jsonl", COLUMNS, "overwrite")


def test_rank(tmp_path: Path) -> None:
    with TableWriter(tmp_path / "t.csv", COLUMNS) as writer:
        scores = [0.5, None, 0.75, 0.5, 1.0]
        writer.write([row(str(i), score) for i, score in enumerate(scores)])
    table = read_table(tmp_path / "t.csv")
    assert rank(table) == [("4", 1.0), ("2", 0.75), ("0", 0.5), ("3", 0.5)]
    assert rank(table, 2, "sfw") == [("0", 0.5), ("3", 0.5)]
    with pytest.raises(
        ValueError, match="no column 'drawing' of scores; there are sfw"
    ):
        rank(table, column="drawing")
    with pytest.raises(ValueError, match="top of at least 1"):
        rank(table, 0)


HOLDS = """
import sys, time
from pathlib import Path
from open_nsfw_tf.files import lock
free = lock(sys.argv[1], "t.csv")
print("held", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("name", ["a.jpg", "lines\nand,commas,,.jpg"])
@pytest.mark.parametrize("at", [0, 5, 9])
def test_a_stray_quote_cuts_no_rows_off(tmp_path: Path, name: str, at: int) -> None:
    path = tmp_path / "t.csv"
    with TableWriter(path, COLUMNS) as table:
        table.write([row(f"{number}-{name}") for number in range(10)])
        table.finish()
    spoilt = path.read_bytes().replace(b"%d-" % at, b'"%d-' % at)
    path.write_bytes(spoilt)
    with pytest.raises(ValueError, match=rf"t\.csv: row {at + 1}: "):
        TableWriter(path, COLUMNS, "resume")
    assert path.read_bytes() == spoilt


@pytest.mark.parametrize(
    ("suffix", "spoilt"),
    [(".csv", b'b.jpg,"1"x,0,\n'), (".jsonl", b"{'path': 'b.jpg'}\n")],
)
def test_a_row_that_is_broken_is_named(
    tmp_path: Path, suffix: str, spoilt: bytes
) -> None:
    path = tmp_path / f"t{suffix}"
    with TableWriter(path, COLUMNS) as table:
        table.write([row("a.jpg")])
    with path.open("ab") as file:
        file.write(spoilt)
    with pytest.raises(ValueError, match=rf"t\{suffix}: row 2: "):
        TableWriter(path, COLUMNS, "resume")
    assert path.read_bytes().endswith(spoilt)


@SUFFIXES
@pytest.mark.parametrize("mode", ["new", "resume", "overwrite"])
def test_a_link_to_a_table_is_written_through(
    tmp_path: Path, suffix: str, mode: Any
) -> None:
    (tmp_path / "folder").mkdir()
    real, link = tmp_path / f"folder/t{suffix}", tmp_path / f"link{suffix}"
    link.symlink_to(real)
    names = ["a.jpg"]
    if mode != "new":
        with TableWriter(real, COLUMNS) as table:
            table.write([row("old.jpg")])
            table.finish()
        names = ["old.jpg", "a.jpg"] if mode == "resume" else names
    with TableWriter(link, COLUMNS, mode) as table:
        table.write([row("a.jpg")])
        table.finish()
    assert link.is_symlink()
    assert read_table(real).paths == names
    assert sorted(os.listdir(tmp_path)) == ["folder", link.name]


def test_a_lock_does_not_outlive_a_kill(tmp_path: Path) -> None:
    path = tmp_path / ".t.csv.lock"
    command = [sys.executable, "-c", HOLDS, path]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match=r"^t.csv: another run is writing to it"):
            lock(path, "t.csv")
        with pytest.raises(ValueError, match="another run is writing to it"):
            TableWriter(tmp_path / "t.csv", COLUMNS)
        holder.kill()
        holder.wait()
    with TableWriter(tmp_path / "t.csv", COLUMNS) as table:
        table.write([row("a")])
    assert [path.name for path in tmp_path.iterdir()] == ["t.csv"]


def test_a_table_is_locked_under_all_its_names(tmp_path: Path) -> None:
    (tmp_path / "link.csv").symlink_to("t.csv")
    table = TableWriter(tmp_path / "t.csv", COLUMNS)
    with table, pytest.raises(ValueError, match="another run is writing to it"):
        TableWriter(tmp_path / "link.csv", COLUMNS, "resume")
    with pytest.raises(FileNotFoundError, match=r"'.*none/t.csv'$"):
        TableWriter(tmp_path / "none" / "t.csv", COLUMNS)


def test_a_folder_of_parts_that_got_none_goes(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    with pytest.raises(OSError, match="no Ray"), PartsWriter(tmp_path / "a/b", COLUMNS):
        raise ConnectionError("no Ray at this address")
    assert not list(tmp_path.iterdir())
    (tmp_path / "there").mkdir()
    table = PartsWriter(tmp_path / "there", COLUMNS)
    with table, pytest.raises(ValueError, match="another run is writing to it"):
        PartsWriter(tmp_path / "there", COLUMNS, "resume")
    with PartsWriter(tmp_path / "a/b", COLUMNS) as table:
        table.write([row("a")])
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        "a",
        "b",
        "part-000001.parquet",
        "there",
    ]
