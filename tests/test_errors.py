"""The tree of errors, and that what they say is one printable line."""

import ast
import builtins
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import open_nsfw_tf
from open_nsfw_tf import errors

PACKAGE = Path(open_nsfw_tf.__file__).parent
BUILT_IN = {
    "OpenNsfwError": Exception,
    "ImageError": ValueError,
    "NotReadError": ValueError,
    "PixelLimitError": ValueError,
    "WeightsError": ValueError,
    "ExportError": RuntimeError,
    "TrainingError": RuntimeError,
    "MoveError": OSError,
    "RequestError": Exception,
    "QueueFull": Exception,
    "DeadlineExpired": Exception,
}
HOSTILE = "a\nb\x1b[31m\u202e"  # a newline, a colour, and writing from right to left


def test_every_error_is_in_the_tree_and_of_its_built_in_type() -> None:
    found = {
        name: kind
        for name, kind in vars(errors).items()
        if isinstance(kind, type) and issubclass(kind, BaseException)
    }
    assert found.keys() == BUILT_IN.keys()
    for name, kind in found.items():
        assert issubclass(kind, errors.OpenNsfwError)
        assert issubclass(kind, BUILT_IN[name])


def test_no_other_module_has_errors_of_its_own() -> None:
    known = {
        name
        for name, value in vars(builtins).items()
        if isinstance(value, type) and issubclass(value, BaseException)
    } | BUILT_IN.keys()
    for path in PACKAGE.rglob("*.py"):
        if path.name == "errors.py" and path.parent == PACKAGE:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).split(".")[-1] for base in node.bases}
                assert not bases & known, f"{path}: {node.name}"


def call(module: str, name: str, *arguments: object, **options: object) -> object:
    found = import_module(f"open_nsfw_tf.{module}" if module else "open_nsfw_tf")
    return getattr(found, name)(*arguments, **options)


def broken(path: Path) -> Path:
    path.write_bytes(b"\x93NUMPY\x01\x00no header\n\x1b[2J")
    return path


def moves_into_a_file(folder: Path) -> object:
    from open_nsfw_tf.moves import Journal, Move, plan

    target = folder / "there" / "x.jpg"
    planned = plan([Move(str(broken(folder / "x.jpg")), str(target))])
    broken(folder / "there")
    return Journal(planned.moves, str(folder / "out"), "move", "clean").run()


# Each is called with a folder, whose name is hostile too.
SAMPLES: dict[str, Callable[[Path], object]] = {
    "a picture that is not there": lambda f: call("", "classify", f / HOSTILE),
    "a broken picture": lambda f: call("", "classify", broken(f / "a.jpg")),
    "a folder for a picture": lambda f: call("", "classify", f),
    "a broken picture for the graph": lambda f: call(
        "", "create_tensorflow_image_loader"
    )(broken(f / "a.jpg")),
    "pixels of another type": lambda _: call("", "classify", np.zeros((3, 3))),
    "weights that are not there": lambda f: call("", "load_weights", f / "a.npy"),
    "broken weights": lambda f: call("", "load_weights", broken(f / HOSTILE)),
    "weights of another network": lambda f: call(
        "", "save_weights", {HOSTILE: {HOSTILE: np.zeros(3)}}, f / "a.npy"
    ),
    "no engine": lambda _: call("", "Classifier", HOSTILE),
    "no trained model": lambda f: call("", "Classifier", model=f),
    "no format to convert to": lambda f: call(
        "", "convert", broken(f / "a.npy"), f / "b", target_format=HOSTILE
    ),
    "broken weights to convert": lambda f: call(
        "", "convert", broken(f / "a.npy"), f / "b.npy"
    ),
    "no format to export": lambda f: call("", "export", HOSTILE, f / "x"),
    "an export that exists": lambda f: call("", "export", "onnx", broken(f / "a.onnx")),
    "a table that is not there": lambda f: call("tables", "read_table", f / "a.csv"),
    "a broken table": lambda f: call("tables", "read_table", broken(f / "a.csv")),
    "a broken Parquet file": lambda f: call(
        "tables", "read_table", broken(f / "a.parquet")
    ),
    "another suffix": lambda f: call("tables", "read_table", f / HOSTILE),
    "labels of an empty folder": lambda f: call("evaluate.labels", "read_labels", f),
    "training on an empty folder": lambda f: call("train", "train", f, f / "run"),
    "training on what is not there": lambda f: call(
        "train", "train", f / HOSTILE, f / "run"
    ),
    "no manifest": lambda f: call("undo", "undo", broken(f / "a.jsonl")),
    "a move into a file": moves_into_a_file,
    "no input type": lambda f: call("export", "predict_request", f, input_type=HOSTILE),
}


@pytest.mark.parametrize("name", SAMPLES)
def test_real_errors_are_one_printable_line(name: str, tmp_path: Path) -> None:
    folder = tmp_path / HOSTILE
    folder.mkdir()
    expected = (errors.OpenNsfwError, OSError, ValueError)
    with pytest.raises(expected, match="^[^\n]+$") as caught:
        SAMPLES[name](folder)
    message = str(caught.value)
    assert message.isprintable()
    assert len(message) < 1000
