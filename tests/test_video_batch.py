"""Verdicts, and videos in tables: the command, `batch --videos`, `evaluate`."""

import json
import os
import signal
import subprocess
import sys
import time
import weakref
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import HEEDING
from PIL import Image
from trained_models import other_network
from video_clips import write_clip

from benchmarks.video import repeat_clip
from open_nsfw_tf import Classifier
from open_nsfw_tf.batch import BatchOptions, score_batch
from open_nsfw_tf.evaluate import Criterion, evaluate_files
from open_nsfw_tf.progress import progress_bar
from open_nsfw_tf.tables import read_table
from open_nsfw_tf.tables.append import TableWriter
from open_nsfw_tf.tables.parquet_folder import PartsWriter
from open_nsfw_tf.video import Rule, Sampling, VerdictOptions, score_video
from open_nsfw_tf.video.verdict import Tally

OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
EVERY = BatchOptions(videos=Sampling(every=0.5))


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a video, an animation, a picture, a broken video and a note."""
    folder = tmp_path_factory.mktemp("videos")
    write_clip(folder / "a.mp4", [i / 10 for i in range(20)])
    first, *others = (Image.new("RGB", (64, 48), (90 * i, 0, 0)) for i in range(3))
    first.save(folder / "b.gif", save_all=True, append_images=others, duration=400)
    first.save(folder / "c.png")
    (folder / "d.mp4").write_bytes((folder / "a.mp4").read_bytes()[:300])
    (folder / "e.txt").write_text("a note")
    return folder


def verdict(
    rule: str, scores: list[float], seconds: list[float] | None = None, **decide: Any
) -> Any:
    tally = Tally()
    for index, score in enumerate(scores):
        tally.add(seconds[index] if seconds else float(index), score)
    options = VerdictOptions(Rule.parse(rule), **decide)
    return tally.verdict(options, len(scores), None)


def test_the_rules() -> None:
    scores = [0.1, 0.9, 0.1, 0.1, 0.6, 0.7, 0.6, 0.1, 0.1, 0.1]
    assert verdict("max", scores).score == 0.9
    assert verdict("share:.1", scores).score == 0.9
    assert verdict("share:.2", scores).score == 0.7
    assert verdict("share:0.41", scores).score == 0.1
    assert verdict("run:1", scores).score == 0.9
    assert verdict("run:2", scores).score == 0.6
    assert verdict("run:3", scores).score == 0.6
    assert verdict("run:4", scores).score == 0.1
    # A video shorter than the run counts if all of it does; its last frame is a moment.
    assert verdict("run:60", [0.5, 0.4, 0.6]).score == 0.4
    assert verdict("run:60", [0.5]).score == 0.5
    # Where the rate varies it is the time that counts.
    assert verdict("run:5", [0.1, 0.8, 0.1], [0, 1, 7]).score == 0.8
    for text in ("min", "share", "share:2", "run:0", "run:nan", "share:x"):
        with pytest.raises(ValueError, match="expected"):
            Rule.parse(text)
    with pytest.raises(ValueError, match="a share above 0, and at most 1, got 0"):
        Rule("share", 0)
    with pytest.raises(ValueError, match="max, share:SHARE or run:.*, got 'min'"):
        Rule("min")  # type: ignore[arg-type]


def test_a_rule_decides_as_its_score_says() -> None:
    """At every threshold: the definition of the score."""
    rng = np.random.default_rng(0)
    for _ in range(30):
        scores = rng.integers(0, 6, 12) / 5
        seconds = np.cumsum(rng.integers(1, 4, 12)).astype(float)
        for threshold in np.arange(0, 1.2, 0.2):
            flagged = scores >= threshold - 1e-12
            runs, best = 0.0, -1.0
            for i in range(12):
                if flagged[i]:
                    runs = runs if i and flagged[i - 1] else 0.0
                    runs += seconds[i + 1] - seconds[i] if i < 11 else 0.0
                    best = max(best, runs)
            found = Rule("run", 5.0).score(seconds, scores)
            assert (found >= threshold - 1e-12) == (best >= 5.0)
            found = Rule("share", 0.3).score(seconds, scores)
            assert (found >= threshold - 1e-12) == (flagged.mean() >= 0.3)


def test_the_verdict() -> None:
    found = verdict("max", [0.1, 0.5, 0.9, 0.1, 0.3], threshold=0.3)
    assert (found.decision, found.state, found.frames) == ("nsfw", "complete", 5)
    assert (found.max, found.max_seconds, found.longest_run) == (0.9, 2.0, 2.0)
    assert (found.mean, found.share) == (pytest.approx(0.38), 0.6)
    segments = [tuple(segment) for segment in found.segments]
    assert segments == [(1.0, 3.0, 0.9, 2.0), (4.0, 5.0, 0.3, 4.0)]
    assert json.loads(json.dumps(found.to_dict()))["segments"][0]["end"] == 3.0
    decisions = [verdict("max", [score]).decision for score in (0.19, 0.2, 0.8)]
    assert decisions == ["accept", "review", "block"]
    assert verdict("max", [0.2], threshold=0.3).decision == "sfw"


def test_it_stops_at_a_score(videos: Path, classifier: Any) -> None:
    scores = [f.nsfw for f in score_video(classifier, videos / "a.mp4", sampling="all")]
    third = scores.index(max(scores[:3]))
    video = score_video(
        classifier,
        videos / "a.mp4",
        sampling="all",
        options=VerdictOptions(stop_at=scores[third]),
    )
    assert len(list(video)) == third + 1
    assert video.verdict.state == "partial"
    assert "as asked" in str(video.verdict.reason)
    assert video.verdict.stopped
    # The reason of a file may have any words.
    assert not Tally.verdict(video._tally, VerdictOptions(), 9, "as asked").stopped


def test_a_class_counts_once(videos: Path, classifier: Any) -> None:
    """However often and in whichever case it is named."""
    scores = []
    for positive in (("nsfw",), ("nsfw", "NSFW", "nsfw")):
        options = VerdictOptions(positive=positive)
        with score_video(classifier, videos / "b.gif", options=options) as frames:
            list(frames)
        scores.append(frames.verdict.score)
    assert scores[0] == scores[1]
    for positive in (("porn",), ("sfw", "nsfw"), ()):
        options = VerdictOptions(positive=positive)
        with pytest.raises(ValueError, match="some of the classes sfw, nsfw"):
            score_video(classifier, videos / "b.gif", options=options)


def test_large_frames_that_are_kept_are_scored_one_by_one(
    videos: Path, classifier: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def scored(**kept: Any) -> list[Any]:
        return list(score_video(classifier, videos / "a.mp4", sampling="all", **kept))

    expected = scored()
    alive: list[int] = []
    seen: list[Any] = []

    def on_frame(seconds: float, score: float, rgb: np.ndarray) -> None:
        seen.append(weakref.ref(rgb))
        alive.append(sum(each() is not None for each in seen))

    monkeypatch.setattr("open_nsfw_tf.video.scoring.LARGE", 1000)
    found = scored(on_frame=on_frame)
    assert max(alive) <= 2
    assert np.array(found) == pytest.approx(np.array(expected), abs=1e-6)


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_videos_in_a_table(
    tmp_path: Path, videos: Path, classifier: Any, suffix: str
) -> None:
    output = tmp_path / f"scores.{suffix}"
    summary = score_batch(classifier, [str(videos)], output, options=EVERY)
    assert (summary.failed, summary.finished) == (1, True)
    assert dict(summary.passed_over) == {".txt": 1}
    table = read_table(output)
    names = [os.path.basename(path) for path in table.paths]
    assert names == ["a.mp4"] * 5 + ["b.gif"] * 3 + ["c.png", "d.mp4"]
    assert table.seconds is not None
    assert table.seconds.tolist()[:8] == pytest.approx(
        [0, 0.5, 1, 1.5, 1.9, 0, 0.4, 0.8]
    )
    assert table.columns["nsfw"][5] == table.columns["nsfw"][8]  # frame 0 and the still
    assert "not a video" in str(table.errors[9])
    again = score_batch(classifier, [str(videos)], output, mode="resume", options=EVERY)
    assert (again.rows, again.skipped) == (0, 4)


def test_without_the_option_an_animation_is_its_first_picture(
    tmp_path: Path, videos: Path, classifier: Any
) -> None:
    output = tmp_path / "scores.csv"
    score_batch(classifier, [str(videos)], output)
    names = [os.path.basename(path) for path in read_table(output).paths]
    assert names == ["b.gif", "c.png"]


@pytest.mark.parametrize("suffix", ["csv", "parquet"])
def test_a_video_that_was_not_finished_is_scored_anew(
    tmp_path: Path, videos: Path, classifier: Any, suffix: str
) -> None:
    """As a kill leaves it: some of its rows are there, and not the last one."""
    output = tmp_path / f"scores.{suffix}"
    rows = tmp_path / f"scores.{'csv' if suffix == 'csv' else 'parquet.partial'}"
    asked = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 3

    stopped = score_batch(
        classifier, [str(videos / "a.mp4")], output, options=EVERY, stop=stop
    )
    assert not stopped.finished
    assert 1 <= stopped.rows < 5
    assert rows.read_bytes()
    whole = score_batch(classifier, [str(videos)], output, mode="resume", options=EVERY)
    assert (whole.again, whole.finished) == (1, True)
    paths = read_table(output).paths
    assert len(paths) == 10
    assert paths.count(str(videos / "a.mp4")) == 5


@pytest.mark.parametrize("name", ["scores.csv", "scores"])
def test_rows_of_a_video_that_cannot_be_read_any_more_go(
    tmp_path: Path, name: str
) -> None:
    columns = ("path", "frame", "seconds", "sfw", "nsfw", "error", "size", "mtime_ns")

    def row(*values: Any) -> dict[str, Any]:
        return dict(zip(columns, ("a.mp4", *values), strict=True))

    kind = TableWriter if name.endswith(".csv") else PartsWriter
    with kind(tmp_path / name, columns) as writer:
        writer.write([row(i, i / 2, 0.9, 0.1, None, None, None) for i in range(3)])
    with kind(tmp_path / name, columns, "resume") as writer:
        writer.write([row(None, None, None, None, "not a video", 10, 11)])
        writer.finish()
    assert read_table(tmp_path / name).errors == ["not a video"]


def test_evaluate_by_path(tmp_path: Path) -> None:
    scores, labels = tmp_path / "scores.csv", tmp_path / "labels.csv"
    scores.write_text(
        "path,frame,seconds,sfw,nsfw,error,size,mtime_ns\n"
        "a.mp4,0,0.0,0.9,0.1,,,\na.mp4,1,1.0,0.1,0.9,,,\na.mp4,2,2.0,0.9,0.1,,10,11\n"
        "b.mp4,0,0.0,0.2,0.8,,,\nb.mp4,1,1.0,0.3,0.7,,,\nb.mp4,2,2.0,0.2,0.8,,,\n"
        "b.mp4,,,,,partial: damaged,10,12\nc.jpg,,,0.7,0.3,,3,4\n"
    )
    labels.write_text("path,label\na.mp4,sfw\nb.mp4,nsfw\nc.jpg,sfw\n")

    def scored(rule: str | None) -> list[float]:
        found = evaluate_files(
            [scores], labels, Criterion(threshold=0.5), bootstrap=0, rule=rule
        )
        return found.joined.scores["scores"][:, 1].tolist()

    assert scored("max") == [0.9, 0.8, 0.3]
    assert scored("share:.5") == [0.1, 0.8, 0.3]
    assert scored("run:2") == [0.1, 0.7, 0.3]
    assert scored(None) == [0.1, 0.8, 0.3]  # the first row of each
    found = evaluate_files(
        [scores],
        labels,
        Criterion(threshold=0.5),
        positive=("nsfw", "NSFW"),
        bootstrap=0,
        rule="max",
    )
    assert found.joined.scores["scores"][:, 1].tolist() == [0.9, 0.8, 0.3]
    problems = {problem.kind: problem.examples for problem in found.joined.problems}
    assert problems["partial"] == ("b.mp4: partial: damaged",)
    text = scores.read_text().replace(",seconds,", ",label,")
    scores.write_text(text)
    with pytest.raises(ValueError, match="needs the seconds"):
        scored("run:2")


def run(*arguments: Any) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [OPEN_NSFW, *map(str, arguments)], capture_output=True, text=True, check=False
    )


def test_the_command(tmp_path: Path, videos: Path) -> None:
    table, page = tmp_path / "frames.csv", tmp_path / "report.html"
    done = run(
        *("video", videos / "a.mp4", videos / "d.mp4", "--json", "--frames", 3),
        *("--band", "0:0.9", "-o", table, "--report", page),
    )
    assert (done.returncode, done.stderr) == (1, "")
    first, second = map(json.loads, done.stdout.splitlines())
    assert first["decision"] == "review"
    assert (first["frames"], first["seconds"]) == (3, 2.0)
    assert first["segments"][0]["start"] == 0
    assert second["error"].startswith(f"{videos / 'd.mp4'}: not a video")
    rows = read_table(table)
    assert rows.seconds is not None
    assert rows.seconds[:3].tolist() == pytest.approx([0, 0.9, 1.9])
    assert rows.errors[3] is not None
    html = page.read_text()
    assert html.count("data:image/jpeg;base64,") == 1
    assert "<script" not in html and "No verdict" in html
    assert "filter: blur" in html
    done = run("video", videos / "a.mp4", "-o", table)
    assert (done.returncode, done.stdout) == (1, "")
    assert "exists" in done.stderr


def test_wrong_usage(videos: Path) -> None:
    for options, message in (
        (("video", videos, "--every", 1, "--all"), "exclude each other"),
        (("video", videos, "--rule", "most"), "expected max, share:SHARE"),
        (("batch", videos, "-o", "x.csv", "--videos", "some"), "every:SECONDS"),
    ):
        done = run(*options)
        assert done.returncode == 2
        assert message in done.stderr


def test_wrong_usage_leaves_the_table_that_is_there(
    tmp_path: Path, videos: Path
) -> None:
    table = tmp_path / "frames.csv"
    table.write_text("of before")
    for options, status, message in (
        (("--band", "0.9:0.1"), 2, "expected a band"),
        (("--positive", "porn"), 1, "some of the classes sfw, nsfw, got porn"),
    ):
        done = run("video", videos / "a.mp4", "-o", table, "--overwrite", *options)
        assert (done.returncode, done.stdout) == (status, "")
        assert message in " ".join(done.stderr.split())
        assert table.read_text() == "of before"


def test_the_bar_is_one_line_for_any_name(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "xterm")
    title = "[/b] of a holiday " + 20 * "by the sea "
    with progress_bar(lambda: 14_400, title, in_seconds=True) as progress:
        progress(completed=3752)
    drawn = terminal.getvalue()
    assert "[/b] of a holiday by the sea " in drawn
    assert "1:02:32 of 4:00:00" in drawn
    assert drawn.count("\n") == 1 and drawn.endswith("\x1b[1A\x1b[2K")  # it is erased


def test_ctrl_c_keeps_what_was_scored(tmp_path: Path, videos: Path) -> None:
    long = repeat_clip(tmp_path / "long.mp4", videos / "a.mp4", 200)
    table = tmp_path / "frames.jsonl"
    process = subprocess.Popen(
        [sys.executable, "-c", HEEDING, str(OPEN_NSFW)]
        + ["video", str(long), "--all", "-o", str(table)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 300
    while time.monotonic() < until and not (table.exists() and table.stat().st_size):
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=300)
    assert process.returncode == 130
    assert "finishing the frames in flight" in errors
    assert "partial" in output
    rows = [json.loads(line) for line in table.read_text().splitlines()]
    assert 0 < len(rows) < 4000
    assert [row["frame"] for row in rows] == list(range(len(rows)))


@pytest.mark.slow
def test_three_planted_frames_in_an_hour(tmp_path: Path) -> None:
    """7,200 frames, of which three show something else, by a small network."""
    classifier = Classifier(engine="onnxruntime", model=other_network())
    plain = np.full((64, 64, 3), 128, np.uint8)
    other = np.zeros((64, 64, 3), np.uint8)
    other[16:48, 16:48] = (224, 172, 135)
    planted = {1000, 1001, 5000}
    path = write_clip(
        tmp_path / "a.mp4",
        [i / 2 for i in range(7200)],
        picture=lambda number: other if number in planted else plain,
        preset="ultrafast",
    )
    usual, unusual = (classifier.classify(each) for each in (plain, other))
    # Its weights are random: any class in which the two differ will do.
    name = max(
        classifier.classes, key=lambda n: getattr(unusual, n) - getattr(usual, n)
    )
    assert getattr(unusual, name) > getattr(usual, name) + 0.1
    middle = (getattr(usual, name) + getattr(unusual, name)) / 2
    options = VerdictOptions(threshold=middle, positive=[name])
    video = score_video(classifier, path, sampling="all", options=options)
    assert sum(1 for _ in video) == 7200
    found = video.verdict
    assert found.decision == "nsfw"
    assert found.share == pytest.approx(3 / 7200)
    assert found.longest_run == pytest.approx(1.0)
    times = [(s.start, s.end) for s in found.segments]
    assert np.array(times) == pytest.approx(np.array([(500, 501), (2500, 2500.5)]))


@pytest.mark.ray
def test_the_same_rows_on_ray(tmp_path: Path, videos: Path, classifier: Any) -> None:
    local, folder = tmp_path / "local.csv", tmp_path / "ray"
    score_batch(classifier, [str(videos)], local, options=EVERY)
    command = ("batch", videos, "-o", folder, "--videos", "every:0.5")
    command = (*command, "--ray", "--actors", 1)
    assert run(*command).returncode == 0
    tables = read_table(local), read_table(folder)
    rows = [
        [
            (path, *np.nan_to_num([second, score]).round(5).tolist())
            for path, second, score in zip(
                table.paths, table.seconds, table.columns["nsfw"], strict=True
            )
        ]
        for table in tables
        if table.seconds is not None
    ]
    assert sorted(rows[0]) == sorted(rows[1])
    assert len(rows[0]) == 10
    done = run(*command, "--resume")
    assert "0 pictures, 0 without a score, 4 skipped" in done.stdout
