"""The network in 8 bits: unsigned activations, signed weights, and what that costs.

Plain rounding moves the scores of pictures of which the network is unsure by up to .03.
What is done against it, each step with its source:

- channels are brought to similar ranges, which changes nothing in float (`equalize`);
- weights are rounded column by column, each one making up for the errors of those
  before it (`rounding`);
- biases make up for the mean error that is left, against the float network (`walk`);
- ranges are wider than what the calibration saw: a value that is cut off costs far more
  than coarser steps do; which of them are best, scores tell (`choice`);
- branch2c and the projection are one convolution over a concatenation, which saves two
  roundings a stage;
- the picture goes in exactly: as its 256 levels, not minus the mean (`walk`);
- the last layer and the softmax stay in float.

Measured over the 26 sample photographs of scikit-image, scikit-learn and matplotlib:
see README.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.image import Picture, check_batch, yahoo_tensor
from open_nsfw_tf.samples import (
    generated_pictures,
    installed_pictures,
    smooth_pictures,
)


@dataclass(frozen=True)
class Range:
    """How a tensor is written in unsigned 8 bits: ``value = scale * (code - zero)``."""

    scale: float
    zero: int = 0

    def round(self, values: np.ndarray) -> np.ndarray:
        """The values as uint8 codes; those out of range become the nearest one."""
        codes = np.round(values / np.float32(self.scale)) + np.float32(self.zero)
        rounded: np.ndarray = np.clip(codes, 0, 255).astype(np.uint8)
        return rounded

    def values(self, codes: np.ndarray) -> np.ndarray:
        """What the codes stand for, float32."""
        centred: np.ndarray = codes.astype(np.float32) - np.float32(self.zero)
        scaled: np.ndarray = centred * np.float32(self.scale)
        return scaled

    @property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest value that a code can stand for."""
        return -self.zero * self.scale, (255 - self.zero) * self.scale

    def through(self, values: np.ndarray) -> np.ndarray:
        """The values after rounding, float32."""
        codes = self.round(values)
        return self.values(codes)


@dataclass(frozen=True)
class Rounded:
    """A convolution in 8 bits.

    Attributes:
        codes: int8 kernel (height, width, in, out).
        scales: float32 (out,): what a step of each output channel's weights is.
        biases: float32 (out,).
        output: of the tensor that comes out, after the ReLU where there is one.
    """

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    output: Range

    @property
    def kernel(self) -> np.ndarray:
        """What the codes stand for, float32 (height, width, in, out)."""
        scaled: np.ndarray = self.codes.astype(np.float32) * self.scales
        return scaled

    def steps(self, seen: Range) -> np.ndarray:
        """What one unit of a sum of products is, float32 (out,), `seen` going in."""
        steps: np.ndarray = np.float32(seen.scale) * self.scales
        return steps

    def whole_biases(self, seen: Range) -> np.ndarray:
        """The biases in those units, int32 (out,)."""
        whole = np.round(self.biases.astype(np.float64) / self.steps(seen))
        limit = 2**31 - 1
        clipped: np.ndarray = whole.clip(-limit, limit).astype(np.int32)
        return clipped

    def codes_of(self, sums: np.ndarray, seen: Range) -> np.ndarray:
        """The output's codes, uint8, as integer kernels compute them.

        Args:
            sums: of products of codes, whole numbers as float32 (N, height, width, out).
            seen: the range of what went in.
        """
        unit = self.steps(seen) / np.float32(self.output.scale)
        values = (sums + self.whole_biases(seen).astype(np.float32)) * unit
        return Range(1.0, self.output.zero).round(values)

    def stretched(self, factor: float) -> "Rounded":
        """The same with an output that is `factor` times as large."""
        return replace(
            self,
            scales=(self.scales * np.float32(factor)).astype(np.float32),
            biases=(self.biases * np.float32(factor)).astype(np.float32),
            output=replace(self.output, scale=self.output.scale * factor),
        )


@dataclass
class Quantized:
    """The whole network in 8 bits.

    Attributes:
        convolutions: by place; of a block with a projection, branch2c holds both: its
            inputs are those of branch2c, then those of the projection.
        streams: the range after each block without a projection, by the block's place.
        dense: kernel float32 (1024, 2) and biases float32 (2,), not rounded.
        drift: the largest change of a score over the calibration pictures.
    """

    convolutions: dict[str, Rounded] = field(default_factory=dict)
    streams: dict[str, Range] = field(default_factory=dict)
    dense: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))
    drift: float = float("inf")


GENERATED = 24  # pictures among the samples
SMOOTH = 12  # flat colours and gradients that are always added, or they drift most


def sample_batch() -> np.ndarray:
    """What is calibrated with where the user names no pictures.

    Returns:
        float32 (N, 224, 224, 3), BGR minus the mean: the photographs that other packages
        install (`installed_pictures`), and generated pictures.
    """
    pictures: list[Picture] = [*installed_pictures(), *generated_pictures(GENERATED)]
    return np.stack([yahoo_tensor(picture) for picture in pictures])


def quantize(
    weights: Weights,
    batch: np.ndarray,
    answer: Callable[[Quantized, np.ndarray], np.ndarray] | None = None,
    **limits: Any,
) -> Quantized:
    """Round the network to 8 bits, calibrated on pictures.

    Args:
        weights: the canonical dict.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123): photographs
            of the kind that will be scored; some tens do. Memory is about 10 MB each.
        answer: scores, float32 (N, 2), of a rounded network and a batch in the runtime
            that it is for; None: ONNX Runtime.
        limits: `trials` and `enough` of `open_nsfw_tf.quantize.choice.settle`.

    Returns:
        The rounded network, with its drift over the batch.

    Raises:
        WeightsError: as `check_weights`.
        ValueError: the batch has another shape or dtype, or is empty.
    """
    if not len(batch):
        raise ValueError("expected at least one picture to calibrate with, got none")
    from open_nsfw_tf.quantize.choice import onnx_scores, settle
    from open_nsfw_tf.quantize.walk import walk

    smooth = np.stack([yahoo_tensor(picture) for picture in smooth_pictures(SMOOTH)])
    made = walk(weights, np.concatenate([check_batch(batch), smooth]))
    return settle(made, weights, batch, answer or onnx_scores, **limits)
