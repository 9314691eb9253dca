"""A run of training as one file, from which it goes on exactly.

All arrays, of the network and of the optimizer, and the history are in one safetensors
file, which is moved into its place when it is whole: a kill, or a full disk, leaves the
one before. Nothing in it can run code.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.errors import TrainingError, one_line, sanitize
from open_nsfw_tf.formats import BROKEN, replacing
from open_nsfw_tf.train.schedule import Row

CHECKPOINT = "checkpoint.safetensors"


@dataclass
class State:
    """Where a run is, beside its arrays.

    Attributes:
        history: a row for each epoch that is done.
        stage: that the optimizer's arrays belong to, from 0.
        step: how many steps of the next epoch are done.
        sums: over those steps: of losses, of right answers, of pictures.
        seconds: that those steps took.
    """

    history: list[Row] = field(default_factory=list)
    stage: int = 0
    step: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0, 0.0, 0.0])
    seconds: float = 0.0


def write(folder: Path, model: Any, optimizer: dict[str, Any], state: State) -> None:
    """Write a checkpoint; the one before stays until it is whole.

    Args:
        folder: of the run.
        model: the network.
        optimizer: its variables by name.
        state: what else there is.

    Raises:
        TrainingError: an array holds what is not finite; the checkpoint before is kept.
        OSError: it cannot be written, as on a full disk; likewise.
    """
    from safetensors.numpy import save

    arrays = {name: np.asarray(one.numpy()) for name, one in _named(model, optimizer)}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise TrainingError(f"{name} holds values that are not finite")
    path = folder / CHECKPOINT
    try:
        with replacing(path) as unfinished, open(unfinished, "wb") as file:
            file.write(save(arrays, metadata={"state": json.dumps(asdict(state))}))
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OSError(
            f"{sanitize(path)}: {reason}; the checkpoint before is whole: make room, then "
            "go on with --resume"
        ) from error


def read_state(folder: Path) -> State | None:
    """Where a run is; None where no checkpoint was written yet.

    Raises:
        TrainingError: the checkpoint is broken.
    """
    if not (folder / CHECKPOINT).exists():
        return None
    return _read(folder)[0]


def restore(folder: Path, model: Any, optimizer: dict[str, Any]) -> None:
    """Give the variables the values of the checkpoint.

    Args:
        folder: of the run.
        model: the network.
        optimizer: its variables by name; empty: those of the checkpoint are left out.

    Raises:
        TrainingError: the checkpoint is broken, or another network's.
    """
    arrays = _read(folder)[1]
    for name, variable in _named(model, optimizer):
        array = arrays.get(name)
        if array is None or array.shape != tuple(variable.shape):
            found = "nothing" if array is None else array.shape
            raise TrainingError(
                f"{sanitize(folder / CHECKPOINT)}: expected {name} of shape "
                f"{tuple(variable.shape)}, got {found}: this checkpoint is another "
                "network's; begin anew with --overwrite"
            )
        variable.assign(array)


def _named(model: Any, optimizer: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """All variables, with names that are the same in every process."""
    for layer in model.layers:
        for number, variable in enumerate(layer.variables):
            yield f"model/{layer.name}/{number}", variable
    for name, variable in optimizer.items():
        yield f"optimizer/{name}", variable


def _read(folder: Path) -> tuple[State, dict[str, np.ndarray]]:
    from safetensors import SafetensorError, safe_open

    path = folder / CHECKPOINT
    try:
        with safe_open(path, framework="numpy") as file:
            state = State(**json.loads(file.metadata()["state"]))
            return state, {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no dict
    except (*BROKEN, OSError, SafetensorError) as error:
        raise TrainingError(
            f"{sanitize(path)}: this checkpoint cannot be read ({one_line(error)}): begin "
            "anew with --overwrite"
        ) from error
