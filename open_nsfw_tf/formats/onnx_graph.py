"""The network as an ONNX graph, built from the weights with onnx.helper.

The nodes come from the table of the architecture and not from tracing; they have the
names of Caffe's layers, and the batch norms are folded into the convolutions.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.architecture import (
    BLOCKS,
    CHANNELS,
    DENSE,
    INPUT_SIZE,
    LABELS,
    LICENCE,
    LIMITS,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Block,
    Convolution,
    Weights,
    classes_of,
    fold_batch_norm,
    lean_blocks,
)
from open_nsfw_tf.image import YAHOO, Preprocessing

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8  # that of opset 17; older runtimes refuse newer ones
INPUT = "input"
OUTPUT = "predictions"
CELLS = "cells"  # see `Writer.cells`
BIASES = "biases"


def metadata(
    classes: int,
    labels: Sequence[str] | None,
    preprocessing: Preprocessing = YAHOO,
    backbone: str | None = None,
) -> dict[str, str]:
    """The metadata of a network, for users of its file without this package.

    Args:
        classes: the number of scores.
        labels: of the classes; None: SFW and NSFW, if there are two.
        preprocessing: of the pictures.
        backbone: of a trained model; None: Yahoo's network.
    """
    if labels is None and classes == len(LABELS):
        labels = LABELS
    fields = {
        "labels": ",".join(labels or ()),
        "channel_order": preprocessing.order,
        "mean": ",".join(map(str, preprocessing.mean)),
        "scale": backbone and repr(preprocessing.scale),
        "preprocessing": preprocessing.words,
        "backbone": backbone,
        "licence": None if backbone else f"weights: {LICENCE}",
        "limits": LIMITS if tuple(labels or ()) == LABELS and not backbone else None,
        "source": None if backbone else "yahoo/open_nsfw, nsfw_model",
    }
    return {name: text for name, text in fields.items() if text}


def graph(
    weights: Weights,
    layout: str = "nhwc",
    dtype: type = np.float32,
    labels: Sequence[str] | None = None,
    lean: bool = False,
    cells: bool = False,
) -> "onnx.ModelProto":
    """The network as an ONNX model.

    Args:
        weights: the canonical dict; batch norms are folded here.
        layout: "nhwc" or "nchw", of the input.
        dtype: of the weights and the computation: np.float32, which is exact, or
            np.float16. Input and scores are float32 with both.
        labels: of the classes, for the metadata; None: SFW and NSFW, if there are two.
        lean: whether to use `lean_blocks`: the same scores, faster, from a graph that
            differs from the prototxt's.
        cells: whether to add the outputs of `Writer.cells`.

    Returns:
        A model with the input ``input``, float32 (N, 224, 224, 3) or (N, 3, 224, 224),
        BGR, 0..255 minus (104, 117, 123), and the output ``predictions``, float32
        (N, classes), columns SFW, NSFW. Tensors carry the layers' names.

    Raises:
        WeightsError: as `check_weights`.
    """
    writer = _Float(fold_batch_norm(weights), np.dtype(dtype), lean, cells)
    writer.network(layout)
    classes = classes_of(weights)
    return packed(writer, layout, classes, metadata(classes, labels))


def packed(
    writer: "Writer",
    layout: str,
    classes: int,
    metadata: dict[str, str],
    size: int = INPUT_SIZE,
) -> "onnx.ModelProto":
    """The model of the nodes that a writer has collected.

    Args:
        writer: that has written the network from `INPUT` to `OUTPUT`.
        layout: "nhwc" or "nchw", of the input.
        classes: the number of scores.
        metadata: for ``metadata_props``.
        size: of the input, pixels a side.
    """
    from onnx import TensorProto, helper

    sides = [size, size]
    nhwc, nchw = [*sides, CHANNELS], [CHANNELS, *sides]
    batch = ["batch", *(nhwc if layout == "nhwc" else nchw)]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        writer.nodes,
        "open_nsfw",
        [value(INPUT, TensorProto.FLOAT, batch)],
        [
            value(OUTPUT, TensorProto.FLOAT, ["batch", classes]),
            *(value(name, TensorProto.FLOAT, shape) for name, shape in writer.outputs),
        ],
        writer.constants,
    )
    model = helper.make_model(
        made,
        producer_name="open_nsfw_tf",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, metadata)
    return model


class Writer:
    """Collects the nodes and constants of a network; every tensor has a name.

    Args:
        dtype: of the computation, float32 or float16.
        with_cells: whether to add the outputs of `cells`, if the network can have them.
    """

    def __init__(self, dtype: Any = np.float32, with_cells: bool = False) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        self.outputs: list[tuple[str, list[int | str]]] = []  # beside the scores
        self.dtype = np.dtype(dtype)
        self.with_cells = with_cells

    def cast(self, source: str, dtype: Any, output: str) -> str:
        """The source in another dtype; itself if everything is float32 anyway."""
        from onnx import helper

        if self.dtype == np.float32:
            return source
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", [source], output, to=to)

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """Add a node with one output, whose name it returns."""
        from onnx import helper

        made = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self.nodes.append(made)
        return output

    def constant(self, name: str, array: np.ndarray | np.generic) -> str:
        """Add a constant, whose name it returns."""
        from onnx import numpy_helper

        contiguous = np.asarray(array, order="C")
        self.constants.append(numpy_helper.from_array(contiguous, name))
        return name

    def conv(self, conv: Convolution, inputs: list[str]) -> str:
        """A convolution of a source, a kernel (OIHW) and biases."""
        return self.node(
            "Conv",
            inputs,
            f"conv_{conv.key}",
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.padding] * 4,
        )

    def nchw(self, source: str, layout: str) -> str:
        """The source in the order NCHW, in which everything is computed."""
        if layout == "nchw":
            return source
        return self.node("Transpose", [source], "nchw", perm=[0, 3, 1, 2])

    def every(self, stride: int, source: str, key: str) -> str:
        """Every second pixel, for a stride of 2: by pooling, which runtimes do fast."""
        if stride == 1:
            return source
        sides = {"kernel_shape": [1, 1], "strides": [stride] * 2}
        return self.node("MaxPool", [source], f"stride_{key}", **sides)

    def relu(self, source: str, key: str) -> str:
        """A ReLU."""
        return self.node("Relu", [source], f"relu_{key}")

    def pool(self, source: str) -> str:
        """Caffe's `pool1`, padded by a row and a column as it rounds its size up."""
        size, stride = [POOL_SIZE] * 2, [POOL_STRIDE] * 2
        pads = [0, 0, 1, 1]
        return self.node(
            "MaxPool", [source], "pool1", kernel_shape=size, strides=stride, pads=pads
        )

    def logits(self, source: str, kernel: np.ndarray, biases: np.ndarray) -> str:
        """The mean of each channel, and the last layer."""
        self.cells(source, kernel, biases)
        at = self.node("GlobalAveragePool", [source], "pool")
        at = self.node("Flatten", [at], "features")
        fields = [
            self.constant(f"{DENSE}.weights", kernel),
            self.constant(f"{DENSE}.biases", biases),
        ]
        return self.node("Gemm", [at, *fields], DENSE)

    def cells(self, maps: str, kernel: np.ndarray, biases: np.ndarray) -> None:
        """Two more outputs: what each place of the last maps adds to the logits.

        ``cells``, float32 (N, classes, height, width): its mean over the places, plus
        ``biases``, float32 (classes,), is the logits.

        Args:
            maps: (N, channels, height, width), whose mean the last layer takes.
            kernel: of the last layer, (channels, classes).
            biases: of the last layer.
        """
        if not self.with_cells:
            return
        wide = np.float32
        constants = [
            self.constant(f"{CELLS}.weights", kernel.T[..., None, None].astype(wide)),
            self.constant(f"{BIASES}.values", biases.astype(wide)),
        ]
        source = self.cast(maps, wide, f"{CELLS}.maps")
        self.node("Conv", [source, constants[0]], CELLS, kernel_shape=[1, 1])
        self.node("Identity", [constants[1]], BIASES)
        classes = len(biases)
        self.outputs = [
            (CELLS, ["batch", classes, "height", "width"]),
            (BIASES, [classes]),
        ]

    def softmax(self, source: str) -> str:
        """The scores."""
        return self.node("Softmax", [source], OUTPUT, axis=1)


class _Float(Writer):
    """Writes the network in float32 or float16."""

    def __init__(
        self, weights: Weights, dtype: np.dtype, lean: bool, cells: bool
    ) -> None:
        super().__init__(dtype, cells)
        self.weights = weights
        self.lean = lean

    def layer(self, conv: Convolution, source: str) -> str:
        name = f"conv_{conv.key}"
        fields = self.weights[name]
        kernel = fields["weights"].transpose(3, 2, 0, 1)  # HWIO to OIHW
        return self.conv(
            conv,
            [
                source,
                self.constant(f"{name}.weights", kernel.astype(self.dtype)),
                self.constant(f"{name}.biases", fields["biases"].astype(self.dtype)),
            ],
        )

    def network(self, layout: str) -> None:
        at = self.cast(self.nchw(INPUT, layout), self.dtype, "cast")
        at = self.pool(self.relu(self.layer(STEM, at), STEM.key))
        for stage in lean_blocks() if self.lean else BLOCKS:
            for block in stage:
                at = self.block(block, at)
        fields = self.weights[DENSE]
        kernel, biases = (fields[f].astype(self.dtype) for f in ("weights", "biases"))
        at = self.logits(at, kernel, biases)
        self.softmax(self.cast(at, np.dtype(np.float32), "logits"))

    def block(self, block: Block, at: str) -> str:
        a, b, c = block.main
        if block.projection:
            shortcut = self.layer(block.projection, at)
        else:
            shortcut = self.every(b.stride, at, block.key)
        at = self.relu(self.layer(a, at), a.key)
        at = self.relu(self.layer(b, at), b.key)
        at = self.node("Add", [shortcut, self.layer(c, at)], f"eltwise_{block.key}")
        return self.relu(at, block.key)
