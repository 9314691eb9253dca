"""The child process for parsers: hanging, crashing or taking all memory is an error."""

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import collect_notes, note, sandbox

LINUX = sys.platform == "linux"


def good(path: Path, more: Path) -> dict[str, np.ndarray]:
    print("a library's word")
    os.write(1, b"and one of its C")
    note("converted")
    text = path.read_bytes() + more.read_bytes()
    return {"text": np.frombuffer(text, np.uint8), "zero": np.float64(2).reshape(())}


def refusing(path: Path) -> dict[str, np.ndarray]:
    raise WeightsError("another network")


def failing(path: Path) -> dict[str, np.ndarray]:
    raise RuntimeError("of a library,\nin two lines")


def hanging(path: Path) -> dict[str, np.ndarray]:
    while True:
        time.sleep(0.1)


def crashing(path: Path) -> dict[str, np.ndarray]:
    os.abort()


def hungry(path: Path) -> dict[str, np.ndarray]:
    return {"much": np.ones(1 << 31, np.uint8)}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "a file's name"
    path.write_bytes(b"ab")
    return path


def test_arrays_and_notes_come_back(file: Path) -> None:
    with collect_notes() as notes:
        found = sandbox.run(good, file, file)
    assert bytes(found["text"]) == b"abab"
    assert found["zero"].shape == () and found["zero"] == 2
    assert notes == ["converted"]


@pytest.mark.parametrize(
    ("parser", "error", "match"),
    [
        (refusing, WeightsError, "^another network$"),
        (failing, ValueError, "^of a library, in two lines$"),
        (crashing, ValueError, "crashed"),
        (hanging, WeightsError, "not read within 3 seconds"),
        pytest.param(
            hungry,
            ValueError,
            "llocate",
            marks=pytest.mark.skipif(not LINUX, reason="no limit of memory there"),
        ),
    ],
)
def test_what_goes_wrong_is_an_error(
    file: Path, monkeypatch: pytest.MonkeyPatch, parser, error, match
) -> None:
    if parser is hanging:
        monkeypatch.setattr(sandbox, "TIMEOUT", 3)
    with pytest.raises(error, match=match):
        sandbox.run(parser, file)


def test_a_child_that_hangs_is_gone(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sandbox, "TIMEOUT", 3)
    with pytest.raises(WeightsError, match="refused"):
        sandbox.run(hanging, file)
    listed = subprocess.run(
        ["ps", "axo", "args"], capture_output=True, text=True, check=True
    )
    assert str(file) not in listed.stdout
