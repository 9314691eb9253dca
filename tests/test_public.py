"""The public names, and that asking for them costs nothing heavy."""

import subprocess
import sys
from pathlib import Path

import pytest

import open_nsfw_tf

HEAVY = ("tensorflow", "keras", "onnx", "onnxruntime", "rich", "pooch", "requests") + (
    "imagehash",
    "scipy",
    "cleanlab",
    "pandas",
)


def loaded_after(code: str) -> set[str]:
    probe = f"{code}\nimport sys; print(*[m for m in {HEAVY} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, check=True
    )
    return set(done.stdout.splitlines()[-1].split())


def test_all_is_sorted_and_true() -> None:
    names = open_nsfw_tf.__all__
    assert names == sorted(names)
    for name in names:
        assert getattr(open_nsfw_tf, name) is not None
    assert set(names) <= set(dir(open_nsfw_tf))


def test_the_promised_names_are_there() -> None:
    promised = (
        "OpenNsfwModel InputType Classifier Scores classify create_yahoo_image_loader "
        "load_weights save_weights ImageError WeightsError"
    )
    assert set(promised.split()) <= set(open_nsfw_tf.__all__)


def test_unknown_names_are_attribute_errors() -> None:
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        open_nsfw_tf.nothing  # noqa: B018


@pytest.mark.parametrize(
    "code",
    [
        "import open_nsfw_tf",
        "from open_nsfw_tf import OpenNsfwModel, InputType",
        "from open_nsfw_tf import *",
        "import open_nsfw_tf.cli",
    ],
)
def test_imports_are_cheap(code: str) -> None:
    assert not loaded_after(code)


def test_help_is_cheap() -> None:
    code = (
        "import sys; sys.argv = ['open-nsfw', '--help']\n"
        "from open_nsfw_tf.cli import main\n"
        "try: main()\nexcept SystemExit: pass"
    )
    assert loaded_after(code) <= {"rich"}


def test_later_runs_load_neither_tensorflow_nor_onnx() -> None:
    from pictures import path

    code = f"import open_nsfw_tf; open_nsfw_tf.classify({str(path('coffee.png'))!r})"
    loaded_after(code)  # builds and keeps the graph
    assert loaded_after(code) == {"onnxruntime"}


def test_types_are_shipped() -> None:
    assert (Path(open_nsfw_tf.__file__).parent / "py.typed").exists()
