"""MMdnn itself, in an environment of its own."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from test_caffemodel import SCALE_FACTOR, multiply_statistics

from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import caffemodel, mmdnn

sys.path.append(str(Path(__file__).parent.parent / "tools"))

import convert_mmdnn


@pytest.mark.mmdnn
def test_mmdnn_reads_our_caffemodel_and_we_read_its_npy(
    tmp_path, unfolded, score, expected
):
    path, kept = tmp_path / "a.caffemodel", tmp_path / "kept.npy"
    caffemodel.write(path, unfolded)
    multiply_statistics(path, SCALE_FACTOR)
    lines = []
    folder = tmp_path / "environment"
    weights = convert_mmdnn.convert(path, kept, environment=folder, report=lines.append)
    assert len(lines) == 3 and (folder / convert_mmdnn.MARKER).is_file()
    assert np.abs(score(weights) - expected).max() < 1e-5
    for name, layer in caffemodel.read(path).items():
        for field, array in layer.items():
            assert np.allclose(weights[name][field], array, rtol=1e-6, atol=0), name
    # The second time the environment is there, and the file kept is MMdnn's.
    lines.clear()
    convert_mmdnn.convert(path, environment=folder, report=lines.append)
    assert len(lines) == 1
    assert np.array_equal(mmdnn.read(kept)["bn_1"]["mean"], weights["bn_1"]["mean"])
    # Rubbish: MMdnn's complaint comes in one line.
    path.write_bytes(b"\xff" * 100)
    with pytest.raises(WeightsError, match="MMdnn failed with status 1: ") as error:
        convert_mmdnn.convert(path, environment=folder, report=lines.append)
    assert "\n" not in str(error.value)


@pytest.fixture
def commands(monkeypatch):
    """Records commands instead of running them; venv leaves its file."""
    ran = []

    def run(command, **_):
        ran.append(command)
        if "venv" in command:
            folder = command[-1]
            os.makedirs(folder)
            with open(f"{folder}/pyvenv.cfg", "w") as file:
                file.write("home = here")
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(convert_mmdnn.subprocess, "run", run)
    return ran


def test_an_interrupted_creation_is_redone(tmp_path, commands):
    folder = tmp_path / "environment"
    folder.mkdir()
    (folder / "pyvenv.cfg").write_text("home = here")  # and no marker
    convert_mmdnn.make_environment(folder, report=lambda _: None)
    assert len(commands) == 2 and (folder / convert_mmdnn.MARKER).is_file()


def test_somebodys_folder_is_not_deleted(tmp_path, commands):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(WeightsError, match="no virtual environment"):
        convert_mmdnn.make_environment(tmp_path, report=lambda _: None)
    assert (tmp_path / "thesis.txt").exists() and not commands


def test_a_missing_caffemodel_is_an_oserror(tmp_path, commands):
    with pytest.raises(FileNotFoundError):
        convert_mmdnn.convert(tmp_path / "a.caffemodel")
    assert not commands


def test_pip_that_fails_is_told_in_one_line(tmp_path, monkeypatch):
    def run(command, **_):
        lines = "first\nERROR: No matching distribution found for mmdnn==0.3.1\n"
        return subprocess.CompletedProcess(command, int("pip" in command), "", lines)

    monkeypatch.setattr(convert_mmdnn.subprocess, "run", run)
    folder = tmp_path / "environment"
    with pytest.raises(WeightsError, match="pip failed with status 1: ERROR: No match"):
        convert_mmdnn.make_environment(folder, report=lambda _: None)
    assert not (folder / convert_mmdnn.MARKER).exists()
