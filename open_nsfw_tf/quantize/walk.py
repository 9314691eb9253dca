"""Rounding the network layer by layer, each on what the rounded layers before it give.

Two batches go through side by side: in float, which says what each layer should answer,
and in 8 bits, which says what it gets. Biases make up for the mean difference (Nagel et
al., see `equalize`), so that errors do not add up along the network.
"""

from dataclasses import asdict, dataclass, replace

import numpy as np

from open_nsfw_tf.architecture import (
    BLOCKS,
    DENSE,
    STEM,
    Block,
    Convolution,
    Weights,
    fold_batch_norm,
)
from open_nsfw_tf.image import MEAN_BGR
from open_nsfw_tf.quantize import Quantized, Range, Rounded
from open_nsfw_tf.quantize.arithmetic import (
    convolve,
    max_pool,
    relu,
    second_moments,
)
from open_nsfw_tf.quantize.equalize import equalize, name
from open_nsfw_tf.quantize.rounding import round_kernel

# The picture goes in as its own levels, 0..255, so nothing is rounded; the mean is part of
# the biases. Caffe's padding of zeros comes before: it is a border of the mean's colour.
MEAN = np.array(MEAN_BGR, np.float32)
PIXELS = Range(1.0)


class Unpadded(Convolution):
    """A convolution of pictures that have their border already."""

    @property
    def padding(self) -> int:
        """None."""
        return 0


STEM_INSIDE = Unpadded(**asdict(STEM))
# Measured: root mean square of the change of a logit over photographs .13; without
# either .19.
EVENNESS = 0.7
MARGIN = 1.1  # of a range over the largest value that the calibration saw
SAMPLED = 300_000  # values that the range of a signed tensor is searched on
SHARES = np.linspace(0.3, 1, 15)  # of the largest and smallest value, in that search


@dataclass
class _Pair:
    """A tensor in float, and in 8 bits.

    Attributes:
        exact: float32 (N, height, width, channels), what it should be.
        codes: uint8 of the same shape.
        range: of the codes.
    """

    exact: np.ndarray
    codes: np.ndarray
    range: Range

    @property
    def rounded(self) -> np.ndarray:
        return self.range.values(self.codes)


def walk(weights: Weights, batch: np.ndarray) -> Quantized:
    """Round the whole network.

    Args:
        weights: the canonical dict.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        WeightsError: as `check_weights`.
    """
    even = equalize(fold_batch_norm(weights), batch, EVENNESS)
    return _Walk(even).network(batch)


class _Walk:
    def __init__(self, weights: Weights) -> None:
        self.weights = weights
        self.made = Quantized()

    def network(self, batch: np.ndarray) -> Quantized:
        at = self._stem(batch)
        for stage in BLOCKS:
            for block in stage:
                at = self._block(block, at)
        kernel, biases = self.weights[DENSE]["weights"], self.weights[DENSE]["biases"]
        exact, rounded = (t.mean(axis=(1, 2)) for t in (at.exact, at.rounded))
        shifted = biases + (exact - rounded).mean(axis=0) @ kernel
        self.made.dense = (kernel, shifted.astype(np.float32))
        wanted, came = exact @ kernel + biases, rounded @ kernel + shifted
        self.made.drift = float(np.abs(_softmax(came) - _softmax(wanted)).max())
        return self.made

    def _stem(self, batch: np.ndarray) -> _Pair:
        kernel, biases = self._fields(STEM)
        exact = convolve(batch, STEM, kernel, biases)
        codes = PIXELS.round(bordered(batch) + MEAN)
        return self._convolved(STEM_INSIDE, kernel, codes, PIXELS, exact, pool=True)

    def _block(self, block: Block, at: _Pair) -> _Pair:
        a, b, c = block.main
        hidden = self._layer(a, at)
        hidden = self._layer(b, hidden)
        if block.projection:
            return self._merged(c, block.projection, hidden, at)
        return self._added(block, hidden, at)

    def _layer(self, conv: Convolution, at: _Pair) -> _Pair:
        kernel, biases = self._fields(conv)
        exact = convolve(at.exact, conv, kernel, biases)
        return self._convolved(conv, kernel, at.codes, at.range, exact)

    def _merged(
        self, conv: Convolution, projection: Convolution, hidden: _Pair, at: _Pair
    ) -> _Pair:
        """branch2c and the projection, of whose sum only one rounding is left.

        Both inputs need one range for that, so branch2b's output is stretched to that
        of the stream, and branch2c shrunk by the same.
        """
        kernel, biases = self._fields(conv)
        beside, more = self._fields(projection)
        exact = convolve(hidden.exact, conv, kernel, biases)
        exact += convolve(at.exact, projection, beside, more)
        stretch = at.range.scale / hidden.range.scale
        writer = conv.place.replace("branch2c", "branch2b")
        rounded = self.made.convolutions[writer].stretched(stretch)
        self.made.convolutions[writer] = rounded
        step = projection.stride
        strided = at.codes[:, ::step, ::step]
        codes = np.concatenate([hidden.codes, strided], axis=-1)
        both = np.concatenate([kernel / np.float32(stretch), beside], axis=2)
        wide = replace(conv, inputs=both.shape[2])
        return self._convolved(wide, both, codes, at.range, exact)

    def _added(self, block: Block, hidden: _Pair, at: _Pair) -> _Pair:
        conv = block.main[2]
        kernel, biases = self._fields(conv)
        change = convolve(hidden.exact, conv, kernel, biases)
        # The change also makes up for what the shortcut has lost on average.
        wanted = change + (at.exact - at.rounded)
        made, sums = _rounded(conv, kernel, hidden.codes, hidden.range, wanted)
        made = replace(made, output=_signed_range(change, at.exact))
        self.made.convolutions[conv.place] = made
        exact = relu(at.exact + change)
        stream = _range(exact)
        self.made.streams[block.place] = stream
        came = made.output.values(made.codes_of(sums, hidden.range))
        return _Pair(exact, stream.round(relu(at.rounded + came)), stream)

    def _convolved(
        self,
        conv: Convolution,
        kernel: np.ndarray,
        codes: np.ndarray,
        seen: Range,
        exact: np.ndarray,
        pool: bool = False,
    ) -> _Pair:
        """Round a convolution that a ReLU, and for the stem a pooling, follows."""
        made, sums = _rounded(conv, kernel, codes, seen, exact)
        wanted = relu(exact)
        if pool:
            wanted, sums = max_pool(wanted), max_pool(sums)
        made = replace(made, output=_range(wanted))
        self.made.convolutions[conv.place] = made
        return _Pair(wanted, made.codes_of(sums, seen), made.output)

    def _fields(self, conv: Convolution) -> tuple[np.ndarray, np.ndarray]:
        fields = self.weights[name(conv)]
        return fields["weights"], fields["biases"]


def _range(values: np.ndarray) -> Range:
    """Of a tensor after a ReLU."""
    return Range(max(float(values.max()), 1e-30) * MARGIN / 255)


def bordered(batch: np.ndarray) -> np.ndarray:
    """A batch with the zeros around it that the first convolution sees."""
    border = (STEM.padding, STEM.padding)
    return np.pad(batch, ((0, 0), border, border, (0, 0)))


def _rounded(
    conv: Convolution,
    kernel: np.ndarray,
    codes: np.ndarray,
    seen: Range,
    exact: np.ndarray,
) -> tuple[Rounded, np.ndarray]:
    """The rounded convolution, without its output's range, and its sums of products.

    Args:
        conv: its kernel, stride and padding.
        kernel: float32 (height, width, in, out).
        codes: uint8, what goes in.
        seen: of the codes; its zero is 0, as everywhere before a convolution.
        exact: float32, what should come out.
    """
    flat = kernel.reshape(-1, kernel.shape[-1])
    weights, scales = round_kernel(flat, second_moments(codes, conv))
    made = Rounded(weights.reshape(kernel.shape), scales, np.empty(0), seen)
    # Whole numbers, of which float32 holds sums of this size exactly.
    sums = convolve(codes, conv, made.codes.astype(np.float32))
    came = sums * made.steps(seen)
    biases = (exact - came).mean(axis=(0, 1, 2), dtype=np.float64)
    return replace(made, biases=biases.astype(np.float32)), sums


def _signed_range(change: np.ndarray, shortcut: np.ndarray) -> Range:
    """The range of a tensor that is added to another, with the least error after both.

    What is far below zero may be cut off: the ReLU after the sum does not let it pass.
    """
    random = np.random.default_rng(0)
    chosen = random.integers(0, change.size, min(SAMPLED, change.size))
    change, shortcut = change.reshape(-1)[chosen], shortcut.reshape(-1)[chosen]
    low, high = min(change.min(), -1e-30), max(change.max(), 1e-30)
    wanted = relu(shortcut + change)
    best, least = Range(1.0), np.inf
    for below in SHARES:
        for above in SHARES:
            scale = float(above * high - below * low) / 255
            tried = Range(scale, round(-below * low / scale))
            came = relu(shortcut + tried.through(change))
            error = float(((came - wanted) ** 2).mean())
            if error < least:
                best, least = tried, error
    return best


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    total: np.ndarray = powers / powers.sum(axis=1, keepdims=True)
    return total
