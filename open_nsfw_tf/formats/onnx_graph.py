"""The network as an ONNX graph, built from the weights with onnx.helper.

Nothing is traced: the nodes are those of the table, named as Caffe's layers, with the
batch norms folded into the convolutions.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.architecture import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    DENSE,
    INPUT_SIZE,
    LABELS,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Convolution,
    Weights,
    fold_batch_norm,
)
from open_nsfw_tf.image import MEAN_BGR

if TYPE_CHECKING:
    import onnx

OPSET = 17
IR_VERSION = 8  # the one that came with opset 17; older runtimes refuse newer ones
INPUT = "input"
OUTPUT = "predictions"


METADATA = {  # for whoever finds the file without this project
    "labels": ",".join(LABELS),
    "channel_order": "BGR",
    "mean": ",".join(str(value) for value in MEAN_BGR),
    "preprocessing": "RGB; bilinear resize to 256x256; JPEG, quality 75, and back; "
    "centre crop 224x224; BGR; minus mean",
    "licence": "weights: BSD 2-Clause, (c) 2016 Yahoo Inc.",
    "source": "yahoo/open_nsfw, nsfw_model",
}


def graph(
    weights: Weights, layout: str = "nhwc", dtype: type = np.float32
) -> "onnx.ModelProto":
    """The network as an ONNX model.

    Args:
        weights: the canonical dict; batch norms are folded here.
        layout: "nhwc" or "nchw", of the input.
        dtype: np.float32, which is exact, or np.float16: of the weights and of what is
            computed. Input and scores are float32 all the same.

    Returns:
        A model with the input ``input``, float32 (N, 224, 224, 3) or (N, 3, 224, 224),
        BGR, 0..255 minus (104, 117, 123), and the output ``predictions``, float32
        (N, 2), columns SFW, NSFW. Tensors carry the layers' names.

    Raises:
        WeightsError: as `check_weights`.
    """
    from onnx import TensorProto, helper

    writer = _Writer(fold_batch_norm(weights), np.dtype(dtype))
    writer.network(layout)
    sides = [INPUT_SIZE, INPUT_SIZE]
    nhwc, nchw = [*sides, CHANNELS], [CHANNELS, *sides]
    batch = ["batch", *(nhwc if layout == "nhwc" else nchw)]
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        writer.nodes,
        "open_nsfw",
        [value(INPUT, TensorProto.FLOAT, batch)],
        [value(OUTPUT, TensorProto.FLOAT, ["batch", CLASSES])],
        writer.constants,
    )
    model = helper.make_model(
        made,
        producer_name="open_nsfw_tf",
        ir_version=IR_VERSION,
        opset_imports=[helper.make_opsetid("", OPSET)],
    )
    helper.set_model_props(model, METADATA)
    return model


class _Writer:
    """Collects nodes and constants along the network."""

    def __init__(self, weights: Weights, dtype: np.dtype) -> None:
        self.weights = weights
        self.dtype = dtype
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, inputs: list[str], output: str, **attributes: Any) -> str:
        from onnx import helper

        made = helper.make_node(kind, inputs, [output], name=output, **attributes)
        self.nodes.append(made)
        return output

    def constant(self, name: str, array: np.ndarray) -> str:
        from onnx import numpy_helper

        contiguous = np.ascontiguousarray(array, dtype=self.dtype)
        self.constants.append(numpy_helper.from_array(contiguous, name))
        return name

    def conv(self, conv: Convolution, source: str) -> str:
        name = f"conv_{conv.place}"
        kernel = self.weights[name]["weights"].transpose(3, 2, 0, 1)  # HWIO to OIHW
        return self.node(
            "Conv",
            [
                source,
                self.constant(f"{name}.weights", kernel),
                self.constant(f"{name}.biases", self.weights[name]["biases"]),
            ],
            name,
            kernel_shape=[conv.kernel] * 2,
            strides=[conv.stride] * 2,
            pads=[conv.padding] * 4,
        )

    def relu(self, source: str, place: str) -> str:
        return self.node("Relu", [source], f"relu_{place}")

    def cast(self, source: str, dtype: np.dtype, output: str) -> str:
        from onnx import helper

        if self.dtype == np.float32:
            return source
        to = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return self.node("Cast", [source], output, to=to)

    def network(self, layout: str) -> None:
        at = INPUT
        if layout == "nhwc":
            at = self.node("Transpose", [at], "nchw", perm=[0, 3, 1, 2])
        at = self.cast(at, self.dtype, "cast")
        at = self.relu(self.conv(STEM, at), STEM.place)
        size, stride = [POOL_SIZE] * 2, [POOL_STRIDE] * 2
        # Caffe rounds the output's size up: one more row and column at the end.
        pads = [0, 0, 1, 1]
        at = self.node(
            "MaxPool", [at], "pool1", kernel_shape=size, strides=stride, pads=pads
        )
        for stage in BLOCKS:
            for block in stage:
                shortcut = self.conv(block.projection, at) if block.projection else at
                a, b, c = block.main
                at = self.relu(self.conv(a, at), a.place)
                at = self.relu(self.conv(b, at), b.place)
                at = self.conv(c, at)
                at = self.node("Add", [shortcut, at], f"eltwise_{block.place}")
                at = self.relu(at, block.place)
        at = self.node("GlobalAveragePool", [at], "pool")
        at = self.node("Flatten", [at], "features")
        dense = [
            self.constant(f"{DENSE}.{field}", self.weights[DENSE][field])
            for field in ("weights", "biases")
        ]
        at = self.node("Gemm", [at, *dense], DENSE)
        at = self.cast(at, np.dtype(np.float32), "logits")
        self.node("Softmax", [at], OUTPUT, axis=1)
