"""Handling Ctrl-C: no traceback while modules load, later current work is finished.

Imported before all other modules of the command line.
"""

import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit status after Ctrl-C, by the shells' convention
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


def _end_silently() -> bool:
    """Let Ctrl-C end the process; False if another handler is set."""
    # Only the main thread may set handlers.
    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if ours:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    return ours


_SILENT = _end_silently()  # from here on, until `modules_loaded`


def modules_loaded() -> None:
    """Let Ctrl-C raise Python's `KeyboardInterrupt` again."""
    if _SILENT:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def ending_silently() -> Iterator[None]:
    """Let Ctrl-C end the process, while modules are imported later."""
    ours = _end_silently()
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGINT, signal.default_int_handler)


@contextmanager
def interruptible(finishing: str) -> Iterator[Callable[[], bool]]:
    """After one Ctrl-C the yielded function returns True; a second ends the process.

    Args:
        finishing: the work that is finished first, such as "the pictures in flight".
    """
    asked: list[int] = []
    terminal = None if sys.stderr is None else sys.stderr.fileno()

    def tell(text: bytes) -> None:
        if terminal is not None:
            os.write(terminal, text)  # not print, which the signal may have interrupted

    def interrupted(number: int, frame: object) -> None:
        if asked:
            if terminal is not None and os.isatty(terminal):
                tell(_SHOW_CURSOR)
            os._exit(INTERRUPTED)
        asked.append(number)
        tell(f"\nfinishing {finishing}; Ctrl-C again ends at once\n".encode())

    before = signal.getsignal(signal.SIGINT)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, interrupted)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
