"""TensorFlow, imported once, when it is needed, and without its start-up log."""

import os
import re
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

# What TensorFlow's C++ writes before its own settings for logging take effect, such as
# "I0000 00:00:1795168271.889178    4577 port.cc:153] oneDNN custom operations are on."
_NOISE = re.compile(
    rb"[IWE]\d{4} [\d:. ]+\S+:\d+\] |WARNING: All log messages before absl::|"
    rb"To enable the following instructions: |INFO: Created TensorFlow Lite "
)


def import_tensorflow() -> Any:
    """TensorFlow with Keras on top of it.

    Raises:
        ImportError: TensorFlow is not installed, or Keras runs on another backend.
    """
    if "keras" not in sys.modules or "tensorflow" not in sys.modules:
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # errors of the C++ part
        os.environ.setdefault("KERAS_BACKEND", "tensorflow")
        with without_noise():
            import keras
            import tensorflow
    import keras
    import tensorflow

    if keras.backend.backend() != "tensorflow":
        raise ImportError(
            f"Keras runs on {keras.backend.backend()}, this network needs TensorFlow: "
            "set KERAS_BACKEND=tensorflow"
        )
    return tensorflow


@contextmanager
def without_noise() -> Iterator[None]:
    """Hold back standard error, then pass on all of it but TensorFlow's start-up log.

    No setting silences that log: it is written before TensorFlow reads its settings.
    """
    try:
        saved = os.dup(2)
    except OSError:  # a process without standard error
        yield
        return
    with tempfile.TemporaryFile() as held:
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
