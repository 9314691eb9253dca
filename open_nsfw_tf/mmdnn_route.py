"""A caffemodel through MMdnn to its `.npy`, and back: the route many have taken.

MMdnn needs an old protobuf that nothing of today can live with. It gets a virtual
environment of its own in the user's cache, made when first asked for and used again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from open_nsfw_tf.architecture import Weights, WeightsError, check_weights
from open_nsfw_tf.formats import mmdnn, prototxt, replacing
from open_nsfw_tf.published import NO_CACHE, cache_folder

# Run with Python 3.11, 3.12 and 3.13; MMdnn does not say what it needs.
REQUIREMENTS = ("mmdnn==0.3.1", "protobuf==3.20.3", "six", "numpy")
MARKER = "complete"  # holds the requirements; written last
CONVERTER = "mmdnn.conversion._script.convertToIR"  # what mmtoir runs
TIMEOUT = 600.0  # seconds; a conversion takes about ten

Say = Callable[[str], object]


def convert(
    caffemodel: Path,
    npy: Path | None = None,
    deploy: Path | None = None,
    environment: Path | None = None,
    say: Say = print,
) -> Weights:
    """Let MMdnn convert a caffemodel of this network, and read what it wrote.

    Args:
        caffemodel: the file.
        npy: where to keep MMdnn's `.npy`; None keeps it not.
        deploy: the network's deploy.prototxt; None takes ours.
        environment: the folder of MMdnn's environment; None as `make_environment`.
        say: takes lines about the progress.

    Returns:
        The canonical dict, checked.

    Raises:
        OSError: a file cannot be read or written.
        WeightsError: MMdnn cannot be installed or fails, or what it wrote is not the
            weights of this network.
    """
    with caffemodel.open("rb"):
        pass  # MMdnn's own complaint about a missing file is a traceback
    python = make_environment(environment, say)
    with TemporaryDirectory(prefix="open_nsfw_tf-") as folder:
        network = Path(folder, "deploy.prototxt")
        network.write_text(deploy.read_text() if deploy else prototxt.prototxt())
        arguments = ["-f", "caffe", "-n", str(network), "-w", str(caffemodel.resolve())]
        out = Path(folder, "out")
        say(f"MMdnn converts {caffemodel}")
        _run([str(python), "-I", "-m", CONVERTER, *arguments, "-o", str(out)], "MMdnn")
        made = out.with_suffix(".npy")
        weights = mmdnn.read(made)
        check_weights(weights)
        if npy is not None:
            with replacing(npy) as temporary:
                shutil.copyfile(made, temporary)
    return weights


def make_environment(folder: Path | None = None, say: Say = print) -> Path:
    """Make MMdnn's virtual environment, unless it is there and whole.

    Args:
        folder: of the environment; None is in the user's cache. What is in it is
            deleted when it is not a whole environment of this kind.
        say: takes lines about the progress.

    Returns:
        The path of its Python.

    Raises:
        OSError: the folder cannot be written.
        WeightsError: the packages cannot be installed, or the folder has something
            else in it.
    """
    named = folder is not None
    if folder is None:
        cache = cache_folder()
        if cache is None:
            raise WeightsError(
                f"cannot install MMdnn into {NO_CACHE}, or name a folder"
            )
        folder = cache / "mmdnn-0.3.1"
    bin_folder = "Scripts" if os.name == "nt" else "bin"
    python = folder / bin_folder / ("python.exe" if os.name == "nt" else "python")
    content = "\n".join((sys.version, *REQUIREMENTS))
    marker = folder / MARKER
    if marker.is_file() and marker.read_text() == content and python.exists():
        return python
    if folder.exists():
        empty = not any(folder.iterdir())
        if named and not empty and not (folder / "pyvenv.cfg").is_file():
            raise WeightsError(
                f"{folder} is no virtual environment: name another folder"
            )
        say(f"{folder} is not whole or of another Python: made again")
    say(f"makes a virtual environment for MMdnn in {folder}")
    # Beside its name, because another process may be doing the same.
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        _run([sys.executable, "-I", "-m", "venv", str(made)], "venv")
        say(f"installs {' '.join(REQUIREMENTS)} into it, this once")
        pip = [str(made / python.relative_to(folder)), "-I", "-m", "pip", "install"]
        _run([*pip, "--disable-pip-version-check", "-q", *REQUIREMENTS], "pip")
        (made / MARKER).write_text(content)
        if marker.is_file() and marker.read_text() == content:
            return python  # the other one was faster
        shutil.rmtree(folder, ignore_errors=True)
        made.rename(folder)
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return python


def _run(command: list[str], title: str) -> None:
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            check=False,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(f"{title} was not done in {TIMEOUT:.0f} seconds") from error
    if done.returncode:
        lines = (done.stderr or done.stdout).split("\n")
        said = [line.strip() for line in lines if line.strip()]
        last = said[-1] if said else "it said nothing"
        raise WeightsError(f"{title} failed with status {done.returncode}: {last:.300}")
