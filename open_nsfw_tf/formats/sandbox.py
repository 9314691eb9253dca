"""Parsing untrusted files in a child process with limits of time and memory.

The libraries for HDF5, protobuf and ONNX were not made for hostile files: on some
damaged ones HDF5 1.14.6 runs for ever or allocates all memory, and a protobuf message
of two bytes takes a hundred in memory. A child process that does so is stopped, and its
caller gets an error. The child returns arrays in safetensors' form, never a pickle.

On Linux the child's memory is limited. Other systems do not enforce such a limit, so
there only its time is limited.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path

import numpy as np

from open_nsfw_tf.errors import WeightsError, one_line
from open_nsfw_tf.formats import LONGEST, collect_notes, note

TIMEOUT = 60.0  # seconds; the real files take one
MEMORY = 1 << 30  # bytes that a parser and its libraries may take
MEMORY_PER_BYTE = 4  # additional bytes for each byte of the file
# More threads are not faster here, and each reserves memory.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}

Arrays = dict[str, np.ndarray]
Parser = Callable[..., Arrays]


def run(parser: Parser, path: Path, *more: Path) -> Arrays:
    """Call a parser in a child process.

    Args:
        parser: a function of a module of this package, called with the paths.
        path: the untrusted file.
        more: further arguments, trusted files.

    Returns:
        The arrays that the parser returned. Its notes are added to this process's.

    Raises:
        WeightsError: as the parser; or it took too long.
        ValueError: the file is broken: the parser raised another error, or crashed.
    """
    return _unpacked(_answer_of_child(parser, (path, *more)))


def _answer_of_child(parser: Parser, paths: tuple[Path, ...]) -> bytes:
    arguments = (parser.__module__, parser.__name__, *map(os.fspath, paths))
    code = (
        f"import sys; sys.path[:] = {sys.path!r}\n"
        f"from open_nsfw_tf.formats.sandbox import main; main{arguments!r}"
    )
    try:
        done = subprocess.run(
            [sys.executable, "-c", code],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **ONE_THREAD},
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise WeightsError(
            f"refused: it was not read within {TIMEOUT:g} seconds"
        ) from error
    if done.returncode:
        raise ValueError("its parser crashed, or needed more memory than weights do")
    return done.stdout


def main(module: str, parser: str, *paths: str) -> None:
    """The child process: write the parser's result to standard output."""
    # Libraries may print to standard output, which must not get into the result.
    answer = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    function = getattr(import_module(module), parser)
    with answer:
        answer.write(packed_answer(function, tuple(map(Path, paths))))


def packed_answer(parser: Parser, paths: tuple[Path, ...]) -> bytes:
    """A parser's result or error as bytes; limits the process that it runs in.

    Args:
        parser: called with the paths.
        paths: the first one is the untrusted file.
    """
    from safetensors.numpy import save

    _limit_memory(MEMORY + MEMORY_PER_BYTE * paths[0].stat().st_size)
    metadata, arrays = {}, {}
    try:
        with collect_notes() as notes:
            arrays = parser(*paths)
        metadata = {"notes": json.dumps(notes)}
        return save({n: np.asarray(a, order="C") for n, a in arrays.items()}, metadata)
    except WeightsError as error:
        metadata = {"refused": str(error)[:LONGEST]}
    except Exception as error:  # noqa: BLE001 - any library, any broken file
        metadata = {"broken": one_line(error)}
    return save({}, metadata)


def _limit_memory(size: int) -> None:
    """Let this process allocate at most `size` bytes more, and write no core file."""
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        limit = pages * resource.getpagesize() + size
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        seconds = int(TIMEOUT)  # in case the parent has ended
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds + 1))
    except (ImportError, OSError, ValueError):
        return  # not Linux: only the time is limited, by the parent


def _unpacked(answer: bytes) -> Arrays:
    from safetensors.numpy import load

    size = int.from_bytes(answer[:8], "little")
    metadata = json.loads(answer[8 : 8 + size])["__metadata__"]
    if "refused" in metadata:
        raise WeightsError(metadata["refused"])
    if "broken" in metadata:
        raise ValueError(metadata["broken"])
    for text in json.loads(metadata["notes"]):
        note(text)
    return load(answer)
