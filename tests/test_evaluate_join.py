"""Labels of every kind, joined with scores; and what is said of bad data."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf.dataset import scan
from open_nsfw_tf.evaluate import JoinedScores, Labels, join, read_labels
from open_nsfw_tf.files import class_files
from open_nsfw_tf.tables import Table
from open_nsfw_tf.train.data import read_split

PATHS = ["nsfw/a.jpg", "nsfw/deep/b c.jpg", "sfw/d.jpg"]
PAIRS = list(zip(PATHS, ["nsfw", "nsfw", "sfw"], strict=True))


def folder(root: Path, names: list[str]) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def labels_file(path: Path, pairs: list[tuple[Any, Any]]) -> Path:
    if path.suffix == ".csv":
        with path.open("w", newline="", encoding="utf-8") as file:
            csv.writer(file).writerows([("path", "label"), *pairs])
    elif path.suffix == ".jsonl":
        rows = (json.dumps({"label": y, "path": p}) + "\n" for p, y in pairs)
        path.write_text("".join(rows))
    elif path.suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        names, values = zip(*pairs, strict=True)
        parquet.write_table(pyarrow.table({"path": names, "label": values}), path)
    else:
        lines = (f"{p}\t{y}\n" for p, y in pairs)
        path.write_text("# made up\n\n" + "".join(lines))
    return path


SUFFIXES = pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet", ".txt"])


@SUFFIXES
def test_labels_of_files(tmp_path: Path, suffix: str) -> None:
    found = read_labels(labels_file(tmp_path / f"labels{suffix}", PAIRS))
    assert list(zip(found.paths, found.labels, strict=True)) == PAIRS
    assert found.root == str(tmp_path)


def test_labels_of_folders(tmp_path: Path) -> None:
    root = folder(
        tmp_path / "pictures", [*PATHS, "sfw/.hidden", ".cache/x", ".y", "t.csv"]
    )
    (root / "empty").mkdir()
    found = read_labels(root)
    assert list(zip(found.paths, found.labels, strict=True)) == PAIRS
    assert found.root == str(root)


@SUFFIXES
def test_numbers_are_labels(tmp_path: Path, suffix: str) -> None:
    pairs = [("a", 1), ("b", 0)]
    assert read_labels(labels_file(tmp_path / f"l{suffix}", pairs)).labels == ["1", "0"]


def test_a_list_of_paths_alone(tmp_path: Path) -> None:
    (tmp_path / "l.txt").write_text("x/nsfw/a.jpg\nsfw/b.jpg\nsfw/c.jpg\tnsfw\n")
    assert read_labels(tmp_path / "l.txt").labels == ["nsfw", "sfw", "nsfw"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_rows_without_a_label_are_none(tmp_path: Path, suffix: str) -> None:
    path = labels_file(tmp_path / f"l{suffix}", [("a", None), ("b", "sfw")])
    assert read_labels(path).paths == ["b"]


def test_paths_that_are_no_text(tmp_path: Path) -> None:
    path = labels_file(tmp_path / "l.parquet", [(b"a\xff", "sfw")])
    assert read_labels(path).paths == ["a\udcff"]


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-be"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".txt", ".tsv", ".lst", ".list"])
def test_labels_in_every_encoding(
    tmp_path: Path, encoding: str, end: str, suffix: str
) -> None:
    text = {
        ".csv": "path,label\n\né/a.jpg,nsfw\n,\nb.jpg,sfw\n\n",
        ".jsonl": '{"path": "é/a.jpg", "label": "nsfw"}\n\n'
        '{"path": "b.jpg", "label": "sfw"}\n\n',
    }.get(suffix, "é/a.jpg nsfw\n\nb.jpg\tsfw\n\n")
    (tmp_path / f"l{suffix}").write_bytes(text.replace("\n", end).encode(encoding))
    found = read_labels(tmp_path / f"l{suffix}")
    assert (found.paths, found.labels) == (["é/a.jpg", "b.jpg"], ["nsfw", "sfw"])


def test_links_to_folders_are_reported(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", ["a.jpg"])
    (tmp_path / "d/deep").mkdir(parents=True)
    (tmp_path / "d/sfw").symlink_to("..")
    (tmp_path / "d/deep/far").symlink_to("../../elsewhere")
    with pytest.raises(ValueError, match="links to folders are not followed"):
        read_labels(tmp_path / "d")


def test_a_class_folder_may_be_a_link_as_in_training(tmp_path: Path) -> None:
    folder(tmp_path / "elsewhere", ["a.jpg", "in/b.jpg", ".hidden/c.jpg"])
    root = folder(tmp_path / "d", ["nsfw/x.jpg", "train/nsfw/y.jpg"])
    for name in ("sfw", "train/sfw", "nsfw/deep", ".no", "train/nsfw/deep"):
        (root / name).symlink_to(tmp_path / "elsewhere")
    (root / "nsfw/linked.jpg").symlink_to(tmp_path / "elsewhere/a.jpg")
    (root / "self").symlink_to(".")
    (root / "train/up").symlink_to("..")
    expected = ["nsfw/linked.jpg", "nsfw/x.jpg", "sfw/a.jpg", "sfw/in/b.jpg"]
    split = ["train/nsfw/y.jpg", "train/sfw/a.jpg", "train/sfw/in/b.jpg"]
    assert list(class_files(root)) == expected + split
    (root / "t.csv").touch()
    assert read_labels(root).paths == expected + split
    training = read_split(str(root / "train"))
    found = [path for paths in training.classes.values() for path in paths]
    assert sorted(found) == [str(root / path) for path in split]
    scanned = scan(root)  # which moves files, and leaves what is elsewhere
    assert [file.name for file in scanned.files] == [
        "nsfw/x.jpg",
        "t.csv",
        "train/nsfw/y.jpg",
    ]
    assert {"sfw", "self", "train/sfw", "nsfw/linked.jpg"} < set(scanned.left)


def test_bad_labels(tmp_path: Path) -> None:
    def fails(path: Path, words: str) -> None:
        with pytest.raises((ValueError, OSError), match=words) as caught:
            read_labels(path)
        assert "\n" not in str(caught.value)
        assert str(path) in str(caught.value)

    fails(tmp_path / "missing.csv", "No such file")
    fails(tmp_path / "labels.xlsx", "expected labels as a folder .* .csv")
    empty = tmp_path / "empty"
    empty.mkdir()
    fails(empty, "no labels in it: expected pictures in folders")
    fails(folder(tmp_path / "flat", ["a.jpg"]), "pictures in folders named after")
    for name, text, words in [
        ("a.csv", "path,kind\na,b\n", "the columns path and label, got path, kind"),
        ("b.csv", "path,label\n", "no labels in it: expected rows"),
        ("c.csv", "path,label\na\n", "row 1: expected 2 fields"),
        ("d.csv", "path,label\na,sfw\n,sfw\n", "row 2: expected a path and a label"),
        ("e.txt", "a.jpg nsfw\nb.jpg\n", "line 2: expected a path and a label"),
        ("i.txt", "/a.jpg\n", "line 1: expected a path and a label"),
        ("f.jsonl", '{"path": "a", "label": [1]}\n', "row 1: .* got 'a' and"),
        ("g.jsonl", '{"path": "a", "label": true}\n', "row 1: .* 'True'"),
        ("h.parquet", "nothing", "cut, broken or no Parquet file"),
    ]:
        (tmp_path / name).write_text(text)
        fails(tmp_path / name, words)


def table(scores: dict[str, float | None], **errors: str) -> Table:
    values = np.array([np.nan if s is None else s for s in scores.values()])
    return Table(
        list(scores),
        {"sfw": 1 - values, "nsfw": values},
        [errors.get(path) for path in scores],
        None,
    )


def labelled(root: str = ".", **labels: str) -> Labels:
    return Labels(list(labels), list(labels.values()), root, "labels.csv")


def kinds(cases: JoinedScores) -> dict[str, tuple[int, tuple[str, ...]]]:
    return {p.kind: (p.count, p.examples) for p in cases.problems}


def test_scores_meet_labels() -> None:
    cases = join({"t": table({"b": 0.1, "a": 0.9})}, labelled(a="nsfw", b="sfw"), {})
    assert cases.paths == ["b", "a"]
    assert cases.labels.tolist() == [0, 1]
    assert cases.classes == ("sfw", "nsfw")
    np.testing.assert_allclose(cases.scores["t"], [[0.9, 0.1], [0.1, 0.9]])
    assert not cases.problems


def test_what_is_missing_is_counted_and_named() -> None:
    scores = table({"a": 0.9, "b": 0.1, "c": None, "d": None, "x": 0.5}, c="c: cut")
    labels = labelled(a="nsfw", b="sfw", c="sfw", d="sfw", y="nsfw", z="sfw")
    cases = join({"t": scores}, labels)
    assert cases.paths == ["a", "b"]
    assert kinds(cases) == {
        "failed": (1, ("c: cut",)),
        "no_score": (1, ("d",)),
        "unlabelled": (1, ("x",)),
        "unscored": (2, ("y", "z")),
    }
    assert str(cases.problems[-1]) == (
        "labels without a score (left out): 2, such as y"
    )
    with pytest.raises(ValueError, match=r"strict: pictures .*: 1, such as c: cut; "):
        join({"t": scores}, labels, strict=True)


def test_scores_out_of_range() -> None:
    cases = join(
        {"t": table({"a": 0.9, "b": 1.5, "c": float("inf"), "d": -0.1})},
        labelled(a="nsfw", b="sfw", c="sfw", d="sfw"),
    )
    assert cases.paths == ["a"]
    assert kinds(cases) == {"out_of_range": (3, ("b", "c", "d"))}


def test_scores_that_do_not_add_up() -> None:
    scores = table({"a": 0.9, "b": 0.5})
    scores.columns["sfw"][1] = 0.1
    cases = join({"t": scores}, labelled(a="nsfw", b="sfw"))
    assert len(cases.paths) == 2
    assert kinds(cases) == {"sum": (1, ("b",))}


def test_scores_of_earlier_files_are_left_out() -> None:
    stamps = np.array([(9, 1), (9, 1), (-1, 0)])
    scores = replace(table({"a": 0.9, "b": 0.2, "c": 0.1}), stamps=stamps)
    labels = labelled(a="nsfw", b="sfw", c="sfw")
    assert not join({"t": scores}, labels).problems
    now = replace(labels, stamps=np.array([(9, 1), (9, 2), (5, 5)]))
    cases = join({"t": scores}, now)
    assert cases.paths == ["a", "c"]  # of c it is not known
    assert kinds(cases) == {"changed": (1, ("b",))}


def test_duplicates() -> None:
    twice = table({"a": 0.9, "b": 0.2, "c": 0.3})
    twice.paths[2] = "a"
    labels = Labels(["a", "b", "b"], ["nsfw", "sfw", "sfw"], ".", "l")
    cases = join({"t": twice}, labels)
    assert cases.paths == ["a", "b"]
    assert cases.scores["t"][:, 1].tolist() == [0.9, 0.2]
    assert kinds(cases) == {"duplicate": (1, ("a",)), "duplicate_label": (1, ("b",))}


def test_the_first_usable_duplicate_counts() -> None:
    twice = table({"a": None, "b": 0.2, "c": 0.3}, a="cut")
    twice.paths[2] = "a"
    cases = join({"t": twice}, labelled(a="nsfw", b="sfw"))
    assert dict(zip(cases.paths, cases.scores["t"][:, 1], strict=True)) == {
        "a": 0.3,
        "b": 0.2,
    }


def test_contradicting_labels_are_left_out() -> None:
    labels = Labels(["a", "b", "b"], ["nsfw", "sfw", "nsfw"], ".", "l")
    cases = join({"t": table({"a": 0.9, "b": 0.2})}, labels)
    assert cases.paths == ["a"]
    assert kinds(cases) == {"conflict": (1, ("b",))}


def test_one_file_by_two_spellings() -> None:
    labels = Labels(
        ["./a.jpg", "a.jpg", "x/../b.jpg"], ["sfw", "nsfw", "nsfw"], ".", "l"
    )
    cases = join({"t": table({"a.jpg": 0.1, "./b.jpg": 0.9})}, labels)
    assert cases.paths == ["./b.jpg"]
    assert kinds(cases)["conflict"] == (1, ("a.jpg",))


def test_splits_are_no_classes(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    labels = Labels(["train/sfw/a.jpg"], ["test"], str(tmp_path), str(tmp_path))
    with pytest.raises(ValueError, match="test is a split of the pictures, no class"):
        join({"t": table({"a.jpg": 0.1})}, labels)


def test_a_header_of_a_list_is_no_picture(tmp_path: Path) -> None:
    path = tmp_path / "labels.tsv"
    path.write_text("path\tlabel\na.jpg\tsfw\n")
    assert read_labels(path).paths == ["a.jpg"]


def test_several_tables_are_judged_on_the_same_pictures() -> None:
    first, second = table({"a": 0.9, "b": 0.2, "c": 0.1}), table({"b": 0.3, "a": 0.8})
    cases = join({"x": first, "y": second}, labelled(a="nsfw", b="sfw", c="sfw"))
    assert cases.paths == ["a", "b"]
    assert cases.scores["y"][:, 1].tolist() == [0.8, 0.3]
    assert [(p.kind, p.table) for p in cases.problems] == [
        ("unscored", "y"),
        ("not_in_all", ""),
    ]
    three = Table(["a"], {"x": np.ones(1), "y": np.zeros(1)}, [None], None)
    with pytest.raises(ValueError, match="the same classes, got x: sfw, nsfw; y: x, y"):
        join({"x": first, "y": three}, labelled(a="nsfw"))


def test_the_classes_order_is_the_first_tables() -> None:
    other = table({"a": 0.9, "b": 0.2})
    swapped = Table(
        other.paths, dict(reversed(other.columns.items())), [None] * 2, None
    )
    cases = join({"x": other, "y": swapped}, labelled(a="nsfw", b="sfw"))
    np.testing.assert_array_equal(cases.scores["x"], cases.scores["y"])


def test_one_column_is_enough() -> None:
    single = Table(["a"], {"nsfw": np.array([0.75])}, [None], None)
    cases = join({"t": single}, labelled(a="nsfw"))
    assert cases.scores["t"].tolist() == [[0.25, 0.75]]
    odd = Table(["a"], {"gore": np.array([0.75])}, [None], None)
    with pytest.raises(ValueError, match="a column nsfw, or one for each class"):
        join({"t": odd}, labelled(a="gore"))


def test_classes_that_no_page_can_show() -> None:
    for names, words in [
        (map(str, range(201)), "at most 200 classes, got 201"),
        (["sfw", "nsfw", "NSFW"], "differ only in upper and lower case"),
    ]:
        odd = Table(["a"], {name: np.zeros(1) for name in names}, [None], None)
        with pytest.raises(ValueError, match=words):
            join({"t": odd}, labelled(a="sfw"))


def test_names_of_labels() -> None:
    scores = {"t": table({"a": 0.9, "b": 0.2, "c": 0.1})}
    labels = labelled(a="Porn", b="SFW", c="0")
    with pytest.raises(ValueError, match=r"labels.csv: 'Porn', '0': no such class .* "):
        join(scores, labels)
    cases = join(scores, labels, {"porn": "nsfw", "0": "SFW"})
    assert cases.labels.tolist() == [1, 0, 0]
    with pytest.raises(ValueError, match="'Porn': no such class"):
        join(scores, labels, {"porn": "gore", "0": "sfw"})


@pytest.mark.parametrize(
    ("scored", "label", "root"),
    [
        ("data/nsfw/a.jpg", "nsfw/a.jpg", "data"),
        ("./data/nsfw/a.jpg", "nsfw/a.jpg", "data"),
        ("HERE/data/nsfw/a.jpg", "nsfw/a.jpg", "data"),
        ("nsfw/a.jpg", "nsfw/a.jpg", "data"),
        ("data/nsfw/a.jpg", "HERE/data/nsfw/a.jpg", "elsewhere"),
        ("data/a.jpg", "./data/a.jpg", "elsewhere"),
    ],
)
def test_paths_meet(
    scored: str, label: str, root: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    scored = scored.replace("HERE", str(tmp_path))
    labels = Labels([label.replace("HERE", str(tmp_path))], ["nsfw"], root, "l")
    cases = join({"t": table({scored: 0.9})}, labels)
    assert cases.paths == [scored]
    assert not cases.problems


def test_nothing_in_common() -> None:
    with pytest.raises(
        ValueError, match="no picture has both .* t has paths such as a"
    ):
        join({"t": table({"a": 0.9})}, labelled(b="sfw"))
    with pytest.raises(ValueError, match="no rows at all"):
        join({"t": table({})}, labelled(b="sfw"))
    with pytest.raises(ValueError, match="at least one table"):
        join({}, labelled(b="sfw"))


def test_what_is_no_picture_has_no_label(tmp_path: Path) -> None:
    root = folder(tmp_path, ["nsfw/a.jpg", "nsfw/b", "sfw/notes.txt", "sfw/c"])
    (root / "nsfw/b").write_bytes(b"\x89PNG\r\n\x1a\n")
    assert read_labels(root).paths == ["nsfw/a.jpg", "nsfw/b"]
