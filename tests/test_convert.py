"""From any layout to any other, as the command and as the function; and inspection."""

import errno
import hashlib
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from typer.testing import CliRunner

from open_nsfw_tf import WeightsError, load_weights, save_weights
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.convert import convert, inspect
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import FORMATS, npy, onnx_graph
from open_nsfw_tf.weights import PUBLISHED

SCRIPTS = Path(sys.executable).parent
TOOLS = Path(__file__).parent.parent / "tools"
PHOTOS = [pictures.path(name) for name in ("astronaut.png", "coffee.png", "rocket.jpg")]


def run(*command: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False
    )
    assert "Traceback" not in done.stderr
    return done


@pytest.fixture(scope="module")
def unfolded_file(unfolded: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("unfolded") / "unfolded.npy"
    save_weights(unfolded, path)
    return path


@pytest.mark.parametrize("format", FORMATS)
def test_every_format_there_and_back(
    format: str, unfolded_file: Path, unfolded: Any, tmp_path: Path, assert_equal: Any
) -> None:
    there = tmp_path / f"there{FORMATS[format].suffixes[0]}"
    done = convert(unfolded_file, there, pictures=PHOTOS)
    assert (done.source, done.target, done.compared) == ("npy", format, 3)
    assert done.array_difference == 0
    back = tmp_path / "back.safetensors"
    again = convert(there, back, pictures=PHOTOS)
    assert again.source == format
    assert again.array_difference == 0
    made = {there, back, done.network} - {None}
    assert set(tmp_path.iterdir()) == made
    if format == "onnx":
        assert done.score_difference <= 1e-5
        assert done.notes == ("batch norms were folded into the convolutions",)
    else:
        assert done.score_difference == 0
        assert_equal(load_weights(back), unfolded)


def test_unfolding_is_an_option(weights_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "unfolded.caffemodel"
    done = convert(weights_path, path, unfold=3, pictures=PHOTOS)
    assert done.array_difference == 0
    assert 0 < done.score_difference <= 1e-5
    assert done.notes == ("batch norms were unfolded with random statistics, 3",)
    assert not inspect(path).folded


def test_content_comes_before_the_suffix(unfolded_file: Path, tmp_path: Path) -> None:
    wrong = tmp_path / "misnamed.onnx"
    wrong.write_bytes(unfolded_file.read_bytes())
    assert convert(wrong, tmp_path / "x.safetensors", pictures=PHOTOS).source == "npy"
    with pytest.raises(WeightsError, match="cut or broken ONNX"):
        convert(wrong, tmp_path / "y.safetensors", source_format="onnx")


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_converted_and_that_is_said(
    weights: Any, tmp_path: Path, dtype: Any
) -> None:
    path = tmp_path / "other.npy"
    other = {
        layer: {field: array.astype(dtype) for field, array in fields.items()}
        for layer, fields in weights.items()
    }
    array = np.empty((), object)
    array[()] = other
    np.save(path, array, allow_pickle=True)
    done = convert(path, tmp_path / "x.safetensors", pictures=PHOTOS)
    assert done.notes == (f"{np.dtype(dtype)} arrays were converted to float32",)


def test_a_difference_leaves_nothing(
    weights: Any, weights_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    honest = npy.write

    def lossy(path: Path, weights: Any) -> None:
        rounded = {
            layer: {
                f: a.astype(np.float16).astype(np.float32) for f, a in fields.items()
            }
            for layer, fields in weights.items()
        }
        honest(path, rounded)

    monkeypatch.setattr(npy, "write", lossy)
    with pytest.raises(WeightsError, match="differs when it is read back"):
        convert(weights_path, tmp_path / "x.npy", pictures=PHOTOS)
    assert not list(tmp_path.iterdir())


def test_what_exists_is_kept(weights_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    path.write_text("precious")
    with pytest.raises(FileExistsError, match="--overwrite"):
        convert(weights_path, path)
    assert path.read_text() == "precious"
    convert(weights_path, path, pictures=PHOTOS, overwrite=True)
    assert path.stat().st_size > 23e6
    with pytest.raises(WeightsError, match="no format has this suffix"):
        convert(weights_path, tmp_path / "x.zip")
    with pytest.raises(WeightsError, match="no weights format is called 'zip'"):
        convert(weights_path, tmp_path / "x.npy", target_format="zip", overwrite=True)


@pytest.mark.parametrize("suffix", [f.suffixes[0] for f in FORMATS.values()])
def test_a_missing_or_full_folder_is_an_oserror(
    weights_path: Path, tmp_path: Path, suffix: str
) -> None:
    with pytest.raises(OSError, match="No such file") as caught:
        convert(weights_path, tmp_path / "none" / f"x{suffix}", pictures=PHOTOS[:1])
    assert str(tmp_path / "none" / f"x{suffix}") in str(caught.value)
    assert "None" not in str(caught.value) and "->" not in str(caught.value)
    code = (
        "import resource, signal, sys\n"
        "from open_nsfw_tf.convert import convert\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (10**7, 10**7))\n"
        "try: convert(*sys.argv[1:])\n"
        "except OSError as error: print(error)"
    )
    done = run(sys.executable, "-c", code, weights_path, tmp_path / f"x{suffix}")
    assert str(tmp_path / f"x{suffix}") in done.stdout, done.stderr
    assert not list(tmp_path.iterdir())


def test_a_caffemodel_brings_its_network(weights_path: Path, tmp_path: Path) -> None:
    done = convert(weights_path, tmp_path / "UP.CAFFEMODEL", pictures=PHOTOS[:1])
    assert done.network == tmp_path / "UP.prototxt"
    assert done.network.read_text().startswith("name:")
    (tmp_path / "b.prototxt").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder"):
        convert(weights_path, tmp_path / "b.caffemodel", overwrite=True)
    assert not (tmp_path / "b.caffemodel").exists()


def test_weights_that_overflow_are_the_sources_fault(
    weights: Any, tmp_path: Path
) -> None:
    huge = {name: dict(fields) for name, fields in weights.items()}
    huge["bn_1"]["scale"] = huge["bn_1"]["scale"] * np.float32(3e38)
    huge["conv_1"]["weights"] = huge["conv_1"]["weights"] * np.float32(1e3)
    path = tmp_path / "huge.npy"
    npy.write(path, huge)
    with pytest.raises(WeightsError, match=r"huge\.npy: .*not finite"):
        convert(path, tmp_path / "x.safetensors")
    assert "not finite" in inspect(path).mismatch


def test_a_source_graph_is_run_itself(weights: Any, tmp_path: Path) -> None:
    """float16 graphs compute in float16: the proof shows what that costs."""
    path = tmp_path / "half.onnx"
    model = onnx_graph.graph(weights, "nchw", np.float16)
    path.write_bytes(model.SerializeToString())
    done = convert(path, tmp_path / "x.npy", pictures=PHOTOS)
    assert done.score_difference <= 1e-3
    assert done.notes == ("float16 arrays were converted to float32",)


def test_the_command(weights_path: Path, tmp_path: Path) -> None:
    path = tmp_path / "nsfw.caffemodel"
    done = run(SCRIPTS / "open-nsfw", "convert", weights_path, path)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 107 + 3
    assert re.match(r"conv_1 +weights 7x7x3x64, biases 64$", lines[0])
    assert lines[107].startswith("ONNX graph -> Caffe's caffemodel")
    assert lines[108].startswith("read back: arrays differ by 0, scores of 8 pictures")
    assert (tmp_path / "nsfw.prototxt").read_text().startswith("name:")
    again = run(SCRIPTS / "open-nsfw", "convert", weights_path, path)
    assert again.returncode == 1
    assert "exists" in again.stderr
    script = run(
        sys.executable, TOOLS / "convert_caffe.py", path, tmp_path / "nsfw.npy"
    )
    assert script.returncode == 0, script.stderr
    assert "Caffe's caffemodel -> caffe-tensorflow's .npy" in script.stdout
    wrong = run(
        sys.executable, TOOLS / "convert_caffe.py", weights_path, tmp_path / "other.npy"
    )
    assert wrong.returncode == 1
    assert len(wrong.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [("export", "onnx"), ("convert", "x.npy")])
def test_the_command_has_one_destination(command: tuple[str, ...]) -> None:
    """By --output or as the last argument."""
    none = CliRunner().invoke(app, command)
    assert none.exit_code == 2
    assert "expected --output DEST." in none.output
    both = CliRunner().invoke(app, [*command, "a.onnx", "-o", "b.onnx"])
    assert both.exit_code == 2
    assert "expected one DEST, got --output b.onnx and a.onnx." in both.output


def test_inspection_of_the_published_copy(weights_path: Path) -> None:
    found = inspect(weights_path)
    assert (found.format, found.published, found.folded) == ("onnx", "onnx", True)
    assert found.sha256 == PUBLISHED["onnx"].sha256
    assert found.parameters == 5_917_890 + 26_624
    assert found.difference == f"none from {weights_path}"
    assert not found.mismatch


def test_inspection_finds_the_first_difference(weights: Any, tmp_path: Path) -> None:
    changed = {name: dict(fields) for name, fields in weights.items()}
    kernel = changed["conv_stage1_block0_branch2a"]["weights"].copy()
    kernel[0, 0, 5, 7] += np.float32(0.25)
    changed["conv_stage1_block0_branch2a"]["weights"] = kernel
    path = tmp_path / "changed.safetensors"
    save_weights(changed, path)
    found = inspect(path)
    assert found.published is None
    assert found.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert "conv_stage1_block0_branch2a.weights: by up to 0.25, at [0, 0, 5, 7]" in (
        found.difference
    )


def test_inspection_of_unfolded_and_foreign_files(
    unfolded_file: Path, weights: Any, tmp_path: Path
) -> None:
    assert not inspect(unfolded_file).folded
    path = tmp_path / "less.npy"
    npy.write(path, {"conv_1": weights["conv_1"]})
    done = run(SCRIPTS / "open-nsfw", "weights", "inspect", path)
    assert done.returncode == 1
    assert "fits         no: No weights for layer named" in done.stdout
    assert "layers       1, 9,472 numbers" in done.stdout
    whole = run(SCRIPTS / "open-nsfw", "weights", "inspect", unfolded_file)
    assert whole.returncode == 0
    assert "batch norms  not folded" in whole.stdout
    assert "published    not one" in whole.stdout
    nothing = run(SCRIPTS / "open-nsfw", "weights", "inspect", tmp_path / "none")
    assert nothing.returncode == 1
    assert "no such file" in nothing.stderr


def test_the_prototxt_is_the_networks() -> None:
    from open_nsfw_tf.formats.caffemodel import prototxt

    assert prototxt().count('type: "Convolution"') == 53
    assert prototxt().count("use_global_stats: true") == 53


def test_a_pipe_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with pytest.raises(OSError, match="got a device or pipe"), replacing(path) as file:
        file.write_text("what nobody reads")
    assert path.is_fifo()
    assert os.listdir(tmp_path) == ["pipe"]


def test_an_error_names_the_file_that_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    with pytest.raises(OSError) as caught, replacing(path) as temporary:
        raise OSError(errno.ENOSPC, "full", str(temporary))
    assert str(caught.value) == f"[Errno {errno.ENOSPC}] full: {str(path)!r}"
    assert not os.listdir(tmp_path)


def test_pictures_that_cannot_be_read_are_left_out(
    weights_path: Path, tmp_path: Path
) -> None:
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    command = [Path(sys.executable).parent / "open-nsfw", "convert"]
    options = ["--pictures", tmp_path, "--pictures", PHOTOS[0]]
    done = run(*command, weights_path, "-o", tmp_path / "x.npy", *options)
    assert done.returncode == 0, done.stderr
    assert "scores of 1 pictures" in done.stdout
    assert "note: 1 pictures were left out, as " in done.stdout
    assert "broken.jpg: " in done.stdout


@pytest.mark.parametrize("name", ["frozen.pb", "cut.npy", "a.onnx"])
def test_inspection_names_a_bad_file_once(tmp_path: Path, name: str) -> None:
    data = {
        "frozen.pb": b"\n\x09",
        "cut.npy": b"\x93NUMPY\1\0",
        "a.onnx": b"\x08\x08\x12",
    }
    path = tmp_path / name
    path.write_bytes(data[name])
    with pytest.raises(WeightsError) as error:
        inspect(path)
    assert str(error.value).count(name) == 1
    assert str(error.value).startswith(f"{path}: ")
