"""The network in 8 bits: unsigned activations and signed weights.

- `calibrate` finds ranges on some pictures, and rounds the weights;
- branch2c and the projection are one convolution over a concatenation, which saves two
  roundings a stage;
- the picture goes in exactly: as its 256 levels, without subtracting the mean;
- the last layer and the softmax stay in float.

`python -m benchmarks.int8` measures what each step gains, on photographs that were not
used for the calibration.
"""

from dataclasses import dataclass, field

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.image import Picture, check_batch, tensor
from open_nsfw_tf.quantize.samples import generated_pictures, installed_pictures


@dataclass(frozen=True)
class Range:
    """The codes of a tensor in unsigned 8 bits: ``value = scale * (code - zero)``."""

    scale: float
    zero: int = 0

    def round(self, values: np.ndarray) -> np.ndarray:
        """The values as uint8 codes; values out of range get the nearest code."""
        codes = np.round(values / np.float32(self.scale)) + np.float32(self.zero)
        rounded: np.ndarray = np.clip(codes, 0, 255).astype(np.uint8)
        return rounded

    @property
    def extremes(self) -> tuple[float, float]:
        """The lowest and the highest value that a code can stand for."""
        return -self.zero * self.scale, (255 - self.zero) * self.scale


@dataclass(frozen=True)
class QuantizedConv:
    """A convolution in 8 bits.

    Attributes:
        codes: int8 kernel (height, width, in, out).
        scales: float32 (out,), the step of each output channel's weights.
        biases: float32 (out,).
        output: the range of the output, after the ReLU if there is one.
    """

    codes: np.ndarray
    scales: np.ndarray
    biases: np.ndarray
    output: Range

    @property
    def kernel(self) -> np.ndarray:
        """The values of the codes, float32 (height, width, in, out)."""
        scaled: np.ndarray = self.codes.astype(np.float32) * self.scales
        return scaled

    def steps(self, source: Range) -> np.ndarray:
        """Unit of the sums of products, float32 (out,); `source`: the input's range."""
        steps: np.ndarray = np.float32(source.scale) * self.scales
        return steps

    def integer_biases(self, source: Range) -> np.ndarray:
        """The biases in those units, int32 (out,)."""
        whole = np.round(self.biases.astype(np.float64) / self.steps(source))
        limit = 2**31 - 1
        clipped: np.ndarray = whole.clip(-limit, limit).astype(np.int32)
        return clipped


@dataclass
class Quantized:
    """The whole network in 8 bits.

    Attributes:
        convolutions: by `Convolution.key`; in a block with a projection, branch2c holds
            both: its inputs are those of branch2c, then those of the projection.
        streams: the range after each block without a projection, by `Block.key`.
        dense: kernel float32 (1024, 2) and biases float32 (2,), not rounded.
    """

    convolutions: dict[str, QuantizedConv] = field(default_factory=dict)
    streams: dict[str, Range] = field(default_factory=dict)
    dense: tuple[np.ndarray, np.ndarray] = (np.empty(0), np.empty(0))


GENERATED = 24  # pictures among the samples


def sample_batch() -> np.ndarray:
    """The pictures to calibrate with if the user names none.

    Returns:
        float32 (N, 224, 224, 3), BGR minus the mean: the photographs that other
        packages install (`installed_pictures`), and generated pictures.
    """
    pictures: list[Picture] = [*installed_pictures(), *generated_pictures(GENERATED)]
    return np.stack([tensor(picture) for picture in pictures])


def quantize(weights: Weights, batch: np.ndarray) -> Quantized:
    """Round the network to 8 bits, calibrated on pictures.

    Args:
        weights: the canonical dict.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123): photographs
            of the kind that will be scored; a few dozen are enough. Each takes about
            10 MB of memory.

    Returns:
        The quantized network.

    Raises:
        WeightsError: as `check_weights`.
        ValueError: the batch has another shape or dtype, or is empty.
    """
    if not len(batch):
        raise ValueError("expected at least one picture to calibrate with, got none")
    from open_nsfw_tf.quantize.calibrate import calibrate

    return calibrate(weights, check_batch(batch))
