"""Channels brought to similar ranges: the same function in float, better in 8 bits.

A channel before a ReLU may be divided by any positive number if what reads it multiplies
by the same: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization
Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721. Here the
number is a power of the channel's largest value over the calibration.
"""

from dataclasses import dataclass

import numpy as np

from open_nsfw_tf.architecture import (
    BLOCKS,
    DENSE,
    STEM,
    Block,
    Convolution,
    Weights,
)
from open_nsfw_tf.quantize.arithmetic import convolve, max_pool, relu

FAINTEST = 1e-3  # of the strongest channel: weaker ones are raised no further


@dataclass(frozen=True)
class Edge:
    """A tensor between layers.

    Attributes:
        tensor: its name.
        writers: of layers whose output channels it has.
        readers: of layers whose input channels it has.
    """

    tensor: str
    writers: tuple[str, ...]
    readers: tuple[str, ...]


def name(conv: Convolution) -> str:
    """Of the layer in the canonical dict."""
    return f"conv_{conv.place}"


def edges() -> list[Edge]:
    """Every tensor whose channels can be scaled; a stage's blocks share one stream."""
    found = [Edge("pool1", (name(STEM),), _entry(BLOCKS[0][0]))]
    for number, stage in enumerate(BLOCKS):
        writers: list[str] = []
        readers: list[str] = []
        for block in stage:
            a, b, c = map(name, block.main)
            found += [Edge(a, (a,), (b,)), Edge(b, (b,), (c,))]
            writers.append(c)
            if block.projection:
                writers.append(name(block.projection))
            else:
                readers.append(a)
        last = number + 1 == len(BLOCKS)
        readers += [DENSE] if last else _entry(BLOCKS[number + 1][0])
        found.append(Edge(f"stage{number}", tuple(writers), tuple(readers)))
    return found


def _entry(block: Block) -> tuple[str, ...]:
    assert block.projection is not None  # the first block of a stage
    return name(block.main[0]), name(block.projection)


def equalize(weights: Weights, batch: np.ndarray, evenness: float) -> Weights:
    """Scale the channels of every tensor towards one range.

    Args:
        weights: the canonical dict, batch norms folded.
        batch: float32 (N, 224, 224, 3), to find the ranges with.
        evenness: the power of a channel's largest value that it is divided by, 0..1.

    Returns:
        A new canonical dict that computes the same up to float32 rounding.
    """
    scaled = {layer: dict(fields) for layer, fields in weights.items()}
    largest = _largest(weights, batch)
    for edge in edges():
        peaks = largest[edge.tensor]
        strength = np.maximum(peaks, max(peaks.max() * FAINTEST, 1e-30)) ** evenness
        factor = (strength / np.exp(np.log(strength).mean())).astype(np.float32)
        for layer in edge.writers:
            fields = scaled[layer]
            fields["weights"] = fields["weights"] / factor
            fields["biases"] = fields["biases"] / factor
        for layer in edge.readers:
            fields = scaled[layer]
            fields["weights"] = fields["weights"] * factor[:, np.newaxis]
    return scaled


def _largest(weights: Weights, batch: np.ndarray) -> dict[str, np.ndarray]:
    """Each tensor's largest value by channel over the batch."""
    found: dict[str, np.ndarray] = {}

    def layer(conv: Convolution, images: np.ndarray) -> np.ndarray:
        fields = weights[name(conv)]
        return convolve(images, conv, fields["weights"], fields["biases"])

    def keep(tensor: str, images: np.ndarray) -> np.ndarray:
        peaks = images.max(axis=(0, 1, 2))
        found[tensor] = np.maximum(found.get(tensor, 0), peaks)
        return images

    at = keep("pool1", max_pool(relu(layer(STEM, batch))))
    for number, stage in enumerate(BLOCKS):
        for block in stage:
            shortcut = layer(block.projection, at) if block.projection else at
            for conv in block.main[:2]:
                at = keep(name(conv), relu(layer(conv, at)))
            at = keep(f"stage{number}", relu(shortcut + layer(block.main[2], at)))
    return found
