"""Forked and spawned processes score right, or raise at once; none hangs."""

import os
import subprocess
import sys
from pathlib import Path

import pictures
import pytest
from conftest import GOLDEN, installed_engines

TESTS = Path(__file__).parent
PICTURE = "coffee.png"

# What comes of the use of an engine or a loader in a child: the right score, a
# RuntimeError of one line, or, where that depends on what the parent had just begun, one
# of the two. "before": the parent has made it and not used it; a loader that was only made
# has not touched TensorFlow yet.
RIGHT, RAISES = {"right"}, {"raises"}
EITHER = RIGHT | RAISES
TABLE = {
    #                before  after   twice   unused busy    during  pool    spawned
    "default":       (RIGHT, RIGHT,  RIGHT,  RIGHT, RIGHT,  RIGHT,  None,   RIGHT),
    "onnxruntime":   (RIGHT, RIGHT,  RIGHT,  RIGHT, RIGHT,  RIGHT,  RIGHT,  RIGHT),
    "litert":        (RIGHT, RIGHT,  RIGHT,  RIGHT, RIGHT,  RIGHT,  RIGHT,  RIGHT),
    "openvino":      (RAISES, RAISES, RAISES, RIGHT, RAISES, EITHER, RAISES, RIGHT),
    "tensorflow":    (RAISES, RAISES, RAISES, RIGHT, RAISES, EITHER, RAISES, RIGHT),
    "OpenNsfwModel": (RAISES, RAISES, RAISES, RIGHT, RAISES, EITHER, None,   RIGHT),
    "graph loader":  (RIGHT, RAISES, RAISES, RIGHT, RAISES, EITHER, None,   RIGHT),
    "base64 loader": (RIGHT, RAISES, RAISES, RIGHT, RAISES, EITHER, None,   RIGHT),
    "pillow loader": (RIGHT, RIGHT,  RIGHT,  RIGHT, RIGHT,  RIGHT,  None,   RIGHT),
}  # fmt: skip
SITUATIONS = ("before", "after", "twice", "unused", "busy", "during", "pool", "spawn")
CASES = [
    (what, situation, expected)
    for what, row in TABLE.items()
    for situation, expected in zip(SITUATIONS, row, strict=True)
    if expected
] + [(what, "forkserver", row[-1]) for what, row in TABLE.items()]


def run(code: list[object], timeout: float = 200) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-W", "error", *map(str, code)],
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )


def test_the_table_has_every_engine() -> None:
    from open_nsfw_tf.engines import ENGINES

    assert set(ENGINES) < set(TABLE)


@pytest.mark.parametrize(("what", "situation", "expected"), CASES)
def test_a_child_scores_right_or_raises_at_once(
    what: str, situation: str, expected: set[str], weights_path: Path
) -> None:
    if what in ("openvino", "litert") and what not in installed_engines():
        pytest.skip(f"{what} is not installed")
    script = TESTS / "fork_cases.py"
    golden = GOLDEN["samples"][PICTURE]["nsfw"]
    done = run([script, what, situation, pictures.path(PICTURE), golden])
    assert done.returncode == 0, done.stderr
    found = done.stdout.splitlines()
    assert found
    for line in found:
        library = "OpenVINO" if what == "openvino" else "TensorFlow"
        refused = f"RuntimeError: {library} was used before this process was forked"
        if line.startswith(refused):
            assert "gunicorn without --preload" in line
            assert "'spawn'" in line
            line = "raises"
        assert line in expected, (line, done.stderr)
    assert not done.stderr
