"""Which devices and machines train together: TensorFlow's strategies, and what works.

Found with Keras 3.15 and TensorFlow 2.21: `model.fit` under MultiWorkerMirroredStrategy
fails with two workers (a `PerReplica` value cannot become a tensor; keras-team/keras
issue 20585 is open), and Keras' maintainers say that they do not support it (issue
20601). A loop of one's own works: the Keras network is built in the strategy's scope,
each step is run by `strategy.run`, and gradients are added up by `all_reduce`. So that is
how all training runs here, on one device as well. Keras' optimizers work in such a loop
too; `optimizer.Momentum` is there for its learning rates.
"""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from open_nsfw_tf.backend import import_tensorflow
from open_nsfw_tf.errors import one_line, sanitize

DEVICES = ("one", "all")
CLUSTER = "TF_CONFIG"  # the environment variable that names the workers
PATIENCE = 600.0  # seconds, until all workers must have come


@dataclass(frozen=True)
class Workers:
    """Who trains.

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
    """The same before the others are met, by `CLUSTER` alone.

    Raises:
        ValueError: `CLUSTER` cannot be read.
    """
    cluster = _cluster()
    return not cluster or cluster["task"]["index"] == 0


def workers(devices: str = "one") -> Workers:
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
        with _patience():
            strategy = tf.distribute.MultiWorkerMirroredStrategy()
    except (RuntimeError, ValueError, tf.errors.OpError) as error:
        raise RuntimeError(
            f"{CLUSTER}: no cluster came together: {one_line(error)}"
        ) from error
    cluster = _cluster()
    return Workers(
        strategy, cluster["task"]["index"], len(cluster["cluster"]["worker"])
    )


_WATCH = """
import os, select, signal, sys
if not select.select([sys.stdin], [], [], float(sys.argv[2]))[0]:
    print(sys.argv[3], file=sys.stderr, flush=True)
    os.kill(int(sys.argv[1]), signal.SIGKILL)
"""


@contextmanager
def _patience() -> Iterator[None]:
    """End this process where the others do not come: TensorFlow would wait for ever.

    Meanwhile it answers neither to its own threads nor to signals, so that another
    process has to watch it. Nothing is lost: no file has been written yet.
    """
    said = (
        f"error: {CLUSTER}: not all workers came within {PATIENCE:g} s: start the same "
        "command for each of them, and look whether one has ended"
    )
    watch = subprocess.Popen(
        [sys.executable, "-c", _WATCH, str(os.getpid()), str(PATIENCE), said],
        stdin=subprocess.PIPE,
        stderr=sys.stderr,  # which may be another than the one that C libraries have
    )
    try:
        yield
    finally:
        watch.communicate()  # the end of its input is the end of its watch
