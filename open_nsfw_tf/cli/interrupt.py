"""Handling Ctrl-C: the current work is finished first."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit status after Ctrl-C, by the shells' convention
_SHOW_CURSOR = b"\x1b[?25h"  # a progress bar hides it


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
