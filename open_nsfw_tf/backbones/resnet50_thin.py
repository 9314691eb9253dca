"""Yahoo's network as a backbone: the blocks of `open_nsfw_tf.model`, up to ``pool``."""

import os
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    CLASSES,
    CONVOLUTIONS,
    DENSE,
    FEATURES,
    LAYERS,
    Weights,
    check_weights,
    identity_batch_norm,
)
from open_nsfw_tf.model import network
from open_nsfw_tf.weights import load_weights


def body(batch: Any, weights: Weights | None) -> Any:
    """The network up to ``pool``.

    Args:
        batch: float32 (N, H, W, 3), BGR, 0..255 minus (104, 117, 123), symbolic.
        weights: the canonical dict, with any number of classes; None: kernels and
            biases of 0 and batch norms that change nothing.

    Returns:
        float32 (N, 1024), the layer ``pool``.
    """
    # `network` also adds a last layer, which is not used: the head replaces it.
    unused = {
        "weights": np.broadcast_to(np.float32(0), (FEATURES, CLASSES)),
        "biases": np.zeros(CLASSES, np.float32),
    }
    return network(batch, {**(weights or _blank()), DENSE: unused})["pool"]


def pretrained(name: str, weights: Weights | str | os.PathLike[str] | None) -> Weights:
    """Yahoo's weights, or those that are given.

    Raises:
        WeightsError: they are not found or do not fit; the error names where it looked.
    """
    if not isinstance(weights, dict):
        return load_weights(weights)
    check_weights(weights)
    return weights


def _blank() -> Weights:
    """Canonical weights of zeros, without the last layer, in hardly any memory."""
    weights: Weights = {}
    for conv in CONVOLUTIONS:
        name = f"conv_{conv.key}"
        weights[name] = {
            field: np.broadcast_to(np.float32(0), shape)
            for field, shape in LAYERS[name].items()
        }
        weights[f"bn_{conv.key}"] = identity_batch_norm(conv.outputs)
    return weights
