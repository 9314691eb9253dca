"""Tables of scores: what is read, and what is refused with which words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf.tables import LONGEST_FIELD, LONGEST_ROW, digest, rank, read_table

NAMES = ["a.jpg", "two\nlines.jpg", 'quo"ted,.jpg', "bytes-\udcff.jpg", "é 漢\r.png"]


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    """A table of these rows, made without the package."""
    header = list(rows[0])
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif path.suffix == ".csv":
        import csv

        with path.open(
            "w", newline="", encoding="utf-8", errors="surrogateescape"
        ) as f:
            writer = csv.DictWriter(f, header)
            writer.writeheader()
            writer.writerows(rows)
    else:
        import pyarrow
        from pyarrow import parquet

        columns = {name: [row[name] for row in rows] for name in header}
        raw = [p.encode("utf-8", "surrogateescape") for p in columns["path"]]
        parquet.write_table(pyarrow.table({**columns, "path": raw}), path)
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])


@SUFFIXES
def test_a_table_is_read_as_it_was_written(tmp_path: Path, suffix: str) -> None:
    rows = [
        {"path": name, "sfw": 1 - i / 8, "nsfw": i / 8, "error": None, "label": "nsfw"}
        for i, name in enumerate(NAMES)
    ]
    rows[1].update(sfw=None, nsfw=None, error="cut,\nshort", label=None)
    table = read_table(written(tmp_path / f"t{suffix}", rows))
    assert table.paths == NAMES
    assert list(table.columns) == ["sfw", "nsfw"]
    assert np.isnan(table.columns["nsfw"][1])
    assert table.columns["nsfw"][[0, 2, 3, 4]].tolist() == [0, 0.25, 0.375, 0.5]
    assert table.columns["sfw"].dtype == np.float64
    assert table.errors == [None, "cut,\nshort", None, None, None]
    assert table.labels == ["nsfw", None, "nsfw", "nsfw", "nsfw"]
    assert len(table) == 5


@SUFFIXES
def test_other_columns_are_known(tmp_path: Path, suffix: str) -> None:
    row = {"path": "a", "drawing": 0.5, "sha256": "00", "frame": 3, "seconds": 1.5}
    table = read_table(written(tmp_path / f"t{suffix}", [row]))
    assert list(table.columns) == ["drawing"]
    assert table.labels is None
    assert table.errors == [None]


BAD_ROWS = {
    "nan": (
        {"nsfw": float("nan")},
        "row 2: expected a score of 0 to 1 in the column n",
    ),
    "above": ({"nsfw": 1.5}, "row 2: expected a score of 0 to 1 .* got '1.5'"),
    "below": ({"nsfw": -0.5}, "row 2: .* got '-0.5'"),
    "no path": ({"path": ""}, "row 2: expected in the column path a text"),
}


@SUFFIXES
@pytest.mark.parametrize(("change", "words"), BAD_ROWS.values(), ids=BAD_ROWS)
def test_bad_values_are_named(
    tmp_path: Path, suffix: str, change: dict[str, Any], words: str
) -> None:
    good = {"path": "a.jpg", "nsfw": 0.5}
    path = written(tmp_path / f"t{suffix}", [good, {**good, **change}, good])
    with pytest.raises(ValueError, match=words) as caught:
        read_table(path)
    assert str(caught.value).startswith(f"{path}: row 2: ")
    assert "\n" not in str(caught.value)


TEXTS = {
    "empty.csv": (b"", "expected a column path and scores, got the columns none"),
    "empty.jsonl": (b"", "expected a column path"),
    "no_path.csv": (b"nsfw\n0.5\n", "expected a column path"),
    "no_scores.csv": (b"path,error\na,b\n", "expected columns of scores"),
    "twice.csv": (b"path,nsfw,nsfw\na,1,1\n", "two columns have one name"),
    "words.csv": (b"path,nsfw\na,0.5\nb,high\n", "row 2: expected a score .*'high'"),
    "other.csv": (b"path,nsfw,size\na,0.5,120\n", "row 1: .*column size, got '120'"),
    "fields.csv": (b"path,nsfw\na,0.5\nb\n", "row 2: expected 2 fields, got 1"),
    "quote.csv": (b'path,nsfw\na,0.5\n"b,0.5\n', "row 2: unexpected end of data"),
    "field.csv": (
        b"path,nsfw\n%b,1\n" % (b"a" * LONGEST_FIELD + b"b"),
        "row 1: field larger",
    ),
    "line.csv": (b"path,nsfw\n%b" % (b"a" * LONGEST_ROW + b"b"), "longer than"),
    "record.csv": (b'path,nsfw\n"' + b"a\n" * LONGEST_ROW, "is a quote missing"),
    "true.jsonl": (b'{"path": "a", "nsfw": true}\n', "row 1: .* got 'True'"),
    "text.jsonl": (b'{"path": "a", "nsfw": "x"}\n', "row 1: .* got 'x'"),
    "list.jsonl": (b'{"path": "a", "nsfw": [1]}\n', "row 1: .* got '.1.'"),
    "big.jsonl": (b'{"path": "a", "nsfw": 1%b}\n' % (b"0" * 400), "row 1: .* got '10"),
    "path.jsonl": (b'{"path": 3, "nsfw": 1}\n', "row 1: expected in the column path"),
    "keys.jsonl": (
        b'{"path": "a", "nsfw": 1}\n{"path": "a"}\n',
        "row 2: expected the columns path, nsfw, got path",
    ),
    "cut.jsonl": (b'{"path": "a", "nsfw": 1}\n{"pa', "row 2: "),
    "array.jsonl": (b"[1]\n", "row 1: expected a JSON object"),
    "deep.jsonl": (b"[" * 100_000, "row 1: JSON that is nested too deeply"),
    "line.jsonl": (b" " * (LONGEST_ROW + 1), "longer than"),
    "text.parquet": (b"path,nsfw\n", "cut, broken or no Parquet file"),
    "empty.parquet": (b"", "cut, broken or no Parquet file"),
    "table.xlsx": (b"", "expected a table of scores as .csv"),
}


@pytest.mark.parametrize("name", TEXTS)
def test_files_that_are_no_tables(tmp_path: Path, name: str) -> None:
    content, words = TEXTS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=words) as caught:
        read_table(tmp_path / name)
    assert str(caught.value).startswith(str(tmp_path / name))
    assert len(str(caught.value)) < 600
    assert "\n" not in str(caught.value)


def test_a_cut_parquet_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", [{"path": "a", "nsfw": 0.5}] * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match="cut, broken or no Parquet file"):
        read_table(path)


def test_parquet_columns_of_texts_are_no_scores(tmp_path: Path) -> None:
    path = written(tmp_path / "t.parquet", [{"path": "a", "nsfw": 0.5, "size": "big"}])
    with pytest.raises(ValueError, match="expected scores in the column size"):
        read_table(path)


def test_a_missing_table_is_an_oserror(tmp_path: Path) -> None:
    with pytest.raises(
        FileNotFoundError, match=r"No such file or directory: .*none\.csv"
    ):
        read_table(tmp_path / "none.csv")


def test_spreadsheets_csv(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(b"\xef\xbb\xbfpath,nsfw\r\na b.jpg,0.25\r\n")
    assert read_table(path).paths == ["a b.jpg"]
    assert read_table(path).columns["nsfw"].tolist() == [0.25]


ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32")


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".tsv"])
def test_tables_in_every_encoding(
    tmp_path: Path, encoding: str, end: str, suffix: str
) -> None:
    text = {
        ".csv": '\npath,nsfw\n\na 漢.jpg,0.25\n  \n"b, c.jpg",0.5\n,\n\n\n',
        ".tsv": "path\tnsfw\n\na 漢.jpg\t0.25\n  \nb, c.jpg\t0.5\n\t\n\n",
        ".jsonl": '\n{"path": "a 漢.jpg", "nsfw": 0.25}\n\n'
        '{"path": "b, c.jpg", "nsfw": 0.5}\n \n\n',
    }[suffix]
    path = tmp_path / f"t{suffix}"
    path.write_bytes(text.replace("\n", end).encode(encoding))
    table = read_table(path)
    assert table.paths == ["a 漢.jpg", "b, c.jpg"]
    assert table.columns["nsfw"].tolist() == [0.25, 0.5]


def test_carriage_returns_are_called_so(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes(b"path,nsfw\na\rb.jpg,0.5\n")
    with pytest.raises(ValueError, match="row 1: a carriage return that is neither"):
        read_table(tmp_path / "t.csv")


def test_half_a_character_in_a_path(tmp_path: Path) -> None:
    (tmp_path / "t.jsonl").write_text('{"path": "\\ud83d.jpg", "nsfw": 0.5}\n')
    table = read_table(tmp_path / "t.jsonl")
    assert table.paths == ["\ud83d.jpg"]
    assert digest(table.paths[0]) != digest("\ud83e.jpg")


def test_the_first_ports_tables(tmp_path: Path) -> None:
    path = tmp_path / "results.txt"
    path.write_text('File\tSFW Score\tNSFW Score\n1 "a.jpg\t0.75\t0.25\n')
    table = read_table(path)
    assert table.paths == ['1 "a.jpg']
    assert table.columns["sfw"].tolist() == [0.75]
    assert table.columns["nsfw"].tolist() == [0.25]


@SUFFIXES
def test_odd_numbers_are_kept_if_wanted(tmp_path: Path, suffix: str) -> None:
    odd = [float("nan"), 1.5, -0.5, None, 0.5]
    rows = [{"path": f"{i}", "nsfw": score} for i, score in enumerate(odd)]
    table = read_table(written(tmp_path / f"t{suffix}", rows), any_number=True)
    scores = table.columns["nsfw"]
    assert np.array_equal(scores, np.array(odd, float), equal_nan=True)
    assert rank(table) == [("4", 0.5)]


def test_words_are_no_numbers(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text("path,nsfw\na,nan\nb,high\n")
    with pytest.raises(ValueError, match="row 2: .* got 'high'"):
        read_table(tmp_path / "t.csv", any_number=True)
