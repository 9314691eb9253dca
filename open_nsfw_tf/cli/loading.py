"""Ctrl-C while a command's modules load ends the process, without a traceback.

Imported before all other modules of the command line.
"""

import signal
import threading

# Only the main thread may, and what somebody else has set is left alone.
_MINE = (
    threading.current_thread() is threading.main_thread()
    and signal.getsignal(signal.SIGINT) is signal.default_int_handler
)
if _MINE:
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def loaded() -> None:
    """From now on Ctrl-C is Python's `KeyboardInterrupt` again."""
    if _MINE:
        signal.signal(signal.SIGINT, signal.default_int_handler)
