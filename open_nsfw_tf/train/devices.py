"""Which devices and machines train together: TensorFlow's distribution strategies."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.libraries import import_tensorflow

DEVICES = ("one", "all")
CLUSTER = "TF_CONFIG"  # the environment variable that names the workers
LONGEST_WAIT = 600.0  # seconds, until all workers must have connected


@dataclass(frozen=True)
class Workers:
    """The processes that train together, and the devices of this one.

    Attributes:
        strategy: TensorFlow's.
        index: of this process among the workers, from 0.
        count: of the workers, one process each.
        devices: of this process.
    """

    strategy: Any
    index: int = 0
    count: int = 1
    devices: int = 1

    @property
    def is_chief(self) -> bool:
        """Whether this process writes the files."""
        return self.index == 0


def is_chief() -> bool:
    """`Workers.is_chief` before the other workers are found, by `CLUSTER` alone.

    Raises:
        ValueError: `CLUSTER` cannot be read.
    """
    cluster = _cluster()
    return not cluster or cluster["task"]["index"] == 0


def find_workers(devices: str = "one") -> Workers:
    """Find the other workers, and the devices here.

    Args:
        devices: "one", or "all": all graphics cards of this machine. Where the
            environment variable TF_CONFIG names several workers, each is one process with
            one device: start the same command for each, with its own index and, where
            a machine has several cards, its own CUDA_VISIBLE_DEVICES.

    Raises:
        ValueError: no such devices; TF_CONFIG cannot be read.
        RuntimeError: the other workers are not found, or TensorFlow was used before.
    """
    tf = import_tensorflow()
    if devices not in DEVICES:
        raise ValueError(
            f"expected devices of {', '.join(DEVICES)}, got {devices!r:.80}"
        )
    cluster = _cluster()
    if cluster and len(cluster["cluster"]["worker"]) > 1:
        return _cluster_workers(tf)
    names = [device.name for device in tf.config.list_logical_devices("GPU")]
    if devices == "all" and not names:
        names = [device.name for device in tf.config.list_logical_devices("CPU")]
    if devices == "all" and len(names) > 1:
        return Workers(tf.distribute.MirroredStrategy(names), devices=len(names))
    return Workers(tf.distribute.get_strategy())


def _cluster() -> dict[str, Any]:
    text = os.environ.get(CLUSTER)
    if not text:
        return {}
    try:
        cluster = json.loads(text)
        task, names = cluster["task"], cluster["cluster"]
        known = task["type"] == "worker" and set(names) == {"worker"}
        if known and 0 <= task["index"] < len(names["worker"]):
            return dict(cluster)
        raise ValueError("other tasks")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f'{CLUSTER}: expected {{"cluster": {{"worker": ["host:port", ...]}}, "task": '
            f'{{"type": "worker", "index": 0}}}}, got {sanitize(text, 80)}'
        ) from error


def _cluster_workers(tf: Any) -> Workers:
    try:
        cards = tf.config.list_physical_devices("GPU")
        tf.config.set_visible_devices(cards[:1], "GPU")
        with _limited_wait():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            f"{CLUSTER}: no cluster came together: {one_line(error)}"
        ) from error
    cluster = _cluster()
    return Workers(
        strategy, cluster["task"]["index"], len(cluster["cluster"]["worker"])
    )


@contextmanager
def _limited_wait() -> Iterator[None]:
    """End this process if the other workers do not come: TensorFlow would wait for ever.

    Meanwhile it runs neither its own threads nor signal handlers, so that another process
    has to watch it. Nothing is lost: no file has been written yet.
    """
    message = (
        f"error: {CLUSTER}: not all workers came within {LONGEST_WAIT:g} s: start the "
        "same command for each of them, and see whether one has ended"
    )
    program = str(Path(__file__).with_name("watchdog.py"))
    watchdog = subprocess.Popen(
        [sys.executable, "-I", program, str(os.getpid()), str(LONGEST_WAIT), message],
        stdin=subprocess.PIPE,
        stderr=sys.stderr,  # which may not be the file that C libraries write to
    )
    try:
        yield
    finally:
        watchdog.communicate()  # it ends when its input does
