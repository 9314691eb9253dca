"""The audit file: a line of JSON for each picture, written before its answer is."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class Audit:
    """Appends lines to a file, which other programs may rename and have reopened.

    Args:
        path: of the file; only its owner may read it if it is made here.

    Raises:
        OSError: it cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = Lock()
        self._file = os.open(path, _FLAGS, 0o600)
        self._torn = False  # whether the last line is incomplete

    def reopen(self) -> None:
        """Open the path again, after the file there was renamed.

        Raises:
            OSError: it cannot be opened; the old file is written on.
        """
        file = os.open(self.path, _FLAGS, 0o600)
        with self._lock:
            old, self._file = self._file, file
            self._torn = False
        os.close(old)

    def write(self, records: Iterable[dict[str, Any]]) -> None:
        """Append some lines.

        Raises:
            OSError: not all of them could be written.
        """
        lines = "".join(json.dumps(record) + "\n" for record in records).encode()
        with self._lock:
            data = memoryview(b"\n" + lines if self._torn else lines)
            self._torn = True
            while data:
                data = data[os.write(self._file, data) :]
            self._torn = False

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
