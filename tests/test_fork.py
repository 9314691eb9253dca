"""Forked and spawned processes score right, or raise at once; none hangs."""

import subprocess
import sys
from pathlib import Path

import pictures
import pytest
from conftest import GOLDEN, installed_engines

TESTS = Path(__file__).parent
PICTURE = "coffee.png"

# What comes of the use of an engine or a loader in a child: the right score, a
# RuntimeError of one line, or, where that depends on what the parent had just begun,
# one of the two. "before": the parent has made it and not used it; a loader that was
# only made has not touched TensorFlow yet.
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
SLOW = ("graph loader", "base64 loader", "OpenNsfwModel")
PARENTS = {  # the situations that a process of fork_cases.py tries, in their order
    "used": ("before", "after", "twice", "unused", "busy"),
    "loading": ("during",),
    "started": ("pool", "spawn", "forkserver"),
}


def run(code: list[object], timeout: float = 1500) -> subprocess.CompletedProcess[str]:
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


# Each process traces a slow one anew, and all are TensorFlow's: one parent is enough.
CASES = [(what, parent) for what in TABLE for parent in PARENTS if what not in SLOW]


@pytest.mark.parametrize(
    ("what", "parent"),
    [
        *CASES,
        *(pytest.param(what, "used", marks=pytest.mark.slow) for what in SLOW),
    ],
)
def test_a_child_scores_right_or_raises_at_once(
    what: str, parent: str, weights_path: Path
) -> None:
    if what in ("openvino", "litert") and what not in installed_engines():
        pytest.skip(f"{what} is not installed")
    situations = ("before", "after", "twice", "unused", "busy", "during", "pool")
    *forked, spawned = TABLE[what]
    expected = dict(zip(situations, forked, strict=True))
    expected |= {"spawn": spawned, "forkserver": spawned, "parent": RIGHT}
    script = TESTS / "fork_cases.py"
    golden = GOLDEN["samples"][PICTURE]["nsfw"]
    done = run([script, what, parent, pictures.path(PICTURE), golden])
    assert done.returncode == 0, done.stderr
    tried = []
    for line in done.stdout.splitlines():
        situation, _, found = line.partition("\t")
        tried.append(situation)
        library = "OpenVINO" if what == "openvino" else "TensorFlow"
        refused = f"RuntimeError: {library} was used before this process was forked"
        if found.startswith(refused):
            assert "gunicorn without --preload" in found
            assert "'spawn'" in found
            found = "raises"
        assert found in (expected[situation] or set()), (line, done.stderr)
    wanted = [one for one in PARENTS[parent] if expected[one]]
    assert [one for one in dict.fromkeys(tried) if one != "parent"] == wanted
    if (parent, expected["during"]) != ("loading", EITHER):
        assert not done.stderr  # h5py, imported meanwhile, complains of its own hooks


LOOKED_UP = """
import os, signal, sys, threading, time
import open_nsfw_tf
thread = threading.Thread(target=lambda: open_nsfw_tf.classify(sys.argv[1]))
thread.start()
for delay in (0, 0.004, 0.01, 0.02, 0.04):
    time.sleep(delay)
    child = os.fork()
    if not child:
        signal.alarm(300)
        print(open_nsfw_tf.classify(sys.argv[1]).nsfw, flush=True)
        os._exit(0)
    print(os.waitpid(child, 0)[1], flush=True)
thread.join()
"""

TEMPORARY = """
import os, signal, sys, tempfile, threading, time
import open_nsfw_tf
begun, find = threading.Event(), tempfile._get_default_tempdir
def slow():
    begun.set()
    time.sleep(1)
    return find()
tempfile._get_default_tempdir = slow
weights = open_nsfw_tf.load_weights()
thread = threading.Thread(target=lambda: open_nsfw_tf.Classifier(weights=weights))
thread.start()
begun.wait()
child = os.fork()
if not child:
    signal.alarm(300)
    classifier = open_nsfw_tf.Classifier(weights=weights)
    print(classifier.classify(sys.argv[1]).nsfw, flush=True)
    os._exit(0)
print(os.waitpid(child, 0)[1])
thread.join()
"""

QUIET = """
import os, threading, time
from open_nsfw_tf.libraries import import_tensorflow
thread = threading.Thread(target=import_tensorflow)
thread.start()
time.sleep(0.3)
child = os.fork()
if not child:
    os.write(2, b"heard")
    os._exit(0)
os.waitpid(child, 0)
thread.join()
"""


def test_a_fork_while_the_package_itself_is_imported() -> None:
    done = run(["-c", LOOKED_UP, pictures.path(PICTURE)])
    lines = done.stdout.split()
    scores, statuses = lines[::2], lines[1::2]
    assert (statuses, done.stderr) == (["0"] * 5, "")
    for score in scores:
        assert abs(float(score) - GOLDEN["samples"][PICTURE]["nsfw"]) <= 5e-6


def test_a_fork_while_the_folder_of_temporary_files_is_looked_for() -> None:
    done = run(["-c", TEMPORARY, pictures.path(PICTURE)])
    score, status = done.stdout.split()
    assert (status, done.stderr) == ("0", "")
    assert abs(float(score) - GOLDEN["samples"][PICTURE]["nsfw"]) <= 5e-6


def test_standard_error_is_the_childs_whatever_is_imported() -> None:
    done = run(["-c", QUIET])
    assert done.returncode == 0
    assert "heard" in done.stderr


def test_a_pre_forking_server(tmp_path: Path) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    example = TESTS.parent / "examples" / "prefork.py"
    good = pictures.path(PICTURE)
    done = run([example, *[good] * 6, tmp_path / "broken.jpg"])
    assert (done.returncode, done.stderr) == (0, "")
    *rows, broken = [line.split("\t")[1] for line in done.stdout.splitlines()]
    assert len(rows) == 6
    for row in rows:
        expected = pytest.approx(GOLDEN["samples"][PICTURE]["nsfw"], abs=5.1e-5)
        assert float(row.split()[0]) == expected
    assert broken.startswith("no score: <3 bytes>")
