"""`open-nsfw doctor`: the truth about an installation, however broken it is."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import installed_engines
from packaging.requirements import Requirement
from typer.testing import CliRunner

from open_nsfw_tf import doctor
from open_nsfw_tf.cli.doctor import commands
from open_nsfw_tf.engines import ENGINES
from open_nsfw_tf.formats import CHECKSUMS
from open_nsfw_tf.weights import ENVIRONMENT, PUBLISHED, published_name

SCRIPT = Path(sys.executable).parent / "open-nsfw"


@pytest.fixture
def one_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the engine that starts fastest is tried."""
    monkeypatch.setattr(doctor, "ENGINES", {"onnxruntime": ENGINES["onnxruntime"]})


def asked(*options: str) -> tuple[int, str]:
    done = CliRunner().invoke(commands, options)
    assert done.exception is None or isinstance(done.exception, SystemExit)
    return done.exit_code, done.output


@pytest.mark.slow
def test_every_installed_engine_gives_the_right_score() -> None:
    done = subprocess.run(
        [SCRIPT, "doctor", "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    engines = json.loads(done.stdout)["engines"]
    assert list(engines) == list(ENGINES)
    for name in installed_engines():
        devices = engines[name]["devices"]
        assert [devices[key] for key in devices if "cpu" in key] == [None], engines
        assert engines[name]["error"] is None


@pytest.mark.usefixtures("one_engine")
def test_programs_get_json(weights_path: Path) -> None:
    code, text = asked("--json")
    assert code == 0
    report = json.loads(text)
    assert report["engines"]["onnxruntime"]["devices"] == {"cpu": None}
    (used,) = [place for place in report["weights"] if place["used"]]
    assert used["path"] == str(weights_path)
    assert used["sha256"] == CHECKSUMS["onnx"]
    assert used["published"] == "onnx"
    core = {Requirement(line).name for line in report["core"]["missing"]}
    assert core <= {"tensorflow", "h5py"}  # the quick tests run without them
    assert "dev" not in report["extras"]
    assert report["libraries"]["numpy"]


@pytest.mark.usefixtures("one_engine")
def test_people_get_lines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    code, text = asked()
    assert code == 0
    assert "pictures can be classified: yes" in text
    assert "onnxruntime" in text
    assert "cpu works" in text
    assert f"sha256 {CHECKSUMS['onnx']} (Yahoo's, published as onnx)" in text
    # The engine, in its own process, has kept its network there.
    assert "built networks: ~/cache/open_nsfw_tf/graphs: 1 files, 23." in text
    assert str(tmp_path) not in text


BROKEN = {
    "raise ImportError('libgomp.so.1: cannot open shared object file')": "libgomp.so.1",
    "raise SystemError('broken\\n\\x1b[31m')": r"broken \x1b[31m",
    "import os, signal; os.kill(os.getpid(), signal.SIGILL)": "SIGILL",
    "import os; os._exit(7)": "exit status 7",
    "print('noise'); get_available_providers = list": "no device that is known",
}


@pytest.mark.usefixtures("one_engine")
@pytest.mark.parametrize("code", BROKEN)
def test_a_broken_engine_is_a_line(
    code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "onnxruntime.py").write_text(code)
    monkeypatch.syspath_prepend(str(tmp_path))
    status, text = asked()
    assert status == 1
    assert "pictures can be classified: NO" in text
    (line,) = [line for line in text.splitlines() if line.startswith("  onnxruntime ")]
    assert BROKEN[code] in line


@pytest.mark.usefixtures("one_engine")
def test_without_weights_the_devices_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENVIRONMENT, str(tmp_path / "none.npy"))
    status, text = asked("--json")
    assert status == 1
    report = json.loads(text)
    assert report["engines"]["onnxruntime"]["devices"] == {"cpu": doctor.NO_WEIGHTS}
    first = report["weights"][0]
    assert "no such file" in first["error"]
    assert not any(place["used"] for place in report["weights"])


@pytest.mark.usefixtures("one_engine")
def test_damaged_weights_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    damaged = tmp_path / "open_nsfw_tf" / PUBLISHED["npy"].file
    damaged.parent.mkdir()
    damaged.write_bytes(b"half of it")
    status, text = asked("--json")
    report = json.loads(text)
    assert status == 1
    (place,) = [place for place in report["weights"] if place["error"]]
    assert place["path"] == str(damaged)
    assert "expected git_blob" in place["error"]
    assert report["caches"]["downloaded weights"]["files"] == 1
    assert "damaged or another file" in asked()[1]


@pytest.mark.usefixtures("one_engine")
def test_no_home_is_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "cache_folder", lambda: None)
    status, text = asked()
    assert status == 0
    assert "none: no home folder is known" in text


def test_a_slow_engine_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "TIMEOUT", 0.01)
    check = doctor._try_engine(None, "onnxruntime")
    assert check.error == "no answer within 0.01 seconds"
    assert not check.works


def test_what_an_extra_lacks_has_its_command() -> None:
    wanted = [Requirement("numpy>=999"), Requirement("no-such-package>=2,<3")]
    extra = doctor._extra(wanted, "serve")
    old, absent = extra.missing
    assert old.startswith("numpy>=999 (here: ")
    assert absent == "no-such-package<3,>=2"
    assert extra.install == "pip install 'open_nsfw_tf[serve]'"
    core = doctor._extra(wanted)
    assert core.install == "pip install 'numpy>=999' 'no-such-package<3,>=2'"
    assert doctor._extra([Requirement("numpy")]) == doctor.ExtraCheck((), None)


def test_an_engine_that_is_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "version_of", lambda package: None)
    check = doctor._try_engine(None, "litert")
    assert check.error == "not installed: pip install 'open_nsfw_tf[litert]'"
    check = doctor._try_engine(None, "tensorflow")
    assert check.error == "not installed: pip install 'tensorflow'"


def test_a_checkout_that_was_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "NAME", "never-installed")
    assert doctor._requirements() == {}
    assert doctor._libraries() == {}


def test_signals_have_names() -> None:
    assert "SIGSEGV" in doctor._end(-signal.SIGSEGV)
    assert "signal 250" in doctor._end(-250)


def test_checksums_have_names() -> None:
    assert [published_name(CHECKSUMS[name]) for name in PUBLISHED] == list(PUBLISHED)
    assert published_name("0" * 40, "") is None


def test_folders_are_counted(tmp_path: Path, nobodys: Path) -> None:
    (nobodys / "a").mkdir()
    (nobodys / "a" / "b").write_bytes(b"123")
    found: Any = doctor._folder(nobodys, "**/*")
    assert (found.files, found.bytes, found.writable) == (1, 3, True)
    os.chmod(nobodys / "a", 0o500)
    assert not doctor._folder(nobodys / "a", "*").writable
    assert doctor._folder(nobodys / "none", "*").writable
