"""Class folders become lists of pictures and labels, or an error of one line."""

import csv
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from test_files import heif

from open_nsfw_tf.dataset import join_scores, scan, split
from open_nsfw_tf.evaluate import Labels, join
from open_nsfw_tf.files import check_distinct
from open_nsfw_tf.tables import Table
from open_nsfw_tf.train import train
from open_nsfw_tf.train.data import Data, Split, class_weights, read_data

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import make_dataset as made

Layout = dict[str, int]  # pictures by folder


def fill(root: Path, layout: Layout) -> Path:
    """Folders with small pictures in them."""
    for name, count in layout.items():
        (root / name).mkdir(parents=True, exist_ok=True)
        for index in range(count):
            colour = (index % 256, len(name), 7)
            Image.new("RGB", (9, 8), colour).save(root / name / f"{index:03}.png")
    return root


def names(split: Split, root: Path) -> list[str]:
    return [os.path.relpath(path, root) for path in split.paths]


def test_class_folders(tmp_path: Path) -> None:
    fill(tmp_path, {"b": 20, "a/deep/deeper": 10})
    data = read_data(tmp_path, validation=0.2, seed=3)
    assert data.classes == ("a", "b")
    assert data.test is None
    assert data.count(data.train) == {"a": 8, "b": 16}
    assert data.count(data.validation) == {"a": 2, "b": 4}
    assert data.train.labels.dtype == np.int64
    both = data.train.paths + data.validation.paths
    assert len(set(both)) == 30
    for part in (data.train, data.validation):
        for name, label in zip(names(part, tmp_path), part.labels, strict=True):
            assert name.startswith("ab"[label])
        assert part.paths == sorted(part.paths)


def test_the_split_is_seeded_and_one_class_does_not_change_anothers(
    tmp_path: Path,
) -> None:
    fill(tmp_path, {"a": 20, "b": 20})
    first, again, other = (
        read_data(tmp_path, seed=seed).validation.paths for seed in (1, 1, 2)
    )
    assert first == again != other
    fill(tmp_path, {"b": 40})
    more = read_data(tmp_path, seed=1).validation.paths
    of_a = [path for path in first if os.sep + "a" + os.sep in path]
    assert of_a == [path for path in more if os.sep + "a" + os.sep in path]


def test_train_test_and_validation(tmp_path: Path) -> None:
    splits = {"Training": 3, "test": 2, "Validation": 1}
    fill(tmp_path, {f"{s}/{c}": n for s, n in splits.items() for c in "ab"})
    data = read_data(tmp_path, validation=0.5)
    assert [len(s) for s in (data.train, data.validation)] == [6, 2]
    assert data.test is not None
    assert len(data.test) == 4
    assert all("Validation" in path for path in data.validation.paths)


@pytest.mark.parametrize("share", [0, 0.01, 0.99])
def test_shares_leave_a_picture_on_each_side(tmp_path: Path, share: float) -> None:
    fill(tmp_path, {"train/a": 2, "train/b": 5, "test/a": 1, "test/b": 1})
    data = read_data(tmp_path, validation=share)
    expected = {0: (0, 0), 0.01: (1, 1), 0.99: (1, 4)}[share]
    assert tuple(data.count(data.validation).values()) == expected


@pytest.mark.parametrize(
    ("folders", "expected"),
    [
        (["nsfw", "sfw"], ("sfw", "nsfw")),
        (["NSFW", "Sfw"], ("Sfw", "NSFW")),
        (["nsfw", "sfw", "x"], ("nsfw", "sfw", "x")),
        (["valid", "invalid"], ("invalid", "valid")),
        (["10", "9", "Ä"], ("10", "9", "Ä")),
    ],
)
def test_order_of_classes(
    tmp_path: Path, folders: list[str], expected: tuple[str, ...]
) -> None:
    fill(tmp_path, dict.fromkeys(folders, 1))
    assert read_data(tmp_path, validation=0).classes == expected


def test_broken_pictures_are_listed_and_notes_ignored(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 3, "b": 2})
    (tmp_path / "a" / "cut.png").write_bytes((tmp_path / "a/000.png").read_bytes()[:40])
    (tmp_path / "b" / "empty.jpg").touch()
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    (tmp_path / "b" / ".DS_Store").write_text("no picture")
    (tmp_path / "table.csv").write_text("path,label\n")
    totals: list[int] = []
    data = read_data(tmp_path, validation=0, threads=3, progress=totals.append)
    assert len(data.train) == 5
    assert [os.path.basename(path) for path, _ in data.broken] == [
        "cut.png",
        "empty.jpg",
    ]
    assert "0 bytes" in data.broken[1][1]
    assert all("\n" not in reason for _, reason in data.broken)
    assert data.passed_over.total() == 2
    assert data.passed_over == {".csv": 1, ".txt": 1}
    assert totals == [7] * 7


def test_pictures_above_the_limit_are_broken(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 1, "b": 1})
    Image.new("RGB", (50, 50)).save(tmp_path / "a" / "large.png")
    data = read_data(tmp_path, validation=0, max_pixels=100)
    assert "2500" in data.broken[0][1] or "50 x 50" in data.broken[0][1]


def test_classes_of_nothing_but_heic(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    fill(tmp_path, {"a": 1})
    (tmp_path / "b").mkdir()
    for name in ("1.HEIC", "2.heic"):
        (tmp_path / "b" / name).write_bytes(heif(b"heic"))
    with pytest.raises(ValueError, match=r"passed over: 2 \.heic \(to read them: pip"):
        read_data(tmp_path)


def test_links_and_odd_names(tmp_path: Path) -> None:
    elsewhere = fill(tmp_path / "elsewhere", {"far": 2})
    root = fill(tmp_path / "data", {"a": 1, "b": 1})
    os.symlink(elsewhere / "far" / "000.png", root / "a" / "linked.png")
    os.symlink(root, root / "b" / "loop")  # not followed
    os.symlink("..", root / "up")  # no class
    os.symlink(".", root / "self")  # no class
    os.symlink(elsewhere / "far", root / "c")  # a class
    odd = os.fsencode(root / "a") + b"/\xff\n.png"
    with open(odd, "wb") as file:
        file.write((root / "a" / "000.png").read_bytes())
    data = read_data(root, validation=0)
    assert data.classes == ("a", "b", "c")
    assert data.count(data.train) == {"a": 3, "b": 1, "c": 2}
    assert not data.broken
    assert os.fsdecode(odd) in data.train.paths


def test_what_dataset_took_out_is_no_class(tmp_path: Path) -> None:
    fill(tmp_path, {"a": 2, "a/twins": 1, "b": 2, "removed/a": 1})
    for folder in ("removed", "a/twins"):
        (tmp_path / folder / "undo-20260101.jsonl").touch()
    data = read_data(tmp_path, validation=0)
    assert data.count(data.train) == {"a": 2, "b": 2}


def _broken_class(root: Path) -> None:
    for path in (root / "b").iterdir():
        path.write_bytes(b"\xff\xd8\xff")


def _beside(name: str) -> Callable[[Path], Any]:
    return lambda root: Image.new("RGB", (9, 9)).save(root / name)


TWO = {"a": 2, "b": 2}
BAD: dict[str, tuple[Layout, Callable[[Path], Any], str]] = {
    "one class": ({"a": 3}, lambda root: None, r"found 1 \(a\)"),
    "no class": ({}, lambda root: None, "found 0"),
    "empty class": ({**TWO, "c": 0}, lambda root: None, "c: expected pictures"),
    "only notes": (
        {**TWO, "c": 0},
        lambda root: (root / "c" / "x.txt").touch(),
        "none in 1 files",
    ),
    "broken class": (TWO, _broken_class, "none of its 2 pictures can be read"),
    "in the root": (TWO, _beside("x.png"), "lies in no class folder"),
    "in train": (
        {"train/a": 1, "train/b": 1},
        _beside("train/x.png"),
        "lies in no class folder",
    ),
    "beside train": (
        {"train/a": 1, "train/b": 1, "c": 1},
        lambda root: None,
        "lies beside",
    ),
    "root beside train": (
        {"train/a": 1, "train/b": 1},
        _beside("x.png"),
        "lies beside",
    ),
    "missing in test": (
        {"train/a": 1, "train/b": 1, "test/a": 1},
        lambda root: None,
        "it has no folder 'b'",
    ),
    "surplus in test": (
        {"train/a": 2, "train/b": 2, "test/a": 1, "test/b": 1, "test/c": 1},
        lambda root: None,
        "it has a folder 'c'",
    ),
    "no train": ({"test/a": 1, "val/a": 1}, lambda root: None, "train/ is missing"),
    "two folders": (
        {"train/a": 1, "val/a": 1, "Validation/a": 1},
        lambda root: None,
        "one folder for val",
    ),
    "reserved": ({"a": 1, "error": 1}, lambda root: None, "'error'"),
    "line feed": ({"a": 1, "b\nc": 1}, lambda root: None, "printable"),
    "bytes": ({"a": 1, "b\udcff": 1}, lambda root: None, "printable"),
    "too few": ({"a": 1, "b": 5}, lambda root: None, "'a' has 1 picture"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_folders(tmp_path: Path, case: str) -> None:
    layout, change, message = BAD[case]
    fill(tmp_path, layout)
    change(tmp_path)
    with pytest.raises(ValueError, match=message) as caught:
        read_data(tmp_path)
    assert "\n" not in str(caught.value)


def test_bad_arguments(tmp_path: Path) -> None:
    fill(tmp_path, TWO)
    with pytest.raises(ValueError, match="share for validation"):
        read_data(tmp_path, validation=1)
    with pytest.raises(ValueError, match="share for validation"):
        read_data(tmp_path, validation=float("nan"))
    with pytest.raises(ValueError, match="empty name"):
        read_data("")
    with pytest.raises(FileNotFoundError, match="class folders.* got nothing there"):
        read_data(tmp_path / "nothing")
    with pytest.raises(NotADirectoryError, match="class folders.* got a file"):
        read_data(tmp_path / "a" / "000.png")


def test_class_weights_have_a_mean_of_one() -> None:
    split = Split([""] * 8, np.array([0, 0, 0, 0, 0, 1, 2, 2]))
    weights = class_weights(split, "abc")
    assert weights == pytest.approx({0: 8 / 15, 1: 8 / 3, 2: 8 / 6})
    assert np.mean([weights[label] for label in split.labels]) == pytest.approx(1)


# -- examples/make_dataset.py


@pytest.fixture(scope="module")
def generated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Data, Any]:
    folder = tmp_path_factory.mktemp("made")
    options = made.DatasetOptions(3, 60, size=48, errors=0.25, test=0.2)
    planted = made.make_dataset(folder, options)
    return folder, read_data(folder, validation=0), planted


def test_made_up_data_can_be_read(generated: tuple[Path, Data, Any]) -> None:
    _, data, _ = generated
    assert data.classes == ("dots", "rings", "stripes")
    assert len(data.train) == 48
    assert data.test is not None
    assert len(data.test) == 12
    assert not data.broken


def test_planted_errors_are_listed(generated: tuple[Path, Data, Any]) -> None:
    folder, data, planted = generated
    with (folder / "errors.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == len(planted) == 12
    paths = names(data.train, folder)
    for row in rows:
        assert row["label"] != row["truth"]
        place = paths.index(row["path"])
        assert data.classes[data.train.labels[place]] == row["label"]


def test_made_up_data_is_the_same_for_the_same_seed(
    generated: tuple[Path, Data, Any], tmp_path: Path
) -> None:
    folder, data, planted = generated
    options = made.DatasetOptions(3, 60, size=48, errors=0.25, test=0.2)
    assert made.make_dataset(tmp_path, options, threads=1) == planted
    for name in names(data.train, folder)[::7]:
        assert (folder / name).read_bytes() == (tmp_path / name).read_bytes()


def test_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--pictures", "12", "--size", "32", "--names", "sfw,nsfw", "--test", "0"]
    monkeypatch.setattr(sys, "argv", ["make_dataset.py", str(tmp_path / "x"), *words])
    made.main()
    assert "12 pictures" in capsys.readouterr().out
    assert read_data(tmp_path / "x").classes == ("sfw", "nsfw")
    with pytest.raises(SystemExit, match="expected an empty folder"):
        made.main()


@pytest.mark.parametrize(
    "one, other, how",
    [
        ("cat", "Cat", "upper and lower case"),
        ("strasse", "straße", "upper and lower case"),
        ("caf\u00e9", "cafe\u0301", "how Unicode writes"),
        ("\ufb01sh", "FISH", "upper and lower case"),
    ],
)
def test_classes_that_some_disks_take_for_one(
    tmp_path: Path, one: str, other: str, how: str
) -> None:
    """In training, and wherever else classes become folders."""
    fill(tmp_path, {one: 2, other: 2})
    if len(list(tmp_path.iterdir())) < 2:
        pytest.skip("this disk takes them for one")
    for refused in (
        lambda: read_data(tmp_path),
        lambda: split(tmp_path, shares={"train": 0.5, "test": 0.5}),
        lambda: check_distinct([one, other]),
    ):
        with pytest.raises(ValueError, match=f"two classes differ only in {how}"):
            refused()
    scores = {name: np.full(4, 0.5) for name in (one, other)}
    paths = [str(path) for path in sorted(tmp_path.rglob("*.png"))]
    table = Table(paths, scores, [None] * 4, None)
    with pytest.raises(ValueError, match=f"two classes differ only in {how}"):
        join_scores(scan(tmp_path), table)
    labels = Labels(paths, [one] * 4, str(tmp_path), "a table")
    with pytest.raises(ValueError, match=f"two classes differ only in {how}"):
        join({"scores": table}, labels)


def test_train_refuses_such_classes_before_it_begins(tmp_path: Path) -> None:
    data = fill(tmp_path / "data", {"Cat": 4, "cat": 4})
    with pytest.raises(ValueError, match="rename one of Cat and cat"):
        train(data, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_class_of_another_spelling_in_test_is_named(tmp_path: Path) -> None:
    fill(tmp_path, {"train/caf\u00e9": 1, "train/x": 1})
    fill(tmp_path, {"test/cafe\u0301": 1, "test/x": 1})
    with pytest.raises(
        ValueError, match=r"'caf.*' differs from it only in .*: rename one"
    ):
        read_data(tmp_path)


def test_labels_are_found_in_any_of_unicodes_forms(tmp_path: Path) -> None:
    """As macOS writes them, and as tables do."""
    root = fill(tmp_path, {"cafe\u0301": 1, "x": 1})
    scores = {"caf\u00e9": np.array([1.0, 0.0]), "x": np.array([0.0, 1.0])}
    paths = ["cafe\u0301/000.png", "x/000.png"]
    made = join_scores(scan(root), Table(paths, scores, [None] * 2, None), strict=True)
    assert made.labels.tolist() == [0, 1]
