"""A Ray of one's own, or the one that is there."""

import os
import socket
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from open_nsfw_tf.errors import one_line, sanitize

LOCAL = "local"  # an address: start a Ray on this machine, and end it
OBJECTS = 1 << 29  # bytes of shared memory; rows and paths are small
# Names of Unix sockets may have 104 bytes, of which Ray's own take 70.
LONGEST_FOLDER = 24
TIMEOUT = 10.0  # seconds, for an address to answer


def import_ray() -> Any:
    """Ray, with Ray Data.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    for package in ("ray", "pyarrow"):
        if find_spec(package) is None:
            raise ImportError(
                f"many machines need {package}: pip install 'open_nsfw_tf[ray]'"
            )
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # or it sends statistics home
    # Or it warns of what its next version will do.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    import_module("ray.data")
    return import_module("ray")


@contextmanager
def connected(address: str = LOCAL, actors: int | None = None) -> Iterator[Any]:
    """Ray, connected to a cluster.

    Args:
        address: "local" starts a Ray here, without dashboard and usage statistics, in a
            temporary folder that goes with it. Others are Ray's: "auto", "host:port",
            "ray://host:port". Where this process is connected already, that connection
            is used and stays.
        actors: that a local Ray must have room for.

    Yields:
        The module ray.

    Raises:
        ImportError: Ray is missing.
        OSError: there is no cluster at this address.
    """
    ray = import_ray()
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    with tempfile.TemporaryDirectory(
        prefix="ray-", dir=_short_folder(), ignore_cleanup_errors=True
    ) as folder:
        if address == LOCAL:
            options |= {
                "include_dashboard": False,
                "num_cpus": max(os.cpu_count() or 1, actors or 0),
                "object_store_memory": OBJECTS,
                "_temp_dir": folder,
            }
        try:
            _knock(address)
            ray.init(address, **options)
        except (ConnectionError, RuntimeError, ValueError, OSError) as error:
            advice = "" if address == LOCAL else "; --ray alone starts one here"
            raise ConnectionError(
                f"no Ray at {sanitize(address)} ({one_line(error)}){advice}"
            ) from error
        try:
            yield ray
        finally:
            ray.shutdown()


def _knock(address: str) -> None:
    """Try a port, or Ray would wait for minutes where nobody answers."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    if port.isdecimal() and host:
        socket.create_connection((host.strip("[]"), int(port)), TIMEOUT).close()


def _short_folder() -> str:
    folder = tempfile.gettempdir()
    shared = Path("/tmp")
    return str(shared) if len(folder) > LONGEST_FOLDER and shared.is_dir() else folder
