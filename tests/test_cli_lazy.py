"""Commands load what they need, and nothing that only Unix has."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pictures
import pytest
import typer
from typer.main import get_group
from typer.testing import CliRunner

from open_nsfw_tf.cli import legacy
from open_nsfw_tf.cli.app import COMMANDS, app
from open_nsfw_tf.cli.options import grouped
from open_nsfw_tf.cli.train import Learning
from open_nsfw_tf.export import EXPORTERS

PACKAGE = Path(__file__).parent.parent / "open_nsfw_tf"
COFFEE = str(pictures.path("coffee.png"))
UNIX = {"fcntl", "resource", "pwd", "grp", "termios", "tty", "pty", "syslog"}
# Names of `os` and `signal` that Windows lacks; behind hasattr or getattr they may be.
UNIX_NAMES = {"O_NONBLOCK", "O_CLOEXEC", "O_DIRECTORY", "geteuid", "getuid", "fork"} | {
    "sysconf",
    "sched_getaffinity",
    "SIGALRM",
    "SIGHUP",
    "SIGKILL",
    "SIGPIPE",
    "SIGUSR1",
    "SIGXFSZ",
    "mkfifo",
    "fchmod",
    "killpg",
    "setsid",
    "statvfs",
}
COUNT = """
import sys
{before}
sys.argv = {arguments!r}
from open_nsfw_tf.cli import {script}
try: {script}()
except SystemExit as end: code = end.code
else: code = 0
names = [name for name in sys.modules if name.startswith("open_nsfw_tf")]
print("MODULES", len(names), *sorted(names))
sys.exit(code)
"""


def run(
    *arguments: str, before: str = "", cwd: Path | None = None, script: str = "main"
) -> str:
    code = COUNT.format(
        arguments=["open-nsfw", *arguments], before=before, script=script
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=cwd,
    )
    assert done.returncode == 0, done.stderr
    assert not done.stderr
    return done.stdout


def modules(*arguments: str) -> list[str]:
    return run(*arguments).splitlines()[-1].split()[2:]


def test_help_loads_the_table_of_commands_only() -> None:
    *lines, loaded = run("--help").splitlines()
    found = loaded.split()[2:]
    assert len(found) <= 7, found
    assert all(f" {name} " in "\n".join(lines) for name in COMMANDS)


def test_classify_loads_no_other_room() -> None:
    found = modules("classify", COFFEE)
    assert len(found) <= 31, found
    rooms = {name.split(".")[1] for name in found if "." in name}
    others = {"train", "export", "dataset", "evaluate", "report", "batch", "convert"}
    assert not rooms & others
    networks = {name for name in found if name.startswith("open_nsfw_tf.backbones.")}
    assert networks <= {"open_nsfw_tf.backbones.trained"}  # what --model reads
    commands = {name for name in found if name.startswith("open_nsfw_tf.cli.")}
    assert commands == {
        f"open_nsfw_tf.cli.{name}"
        for name in ("app", "classify", "interrupt", "options", "pictures", "process")
    }


def test_the_originals_script_loads_no_other_room() -> None:
    # Typer would take as long as the score; importing it raises here.
    without = "sys.modules['typer'] = None"
    *_, loaded = run(COFFEE, before=without, script="classify_nsfw").splitlines()
    found = loaded.split()[2:]
    assert "open_nsfw_tf.cli.legacy_classify" in found
    assert "open_nsfw_tf.cli.legacy" not in found
    rooms = {name.split(".")[1] for name in found if "." in name}
    assert not rooms & {"export", "tables", "model", "tf_image", "quantize", "batch"}


KERAS = """
import gc, sys
from open_nsfw_tf.cli.process import import_command
from open_nsfw_tf.libraries import import_tensorflow
import_command("classify")
import_tensorflow()
print(*sorted({"keras", "matplotlib", "pandas", "sklearn"} & set(sys.modules)))
print(gc.isenabled(), gc.get_freeze_count() > 100_000)
import sklearn
"""


def test_keras_starts_without_what_no_command_uses() -> None:
    done = subprocess.run(
        [sys.executable, "-c", KERAS], capture_output=True, text=True, check=False
    )
    assert (done.stderr, done.returncode) == ("", 0)
    assert done.stdout == "keras\nTrue True\n"


@pytest.mark.parametrize("name", COMMANDS)
def test_lines_of_the_table_are_the_commands_own(name: str) -> None:
    module, line = COMMANDS[name]
    found = get_group(import_module(f"open_nsfw_tf.cli.{module}").commands)
    help = found.commands[name].help or ""
    assert help.split("\n\n")[0].replace("\n", " ") == line
    assert set(found.commands) <= set(COMMANDS)


def test_precisions_of_the_first_ports_script() -> None:
    assert tuple(EXPORTERS["tflite"].tolerances) == legacy.TFLITE_PRECISIONS


def test_a_wrong_command_is_answered_with_near_ones() -> None:
    done = CliRunner().invoke(app, ["clasify"])
    assert done.exit_code == 2
    assert "classify" in done.output


def test_options_come_in_groups() -> None:
    given = []

    @grouped
    def command(name: str, learning: Learning, count: int = 3) -> None:
        given.append((name, learning, count))

    made = typer.Typer()
    made.command()(command)
    options = ["x", "--batch-size", "4", "--count", "5", "--set", "a=b"]
    assert CliRunner().invoke(made, options).exit_code == 0
    assert given == [("x", Learning(batch_size=4, settings=["a=b"]), 5)]


# -- Windows

WITHOUT = "for name in {names!r}: sys.modules[name] = None"
KEEP = """
import builtins
whole = builtins.__import__
def without(name, globals=None, locals=None, *rest):
    asking = (globals or {{}}).get("__name__", "")
    if asking.startswith(("open_nsfw_tf", "filelock")) and name in {names!r}:
        raise ImportError(name)
    return whole(name, globals, locals, *rest)
builtins.__import__ = without
import os
del os.sched_getaffinity
"""


@pytest.mark.parametrize("how", ["gone", "refused"])
def test_commands_run_without_what_only_unix_has(tmp_path: Path, how: str) -> None:
    """`fcntl` gone from the process, as on Windows; then all such, for our modules."""
    names = {"fcntl"} if how == "gone" else UNIX
    before = "import random, tempfile\n" + (WITHOUT if how == "gone" else KEEP)
    if how == "refused":
        names = UNIX - {"fcntl"}  # without which filelock has no lock on Unix
    before = before.format(names=sorted(names))
    if how == "gone":
        # filelock itself takes another kind of lock then, as it does on Windows.
        before += "\nimport warnings; warnings.simplefilter('ignore')"
    assert "Usage" in run("--help", before=before)
    assert "nsfw 0.0129" in run("classify", COFFEE, before=before)
    table = ("batch", COFFEE, "-o", "t.csv")
    assert "1 pictures" in run(*table, before=before, cwd=tmp_path)
    again = run(*table, "--resume", before=before, cwd=tmp_path)
    assert "1 skipped that have a row" in again
    assert len((tmp_path / "t.csv").read_text().splitlines()) == 2


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """What runs when a module is imported: all but the bodies of functions."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            yield child
            yield from at_import(child)


@pytest.mark.parametrize(
    "path",
    sorted(PACKAGE.rglob("*.py")),
    ids=lambda p: p.relative_to(PACKAGE).as_posix(),
)
def test_no_module_needs_unix(path: Path) -> None:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    guarded = {
        node.args[1].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and getattr(node.func, "id", "") in ("hasattr", "getattr")
        and isinstance(node.args[1], ast.Constant)
    }
    caught = any(
        "AttributeError" in ast.dump(node)
        for node in ast.walk(tree)
        if isinstance(node, ast.ExceptHandler)
    )
    for node in at_import(tree):
        if isinstance(node, ast.Import):
            assert not UNIX & {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            assert node.module not in UNIX
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            unix = node.value.id in ("os", "signal") and node.attr in UNIX_NAMES
            assert not unix or node.attr in guarded or caught, node.attr
