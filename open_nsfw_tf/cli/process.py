"""The process of a command: its errors in one line, and its output."""

import codecs
import io
import logging
import os
import signal
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from types import ModuleType

from open_nsfw_tf.cli.interrupt import INTERRUPTED, ending_silently
from open_nsfw_tf.errors import sanitize

_EXPECTED = (
    ValueError,  # ImageError and WeightsError among them
    TypeError,
    OSError,
    ImportError,
    MemoryError,
    RuntimeError,  # ExportError among them
)
LONGEST = 2000  # characters of an error
ESCAPING = "open_nsfw_tf.escaping"  # the handler of characters that cannot be encoded
DEBUG = "OPEN_NSFW_TF_DEBUG"  # set: tracebacks, and what C libraries print


def import_command(module: str) -> ModuleType:
    """Import the module of a command, when that command runs."""
    with ending_silently():
        from open_nsfw_tf.libraries import start_tensorflow_fast

        start_tensorflow_fast()
        return import_module(f"open_nsfw_tf.cli.{module}")


@contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print expected errors as one line, and exit with status 1; 130 after Ctrl-C."""
    _keep_standard_numbers()
    if os.environ.get(DEBUG):
        yield
        return
    # Warnings of decoders and libraries do not help the user.
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    _silence_libraries()
    # Exit by an exception at SIGTERM, so that temporary files are removed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    try:
        yield
    except _EXPECTED as error:
        if sys.stderr is not None:
            print(f"error: {sanitize(error, LONGEST)}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)


def _keep_standard_numbers() -> None:
    """Open descriptors 0, 1 and 2 if they are closed, so that no other file gets them.

    C libraries print to descriptor 2, which might then be a table of scores.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        continue
    os.close(number)


def _silence_libraries() -> None:
    """Send to /dev/null what C libraries print to standard error.

    TensorFlow, libtiff and others log there; their errors are also raised in Python,
    whose standard error stays the terminal.
    """
    if sys.stderr is None:
        return
    try:
        ours = os.dup(2)
        silence = os.open(os.devnull, os.O_WRONLY)
        os.dup2(silence, 2)
        os.close(silence)
    except OSError:
        return
    sys.stderr = os.fdopen(ours, "w", buffering=1, errors="backslashreplace")


def _escape(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of a name that are not text stay; what cannot be encoded: \\u."""
    try:
        return codecs.lookup_error("surrogateescape")(error)
    except UnicodeError:
        return codecs.backslashreplace_errors(error)


codecs.register_error(ESCAPING, _escape)


def open_standard_output() -> None:
    """Make any name printable in standard output's encoding.

    Raises:
        OSError: standard output is closed.
    """
    if sys.stdout is None:
        raise OSError("standard output is closed: there is nowhere to print to")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors=ESCAPING)
