"""The quantized network as an ONNX graph of QuantizeLinear and its inverse."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from open_nsfw_tf.architecture import (
    CHANNELS,
    INPUT_SIZE,
    STEM,
    Block,
    Convolution,
    lean_blocks,
)
from open_nsfw_tf.formats.onnx_graph import INPUT, Writer, metadata, packed
from open_nsfw_tf.quantize import Quantized, Range
from open_nsfw_tf.quantize.calibrate import MEAN, PIXELS, STEM_INSIDE, Unpadded

if TYPE_CHECKING:
    import onnx


def graph(
    network: Quantized,
    layout: str = "nhwc",
    labels: Sequence[str] | None = None,
    cells: bool = False,
) -> "onnx.ModelProto":
    """The network as an ONNX model that runtimes compute in 8 bits.

    Args:
        network: from `quantize`.
        layout: "nhwc" or "nchw", of the input.
        labels: of the classes; None: SFW and NSFW, of two.
        cells: whether to add the outputs of `Writer.cells`.

    Returns:
        A model with the input and output of `open_nsfw_tf.formats.onnx_graph.graph`.
        Activations are uint8 with a scale a tensor, weights int8 with a scale an output
        channel, biases int32; the last layer and the softmax are float32.
    """
    writer = _Writer(network, cells)
    writer.network(layout)
    classes = network.dense[1].size
    properties = {**metadata(classes, labels), "quantization": "int8, QDQ"}
    return packed(writer, layout, classes, properties)


BORDERED = INPUT_SIZE + 2 * STEM.padding  # pixels a side
# The first convolution on squares of 2 x 2 pixels, each with 12 channels: the same
# sums, which runtimes compute faster than over 3 channels.
SQUARED = Unpadded(STEM.key, STEM.kernel // 2 + 1, 1, 4 * CHANNELS, STEM.outputs)


class _Writer(Writer):
    def __init__(self, network: Quantized, cells: bool) -> None:
        super().__init__(with_cells=cells)
        self.quantized = network

    def network(self, layout: str) -> None:
        at, source = self._stem(layout)
        for stage in lean_blocks():
            for block in stage:
                at, source = self._block(block, at, source)
        self.softmax(self.logits(at, *self.quantized.dense))

    def _stem(self, layout: str) -> tuple[str, Range]:
        nhwc = layout == "nhwc"
        border = np.zeros((2, 4), np.int64)
        border[:, [1, 2] if nhwc else [2, 3]] = STEM.padding
        at = self.node(
            "Pad", [INPUT, self.constant("border", border.reshape(-1))], "bordered"
        )
        # A whole row of means: adding a constant of 3 values takes ten times as long.
        mean = np.tile(MEAN, (BORDERED, 1)) if nhwc else MEAN.reshape(-1, 1, 1)
        at = self.node("Add", [at, self.constant("mean", mean)], "pixels")
        coded = self._coded(at, PIXELS)
        conv, codes = STEM_INSIDE, self.quantized.convolutions[STEM.key].codes
        if nhwc:
            coded, conv, codes = self._squares(coded), SQUARED, squared(codes)
        at = self._decoded(self.nchw(coded, layout), PIXELS)
        at = self.relu(self._conv(conv, at, PIXELS, codes), STEM.key)
        output = self.quantized.convolutions[STEM.key].output
        return self._rounded(self.pool(self._rounded(at, output)), output), output

    def _squares(self, at: str) -> str:
        """Squares of 2 x 2 pixels as 12 channels: (N, 2H, 2W, 3) to (N, H, W, 12)."""
        from onnx import helper

        half = BORDERED // 2
        rows = self.constant("rows", np.array([0, half, 2, 2 * half * CHANNELS]))
        at = self.node("Reshape", [at, rows], "row_pairs")
        one = self.constant("one_each", np.array([1, 1]))
        names = ["even_rows", "odd_rows"]
        self.nodes.append(helper.make_node("Split", [at, one], names, axis=2))
        pairs = self.constant("pairs", np.array([0, half, half, 2 * CHANNELS]))
        halves = [
            self.node("Reshape", [name, pairs], f"{name}.pairs") for name in names
        ]
        return self.node("Concat", halves, "squares", axis=3)

    def _block(self, block: Block, at: str, source: Range) -> tuple[str, Range]:
        a, b, c = block.main
        hidden, inner = self._layer(a, at, source)
        hidden, inner = self._layer(b, hidden, inner)
        if block.projection:
            both = self.node("Concat", [hidden, at], f"concat_{block.key}", axis=1)
            return self._layer(c, self._rounded(both, source), source)
        change = self._conv(c, hidden, inner)
        change = self._rounded(change, self.quantized.convolutions[c.key].output)
        stream = self.quantized.streams[block.key]
        if b.stride > 1:
            at = self._rounded(self.every(b.stride, at, block.key), source)
        summed = self.node("Add", [at, change], f"eltwise_{block.key}")
        return self._rounded(self.relu(summed, block.key), stream), stream

    def _layer(self, conv: Convolution, at: str, source: Range) -> tuple[str, Range]:
        output = self.quantized.convolutions[conv.key].output
        at = self.relu(self._conv(conv, at, source), conv.key)
        return self._rounded(at, output), output

    def _conv(
        self, conv: Convolution, at: str, source: Range, codes: np.ndarray | None = None
    ) -> str:
        name = f"conv_{conv.key}"
        made = self.quantized.convolutions[conv.key]
        codes = (made.codes if codes is None else codes).transpose(3, 2, 0, 1)  # OIHW
        inputs = [
            self._stepped(f"{name}.weights", codes, made.scales),
            self._stepped(
                f"{name}.biases", made.integer_biases(source), made.steps(source)
            ),
        ]
        return self.conv(conv, [at, *inputs])

    def _stepped(self, name: str, codes: np.ndarray, scales: np.ndarray) -> str:
        """Dequantized constants, with one scale for each index of the first axis."""
        inputs = [
            self.constant(f"{name}.codes", codes),
            self.constant(f"{name}.scales", scales),
            self.constant(f"{name}.zeros", np.zeros(len(scales), codes.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, name, axis=0)

    def _rounded(self, at: str, to: Range) -> str:
        return self._decoded(self._coded(at, to), to)

    def _coded(self, at: str, to: Range) -> str:
        return self.node("QuantizeLinear", [at, *self._steps(at, to)], f"{at}.codes")

    def _decoded(self, codes: str, to: Range) -> str:
        name = f"{codes.removesuffix('.codes')}.rounded"
        return self.node("DequantizeLinear", [codes, *self._steps(name, to)], name)

    def _steps(self, name: str, of: Range) -> list[str]:
        return [
            self.constant(f"{name}.scale", np.float32(of.scale)),
            self.constant(f"{name}.zero", np.uint8(of.zero)),
        ]


def squared(kernel: np.ndarray) -> np.ndarray:
    """The kernel of the first convolution for squares of 2 x 2 pixels.

    Args:
        kernel: (7, 7, 3, 64), HWIO, that moves by 2 pixels.

    Returns:
        (4, 4, 12, 64), HWIO, that moves by 1 square; the added row and column are 0.
    """
    rows, columns, channels, outputs = kernel.shape
    even = np.zeros((rows + 1, columns + 1, channels, outputs), kernel.dtype)
    even[:rows, :columns] = kernel
    rows, columns = SQUARED.kernel, SQUARED.kernel
    parts = even.reshape(rows, 2, columns, 2, channels, outputs)
    return parts.transpose(0, 2, 1, 3, 4, 5).reshape(rows, columns, -1, outputs)
