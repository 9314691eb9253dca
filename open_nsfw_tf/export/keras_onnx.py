"""Any network that can be trained as an ONNX graph, written step by step."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.engines.tensorflow import keras_network
from open_nsfw_tf.export.job import Job
from open_nsfw_tf.export.steps import INPUT, LAST, NEIGHBOURS, Step, steps
from open_nsfw_tf.formats.onnx_graph import Writer, packed

if TYPE_CHECKING:
    import onnx


def graph(job: Job, dtype: type) -> "onnx.ModelProto":
    """The network of a job's model, with the input and output of our other graphs.

    Args:
        job: its model and its layout.
        dtype: np.float32, or np.float16 of the weights and of what is computed; input
            and scores are float32 all the same.

    Raises:
        ExportError: the network has a layer that is not known.
    """
    writer = _Writer(np.dtype(dtype))
    writer.network(steps(keras_network(job.model)), job.layout)
    return packed(
        writer, job.layout, len(job.labels), _metadata(job), job.preprocessing.crop
    )


def _metadata(job: Job) -> dict[str, str]:
    preprocessing = job.preprocessing
    return {
        "labels": ",".join(job.labels),
        "channel_order": preprocessing.order,
        "mean": ",".join(str(value) for value in preprocessing.mean),
        "scale": repr(preprocessing.scale),
        "preprocessing": preprocessing.words,
        "backbone": job.model.backbone,
    }


def _onnx_pads(step: Step) -> list[int]:
    top, bottom, left, right = step.options["pads"]
    return [top, left, bottom, right]


class _Writer(Writer):
    """Writes steps; tensors of four axes are NCHW."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        super().__init__()
        self.dtype = dtype

    def network(self, found: list[Step], layout: str) -> None:
        """Write all steps, between the input and the scores."""
        at = self.cast(self.nchw(INPUT, layout), self.dtype, "cast")
        names = {INPUT: at}
        for step in found:
            inputs = [names[name] for name in step.inputs]
            names[step.name] = _STEPS[step.kind](self, step, inputs)

    def cast(self, source: str, dtype: Any, output: str) -> str:
        """The source in another type, where everything is not float32 anyway."""
        from onnx import helper

        if self.dtype == np.float32:
            return source
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", [source], output, to=to)

    def array(self, step: Step, name: str, array: np.ndarray) -> str:
        """A step's constant, in the type in which is computed."""
        return self.constant(f"{step.name}.{name}", array.astype(self.dtype))

    def convolution(self, step: Step, inputs: list[str]) -> str:
        """A convolution, whose kernel turns from HWIO to OIHW."""
        kernel = step.arrays["kernel"].transpose(3, 2, 0, 1)
        fields = [
            self.array(step, "kernel", kernel),
            self.array(step, "biases", step.arrays["biases"]),
        ]
        return self.node(
            "Conv",
            [*inputs, *fields],
            step.name,
            kernel_shape=list(kernel.shape[2:]),
            strides=list(step.options["strides"]),
            pads=_onnx_pads(step),
            group=step.options["groups"],
        )

    def dense(self, step: Step, inputs: list[str]) -> str:
        """A dense layer."""
        fields = [self.array(step, n, step.arrays[n]) for n in ("kernel", "biases")]
        return self.node("Gemm", [*inputs, *fields], step.name)

    def affine(self, step: Step, inputs: list[str]) -> str:
        """A batch norm that stands alone: a product and a sum for each channel."""
        shape = (-1,) if step.options["flat"] else (-1, 1, 1)
        factor, offset = (
            self.array(step, n, step.arrays[n].reshape(shape))
            for n in ("factor", "offset")
        )
        at = self.node("Mul", [*inputs, factor], f"{step.name}.scaled")
        return self.node("Add", [at, offset], step.name)

    def rectified(self, step: Step, inputs: list[str]) -> str:
        """A ReLU, or one that is cut off above."""
        most = step.options.get("most")
        if most is None:
            return self.node("Relu", inputs, step.name)
        bounds = [
            self.constant(f"{step.name}.{bound}", self.dtype.type(bound))
            for bound in (0, most)
        ]
        return self.node("Clip", [*inputs, *bounds], step.name)

    def pooled(self, kind: str, step: Step, inputs: list[str]) -> str:
        """The largest value, or the mean, of a window; pads do not count."""
        return self.node(
            kind,
            inputs,
            step.name,
            kernel_shape=list(step.options["window"]),
            strides=list(step.options["strides"]),
            pads=_onnx_pads(step),
        )

    def padded(self, step: Step, inputs: list[str]) -> str:
        """Zeros around."""
        top, left, bottom, right = _onnx_pads(step)
        pads = np.array([0, 0, top, left, 0, 0, bottom, right], np.int64)
        name = self.constant(f"{step.name}.pads", pads)
        return self.node("Pad", [*inputs, name], step.name)

    def flat(self, step: Step, inputs: list[str]) -> str:
        """All values in the order height, width, channels."""
        at = inputs[0]
        if len(step.options["shape"]) == 3:
            at = self.node("Transpose", [at], f"{step.name}.nhwc", perm=[0, 2, 3, 1])
        return self.node("Flatten", [at], step.name)

    def averaged(self, step: Step, inputs: list[str]) -> str:
        """The mean of each channel, flat."""
        at = self.node("GlobalAveragePool", inputs, f"{step.name}.means")
        return self.node("Flatten", [at], step.name)

    def normalized(self, step: Step, inputs: list[str]) -> str:
        """Local response normalisation; ONNX divides alpha by the channels, as Caffe."""
        options = {"alpha": 1e-4, "beta": 0.75, "bias": 1.0, "size": NEIGHBOURS}
        return self.node("LRN", inputs, step.name, **options)

    def scores(self, step: Step, inputs: list[str]) -> str:
        """The softmax, in float32."""
        at = self.cast(inputs[0], np.float32, f"{step.name}.logits")
        return self.node("Softmax", [at], LAST, axis=1)


_STEPS: dict[str, Callable[[_Writer, Step, list[str]], str]] = {
    "add": lambda w, s, i: w.node("Add", i, s.name),
    "affine": _Writer.affine,
    "average_pool": lambda w, s, i: w.pooled("AveragePool", s, i),
    "concat": lambda w, s, i: w.node("Concat", i, s.name, axis=1),
    "conv": _Writer.convolution,
    "dense": _Writer.dense,
    "flatten": _Writer.flat,
    "max_pool": lambda w, s, i: w.pooled("MaxPool", s, i),
    "mean": _Writer.averaged,
    "normalize": _Writer.normalized,
    "pad": _Writer.padded,
    "relu": _Writer.rectified,
    "softmax": _Writer.scores,
}
