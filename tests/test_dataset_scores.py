"""A folder beside a table of scores: joined, wrong labels found, sorted, drawn."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pictures
import pytest
from PIL import Image

from open_nsfw_tf.dataset import File, ScoredFolder, join_scores, scan
from open_nsfw_tf.dataset import sort as sort_pictures
from open_nsfw_tf.dataset.label_errors import (
    Disagreement,
    find_label_errors,
    moves_of,
)
from open_nsfw_tf.dataset.sort import (
    COLUMNS,
    TILE,
    SheetOptions,
    SortOptions,
    arrange,
    write_sheet,
    write_sheets,
)
from open_nsfw_tf.dataset.sort import moves_of as sort_moves
from open_nsfw_tf.evaluate.metrics import confusion_matrix
from open_nsfw_tf.tables import Table
from open_nsfw_tf.undo import undo

NAN = float("nan")


def table(*rows: tuple[str, float | None, float | None], **errors: str) -> Table:
    """Rows of path, sfw, nsfw."""
    columns = {
        name: np.array([NAN if row[i] is None else row[i] for row in rows], np.float64)
        for i, name in ((1, "sfw"), (2, "nsfw"))
    }
    paths = [row[0] for row in rows]
    return Table(paths, columns, [errors.get(path) for path in paths], None)


def touched(root: Path, *names: str) -> Path:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")
    return root


def scored(labels: np.ndarray, scores: np.ndarray) -> ScoredFolder:
    classes = ("sfw", "nsfw", "drawings", "other", "more")[: scores.shape[1]]
    files = [
        File(f"/d/{n}", f"{classes[label]}/{n}.jpg", None, classes[label], 1, 0)
        for n, label in enumerate(labels)
    ]
    return ScoredFolder(files, classes, labels, scores)


# -- joining


def test_paths_are_found_wherever_they_start(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = touched(tmp_path / "d", "sfw/a.jpg", "sfw/b.jpg", "nsfw/c.jpg", "nsfw/d.jpg")
    link = tmp_path / "link"
    link.symlink_to(root)
    monkeypatch.chdir(tmp_path)
    rows = table(
        (str(root / "sfw/a.jpg"), 0.9, 0.1),
        ("d/sfw/../sfw/b.jpg", 0.8, 0.2),
        ("nsfw/c.jpg", 0.7, 0.3),
        (str(root / "nsfw/d.jpg"), 0.6, 0.4),
    )
    for folder in ("d", link):
        made = join_scores(scan(folder), rows, strict=True)
        assert [file.name for file in made.files] == [
            "nsfw/c.jpg",
            "nsfw/d.jpg",
            "sfw/a.jpg",
            "sfw/b.jpg",
        ]
        assert made.labels.tolist() == [1, 1, 0, 0]
        assert made.scores[:, 1].tolist() == [0.3, 0.4, 0.1, 0.2]


TROUBLED = [
    ("a.jpg", 0.9, 0.1),
    ("gone.jpg", 0.9, 0.1),
    ("error.jpg", None, None),
    ("nan.jpg", NAN, 0.5),
    ("empty.jpg", None, None),
    ("large.jpg", -0.5, 1.5),
    ("sum.jpg", 0.9, 0.9),
    ("a.jpg", 0.9, 0.1),
    ("twice.jpg", 0.9, 0.1),
    ("twice.jpg", 0.1, 0.9),
    ("twice.jpg", 0.9, 0.1),
]


def test_what_does_not_fit_is_counted_and_named(tmp_path: Path) -> None:
    names = {f"sfw/{path}" for path, *_ in TROUBLED if path != "gone.jpg"}
    root = touched(tmp_path, *names, "sfw/new.jpg", "cats/x.jpg", "loose.jpg")
    rows = [(f"sfw/{path}", *scores) for path, *scores in TROUBLED]
    rows += [("cats/x.jpg", 0.5, 0.5), ("loose.jpg", 0.5, 0.5)]
    made = join_scores(scan(root), table(*rows, **{"sfw/error.jpg": "cut"}))
    assert [file.name for file in made.files] == ["sfw/a.jpg"]
    assert {problem.kind: list(problem.examples) for problem in made.problems} == {
        "unlabelled": ["sfw/gone.jpg"],
        "unscored": ["sfw/new.jpg"],
        "failed": ["sfw/error.jpg: cut"],
        "no_score": ["sfw/nan.jpg", "sfw/empty.jpg"],
        "out_of_range": ["sfw/large.jpg"],
        "doubtful_sum": ["sfw/sum.jpg"],
        "duplicate": ["sfw/a.jpg", "sfw/twice.jpg"],
        "contradiction": ["sfw/twice.jpg"],
        "unknown_label": ["cats/x.jpg"],
        "no_label": ["loose.jpg"],
    }
    assert made.problems[1].line(3) == (
        "rows with NaN or no score, and no error (left out): 2, such as sfw/nan.jpg, "
        "sfw/empty.jpg"
    )
    with pytest.raises(
        ValueError, match=r"scores without a label \(left out\): 1, such as sfw/gone"
    ):
        join_scores(scan(root), table(*rows), strict=True)


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        (("elsewhere.jpg", 0.5, 0.5), "scores without a label"),
        (("sfw/a.jpg", 0.5, 0.5), "paths scored twice"),
        (("sfw/b.jpg", None, None), "rows with NaN or no score"),
    ],
)
def test_strict_fails_at_anything(
    tmp_path: Path, row: tuple[str, float | None, float | None], kind: str
) -> None:
    root = touched(tmp_path, "sfw/a.jpg", "sfw/b.jpg")
    rows = [("sfw/a.jpg", 0.5, 0.5), ("sfw/b.jpg", 0.5, 0.5)]
    join_scores(scan(root), table(*rows), strict=True)
    if row[0] == "sfw/b.jpg":
        rows.pop()
    with pytest.raises(ValueError, match=kind):
        join_scores(scan(root), table(*rows, row), strict=True)


def test_classes_may_be_called_otherwise(tmp_path: Path) -> None:
    root = touched(tmp_path, "safe/a.jpg", "porn/b.jpg")
    rows = table(("safe/a.jpg", 0.9, 0.1), ("porn/b.jpg", 0.2, 0.8))
    with pytest.raises(
        ValueError,
        match=r"no picture has both a score and a label: .*no class of the table.*: 2,",
    ):
        join_scores(scan(root), rows)
    made = join_scores(scan(root), rows, {"safe": "sfw", "porn": "nsfw"}, strict=True)
    assert made.labels.tolist() == [1, 0]
    with pytest.raises(
        ValueError, match="safe = clean: the table's classes are sfw, nsfw"
    ):
        join_scores(scan(root), rows, {"safe": "clean"})


def test_one_column_is_not_enough(tmp_path: Path) -> None:
    root = touched(tmp_path, "nsfw/a.jpg")
    one = Table(["nsfw/a.jpg"], {"porn": np.array([0.5])}, [None], None)
    with pytest.raises(
        ValueError, match="a column nsfw, or one for each class, got porn"
    ):
        join_scores(scan(root), one)


# -- wrong labels


def planted(
    classes: int, seed: int, count: int = 10_000
) -> tuple[ScoredFolder, set[int]]:
    """Scores of a good classifier, and labels of which 100 are wrong."""
    chance = np.random.default_rng(seed)
    true = chance.integers(0, classes, count)
    logits = chance.normal(size=(count, classes))
    logits[np.arange(count), true] += 8
    scores = np.exp(logits)
    scores /= scores.sum(axis=1, keepdims=True)
    labels = true.copy()
    wrong = chance.choice(count, 100, replace=False)
    labels[wrong] = (labels[wrong] + chance.integers(1, classes, 100)) % classes
    return scored(labels, scores), set(wrong.tolist())


@pytest.mark.parametrize("classes", [2, 5])
@pytest.mark.parametrize("seed", [0, 1])
def test_planted_label_errors_are_found(classes: int, seed: int) -> None:
    pictures, wrong = planted(classes, seed)
    found = find_label_errors(pictures)
    likely = {int(Path(m.file.path).name) for m in found if m.likely_error}
    assert len(likely & wrong) >= 90
    assert len(likely - wrong) <= 5
    assert all(m.label != m.predicted for m in found)
    assert [m.likely_error for m in found] == sorted(
        (m.likely_error for m in found), reverse=True
    )
    predicted = pictures.scores.argmax(axis=1)
    counts = confusion_matrix(pictures.labels, predicted, classes)
    assert counts.sum() == 10_000
    assert counts.sum() - counts.trace() == len(found)


def test_one_label_only(tmp_path: Path) -> None:
    scores = np.array([[0.9, 0.1], [0.2, 0.8]])
    with pytest.raises(ValueError, match="two classes or more, all are labelled sfw"):
        find_label_errors(scored(np.array([0, 0]), scores))


def test_a_class_of_the_table_without_pictures() -> None:
    scores = np.array([[0.9, 0.1, 0.0], [0.1, 0.9, 0.0]] * 20)
    labels = np.array([0, 1] * 20)
    labels[0] = 1
    (mistake,) = find_label_errors(scored(labels, scores))
    assert (mistake.label, mistake.predicted, mistake.likely_error) == (
        "nsfw",
        "sfw",
        True,
    )


def test_where_mistakes_go() -> None:
    def disagreement(name: str, predicted: str, likely: bool) -> Disagreement:
        file = File(f"/d/{name}", name, None, "sfw", 1, 0)
        return Disagreement(file, "sfw", predicted, 0.1, 0.9, likely)

    found = [
        disagreement("train/sfw/x.jpg", "nsfw", True),
        disagreement("test/sfw/x.jpg", "../up", True),
        disagreement("sfw/y.jpg", "nsfw", False),
    ]
    likely = [
        ("/d/train/sfw/x.jpg", "sfw_as_nsfw/x.jpg"),
        ("/d/test/sfw/x.jpg", "sfw_as_.._up/x.jpg"),
    ]
    assert moves_of(found) == likely
    every = [*likely, ("/d/sfw/y.jpg", "sfw_as_nsfw/y.jpg")]
    assert moves_of(found, every=True) == every


# -- sorting

FOUR = np.array([[0.9, 0.1], [0.5, 0.5], [0.8, 0.2], [0.05, 0.95]])


def test_sorting_by_outcome() -> None:
    placed = arrange(scored(np.array([0, 0, 1, 1]), FOUR))
    assert [(one.folder, one.name) for one in placed] == [
        ("fn", "0.2000_nsfw_as_sfw_2.jpg"),
        ("fp", "0.5000_sfw_as_nsfw_1.jpg"),
        ("tn", "0.1000_sfw_as_sfw_0.jpg"),
        ("tp", "0.9500_nsfw_as_nsfw_3.jpg"),
    ]
    higher = arrange(scored(np.array([0, 0, 1, 1]), FOUR), SortOptions(threshold=0.51))
    assert [one.folder for one in higher] == ["fn", "tn", "tn", "tp"]
    moves = sort_moves(higher)
    assert moves[0] == ("/d/2", "fn/0.2000_nsfw_as_sfw_2.jpg")


def test_sorting_by_class() -> None:
    scores = np.array([[0.2, 0.1, 0.7], [0.6, 0.3, 0.1]])
    placed = arrange(scored(np.array([0, 1]), scores), SortOptions(by="class"))
    assert [(one.folder, one.name) for one in placed] == [
        ("nsfw_sfw", "0.6000_nsfw_as_sfw_1.jpg"),
        ("sfw_drawings", "0.7000_sfw_as_drawings_0.jpg"),
    ]
    two = arrange(
        scored(np.array([0, 0, 1, 1]), FOUR), SortOptions("class", threshold=0.9)
    )
    assert [one.folder for one in two][:2] == ["nsfw_nsfw", "nsfw_sfw"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": 1.5}, "threshold of 0 to 1, got 1.5"),
        ({"threshold": NAN}, "threshold of 0 to 1, got nan"),
        ({"positive": "porn"}, "no class 'porn': the table has sfw, nsfw"),
        ({"by": "name"}, "expected one of outcome, class, got 'name'"),
    ],
)
def test_sorting_that_cannot_be(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        arrange(scored(np.array([0, 0, 1, 1]), FOUR), SortOptions(**options))  # type: ignore[arg-type]


def test_outcomes_need_two_classes() -> None:
    with pytest.raises(ValueError, match="a threshold needs two classes, .* has 3"):
        arrange(scored(np.array([0]), np.array([[0.2, 0.3, 0.5]])))


# -- sheets


def test_a_sheet_shows_its_pictures(tmp_path: Path) -> None:
    paths = [str(pictures.path("coffee.png")), str(tmp_path / "missing.jpg")] * 5
    write_sheet(tmp_path / "s.jpg", paths, [f"0.{n} näme\n" for n in range(10)])
    sheet = np.asarray(Image.open(tmp_path / "s.jpg")).astype(float)
    assert sheet.shape[1] == COLUMNS * TILE
    assert sheet.shape[0] > 2 * TILE
    assert sheet[:TILE, :TILE].std() > 30  # a photograph
    middle = slice(TILE // 4, TILE // 2)
    assert sheet[middle, TILE + TILE // 4 : TILE + TILE // 2].std() < 5  # a gray tile
    assert (sheet[TILE : TILE + 26, :TILE] < 100).any()  # words


def test_a_blurred_sheet_shows_no_edges(tmp_path: Path) -> None:
    coffee = [str(pictures.path("coffee.png"))]
    edges = []
    for blur in (False, True):
        write_sheet(tmp_path / "s.jpg", coffee, [""], SheetOptions(blur=blur))
        sheet = np.asarray(Image.open(tmp_path / "s.jpg").convert("L")).astype(float)
        inside = sheet[50:110, 10:150]
        edges.append(np.abs(np.diff(inside, axis=1)).mean())
    assert edges[1] < edges[0] / 5


def test_sheets_of_sorted_pictures(tmp_path: Path) -> None:
    placed = arrange(scored(np.arange(100) % 2, np.repeat(FOUR, 25, axis=0)))
    coffee = str(pictures.path("coffee.png"))
    where = {one.file.path: coffee for one in placed[:99]}
    sheets = list(write_sheets(placed, where, tmp_path / "sheets"))
    assert [sheet.name for sheet in sheets] == [
        f"{name}-1.jpg" for name in ("fn", "fp", "tn", "tp")
    ]
    assert len(os.listdir(tmp_path / "sheets")) == 4
    with pytest.raises(ValueError, match="expected 1 to 48 pictures, got 49"):
        write_sheet(tmp_path / "x.jpg", [coffee] * 49, [""] * 49)


def test_files_that_have_changed_since_they_were_scored(tmp_path: Path) -> None:
    root = touched(tmp_path, "nsfw/a.jpg", "sfw/b.jpg", "sfw/c.jpg", "sfw/old.jpg")
    rows = table(
        *((file.name, 0.5, 0.5) for file in scan(root).files),
    )
    stamps = np.array([(file.size, file.mtime_ns) for file in scan(root).files])
    stamps[3] = (-1, 0)  # a row of an older table
    os.utime(root / "sfw/b.jpg", ns=(0, 1))
    (root / "sfw/c.jpg").write_bytes(b"another")
    made = join_scores(scan(root), replace(rows, stamps=stamps))
    assert [file.name for file in made.files] == ["nsfw/a.jpg", "sfw/old.jpg"]
    (changed,) = made.problems
    assert (changed.kind, changed.count) == ("changed", 2)
    assert changed.examples == ("sfw/b.jpg", "sfw/c.jpg")
    with pytest.raises(
        ValueError, match=r"pictures that have changed since they were .*: 2, such as"
    ):
        join_scores(scan(root), replace(rows, stamps=stamps), strict=True)


def test_case_and_a_single_column_do_not_matter(tmp_path: Path) -> None:
    root = touched(tmp_path, "NSFW/a.jpg", "Safe/b.jpg", "Safe/notes.txt")
    scores = {"nsfw": np.array([0.75, 0.25])}
    rows = Table(["NSFW/a.jpg", "Safe/b.jpg"], scores, [None, None], None)
    made = join_scores(scan(root), rows, {"safe": "SFW"}, strict=True)
    assert made.classes == ("sfw", "nsfw")
    assert made.labels.tolist() == [1, 0]
    assert made.scores.tolist() == [[0.25, 0.75], [0.75, 0.25]]


def test_one_call_sorts_draws_and_can_be_undone(tmp_path: Path) -> None:
    data = tmp_path / "d"
    for name in ("nsfw/a.png", "sfw/b.png"):
        (data / name).parent.mkdir(parents=True)
        pictures.sample("coffee.png").save(data / name)
    rows = table(("nsfw/a.png", 0.1, 0.9), ("sfw/b.png", 0.8, 0.2))
    proposed = sort_pictures(data, rows, tmp_path / "out", sheets=SheetOptions())
    assert [move.target for move in proposed.moves.plan.moves] == [
        str(tmp_path / "out/tn/0.2000_sfw_as_sfw_b.png"),
        str(tmp_path / "out/tp/0.9000_nsfw_as_nsfw_a.png"),
    ]
    assert not (tmp_path / "out").exists()
    done = sort_pictures(
        data, rows, tmp_path / "out", sheets=SheetOptions(), apply=True
    )
    assert [sheet.name for sheet in done.sheets] == ["tn-1.jpg", "tp-1.jpg"]
    assert all(sheet.exists() for sheet in done.sheets)
    assert done.moves.journal is not None
    manifest = done.moves.journal.path
    assert undo(manifest, apply=True).whole
    assert list((tmp_path / "out").iterdir()) == [manifest]
