"""What the service writes down: figures for Prometheus, and the audit file."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from threading import Lock
from typing import Any

from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    PlatformCollector,
    ProcessCollector,
    generate_latest,
)

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)
SCORES = tuple(round(0.05 * step, 2) for step in range(1, 21))
PICTURES = (1, 2, 4, 8, 16, 32, 64)
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0)


class Metrics:
    """What is counted and measured; every name begins with ``open_nsfw_``.

    Args:
        info: constant labels of the metric ``open_nsfw_model_info``.
    """

    media_type = CONTENT_TYPE_LATEST  # of the page

    def __init__(self, info: dict[str, str]) -> None:
        self.registry = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=self.registry)
        self.requests = self._new(
            Counter, "requests", "Requests that were answered.", ("route", "code")
        )
        self.request_seconds = self._new(
            Histogram,
            "request_seconds",
            "From a request's headers to the end of its answer.",
            ("route",),
            buckets=SECONDS,
        )
        self.queue_seconds = self._seconds("queue", "That a picture waited.")
        self.decode_seconds = self._seconds(
            "decode", "From bytes to a network's input."
        )
        self.network_seconds = self._seconds("network", "That a batch was computed.")
        self.batch_pictures = self._new(
            Histogram, "batch_pictures", "Pictures of a batch.", buckets=PICTURES
        )
        self.pictures = self._new(
            Counter, "pictures", "Pictures, by what became of them.", ("outcome",)
        )
        self.scores = self._new(
            Histogram,
            "score",
            "Scores, by class: a change of their distribution shows here.",
            ("class",),
            buckets=SCORES,
        )
        self.queue_pictures = self._new(Gauge, "queue_pictures", "Pictures that wait.")
        self.ready = self._new(Gauge, "ready", "1 while requests are wanted.")
        self.body_bytes = self._new(Gauge, "body_bytes", "Of bodies held in memory.")
        model = self._new(Gauge, "model_info", "What computes the scores.", tuple(info))
        model.labels(**info).set(1)

    def _new(
        self, kind: Any, name: str, text: str, labels: tuple[str, ...] = (), **more: Any
    ) -> Any:
        return kind(f"open_nsfw_{name}", text, labels, registry=self.registry, **more)

    def _seconds(self, step: str, text: str) -> Any:
        return self._new(
            Histogram, f"{step}_seconds", f"Seconds: {text}", buckets=SECONDS
        )

    def page(self) -> bytes:
        """All of them in Prometheus' text format."""
        return generate_latest(self.registry)


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
