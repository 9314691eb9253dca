"""Ctrl-C as a wish that is granted: the work in hand is finished first."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

INTERRUPTED = 130  # the exit status after Ctrl-C, by the shells' convention
_SHOW_CURSOR = b"\x1b[?25h"  # which a bar has hidden


@contextmanager
def interruptible(finishing: str) -> Iterator[Callable[[], bool]]:
    """Ctrl-C once: what is yielded turns true. Twice: the process ends at once.

    Args:
        finishing: what is finished first, such as "the pictures in flight".
    """
    asked: list[int] = []
    terminal = None if sys.stderr is None else sys.stderr.fileno()

    def tell(text: bytes) -> None:
        if terminal is not None:
            os.write(terminal, text)  # print may be under way, and cannot be entered

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
