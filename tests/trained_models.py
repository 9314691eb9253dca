"""Trained models made by hand: Yahoo's network with three classes, and another one."""

from typing import Any

import numpy as np

from open_nsfw_tf.architecture import DENSE, FEATURES
from open_nsfw_tf.backbones.trained import OPEN_NSFW, HeadLayer, TrainedModel
from open_nsfw_tf.image import YAHOO, Preprocessing

CLASSES = ("drawing", "neutral", "nsfw")
SMALL = Preprocessing(72, 64, False, "RGB", (127.5, 127.5, 127.5), 1 / 127.5)
OTHER = "mobilenet_v2"


def open_nsfw_of_three(weights: Any) -> TrainedModel:
    """Yahoo's weights with a last layer of three random outputs."""
    random = np.random.default_rng(7)
    last = {
        "weights": random.normal(0, 0.1, (FEATURES, 3)).astype(np.float32),
        "biases": random.normal(0, 0.1, 3).astype(np.float32),
    }
    made = {**weights, DENSE: last}
    return TrainedModel(OPEN_NSFW, CLASSES, YAHOO, (), made)


def with_blocks(model: Any) -> Any:
    """A random network whose residual blocks count: their last norms begin at 0."""
    for layer in model.layers:
        if type(layer).__name__ == "BatchNormalization" and layer.scale:
            layer.gamma.assign(np.ones(layer.gamma.shape))
    return model


def other_network(backbone: str = OTHER) -> TrainedModel:
    """A small network of another backbone, with a head and random weights."""
    from open_nsfw_tf.backbones import build, weights_of

    head = (
        HeadLayer("dense", units=8, activation="relu"),
        HeadLayer("batch_norm"),
        HeadLayer("dropout", rate=0.5),
    )
    model = build(backbone, 3, head=head, size=SMALL.crop, init="random", seed=3)
    weights = weights_of(with_blocks(model))
    # Scores near 0 and 1 would hide differences.
    weights["logits"]["kernel"] = weights["logits"]["kernel"] * np.float32(0.1)
    return TrainedModel(backbone, CLASSES, SMALL, head, weights)
