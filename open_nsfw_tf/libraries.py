"""The engines' libraries, imported when they are needed, and made to be quiet."""

import errno
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
_TELEMETRY = "openvino_telemetry"
CPU_PROVIDER = "CPUExecutionProvider"  # of ONNX Runtime


def need(extra: str, *packages: str) -> None:
    """Ask for packages before the work that needs them.

    Args:
        extra: of open_nsfw_tf, which installs them.
        packages: as they are imported.

    Raises:
        ImportError: one is not installed; the message says how to install it.
    """
    for package in packages:
        if find_spec(package) is None:
            raise ImportError(
                f"this needs {package}: pip install 'open_nsfw_tf[{extra}]'"
            )


def _tensorflow_context() -> object:
    """What TensorFlow computes in, if anybody in this process has begun to; or None."""
    eager = sys.modules.get("tensorflow.python.eager.context")
    context = getattr(eager, "_context", None)
    return getattr(context, "_context_handle", None)


_tensorflow = OneProcess("TensorFlow", _tensorflow_context)
openvino_use = OneProcess("OpenVINO")


def import_tensorflow() -> Any:
    """TensorFlow with Keras on top of it, which takes a GPU's memory as it needs it.

    Raises:
        ImportError: TensorFlow is not installed, or Keras runs on another backend.
        RuntimeError: this process was forked from one that has used TensorFlow.
    """
    _tensorflow.use()
    with loading:
        # Or it takes the whole card. Read when the first GPU is used, so that it comes in
        # time even where the caller has imported TensorFlow; a user's "false" stays.
        # No `setdefault`: TensorFlow tries to compile that, where it traces this.
        if _GROWTH not in os.environ:
            os.environ[_GROWTH] = "true"
        if "keras" not in sys.modules or "tensorflow" not in sys.modules:
            os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # its C++: errors only
            os.environ.setdefault("KERAS_BACKEND", "tensorflow")
            _check_backend(os.environ["KERAS_BACKEND"])
            with without_noise():
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
    """TensorFlow's own errors about files as OSErrors of one line.

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
    """ONNX Runtime, without the telemetry of its wheels.

    Version 1.31 writes a device id and a database into the user's cache when it is
    imported, and sends them to Microsoft; its own switch has to be set before.
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
    """An ONNX Runtime session that reports nothing but errors.

    Args:
        model: a serialized ONNX graph.
        threads: for the operations of one batch; 0: one for each core.
        providers: of execution, each a name, or a name and its options.
        plan_memory: whether memory is planned ahead for batches of a known shape.
    """
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    options.intra_op_num_threads = threads
    options.enable_mem_pattern = plan_memory
    with loading:
        session = onnxruntime.InferenceSession(
            model, options, providers=list(providers)
        )
    # It holds the serialized graph for changes of its providers: 24 MB for nothing.
    session._model_bytes = None
    return session


def import_openvino() -> Any:
    """OpenVINO, without the telemetry of its wheels.

    Importing it makes a folder ``intel`` in the user's home and tells Google Analytics.
    Where its package for that is not installed, it does without: so it is made to seem.
    """
    with loading:
        if "openvino" not in sys.modules:
            hidden = sys.modules.get(_TELEMETRY)
            sys.modules[_TELEMETRY] = None  # type: ignore[assignment]
            try:
                import openvino
            finally:
                del sys.modules[_TELEMETRY]
                if hidden is not None:
                    sys.modules[_TELEMETRY] = hidden
        import openvino
    return openvino


@contextmanager
def without_noise() -> Iterator[None]:
    """Hold back standard error, then pass on all of it but TensorFlow's start-up log.

    No setting silences that log: it is written before TensorFlow reads its settings.
    """
    with loading, ExitStack() as stack:
        try:
            held = stack.enter_context(tempfile.TemporaryFile())
            saved = os.dup(2)
        except OSError:  # nowhere to hold it, or a process without standard error
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
