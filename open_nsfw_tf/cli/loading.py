"""Ctrl-C while a command's modules load ends the process, without a traceback.

Imported before all other modules of the command line.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


def _begin() -> bool:
    """Let Ctrl-C end the process; False if another handler is set."""
    # Only the main thread may set handlers.
    mine = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if mine:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return mine


_MINE = _begin()


def loaded() -> None:
    """Let Ctrl-C raise Python's `KeyboardInterrupt` again."""
    if _MINE:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def loading() -> Iterator[None]:
    """The same for modules that are imported later."""
    mine = _begin()
    try:
        yield
    finally:
        if mine:
            signal.signal(signal.SIGINT, signal.default_int_handler)
