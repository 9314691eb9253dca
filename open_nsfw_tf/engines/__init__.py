"""The engines, which compute scores from batches: a module each, with a class `Engine`.

An engine is made by ``Engine(weights, precision, threads, device, workers)`` and called
with a float32 batch (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123). It returns
float32 scores (N, 2), columns SFW, NSFW; with a trained model of any network (N, n),
one column a class. An engine may be called from several threads at once and gives all
of them the same scores.
"""

from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, Protocol, TypeGuard

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.forks import loading
from open_nsfw_tf.parallel import check_count

# What an engine can be built from: the canonical dict, a weights file, a trained model.
Source = Weights | Path | TrainedModel


class Contributions(NamedTuple):
    """The scores of a batch, and what each place of the last maps adds to them.

    The logits, whose softmax is the scores, are the mean of `cells` over the places
    plus `biases`.

    Attributes:
        scores: float32 (N, classes), as the engine gives them.
        cells: float32 (N, height, width, classes).
        biases: float32 (classes,).
    """

    scores: np.ndarray
    cells: np.ndarray
    biases: np.ndarray


class Engine(Protocol):
    """A network that is ready to compute, independent of the file or dict it came from.

    A pickle of it holds the network. In a forked process it gives the same scores, or
    raises RuntimeError at once if its library does not work there.
    """

    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, 2), of a batch, float32 (N, 224, 224, 3)."""

    def contributions(self, batch: np.ndarray) -> Contributions:
        """The same scores, and what each place of the last maps adds to them.

        Raises:
            ValueError: the network does not end in the mean of each map, one dense
                layer and a softmax.
        """

    @staticmethod
    def devices() -> list[str]:
        """The names that `device` may have on this machine."""

    def divided(self, threads: int, workers: int) -> "Engine":
        """An engine of the same network for `workers` callers, each with `threads`."""


@dataclass(frozen=True)
class EngineSpec:
    """The description of an engine, available without loading it.

    Attributes:
        package: the package it needs.
        extra: the extra of this distribution that installs the package; None: core.
        precisions: that it offers, each with the largest difference from Caffe's scores
            that the tests allow; the first one is exact.
        divisible: whether several engines of one process can have threads of their own.
        any_network: the precisions in which it computes trained models of other
            networks than Yahoo's.
    """

    package: str
    extra: str | None
    precisions: dict[str, float]
    divisible: bool = True
    any_network: tuple[str, ...] = ("float32",)


FLOAT32 = 5e-6  # other libraries add float32 in another order
FLOAT16 = 1e-3  # measured: 4e-4 on photographs, 9.8e-4 on one turned on its side
INT8 = 0.1  # measured: .03 on photographs (mean .003), .07 on a made-up one; see docs
# Measured: .0045 on photographs, .0127 on one turned on its side; made-up inputs that
# score near .5 change by up to .07.
BFLOAT16 = 0.02

# "auto" tries them in this order: among equally fast engines, first the one that
# everybody has installed and that starts quickly. On two x86-64 cores, in float32:
#
#              ms a picture        s to a     MB, alone
#              alone   16 at once  1st score  and 16 at once
# onnxruntime  4.8     4.7         0.29       126, 260
# openvino     4.9     4.8         0.46       172, 261
# litert       5.4     5.4         0.24       102, 113
# tensorflow   9.6     6.3         3.6        830, 935
#
# openvino in bfloat16: 2.6 and 2.4 ms, 0.40 s, 173 and 198 MB.
ENGINES = {
    "onnxruntime": EngineSpec(
        "onnxruntime",
        None,
        {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8},
        any_network=("float32", "float16"),
    ),
    "openvino": EngineSpec(
        "openvino", "openvino", {"float32": FLOAT32, "bfloat16": BFLOAT16}
    ),
    "litert": EngineSpec("ai_edge_litert", "litert", {"float32": FLOAT32}),
    "tensorflow": EngineSpec("tensorflow", None, {"float32": FLOAT32}, divisible=False),
}
PRECISIONS = tuple(
    dict.fromkeys(name for spec in ENGINES.values() for name in spec.precisions)
)


def create(
    name: str,
    weights: Source,
    precision: str = "float32",
    threads: int | None = None,
    device: str | None = None,
    workers: int = 1,
) -> Engine:
    """Make an engine.

    Args:
        name: a key of `ENGINES`, or "auto": the first one there that is installed and
            offers the precision and the network.
        weights: the canonical dict, the path of a weights file in any known format, or
            a trained model.
        precision: one that the engine offers.
        threads: for the operations of one batch; None leaves it to the engine.
        device: by the engine's name for it, with a number if there are several: "cpu",
            "cuda:1", "gpu:0"; None leaves it to the engine.
        workers: how many threads will call the engine at once, each of which computes
            with `threads` threads of its own. More may call; they wait.

    Raises:
        ValueError: no engine has this name, or it does not offer this precision,
            device or network.
        ImportError: the engine's package is not installed; the message says how to.
        RuntimeError: the device did not start.
        WeightsError: the weights cannot be read or do not fit.
    """
    check_count(threads, "thread")
    check_count(workers, "worker")
    name = choose(name, precision, weights)
    spec = ENGINES[name]
    offered = _offered(spec, weights)
    if precision not in offered:
        of = " for other networks than Yahoo's" * is_other_network(weights)
        raise ValueError(
            f"{name} offers the precisions {', '.join(offered)}{of}, not {precision!r}"
        )
    if find_spec(spec.package) is None:
        raise ImportError(_missing(name))
    with loading:
        module = import_module(f"{__name__}.{name}")
    engine: Engine = module.Engine(weights, precision, threads, device, workers)
    return engine


def choose(name: str, precision: str, weights: Source) -> str:
    """The name of an engine; for "auto" that of the first suitable one.

    Raises:
        ValueError, ImportError: as `create`.
    """
    if name == "auto":
        offers = {key: _offered(spec, weights) for key, spec in ENGINES.items()}
        return _first(precision, offers)
    if name not in ENGINES:
        raise ValueError(
            f"no engine {name!r}: choose one of auto, {', '.join(ENGINES)}"
        )
    return name


def check_explained(outputs: int) -> None:
    """Refuse a network that was made without the outputs of `Contributions`.

    Raises:
        ValueError: it has one output.
    """
    if outputs == 1:
        raise ValueError(
            "this network's scores cannot be divided among the places of a picture: "
            "expected one that ends in the mean of each map, one dense layer and a "
            "softmax, such as Yahoo's"
        )


def is_other_network(weights: Source) -> TypeGuard[TrainedModel]:
    """Whether it is a trained model of another network than Yahoo's."""
    return isinstance(weights, TrainedModel) and not weights.is_open_nsfw


def _offered(spec: EngineSpec, weights: Source) -> tuple[str, ...]:
    return spec.any_network if is_other_network(weights) else tuple(spec.precisions)


def _first(precision: str, offers: dict[str, tuple[str, ...]]) -> str:
    names = [name for name, offered in offers.items() if precision in offered]
    if not names:
        known = dict.fromkeys(p for offered in offers.values() for p in offered)
        raise ValueError(
            f"no engine offers the precision {sanitize(precision)!r}: choose one of "
            f"{', '.join(known)}"
        )
    for name in names:
        if find_spec(ENGINES[name].package) is not None:
            return name
    raise ImportError(_missing(names[0]))


def _missing(name: str) -> str:
    spec = ENGINES[name]
    what = f"'open_nsfw_tf[{spec.extra}]'" if spec.extra else spec.package
    return f"the engine {name} needs {spec.package}: pip install {what}"
