"""From files to a report: the command, its files, the example."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pictures
import pytest

from open_nsfw_tf import Classifier
from open_nsfw_tf.evaluate import Criterion
from open_nsfw_tf.evaluate.evaluation import ON_THE_FLY, evaluate_files
from open_nsfw_tf.report import write_json, write_report

ROOT = Path(__file__).parent.parent
COMMAND = Path(sys.executable).parent / "open-nsfw"
# Two nsfw, three sfw: one pair of six stands wrongly.
SCORES = {"a.jpg": 0.9, "b.jpg": 0.4, "c.jpg": 0.6, "d.jpg": 0.2, "e.jpg": 0.1}
LABELS = {"a.jpg": "nsfw", "b.jpg": "nsfw", **dict.fromkeys(["c.jpg", "d.jpg"], "sfw")}


def run(*arguments: object, cwd: Path) -> Any:
    done = subprocess.run(
        [COMMAND, "evaluate", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "200"},
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "scores.csv", SCORES)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label"])
        rows.writerows([*LABELS.items(), ("e.jpg", "sfw")])
    return tmp_path


def write(path: Path, scores: dict[str, float]) -> None:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "sfw", "nsfw", "error"])
        rows.writerows([name, 1 - score, score, ""] for name, score in scores.items())


def test_the_command(folder: Path) -> None:
    done = run(
        *("scores.csv", "--labels", "labels.csv", "--max-fnr", "0.1"),
        *("--output", "report.html", "--json-file", "figures.json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    lines = done.stdout.splitlines()
    assert lines[0] == "5 pictures: 2 nsfw, 3 not"
    assert any(line.startswith("ROC AUC              0.8333") for line in lines)
    assert "threshold            0.4 (at most 10 % of the positives missed)" in lines
    assert lines[-2:] == ["written: report.html", "written: figures.json"]
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    figures = json.loads((folder / "figures.json").read_text())
    assert figures["roc_auc"] == 5 / 6
    assert figures["average_precision"] == pytest.approx((1 + 2 / 3) / 2)
    assert figures["threshold"] == 0.4
    assert figures["fnr"] == 0
    assert figures["fpr"] == 1 / 3
    assert figures["confusion_matrix"] == [[2, 1], [0, 2]]
    assert figures["problems"] == []
    steps = {row["threshold"]: row for row in figures["thresholds"]}
    assert steps[0.5]["recall"] == 0.5
    assert steps[0.5]["flagged"] == 0.4
    band = figures["bands"][0]
    assert (band["low"], band["high"]) == (0.2, 0.8)
    assert (band["safe"], band["review"], band["block"]) == (0.2, 0.6, 0.2)
    assert figures["operating_points"]["max_fpr_0.01"]["fnr"] == 0.5
    assert set(figures["intervals"]) > {"roc_auc", "fpr"}


@pytest.mark.parametrize(
    ("options", "threshold"),
    [
        (["--cost", "10:1"], 0.4),
        (["--cost", "1:10"], 0.9),
        (["--max-fpr", "0.01"], 0.9),
        (["--min-precision", "0.6"], 0.4),
        (["--min-recall", "0.5"], 0.9),
        (["--threshold", "0.3"], 0.3),
        ([], 0.5),
    ],
)
def test_every_way_to_choose(
    folder: Path, options: list[str], threshold: float
) -> None:
    names = ["max_fnr", "max_fpr", "min_precision", "min_recall", "threshold"]
    chosen: dict[str, Any] = {}
    for flag, value in zip(options[::2], options[1::2], strict=True):
        name = flag[2:].replace("-", "_")
        chosen[name] = (
            float(value)
            if name in names
            else tuple(float(part) for part in value.split(":"))
        )
    found = evaluate_files(
        [folder / "scores.csv"],
        folder / "labels.csv",
        Criterion(**chosen),
        bootstrap=0,
    )
    point = found.evaluations[0].chosen
    assert point is not None
    scores = sorted(SCORES.values())
    decided = [score >= point.threshold for score in scores]
    assert decided == [score >= threshold for score in scores]


def test_the_command_takes_every_option(folder: Path) -> None:
    write(folder / "other.csv", {**SCORES, "b.jpg": 0.8, "c.jpg": 0.3})
    done = run(
        *("scores.csv", "other.csv", "--labels", "labels.csv", "--cost", "10:1"),
        *("--band", "0.3:0.7", "--positive", "nsfw", "--map", "porn=nsfw"),
        *("--bootstrap", "20", "--strict", "--json-file", "out.json"),
        cwd=folder,
    )
    assert done.returncode == 0, done.stderr
    assert "other against scores" in done.stdout
    assert "McNemar" in done.stdout
    figures = json.loads((folder / "out.json").read_text())
    assert figures["roc_auc"] == figures["evaluations"]["scores"]["roc_auc"] == 5 / 6
    assert figures["evaluations"]["other"]["roc_auc"] == 1
    comparison = figures["comparisons"][0]
    assert (comparison["first"], comparison["second"]) == ("scores", "other")
    assert comparison["differences"]["roc_auc"] == pytest.approx(1 / 6)
    assert comparison["disagreements"] == ["b.jpg", "c.jpg"]


def test_swapped_classes(folder: Path) -> None:
    done = run(
        *("scores.csv", "--labels", "labels.csv", "--positive", "sfw"), cwd=folder
    )
    assert "5 pictures: 3 sfw, 2 not" in done.stdout


def test_json_where_no_threshold_fits(folder: Path) -> None:
    write(folder / "scores.csv", {**SCORES, "c.jpg": 1.0})
    found = evaluate_files(
        [folder / "scores.csv"],
        folder / "labels.csv",
        Criterion(max_fpr=0.1),
        bootstrap=0,
    )
    write_json(folder / "out.json", found)
    write_report(folder / "report.html", found)
    assert found.evaluations[0].chosen is None
    figures = json.loads((folder / "out.json").read_text())
    assert figures["roc_auc"] == pytest.approx(4 / 6)
    nothing = ("threshold", "fpr", "fnr", "accuracy", "confusion_matrix")
    assert [figures[name] for name in nothing] == [None] * 5
    assert figures["operating_points"]["max_fpr_0.01"] is None
    assert figures["notes"] == [
        "no threshold of 0 to 1 gives at most 10 % of the negatives flagged",
        (
            "no band of review keeps both shares of errors: too many pictures of the "
            "other class score 1; allow more with --max-fpr"
        ),
    ]
    assert figures["notes"][0] in (folder / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["none.csv"], "error: [Errno 2] No such file or directory: 'none.csv'"),
        (["none"], "error: none: no such file or folder"),
        (["empty"], "error: empty: expected pictures to score, found none"),
        (["scores.csv", "--max-fnr", "2"], "error: expected a false negative rate"),
        (
            ["scores.csv", "--max-fnr", ".1", "--max-fpr", ".1"],
            "error: expected one way to choose the threshold, got max_fnr and max_fpr",
        ),
        (["scores.csv", "--band", "0.9:0.1"], "error: expected a band LOW:HIGH"),
        (["scores.csv", "--positive", "porn"], "error: expected as positive some"),
        (
            ["nan.csv"],
            "rows with NaN or no score, and no error (left out): 1, such as a",
        ),
        (["high.csv"], "error: high.csv: row 1: expected a score of 0 to 1"),
        (["other.csv", "--strict"], "error: strict: scores without a label"),
        (["scores.csv", "--output", "no/r.html"], "no folder for the report"),
        (["scores.csv", "--json-file", "no/r.json"], "no folder for the JSON file"),
    ],
)
def test_errors_are_one_line(folder: Path, arguments: list[str], words: str) -> None:
    (folder / "empty").mkdir()
    (folder / "nan.csv").write_text("path,nsfw\na.jpg,nan\n")
    (folder / "high.csv").write_text("path,nsfw\na.jpg,high\n")
    write(folder / "other.csv", {**SCORES, "x.jpg": 0.5})
    done = run(*arguments, "--labels", "labels.csv", cwd=folder)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert words in done.stderr
    assert done.stderr.count("\n") == 1
    assert not list(folder.glob(".*"))


@pytest.mark.parametrize(
    ("option", "words"),
    [
        (["--cost", "10"], "expected two numbers with a colon"),
        (["--band", "a:b"], "expected two numbers with a colon"),
        (["--map", "porn"], "expected LABEL=CLASS"),
    ],
)
def test_wrong_usage(folder: Path, option: list[str], words: str) -> None:
    done = run("scores.csv", "--labels", "labels.csv", *option, cwd=folder)
    assert done.returncode == 2
    assert words in done.stderr


def test_problems_are_printed(folder: Path) -> None:
    write(folder / "scores.csv", {**SCORES, "x.jpg": 0.5})
    done = run("scores.csv", "--labels", "labels.csv", cwd=folder)
    assert done.returncode == 0
    assert "problem: scores without a label (left out): 1, such as x.jpg" in done.stdout


def test_tables_of_one_name(folder: Path) -> None:
    (folder / "new").mkdir()
    shutil.copy(folder / "scores.csv", folder / "new")
    sources = [folder / "scores.csv", folder / "new" / "scores.csv"]
    found = evaluate_files(sources, folder / "labels.csv", bootstrap=0)
    assert list(found.scores) == [str(source) for source in sources]


def test_pictures_are_scored_on_the_fly(
    tmp_path: Path, weights_path: Path, classifier: Any
) -> None:
    samples = {"sfw": ["rocket.jpg", "coffee.png"], "nsfw": ["retina.jpg"]}
    for label, names in samples.items():
        (tmp_path / "data" / label).mkdir(parents=True)
        for name in names:
            shutil.copy(pictures.path(name), tmp_path / "data" / label)
    (tmp_path / "data" / "sfw" / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    data = tmp_path / "data"
    found = evaluate_files(
        [data], data, classifier=lambda: Classifier(weights=weights_path)
    )
    write_report(tmp_path / "r.html", found)
    assert list(found.scores) == [ON_THE_FLY]
    for path, score in zip(found.joined.paths, found.scores[ON_THE_FLY], strict=True):
        assert score == pytest.approx(classifier.classify(path).nsfw, abs=1e-6)
    assert found.evaluations[0].figures["roc_auc"] == 1  # the retina scores highest
    (problem,) = found.joined.problems
    assert (problem.kind, problem.count) == ("failed", 1)
    assert "broken.jpg" in problem.examples[0]
    assert "data:image/jpeg" in (tmp_path / "r.html").read_text(encoding="utf-8")
    again = evaluate_files([data / "nsfw" / "retina.jpg"], data)
    assert again.evaluations[0].rows == 1


def test_class_folders_that_are_links_are_scored(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    weights_path: Path,
) -> None:
    data = tmp_path / "data"
    (data / "sfw").mkdir(parents=True)
    (tmp_path / "elsewhere").mkdir()
    shutil.copy(pictures.path("rocket.jpg"), data / "sfw")
    shutil.copy(pictures.path("retina.jpg"), tmp_path / "elsewhere")
    (data / "nsfw").symlink_to(tmp_path / "elsewhere")
    monkeypatch.chdir(tmp_path)
    found = evaluate_files(
        ["./data"], "data", classifier=lambda: Classifier(weights=weights_path)
    )
    assert (found.evaluations[0].rows, found.joined.problems) == (2, ())
    assert found.evaluations[0].figures["roc_auc"] == 1


def test_the_example_finds_what_is_known(tmp_path: Path) -> None:
    """ROC AUC 5/6, FPR (1 - t)**2, FNR t**2, and calibrated: see the example."""
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "choose_threshold.py", tmp_path, "100"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"ROC AUC   0.83\d\d, known: 0.8333", done.stdout)
    figures = json.loads((tmp_path / "figures.json").read_text())
    assert figures["rows"] == 200
    assert figures["roc_auc"] == pytest.approx(5 / 6, abs=1e-3)
    assert figures["expected_calibration_error"] < 0.02
    # Of 100 positives 5 may be missed: the threshold is the score of the sixth.
    t = figures["threshold"]
    assert 0.045**0.5 < t <= 0.055**0.5 + 1e-3
    assert figures["fnr"] == 0.05
    assert figures["fpr"] == pytest.approx((1 - t) ** 2, abs=0.01)
    for row in figures["thresholds"]:
        at = row["threshold"]
        assert row["fpr"] == pytest.approx((1 - at) ** 2, abs=0.011)
        assert row["fnr"] == pytest.approx(at**2, abs=0.011)
    # Beta densities 2s and 2(1 - s): mean of s(1 - s) is 1/6, of the entropy 1/2.
    assert figures["brier_score"] == pytest.approx(1 / 6, abs=2e-3)
    assert figures["log_loss"] == pytest.approx(0.5, abs=5e-3)
    # The pictures are there, so their thumbnails are.
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert page.count("data:image/jpeg;base64,") == 5 + 12


def test_the_benchmark_runs(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "benchmarks.evaluate", "--rows", "2000", "--json"]
    done = subprocess.run(
        [*command, tmp_path / "out.json"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "scores.parquet" in done.stdout
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["rows"] == 2000
    assert found["scores.csv"]["report_kb"] > 50


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--json-file", "labels.csv"], "would overwrite an input"),
        (["--output", "./scores.csv"], "would overwrite an input"),
        (["--json-file", "link.csv"], "would overwrite an input"),
        (["--output", "same", "--json-file", "same"], "would overwrite the report"),
        (["--output", "nodir/r.html"], "no folder for the report: create nodir first"),
        (["--json-file", "."], "expected the name of a file"),
        (["--json-file", "a.jpg"], "would overwrite a picture"),
    ],
)
def test_outputs_are_looked_at_before_any_work(
    folder: Path, options: list[str], words: str
) -> None:
    (folder / "link.csv").symlink_to("labels.csv")
    (folder / "a.jpg").write_bytes(b"x")
    before = {path: path.read_bytes() for path in folder.iterdir()}
    done = run("scores.csv", "--labels", "labels.csv", *options, cwd=folder)
    assert done.returncode == 1
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_table_that_is_given_twice_is_refused(folder: Path) -> None:
    tables = [folder / "scores.csv", folder / "." / ".." / folder.name / "scores.csv"]
    with pytest.raises(ValueError, match="this table is given twice"):
        evaluate_files(tables, folder / "labels.csv", bootstrap=0)


def test_odd_scores_are_counted_and_strict_fails(folder: Path) -> None:
    odd = {"a.jpg": float("nan"), "c.jpg": 1.5, "d.jpg": float("inf")}
    write(folder / "scores.csv", {**SCORES, **odd})
    report = evaluate_files([folder / "scores.csv"], folder / "labels.csv", bootstrap=0)
    assert report.joined.paths == ["b.jpg", "e.jpg"]
    found = {problem.kind: problem for problem in report.joined.problems}
    assert found["no_score"].examples == ("a.jpg",)
    assert found["out_of_range"].examples == ("c.jpg", "d.jpg")
    with pytest.raises(ValueError, match="strict: rows with NaN"):
        evaluate_files([folder / "scores.csv"], folder / "labels.csv", strict=True)


@pytest.mark.parametrize("arguments", [[], ["out", "many"], ["out", "1", "2"]])
def test_the_example_says_how_it_is_called(tmp_path: Path, arguments: Any) -> None:
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / "choose_threshold.py", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("usage: python examples/choose_threshold.py FOLDER")
    assert done.stderr.count("\n") == 1
    assert not list(tmp_path.iterdir())


def test_one_class_recommends_no_threshold(folder: Path) -> None:
    (folder / "labels.csv").write_text("path,label\na.jpg,nsfw\nb.jpg,nsfw\n")
    arguments = ("scores.csv", "--labels", "labels.csv")
    done = run(*arguments, "--max-fnr", "0.1", cwd=folder)
    assert re.search(r"^threshold +none$", done.stdout, re.MULTILINE)
    given = run(*arguments, "--threshold", "0.5", cwd=folder)
    assert re.search(r"^threshold +0.5 ", given.stdout, re.MULTILINE)
