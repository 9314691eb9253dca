"""The public names, and that asking for them costs nothing heavy."""

import ast
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from textwrap import dedent

import pytest

import open_nsfw_tf

ROOT = Path(__file__).parent.parent

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
        "classify Classifier OpenNsfwModel InputType Scores load_weights save_weights "
        "convert export ImageError WeightsError create_yahoo_image_loader "
        "create_tensorflow_image_loader load_base64_tensor"
    )
    assert set(promised.split()) <= set(open_nsfw_tf.__all__)
    for name in promised.split():
        assert callable(getattr(open_nsfw_tf, name)), name


@pytest.mark.parametrize(
    "module, name",
    [
        ("batch", "score_batch"),
        ("tables", "read_table"),
        ("evaluate", "evaluate"),
        *(("dataset", verb) for verb in ("check", "dedupe", "split", "clean", "sort")),
        ("train", "train"),
        ("export", "predict_request"),
    ],
)
def test_verbs_are_in_their_sub_packages(module: str, name: str) -> None:
    assert callable(getattr(import_module(f"open_nsfw_tf.{module}"), name))


@pytest.mark.parametrize("name", ["convert", "export"])
@pytest.mark.parametrize(
    "before",
    [
        "",
        "import open_nsfw_tf.{name}",
        "from open_nsfw_tf.{name} import {name}",
        "from open_nsfw_tf import {name}",
        "import open_nsfw_tf; open_nsfw_tf.{name}; import open_nsfw_tf.{name}",
    ],
)
def test_a_function_of_a_modules_name_is_both(name: str, before: str) -> None:
    """Whatever was imported before, it can be called, and is the module too."""
    code = f"""
        {before.format(name=name)}
        import open_nsfw_tf
        from open_nsfw_tf import {name}
        from open_nsfw_tf.{name} import {name} as function
        for called in ({name}, open_nsfw_tf.{name}):
            try: called()
            except TypeError as error: assert "{name}() missing" in str(error), error
            else: raise AssertionError("called without arguments")
        assert function is open_nsfw_tf.{name}.{name}
    """
    subprocess.run([sys.executable, "-c", dedent(code)], check=True)


def python_in(path: Path) -> list[str]:
    """A file's programs: all of it, or a Markdown file's blocks of Python."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        return [text]
    return [
        dedent(found) for found in re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    ]


def imported_modules(program: str) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            found.add(node.module or "")
    return {name for name in found if name.split(".")[0] == "open_nsfw_tf"}


@pytest.mark.parametrize(
    "path",
    [
        ROOT / "README.md",
        *sorted(ROOT.glob("docs/**/*.md")),
        *sorted(ROOT.glob("examples/*.py")),
    ],
    ids=lambda path: path.name,
)
def test_what_people_read_imports_one_level_deep(path: Path) -> None:
    names = {name for code in python_in(path) for name in imported_modules(code)}
    assert names or path.suffix == ".md" or "open_nsfw_tf" not in path.read_text()
    assert not [name for name in names if name.count(".") > 1]


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
