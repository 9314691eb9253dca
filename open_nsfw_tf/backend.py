"""The engines' libraries, imported when they are needed, and made to be quiet."""

import errno
import os
import re
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize

# What TensorFlow's C++ writes before its own settings for logging take effect, such as
# "I0000 00:00:1795168271.889178    4577 port.cc:153] oneDNN custom operations are on."
_NOISE = re.compile(
    rb"[IWE]\d{4} [\d:. ]+\S+:\d+\] |WARNING: All log messages before absl::|"
    rb"To enable the following instructions: |INFO: Created TensorFlow Lite "
)


_GROWTH = "TF_FORCE_GPU_ALLOW_GROWTH"
_TELEMETRY = "openvino_telemetry"
_importing = threading.RLock()  # standard error is one for all threads


def import_tensorflow() -> Any:
    """TensorFlow with Keras on top of it, which takes a GPU's memory as it needs it.

    Raises:
        ImportError: TensorFlow is not installed, or Keras runs on another backend.
    """
    with _importing:
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
    import onnxruntime

    return onnxruntime


def import_openvino() -> Any:
    """OpenVINO, without the telemetry of its wheels.

    Importing it makes a folder ``intel`` in the user's home and tells Google Analytics.
    Where its package for that is not installed, it does without: so it is made to seem.
    """
    with _importing:
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
    with _importing, ExitStack() as stack:
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
