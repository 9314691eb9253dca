"""The rounded network as an ONNX graph of quantise-dequantise pairs."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from open_nsfw_tf.architecture import BLOCKS, INPUT_SIZE, STEM, Block, Convolution
from open_nsfw_tf.formats.onnx_graph import INPUT, Writer, metadata, packed
from open_nsfw_tf.quantize import Quantized, Range
from open_nsfw_tf.quantize.walk import MEAN, PIXELS, STEM_INSIDE

if TYPE_CHECKING:
    import onnx


def graph(
    network: Quantized, layout: str = "nhwc", labels: Sequence[str] | None = None
) -> "onnx.ModelProto":
    """The network as an ONNX model that runtimes compute in 8 bits.

    Args:
        network: from `quantize`.
        layout: "nhwc" or "nchw", of the input.
        labels: of the classes; None: SFW and NSFW, of two.

    Returns:
        A model with the input and output of `open_nsfw_tf.formats.onnx_graph.graph`.
        Activations are uint8 with a scale a tensor, weights int8 with a scale an output
        channel, biases int32; the last layer and the softmax are float32.
    """
    writer = _Writer(network)
    writer.network(layout)
    classes = network.dense[1].size
    said = {**metadata(classes, labels), "quantization": "int8, QDQ"}
    return packed(writer, layout, classes, said)


class _Writer(Writer):
    def __init__(self, network: Quantized) -> None:
        super().__init__()
        self.made = network

    def network(self, layout: str) -> None:
        at, seen = self._stem(layout)
        for stage in BLOCKS:
            for block in stage:
                at, seen = self._block(block, at, seen)
        self.softmax(self.logits(at, *self.made.dense))

    def _stem(self, layout: str) -> tuple[str, Range]:
        nhwc = layout == "nhwc"
        border = np.zeros((2, 4), np.int64)
        border[:, [1, 2] if nhwc else [2, 3]] = STEM.padding
        at = self.node(
            "Pad", [INPUT, self.constant("border", border.reshape(-1))], "bordered"
        )
        # A whole row of means: adding three at a time takes ten times as long.
        side = INPUT_SIZE + 2 * STEM.padding
        mean = np.tile(MEAN, (side, 1)) if nhwc else MEAN.reshape(-1, 1, 1)
        at = self.node("Add", [at, self.constant("mean", mean)], "pixels")
        at = self._rounded(self.nchw(at, layout), PIXELS)
        output = self.made.convolutions[STEM.place].output
        at = self.relu(self._conv(STEM, at, PIXELS), STEM.place)
        return self._rounded(self.pool(self._rounded(at, output)), output), output

    def _block(self, block: Block, at: str, seen: Range) -> tuple[str, Range]:
        a, b, c = block.main
        if block.projection and block.projection.stride > 1:
            # Both readers see every other pixel only.
            steps = [block.projection.stride] * 2
            strided = f"stride_{block.place}"
            at = self.node("MaxPool", [at], strided, kernel_shape=[1, 1], strides=steps)
            at = self._rounded(at, seen)
        hidden, inner = self._layer(a, at, seen)
        hidden, inner = self._layer(b, hidden, inner)
        if block.projection:
            both = self.node("Concat", [hidden, at], f"concat_{block.place}", axis=1)
            return self._layer(c, self._rounded(both, seen), seen)
        change = self._conv(c, hidden, inner)
        change = self._rounded(change, self.made.convolutions[c.place].output)
        stream = self.made.streams[block.place]
        summed = self.node("Add", [at, change], f"eltwise_{block.place}")
        return self._rounded(self.relu(summed, block.place), stream), stream

    def _layer(self, conv: Convolution, at: str, seen: Range) -> tuple[str, Range]:
        output = self.made.convolutions[conv.place].output
        at = self.relu(self._conv(conv, at, seen), conv.place)
        return self._rounded(at, output), output

    def _conv(self, conv: Convolution, at: str, seen: Range) -> str:
        name = f"conv_{conv.place}"
        made = self.made.convolutions[conv.place]
        codes = made.codes.transpose(3, 2, 0, 1)  # HWIO to OIHW
        inputs = [
            self._stepped(f"{name}.weights", codes, made.scales),
            self._stepped(f"{name}.biases", made.whole_biases(seen), made.steps(seen)),
        ]
        # The border is there, and so are the strides of blocks: see `_stem` and `_block`.
        same = STEM_INSIDE if conv.place == STEM.place else replace(conv, stride=1)
        return self.conv(same, [at, *inputs])

    def _stepped(self, name: str, codes: np.ndarray, scales: np.ndarray) -> str:
        """Constant codes with a scale each along the first axis."""
        inputs = [
            self.constant(f"{name}.codes", codes),
            self.constant(f"{name}.scales", scales),
            self.constant(f"{name}.zeros", np.zeros(len(scales), codes.dtype)),
        ]
        return self.node("DequantizeLinear", inputs, name, axis=0)

    def _rounded(self, at: str, to: Range) -> str:
        steps = [
            self.constant(f"{at}.scale", np.float32(to.scale)),
            self.constant(f"{at}.zero", np.uint8(to.zero)),
        ]
        codes = self.node("QuantizeLinear", [at, *steps], f"{at}.codes")
        return self.node("DequantizeLinear", [codes, *steps], f"{at}.rounded")
