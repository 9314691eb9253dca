"""The networks of trained models as ONNX graphs, written from `graph_ops`."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from open_nsfw_tf.backbones import graph_ops
from open_nsfw_tf.backbones.graph_ops import LAST, NEIGHBOURS, GraphOp
from open_nsfw_tf.backbones.trained import TrainedModel
from open_nsfw_tf.formats.onnx_graph import INPUT, Writer, packed

if TYPE_CHECKING:
    import onnx


def trained_graph(
    model: TrainedModel,
    layout: str = "nhwc",
    dtype: type = np.float32,
    metadata: dict[str, str] | None = None,
    cells: bool = False,
) -> "onnx.ModelProto":
    """A trained model's network, with the input and output of Yahoo's graph.

    Args:
        model: of any backbone.
        layout: "nhwc" or "nchw", of the input.
        dtype: of the weights and the computation, np.float32 or np.float16; input and
            scores are float32 with both.
        metadata: for the file's ``metadata_props``.
        cells: whether to add the outputs of `Writer.cells`, if the network ends in the
            mean of each map, one dense layer and a softmax.

    Raises:
        WeightsError: the model's description and its arrays do not fit each other.
    """
    writer = _Writer(dtype, cells)
    writer.network(graph_ops.operations_of(model), layout)
    size = model.preprocessing.crop
    return packed(writer, layout, len(model.classes), metadata or {}, size)


def _onnx_pads(op: GraphOp) -> list[int]:
    top, bottom, left, right = op.options["pads"]
    return [top, left, bottom, right]


class _Writer(Writer):
    """Writes graph operations; tensors of four axes are NCHW."""

    def network(self, graph: list[GraphOp], layout: str) -> None:
        """Write all operations, between the input and the scores."""
        at = self.cast(self.nchw(INPUT, layout), self.dtype, "cast")
        names = {graph_ops.INPUT: at}
        for op in graph:
            inputs = [names[name] for name in op.inputs]
            names[op.name] = _WRITERS[op.kind](self, op, inputs)
        *_, mean, dense, _ = graph
        if (mean.kind, dense.kind) == ("mean", "dense"):
            kernel, biases = dense.arrays["kernel"], dense.arrays["biases"]
            self.cells(names[mean.inputs[0]], kernel, biases)

    def array(self, op: GraphOp, name: str, array: np.ndarray) -> str:
        """An operation's constant, in the dtype of the computation."""
        return self.constant(f"{op.name}.{name}", array.astype(self.dtype))

    def convolution(self, op: GraphOp, inputs: list[str]) -> str:
        """A convolution, with its kernel transposed from HWIO to OIHW."""
        kernel = op.arrays["kernel"].transpose(3, 2, 0, 1)
        fields = [
            self.array(op, "kernel", kernel),
            self.array(op, "biases", op.arrays["biases"]),
        ]
        return self.node(
            "Conv",
            [*inputs, *fields],
            op.name,
            kernel_shape=list(kernel.shape[2:]),
            strides=list(op.options["strides"]),
            pads=_onnx_pads(op),
            group=op.options["groups"],
        )

    def dense(self, op: GraphOp, inputs: list[str]) -> str:
        """A dense layer."""
        fields = [self.array(op, n, op.arrays[n]) for n in ("kernel", "biases")]
        return self.node("Gemm", [*inputs, *fields], op.name)

    def affine(self, op: GraphOp, inputs: list[str]) -> str:
        """A batch norm that is not folded: a product and a sum for each channel."""
        shape = (-1,) if op.options["flat"] else (-1, 1, 1)
        factor, offset = (
            self.array(op, n, op.arrays[n].reshape(shape)) for n in ("factor", "offset")
        )
        at = self.node("Mul", [*inputs, factor], f"{op.name}.scaled")
        return self.node("Add", [at, offset], op.name)

    def rectified(self, op: GraphOp, inputs: list[str]) -> str:
        """A ReLU, perhaps with a largest value, as ReLU6."""
        most = op.options.get("most")
        if most is None:
            return self.node("Relu", inputs, op.name)
        bounds = [
            self.constant(f"{op.name}.{bound}", self.dtype.type(bound))
            for bound in (0, most)
        ]
        return self.node("Clip", [*inputs, *bounds], op.name)

    def pooled(self, kind: str, op: GraphOp, inputs: list[str]) -> str:
        """The largest value, or the mean, of a window; padding is not counted."""
        return self.node(
            kind,
            inputs,
            op.name,
            kernel_shape=list(op.options["window"]),
            strides=list(op.options["strides"]),
            pads=_onnx_pads(op),
        )

    def padded(self, op: GraphOp, inputs: list[str]) -> str:
        """Padding with zeros."""
        top, left, bottom, right = _onnx_pads(op)
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        name = self.constant(f"{op.name}.pads", pads)
        return self.node("Pad", [*inputs, name], op.name)

    def flat(self, op: GraphOp, inputs: list[str]) -> str:
        """All values in the order height, width, channels."""
        at = inputs[0]
        if len(op.options["shape"]) == 3:
            at = self.node("Transpose", [at], f"{op.name}.nhwc", perm=[0, 2, 3, 1])
        return self.node("Flatten", [at], op.name)

    def averaged(self, op: GraphOp, inputs: list[str]) -> str:
        """The mean of each channel, flat."""
        at = self.node("GlobalAveragePool", inputs, f"{op.name}.means")
        return self.node("Flatten", [at], op.name)

    def normalized(self, op: GraphOp, inputs: list[str]) -> str:
        """Local response normalisation; ONNX divides alpha by the size, as Caffe."""
        options = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": NEIGHBOURS}
        return self.node("LRN", inputs, op.name, **options)

    def scores(self, op: GraphOp, inputs: list[str]) -> str:
        """The softmax, in float32."""
        at = self.cast(inputs[0], np.float32, f"{op.name}.logits")
        return self.node("Softmax", [at], LAST, axis=1)


_WRITERS: dict[str, Callable[[_Writer, GraphOp, list[str]], str]] = {
    "add": lambda w, op, i: w.node("Add", i, op.name),
    "affine": _Writer.affine,
    "average_pool": lambda w, op, i: w.pooled("AveragePool", op, i),
    "concat": lambda w, op, i: w.node("Concat", i, op.name, axis=1),
    "conv": _Writer.convolution,
    "dense": _Writer.dense,
    "flatten": _Writer.flat,
    "max_pool": lambda w, op, i: w.pooled("MaxPool", op, i),
    "mean": _Writer.averaged,
    "normalize": _Writer.normalized,
    "pad": _Writer.padded,
    "relu": _Writer.rectified,
    "softmax": _Writer.scores,
}
