"""What computes scores from a batch. One module an engine, each with a class `Engine`.

Every engine is made as ``Engine(weights, precision, threads)`` and called with a
float32 batch (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123); it answers float32
scores (N, 2), columns SFW, NSFW. It may be called from several threads at once.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Protocol

import numpy as np

from open_nsfw_tf.architecture import Weights


class Engine(Protocol):
    """A network that is ready to answer."""

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, 2), of a batch, float32 (N, 224, 224, 3)."""


@dataclass(frozen=True)
class Kind:
    """What can be said of an engine without loading it.

    Attributes:
        package: the package it needs.
        extra: of our own distribution, which installs the package; None: core.
        precisions: it offers; the first one is exact.
    """

    package: str
    extra: str | None
    precisions: tuple[str, ...] = ("float32",)


# Fastest exact engine first (FLOP for FLOP on two x86-64 cores; see benchmarks/).
ENGINES = {
    "onnxruntime": Kind("onnxruntime", None),
    "tensorflow": Kind("tensorflow", None),
}


def create(
    name: str,
    weights: Weights | Path,
    precision: str = "float32",
    threads: int | None = None,
) -> Engine:
    """Make an engine.

    Args:
        name: a key of `ENGINES`, or "auto": the fastest exact one that is installed.
        weights: the canonical dict, or the path of a weights file in any known format.
        precision: one that the engine offers.
        threads: for the operations of one batch; None leaves it to the engine.

    Raises:
        ValueError: no engine has this name, or it does not offer this precision.
        ImportError: the engine's package is not installed; the message says how to.
        WeightsError: the weights cannot be read or do not fit.
    """
    if threads is not None and (not isinstance(threads, int) or threads < 1):
        raise ValueError(f"expected at least 1 thread, got {threads!r:.80}")
    kind_name = _installed() if name == "auto" else name
    kind = ENGINES.get(kind_name)
    if kind is None:
        raise ValueError(
            f"no engine {name!r}: choose one of auto, {', '.join(ENGINES)}"
        )
    if precision not in kind.precisions:
        raise ValueError(
            f"{kind_name} offers the precisions {', '.join(kind.precisions)}, "
            f"not {precision!r}"
        )
    if find_spec(kind.package) is None:
        raise ImportError(_missing(kind_name))
    made: Engine = import_module(f"{__name__}.{kind_name}").Engine(
        weights, precision, threads
    )
    return made


def _installed() -> str:
    for name, kind in ENGINES.items():
        if find_spec(kind.package) is not None:
            return name
    raise ImportError(_missing(next(iter(ENGINES))))


def _missing(name: str) -> str:
    kind = ENGINES[name]
    what = f"'open_nsfw_tf[{kind.extra}]'" if kind.extra else kind.package
    return f"the engine {name} needs {kind.package}: pip install {what}"
