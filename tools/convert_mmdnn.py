#!/usr/bin/env python3
"""Convert a caffemodel with MMdnn, in a virtual environment of its own: see --help.

MMdnn needs an old protobuf that nothing of today can live with. Its environment is made
in the user's cache when it is first needed, and used again.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from open_nsfw_tf.architecture import Weights, check_weights
from open_nsfw_tf.cli.process import errors_in_one_line, open_standard_output
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import caffemodel, mmdnn
from open_nsfw_tf.weights import NO_CACHE, cache_folder

# Run with Python 3.11, 3.12 and 3.13; MMdnn does not say what it needs.
REQUIREMENTS = ("mmdnn==0.3.1", "protobuf==3.20.3", "six", "numpy")
MARKER = "complete"  # holds the requirements; written last
CONVERTER = "mmdnn.conversion._script.convertToIR"  # what mmtoir runs
TIMEOUT = 600.0  # seconds; a conversion takes about ten

Report = Callable[[str], object]


def convert(
    source: Path,
    npy: Path | None = None,
    deploy: Path | None = None,
    environment: Path | None = None,
    report: Report = print,
) -> Weights:
    """Let MMdnn convert a caffemodel of this network, and read what it wrote.

    Args:
        source: the caffemodel.
        npy: where to keep MMdnn's `.npy`; None keeps it not.
        deploy: the network's deploy.prototxt; None takes ours.
        environment: the folder of MMdnn's environment; None as `make_environment`.
        report: takes lines about the progress.

    Returns:
        The canonical dict, checked.

    Raises:
        OSError: a file cannot be read or written.
        WeightsError: MMdnn cannot be installed or fails, or what it wrote is not the
            weights of this network.
    """
    with source.open("rb"):
        pass  # MMdnn's own complaint about a missing file is a traceback
    python = make_environment(environment, report)
    with TemporaryDirectory(prefix="open_nsfw_tf-") as folder:
        network = Path(folder, "deploy.prototxt")
        network.write_text(deploy.read_text() if deploy else caffemodel.prototxt())
        arguments = ["-f", "caffe", "-n", str(network), "-w", str(source.resolve())]
        out = Path(folder, "out")
        report(f"MMdnn converts {source}")
        _run([str(python), "-I", "-m", CONVERTER, *arguments, "-o", str(out)], "MMdnn")
        made = out.with_suffix(".npy")
        weights = mmdnn.read(made)
        check_weights(weights)
        if npy is not None:
            with replacing(npy) as temporary:
                shutil.copyfile(made, temporary)
    return weights


def make_environment(folder: Path | None = None, report: Report = print) -> Path:
    """Make MMdnn's virtual environment, unless it is there and whole.

    Args:
        folder: of the environment; None is in the user's cache. What is in it is
            deleted when it is not a whole environment of this kind.
        report: takes lines about the progress.

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
        report(f"{folder} is not whole or of another Python: made again")
    report(f"makes a virtual environment for MMdnn in {folder}")
    # Beside its name, because another process may be doing the same.
    made = folder.with_name(f"{folder.name}.{os.getpid()}")
    try:
        _run([sys.executable, "-I", "-m", "venv", str(made)], "venv")
        report(f"installs {' '.join(REQUIREMENTS)} into it, this once")
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
        last = ([line.strip() for line in lines if line.strip()] or ["no message"])[-1]
        raise WeightsError(f"{title} failed with status {done.returncode}: {last:.300}")


def command(
    source: Annotated[
        Path, typer.Argument(metavar="CAFFEMODEL", help="Caffe's binary .caffemodel.")
    ],
    destination: Annotated[
        Path, typer.Argument(help="MMdnn's .npy, to be written by MMdnn itself.")
    ],
    deploy: Annotated[
        Path | None,
        typer.Option(
            "--prototxt", "-n", help="The network's prototxt. Without it: ours."
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an existing destination.")
    ] = False,
) -> None:
    """Convert a caffemodel with MMdnn, in a virtual environment of its own.

    The environment is made when it is first needed, in the user's cache. Without MMdnn:
    `open-nsfw convert`.
    """
    if destination.exists() and not overwrite:
        raise FileExistsError(
            f"{sanitize(destination)} exists: name another, or --overwrite"
        )
    weights = convert(source, destination, deploy)
    print(f"MMdnn's .npy, {len(weights)} layers: {sanitize(destination)}")


def main() -> None:
    """Run the script."""
    app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
    app.command()(command)
    with errors_in_one_line():
        open_standard_output()
        app(prog_name="convert_mmdnn.py")


if __name__ == "__main__":
    main()
