"""ONNX: float32, float16 or int8; NHWC or NCHW; any number of pictures at once.

int8 is approximate: weights in signed 8 bits with one scale a channel, activations in
unsigned 8 bits with one scale a tensor, found on the job's calibration pictures; the
last layer and the softmax stay in float. See `open_nsfw_tf.quantize`.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx

from open_nsfw_tf.backbones import graph_ops
from open_nsfw_tf.backbones.graph_ops import LAST, NEIGHBOURS, GraphOp
from open_nsfw_tf.engines.tensorflow import keras_network
from open_nsfw_tf.export import Job
from open_nsfw_tf.formats.onnx_graph import INPUT, OUTPUT, Writer, graph, packed
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import qdq, quantize

DTYPES = {"float32": np.float32, "float16": np.float16}


def write(path: Path, job: Job) -> None:
    """Write one file with labels, mean and channel order as metadata."""
    if not job.model.is_open_nsfw:
        model = trained_graph(job, DTYPES[job.precision])
    elif job.precision == "int8":
        network = quantize(job.weights, job.calibration)
        model = qdq.graph(network, job.layout, job.labels)
    else:
        dtype = DTYPES[job.precision]
        model = graph(job.weights, job.layout, dtype, job.labels)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _inputs(job: Job, batch: np.ndarray) -> np.ndarray:
    nchw = job.layout == "nchw"
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if nchw else batch


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores by ONNX Runtime, for all pictures at once and for each alone."""
    session = open_session(path.read_bytes())
    inputs = _inputs(job, job.batch)
    together = session.run([OUTPUT], {INPUT: inputs})[0]
    alone = [
        session.run([OUTPUT], {INPUT: inputs[i : i + 1]})[0] for i in range(len(inputs))
    ]
    return np.concatenate([together, *alone])


# -- the networks of trained models


def trained_graph(job: Job, dtype: type) -> onnx.ModelProto:
    """A trained model's network, with the input and output of Yahoo's graph.

    Args:
        job: its model and its layout are used.
        dtype: of the weights and the computation, np.float32 or np.float16; input and
            scores are float32 with both.

    Raises:
        ExportError: the network has a layer that is not supported.
    """
    writer = _Writer(dtype)
    writer.network(graph_ops.operations(keras_network(job.model)), job.layout)
    return packed(
        writer, job.layout, len(job.labels), job.metadata, job.preprocessing.crop
    )


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
