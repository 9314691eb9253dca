"""Importing the engines' libraries only when needed, and without log messages."""

import errno
import gc
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.forks import OneProcess, loading

# What TensorFlow's C++ writes before its own settings for logging take effect, such as
# "I0000 00:00:1795168271.889178    4577 port.cc:153] oneDNN custom operations are on."
_NOISE = re.compile(
    rb"[IWE]\d{4} [\d:. ]+\S+:\d+\] |WARNING: All log messages before absl::|"
    rb"To enable the following instructions: |INFO: Created TensorFlow Lite "
)


_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
CPU_PROVIDER = "CPUExecutionProvider"  # of ONNX Runtime


def need(extra: str | None, *packages: str) -> None:
    """Ask for packages before the work that needs them.

    Args:
        extra: of open_nsfw_tf, which installs them; None: open_nsfw_tf itself does,
            unless it was installed without what it requires.
        packages: as they are imported.

    Raises:
        ImportError: some are not installed; the message says how to install them.
    """
    missing = [package for package in packages if find_spec(package) is None]
    if missing:
        what = f"'open_nsfw_tf[{extra}]'" if extra else " ".join(missing)
        raise ImportError(f"this needs {', '.join(missing)}: pip install {what}")


def _tensorflow_context() -> object:
    """TensorFlow's runtime, or None if no code of this process has begun to use it."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(eager, "_context", None)
    return getattr(context, "_context_handle", None)


_tensorflow = OneProcess("TensorFlow", _tensorflow_context)
openvino_use = OneProcess("OpenVINO")
_start_fast = False  # TensorFlow, see `start_tensorflow_fast`


@contextmanager
def _hidden(*packages: str) -> Iterator[None]:
    """Make packages look as if they were not installed."""
    before = {name: sys.modules.get(name) for name in packages}
    sys.modules.update(dict.fromkeys(packages))  # type: ignore[arg-type]
    try:
        yield
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def start_tensorflow_fast() -> None:
    """Let TensorFlow start in half the time, when it is needed. For commands only.

    Keras does without packages that it imports where they are installed; no command
    uses those parts of it. And Python's garbage collector is off meanwhile, and later
    passes over what there is by then. An application might want both.
    """
    global _start_fast
    _start_fast = True


@contextmanager
def _starting_fast() -> Iterator[None]:
    if not _start_fast:
        yield
        return
    gc.disable()
    try:
        with _hidden("cv2", "matplotlib", "pandas", "sklearn"):
            yield
        gc.freeze()
    finally:
        gc.enable()


def import_tensorflow() -> Any:
    """Import TensorFlow, with Keras on it, so that it takes GPU memory only as needed.

    Raises:
        ImportError: TensorFlow is not installed, or Keras runs on another backend.
        RuntimeError: this process was forked from one that has used TensorFlow.
    """
    _tensorflow.use()
    with loading:
        # Otherwise TensorFlow takes the whole card. It reads this when the first GPU is
        # used, so it is in time even if the caller has imported TensorFlow already. A
        # user's own setting stays. AutoGraph compiles what this function calls when it
        # is traced, and warns where it cannot; so `setdefault` and `need` are not
        # called once TensorFlow is there.
        if _GROWTH not in os.environ:
            os.environ[_GROWTH] = "true"
        if "keras" not in sys.modules or "tensorflow" not in sys.modules:
            need(None, "tensorflow")
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its C++: errors only
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            _check_backend(os.environ["KERAS_BACKEND"])
            with without_noise(), _starting_fast():
                import keras
                import tensorflow
        import keras
        import tensorflow

    _check_backend(keras.backend.backend())
    return tensorflow


def _check_backend(name: str) -> None:
    if name != "tensorflow":
        raise ImportError(
            f"Keras runs on {sanitize(name)}, this network needs TensorFlow: set "
            "KERAS_BACKEND=tensorflow"
        )


@contextmanager
def disk_errors() -> Iterator[None]:
    """Turn TensorFlow's errors about files into OSErrors with one-line messages.

    Raises:
        OSError: a disk is full, or a file cannot be written or read.
    """
    tf = import_tensorflow()
    try:
        yield
    except tf.errors.OpError as error:
        full = isinstance(error, tf.errors.ResourceExhaustedError)
        code = errno.ENOSPC if full else errno.EIO
        raise OSError(code, os.strerror(code) if full else one_line(error)) from error


def import_onnxruntime() -> Any:
    """Import ONNX Runtime without the telemetry of its wheels.

    When version 1.31 is imported, it writes a device id and a database into the user's
    cache and sends them to Microsoft, unless this variable is set before.
    """
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    with loading:
        import onnxruntime

    return onnxruntime


def open_session(
    model: bytes,
    threads: int = 0,
    providers: Sequence[Any] = (CPU_PROVIDER,),
    plan_memory: bool = True,
) -> Any:
    """Open an ONNX Runtime session that logs only errors.

    Args:
        model: a serialized ONNX graph.
        threads: for the operations of one batch; 0: one for each core.
        providers: execution providers, each a name, or a name and its options.
        plan_memory: whether memory is planned ahead for batches of a known shape.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = plan_memory
    # On x86 processors without VNNI, the fast sums of int8 are of 16 bits and saturate.
    options.add_session_config_entry("session.x64quantprecision", "1")
    with loading:
        session = onnxruntime.InferenceSession(
            model, options, providers=list(providers)
        )
    # The session keeps the serialized graph in case its providers are changed: 24 MB.
    session._model_bytes = None
    return session


def import_openvino() -> Any:
    """Import OpenVINO without the telemetry of its wheels.

    Importing it makes a folder ``intel`` in the user's home and reports to Google
    Analytics. OpenVINO works without the package that does this, so the package is made
    to look as if it were not installed.
    """
    with loading, _hidden("openvino_telemetry"):
        import openvino
    return openvino


@contextmanager
def without_noise() -> Iterator[None]:
    """Redirect standard error, then write all of it but TensorFlow's start-up log.

    No setting silences that log: it is written before TensorFlow reads its settings.
    """
    with loading, ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            saved = os.dup(2)
        except OSError:  # no room for the file, or a process without standard error
            yield
            return
        os.dup2(held.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(saved, 2)
            os.close(saved)
            held.seek(0)
            for line in held:
                if not _NOISE.match(line):
                    os.write(2, line)
