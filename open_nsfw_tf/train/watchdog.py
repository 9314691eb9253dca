"""A program of its own: kills a process unless standard input ends in time.

Arguments: the id of the process, the seconds to wait, and the message to print before.
`devices` starts it by its path, so it imports nothing of the package.
"""

import os
import select
import signal
import sys


def main(process: int, seconds: float, message: str) -> None:
    """Wait for the end of standard input, and kill the process if it does not come."""
    ended, _, _ = select.select([sys.stdin], [], [], seconds)
    if not ended:
        print(message, file=sys.stderr, flush=True)
        os.kill(process, getattr(signal, "SIGKILL", signal.SIGTERM))


if __name__ == "__main__":
    main(int(sys.argv[1]), float(sys.argv[2]), sys.argv[3])
