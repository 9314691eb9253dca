"""The loader's tests again, on the oldest Pillow that is supported."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

# 10.0 is the oldest; newer Pythons have wheels only of later ones.
OLDEST = {(3, 11): "10.0.0", (3, 12): "10.1.0", (3, 13): "10.4.0"}


@pytest.mark.install
def test_the_loader_is_exact_on_the_oldest_pillow(tmp_path: Path) -> None:
    version = OLDEST[sys.version_info[:2]]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    subprocess.run([*pip, "--target", tmp_path, f"pillow=={version}"], check=True)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    which = [sys.executable, "-c", "import PIL; print(PIL.__version__)"]
    assert subprocess.check_output(which, env=environment, text=True).strip() == version
    run = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    tests = Path(__file__).with_name("test_image.py")
    done = subprocess.run(
        [*run, tests], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout
