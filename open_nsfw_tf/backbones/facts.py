"""What a network costs: its parameters and multiply-adds, counted and published."""

import math
from typing import Any


def parameters_of(model: Any) -> tuple[int, int]:
    """The trainable values of a network, and its running means and variances.

    Both are told by what they are, so that frozen layers are counted as others.
    """
    counts = {True: 0, False: 0}
    for layer in model.layers:
        for variable in layer.weights:
            size = math.prod(variable.shape)
            counts[not variable.name.startswith("moving_")] += size
    return counts[True], counts[False]


def madds_of(model: Any) -> int:
    """Multiply-adds of a network's convolutions and dense layers, for one picture.

    Biases, norms, sums and poolings are not counted, as is usual.
    """
    return sum(map(_madds, model.layers))


def _madds(layer: Any) -> int:
    kernel = getattr(layer, "kernel", None)
    if kernel is None:
        return 0
    places = layer.output.shape[1:3] if len(kernel.shape) == 4 else ()
    return math.prod(kernel.shape) * math.prod(places)
