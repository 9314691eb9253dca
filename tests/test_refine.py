"""The example of refining: its second model is better, and what it moved comes back."""

import io
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import pytest

from open_nsfw_tf.backbones.trained import read_trained
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.undo import undo

sys.path.insert(0, str(Path(__file__).parent.parent / "examples"))
import refine

FOLDS, ERRORS, TRAINING = 2, 36, 180
SMALL = shlex.split(f"--pictures 450 --size 96 --epochs 8 --folds {FOLDS} --seed 1")


@contextmanager
def command_line(*words: str) -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["refine.py", *words])
        yield


pytestmark = pytest.mark.slow  # it trains three models


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("refined")


@pytest.fixture(scope="module")
def said(out: Path) -> str:
    """What the example prints."""
    with redirect_stdout(io.StringIO()) as text, command_line(str(out), *SMALL):
        refine.main()
    return text.getvalue()


def test_the_second_model_is_better(said: str) -> None:
    first, second = map(
        float, re.findall(r"^  test accuracy ([\d.]+)%", said, re.MULTILINE)
    )
    assert second > first
    last = f"better: test accuracy {first:.2f}% before, {second:.2f}% after"
    assert said.splitlines()[-1] == last


def test_planted_errors_are_found(said: str) -> None:
    counts = re.search(
        r"(\d+) of (\d+) planted errors found, and (\d+) right labels", said
    )
    assert counts is not None
    found, planted, false = map(int, counts.groups())
    assert planted == ERRORS
    assert found > planted / 2
    assert false < TRAINING / 5


def test_no_picture_is_scored_by_a_model_that_has_seen_it(out: Path, said: str) -> None:
    table = read_table(out / "out_of_sample.csv", any_number=True)
    assert len(set(table.paths)) == len(table.paths) == TRAINING
    assert not any(table.errors)
    seen = [
        {link.name for link in (out / "folds" / str(number)).rglob("*.jpg")}
        for number in range(FOLDS)
    ]
    part = TRAINING // FOLDS
    for number, names in enumerate(seen):
        scored = table.paths[number * part : (number + 1) * part]
        assert len(names) == TRAINING - part
        assert not names & {Path(path).name for path in scored}


def test_what_was_moved_comes_back(out: Path, said: str) -> None:
    moved = [path.name for path in (out / "mistakes").rglob("*.jpg")]
    (manifest,) = re.findall(r"undo --apply (.+)$", said, re.MULTILINE)
    assert {path.name for path in (out / "mistakes").iterdir() if path.is_dir()} == {
        "dots_as_stripes",
        "stripes_as_dots",
    }
    train = out / "pictures" / "train"
    left = {path.name for path in train.rglob("*.jpg")}
    assert len(left) == TRAINING - len(moved)
    done = undo(Path(manifest), apply=True)
    assert done.whole
    assert {path.name for path in train.rglob("*.jpg")} == left | set(moved)


def test_both_runs_are_models(out: Path, said: str) -> None:
    for run in ("first", "second"):
        assert read_trained(out / run).classes == ("dots", "stripes")
        assert (out / run / "report.html").exists()
    assert (out / "comparison.html").exists()


def test_no_gain_is_an_error() -> None:
    with pytest.raises(
        SystemExit, match=r"^not better: .+ 90.00% before, 90.00% after"
    ):
        refine.tell(0.9, 0.9)


@pytest.mark.parametrize(
    ("words", "message"),
    [([], "expected an empty folder"), (["--folds", "1"], "2")],
)
def test_wrong_usage(words: list[str], message: str, tmp_path: Path) -> None:
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "x").touch()
    with command_line(str(tmp_path), *words), pytest.raises(SystemExit, match=message):
        refine.main()
