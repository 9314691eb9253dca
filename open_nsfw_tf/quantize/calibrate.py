"""Calibration: the network's ranges on some pictures, and its weights in 8 bits.

ONNX Runtime runs the float network on the pictures. Two steps lower the rounding error:

- Channels are scaled to similar ranges, which changes nothing in float. A channel
  before a ReLU may be divided by any positive number if the next layer multiplies by
  the same: M. Nagel, M. van Baalen, T. Blankevoort, M. Welling, "Data-Free Quantization
  Through Weight Equalization and Bias Correction", ICCV 2019, arXiv 1906.04721. Here
  the number is a power of the channel's largest value over the pictures.
- Weights are rounded one input after the other, and those not yet rounded compensate
  for the error, by the inputs' second moments: E. Frantar, S. Ashkboos, T. Hoefler,
  D. Alistarh, "GPTQ", arXiv 2210.17323, which goes back to B. Hassibi and D. Stork,
  "Second order derivatives for network pruning: Optimal brain surgeon", 1992.
"""

from dataclasses import asdict, dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from open_nsfw_tf.architecture import (
    BLOCKS,
    DENSE,
    STEM,
    Block,
    Convolution,
    Weights,
    fold_batch_norm,
)
from open_nsfw_tf.formats.onnx_graph import INPUT, graph
from open_nsfw_tf.image import MEAN_BGR
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import Quantized, QuantizedConv, Range

DAMPING = 0.01  # of the mean second moment, added to each; GPTQ's own value
BLOCK = 64  # inputs after which all later ones are updated; only for speed
LEVELS = 127  # of weights, -127..127: with -128 the range would not be symmetric
EVENNESS = 0.7  # the power of a channel's largest value that it is divided by
FAINTEST = 1e-3  # of the strongest channel: weaker ones are scaled as if they had this
# The picture goes in as its own levels, 0..255, so nothing is rounded; the mean is part
# of the biases. Caffe pads with zeros after subtracting the mean, so the border gets
# the mean.
MEAN = np.array(MEAN_BGR, np.float32)
PIXELS = Range(1.0)


class Unpadded(Convolution):
    """A convolution without padding, for pictures that have a border already."""

    @property
    def padding(self) -> int:
        """0 pixels."""
        return 0


STEM_INSIDE = Unpadded(**asdict(STEM))


@dataclass(frozen=True)
class Edge:
    """Tensors between layers that have the same channels.

    Attributes:
        tensors: their names in the ONNX graph, each after a ReLU.
        writers: layers whose output channels these are.
        readers: layers whose input channels these are.
    """

    tensors: tuple[str, ...]
    writers: tuple[str, ...]
    readers: tuple[str, ...]


def edges() -> list[Edge]:
    """Every tensor whose channels can be scaled; a stage's blocks share one."""
    result = [Edge(("pool1",), (name(STEM),), _entry(BLOCKS[0][0]))]
    for number, stage in enumerate(BLOCKS):
        writers: list[str] = []
        readers: list[str] = []
        for block in stage:
            a, b, c = block.main
            result.append(Edge((f"relu_{a.key}",), (name(a),), (name(b),)))
            result.append(Edge((f"relu_{b.key}",), (name(b),), (name(c),)))
            writers.append(name(c))
            if block.projection:
                writers.append(name(block.projection))
            else:
                readers.append(name(a))
        last = number + 1 == len(BLOCKS)
        readers += [DENSE] if last else _entry(BLOCKS[number + 1][0])
        streams = tuple(f"relu_{block.key}" for block in stage)
        result.append(Edge(streams, tuple(writers), tuple(readers)))
    return result


def name(conv: Convolution) -> str:
    """The name of the layer in the canonical dict."""
    return f"conv_{conv.key}"


def _entry(block: Block) -> tuple[str, ...]:
    assert block.projection is not None  # the first block of a stage
    return name(block.main[0]), name(block.projection)


@dataclass
class Extremes:
    """A tensor's least and largest values over some pictures, float32 (channels,)."""

    low: np.ndarray
    high: np.ndarray


def equalize(weights: Weights, extremes: dict[str, Extremes]) -> Weights:
    """Scale the channels of every tensor towards one range.

    Args:
        weights: the canonical dict, batch norms folded.
        found: the result of `observe` for these weights.

    Returns:
        A new canonical dict that computes the same up to float32 rounding.
    """
    scaled = {layer: dict(fields) for layer, fields in weights.items()}
    for edge in edges():
        peaks = np.max([extremes[tensor].high for tensor in edge.tensors], axis=0)
        strength = np.maximum(peaks, max(peaks.max() * FAINTEST, 1e-30)) ** EVENNESS
        factor = (strength / np.exp(np.log(strength).mean())).astype(np.float32)
        for layer in edge.writers:
            fields = scaled[layer]
            fields["weights"] = fields["weights"] / factor
            fields["biases"] = fields["biases"] / factor
        for layer in edge.readers:
            fields = scaled[layer]
            fields["weights"] = fields["weights"] * factor[:, np.newaxis]
    return scaled


def observe(
    weights: Weights, batch: np.ndarray, moments: dict[str, np.ndarray] | None = None
) -> dict[str, Extremes]:
    """Run the float network, and record the extremes of its tensors.

    Args:
        weights: the canonical dict.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).
        moments: if given, the sums of products of all pairs of a convolution's inputs,
            float64 (K, K), are added to it by `Convolution.key`.

    Returns:
        The smallest and the largest value of each channel of every tensor after a ReLU,
        of `pool1` and of the output of every branch2c, by its name in the ONNX graph.
    """
    from onnx import ValueInfoProto

    model = graph(weights)
    last = {f"conv_{block.main[2].key}" for stage in BLOCKS for block in stage}
    names = [
        output
        for node in model.graph.node
        for output in node.output
        if node.op_type in ("Relu", "MaxPool") or output in last
    ]
    model.graph.output.extend(ValueInfoProto(name=name) for name in names)
    session = open_session(model.SerializeToString())
    found: dict[str, Extremes] = {}
    for number in range(len(batch)):
        picture = batch[number : number + 1]
        values = dict(zip(names, session.run(names, {INPUT: picture}), strict=True))
        for name, value in values.items():
            low, high = value.min((0, 2, 3)), value.max((0, 2, 3))
            seen = found.setdefault(name, Extremes(low, high))
            seen.low, seen.high = np.minimum(seen.low, low), np.maximum(seen.high, high)
        if moments is not None:
            _add_moments(moments, picture, values)
    return found


def _add_moments(
    moments: dict[str, np.ndarray], picture: np.ndarray, values: dict[str, np.ndarray]
) -> None:
    """Add the moments of one picture's inputs to every convolution."""

    def add(conv: Convolution, images: np.ndarray) -> None:
        rows = patches(images, conv).reshape(-1, conv.kernel**2 * images.shape[-1])
        size = rows.shape[1]
        moments.setdefault(conv.key, np.zeros((size, size)))
        moments[conv.key] += rows.T @ rows

    add(STEM_INSIDE, bordered(picture) + MEAN)
    at = values["pool1"].transpose(0, 2, 3, 1)
    for block in (block for stage in BLOCKS for block in stage):
        a, b, c = block.main
        hidden = [values[f"relu_{conv.key}"].transpose(0, 2, 3, 1) for conv in (a, b)]
        add(a, at)
        add(b, hidden[0])
        if block.projection:
            step = block.projection.stride
            add(c, np.concatenate([hidden[1], at[:, ::step, ::step]], axis=-1))
        else:
            add(c, hidden[1])
        at = values[f"relu_{block.key}"].transpose(0, 2, 3, 1)


def bordered(batch: np.ndarray) -> np.ndarray:
    """A batch with the zeros around it that pad the first convolution."""
    border = (STEM.padding, STEM.padding)
    return np.pad(batch, ((0, 0), border, border, (0, 0)))


def patches(images: np.ndarray, conv: Convolution) -> np.ndarray:
    """The inputs of each output pixel of a convolution.

    Args:
        images: float32 (N, height, width, in).
        conv: its kernel, stride and padding.

    Returns:
        float32 (N, height', width', kernel * kernel * in), in the kernels' HWI order.
    """
    step, pad = conv.stride, conv.padding
    if conv.kernel == 1:
        return images[:, ::step, ::step]
    padded = np.pad(images, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    sides = (conv.kernel, conv.kernel)
    windows = sliding_window_view(padded, sides, axis=(1, 2))[:, ::step, ::step]
    # N, h, w, in, k, k to N, h, w, k, k, in
    rows = windows.transpose(0, 1, 2, 4, 5, 3)
    return rows.reshape(*rows.shape[:3], -1)


def calibrate(weights: Weights, batch: np.ndarray) -> Quantized:
    """Quantize the whole network.

    Args:
        weights: the canonical dict.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Raises:
        WeightsError: as `check_weights`.
    """
    folded = fold_batch_norm(weights)
    equalized = equalize(folded, observe(folded, batch))
    moments: dict[str, np.ndarray] = {}
    found = observe(equalized, batch, moments)
    ranges = {tensor: _range(seen) for tensor, seen in found.items()}
    return _quantized(equalized, ranges, moments)


def _range(seen: Extremes) -> Range:
    """The range from the smallest value, at most 0, to the largest."""
    least, most = min(float(seen.low.min()), 0.0), max(float(seen.high.max()), 1e-30)
    scale = (most - least) / 255
    return Range(scale, round(-least / scale))


def _quantized(
    weights: Weights, ranges: dict[str, Range], moments: dict[str, np.ndarray]
) -> Quantized:
    """The network in 8 bits, from equalized weights."""
    network = Quantized()

    def fields(conv: Convolution) -> tuple[np.ndarray, np.ndarray]:
        return weights[name(conv)]["weights"], weights[name(conv)]["biases"]

    def add(
        conv: Convolution, kernel: np.ndarray, biases: np.ndarray, output: Range
    ) -> None:
        flat = kernel.reshape(-1, kernel.shape[-1])
        codes, scales = round_kernel(flat, moments[conv.key])
        network.convolutions[conv.key] = QuantizedConv(
            codes.reshape(kernel.shape), scales, biases.astype(np.float32), output
        )

    kernel, biases = fields(STEM)
    biases = biases - (kernel * MEAN[:, np.newaxis]).sum(axis=(0, 1, 2))
    at = ranges["pool1"]
    add(STEM, kernel, biases, at)
    for block in (block for stage in BLOCKS for block in stage):
        a, b, c = block.main
        inner, output = ranges[f"relu_{b.key}"], ranges[f"relu_{block.key}"]
        add(a, *fields(a), ranges[f"relu_{a.key}"])
        kernel, biases = fields(b)
        last, more = fields(c)
        if block.projection:
            # branch2c and the projection become one convolution, whose sum is rounded
            # only once. Both inputs must have the same range for that: branch2b's
            # output is scaled to the range of the block's input, and branch2c by the
            # inverse.
            stretch = np.float32(at.scale / inner.scale)
            add(b, kernel * stretch, biases * stretch, at)
            beside, biases = fields(block.projection)
            stretched = np.ones(last.shape[2] + beside.shape[2])
            stretched[: last.shape[2]] = stretch
            moments[c.key] *= np.outer(stretched, stretched)
            both = np.concatenate([last / stretch, beside], axis=2)
            add(c, both, more + biases, output)
        else:
            add(b, kernel, biases, inner)
            add(c, last, more, ranges[name(c)])
            network.streams[block.key] = output
        at = output
    dense = weights[DENSE]
    network.dense = (dense["weights"], dense["biases"])
    return network


def round_kernel(
    kernel: np.ndarray, moments: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Round a kernel, with one scale for each output channel.

    Args:
        kernel: float (K, out), K inputs.
        moments: float64 (K, K), sums of products of inputs over the calibration.

    Returns:
        Codes, int8 (K, out), and scales, float32 (out,).
    """
    largest = np.abs(kernel).max(axis=0)
    scales = np.maximum(largest, 1e-12).astype(np.float32) / np.float32(LEVELS)
    order, upper = _inverse_root(moments)
    left = kernel[order].astype(np.float64)
    codes = np.empty(left.shape)
    for start in range(0, len(left), BLOCK):
        stop = min(start + BLOCK, len(left))
        errors = np.empty((stop - start, left.shape[1]))
        for row in range(start, stop):
            code = np.clip(np.round(left[row] / scales), -LEVELS, LEVELS)
            error = (left[row] - code * scales) / upper[row, row]
            left[row + 1 : stop] -= np.outer(upper[row, row + 1 : stop], error)
            codes[row], errors[row - start] = code, error
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return codes[np.argsort(order)].astype(np.int8), scales


def _inverse_root(moments: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The order, strongest input first, and the upper root of the moments' inverse."""
    strength = np.diag(moments).copy()
    order = np.argsort(-strength, kind="stable")
    silent = np.where(strength == 0, 1.0, 0.0)
    damped = moments + np.diag(silent + DAMPING * strength.mean())
    if not strength.any():
        damped = np.eye(len(moments))
    inverse = np.linalg.inv(damped[np.ix_(order, order)])
    return order, np.linalg.cholesky((inverse + inverse.T) / 2).T
