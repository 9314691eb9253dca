"""ONNX: read the weights out of somebody's graph, or write a graph of our own.

`read` walks a graph along its shape instead of trusting names, so that it reads what
tf2onnx, Keras or we ourselves write, with batch norm folded or not.
"""

from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    BLOCKS,
    CLASSES,
    DENSE,
    FEATURES,
    STEM,
    Convolution,
    Layer,
    Weights,
    WeightsError,
    identity_batch_norm,
)
from open_nsfw_tf.formats import BROKEN, float32, from_file, reading, replacing, whole
from open_nsfw_tf.formats.onnx_graph import graph

FLOATS = ("FLOAT16", "FLOAT", "DOUBLE")


def write(path: Path, weights: Weights) -> None:
    """Write the network with these weights, batch norm folded, as an ONNX graph."""
    with replacing(path) as temporary:
        temporary.write_bytes(graph(weights).SerializeToString(deterministic=True))


def read(path: Path) -> Weights:
    """Read the weights out of an ONNX graph of this network.

    Batch norms may be folded (they come back as the identity) or not; the input may be
    NHWC or NCHW. Nothing is executed and no external data is opened.

    Returns:
        The canonical dict; float16 and float64 weights are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is broken, or the graph is another network: the first layer
            that does not fit is named.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with reading(path, "ONNX file", *BROKEN, DecodeError):
        model = onnx.load_model_from_string(whole(path))
        return _Walker(model.graph).weights()


_SAME = {"Identity", "Transpose", "Cast"}
_PASSED = _SAME | {"Relu", "MaxPool", "Pad"}
_TO_DENSE = _PASSED | {
    "AveragePool",
    "GlobalAveragePool",
    "ReduceMean",
    "Reshape",
    "Flatten",
    "Squeeze",
}


class _Walker:
    """Follows a graph from its input along the table of the network."""

    def __init__(self, graph: Any) -> None:
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.users: dict[str, list[Any]] = {}
        for node in graph.node:
            if node.op_type == "Constant" and node.attribute[0].HasField("t"):
                self.constants[node.output[0]] = node.attribute[0].t
            for name in node.input:
                self.users.setdefault(name, []).append(node)
        inputs = [i.name for i in graph.input if i.name not in self.constants]
        if len(inputs) != 1:
            raise WeightsError(f"expected a graph with one input, got {len(inputs)}")
        self.input = inputs[0]

    def weights(self) -> Weights:
        found: Weights = {}
        at = self.conv(STEM, self.input, found)
        for stage in BLOCKS:
            for block in stage:
                if block.projection:
                    self.conv(block.projection, at, found)
                for conv in block.main:
                    at = self.conv(conv, at, found)
                at = self.sum_after(at, block.place)
        found[DENSE] = self.dense(at)
        return found

    def array(self, name: str) -> np.ndarray:
        from onnx import TensorProto, numpy_helper

        tensor = self.constants.get(name)
        if tensor is None:
            raise WeightsError(f"expected constant weights in {name!r:.80}")
        if tensor.data_location == TensorProto.EXTERNAL:
            raise WeightsError("its weights are in another file: save it as one file")
        if tensor.data_type not in (getattr(TensorProto, kind) for kind in FLOATS):
            raise WeightsError(
                f"expected float weights, got type {tensor.data_type} in {name!r:.80}"
            )
        array = from_file(numpy_helper.to_array(tensor))
        return array

    def reach(self, tensor: str, kinds: set[str], through: set[str]) -> list[Any]:
        """The nodes of these kinds after a tensor, with only `through` in between."""
        found, ahead, seen = [], [tensor], set()
        while ahead:
            for node in self.users.get(ahead.pop(), []):
                if node.op_type in kinds:
                    found.append(node)
                elif node.op_type in through and node.output[0] not in seen:
                    seen.add(node.output[0])
                    ahead.append(node.output[0])
        return found

    def conv(self, conv: Convolution, tensor: str, found: Weights) -> str:
        """Take in one convolution after a tensor; returns what its batch norm gives."""
        shape = (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
        seen = []
        for node in self.reach(tensor, {"Conv"}, _PASSED):
            kernel = self.array(node.input[1])
            strides = _attribute(node, "strides", [1, 1])
            if kernel.shape == shape and strides == [conv.stride] * 2:
                biases = np.zeros(conv.outputs)
                if len(node.input) > 2 and node.input[2]:
                    biases = self.array(node.input[2])
                norm, biases, end = self.batch_norm(node.output[0], conv, biases)
                found[f"conv_{conv.place}"] = {
                    "weights": float32(kernel.transpose(2, 3, 1, 0)),  # OIHW to HWIO
                    "biases": float32(biases),
                }
                found[f"bn_{conv.place}"] = norm
                return end
            seen.append(f"{kernel.shape} stride {strides}")
        raise WeightsError(
            f"another network: conv_{conv.place} should be a Conv of shape {shape}, "
            f"stride {conv.stride}; found {', '.join(seen) or 'none'}"
        )

    def batch_norm(
        self, tensor: str, conv: Convolution, biases: np.ndarray
    ) -> tuple[Layer, np.ndarray, str]:
        """What a convolution's output goes through: sums and products with constants.

        Returns:
            The batch norm, the identity if there is none; the biases, with what is
            added before it; the tensor after it.
        """
        norm: Layer = {}
        seen = set()  # a broken graph may run in a circle
        while tensor not in seen and len(self.users.get(tensor, [])) == 1:
            seen.add(tensor)
            node = self.users[tensor][0]
            constant = self.constant_of(node)
            if node.op_type == "BatchNormalization" and not norm:
                norm = self.norm(node)
            elif node.op_type == "Add" and constant is not None and norm:
                norm["offset"] = norm["offset"] + constant
            elif node.op_type == "Add" and constant is not None:
                biases = biases + constant
            elif node.op_type == "Mul" and constant is not None:
                # Keras 3 has no batch norm of one piece: it multiplies and adds.
                norm = norm or identity_batch_norm(conv.outputs)
                for field in ("scale", "offset"):
                    norm[field] = norm[field] * constant
            elif node.op_type not in _SAME:
                break
            tensor = str(node.output[0])
        norm = norm or identity_batch_norm(conv.outputs)
        return {name: float32(norm[name]) for name in norm}, biases, tensor

    def norm(self, node: Any) -> Layer:
        names = ("scale", "offset", "mean", "variance")
        arrays = [self.array(name) for name in node.input[1:5]]
        norm = dict(zip(names, arrays, strict=True))
        epsilon = float(np.float32(_attribute(node, "epsilon", 1e-5)))
        # The attribute is a float32, and the usual one should change no bit.
        spare = epsilon - float(np.float32(BATCH_NORM_EPSILON))
        return {**norm, "variance": arrays[3].astype(np.float64) + spare}

    def constant_of(self, node: Any) -> np.ndarray | None:
        names = [name for name in node.input if name in self.constants]
        if not names or node.op_type not in ("Add", "Mul"):
            return None
        return self.array(names[0]).reshape(-1)

    def sum_after(self, tensor: str, place: str) -> str:
        sums = self.reach(tensor, {"Add", "Sum"}, _SAME)
        if len(sums) != 1:
            raise WeightsError(f"another network: no sum at the end of {place}")
        return str(sums[0].output[0])

    def dense(self, tensor: str) -> Layer:
        nodes = self.reach(tensor, {"Gemm", "MatMul"}, _TO_DENSE)
        if len(nodes) != 1:
            raise WeightsError(f"another network: no layer {DENSE} at the end")
        kernel = self.array(nodes[0].input[1])
        if _attribute(nodes[0], "transB", 0):
            kernel = kernel.T
        if kernel.shape != (FEATURES, CLASSES):
            raise WeightsError(
                f"another network: {DENSE} should have shape {(FEATURES, CLASSES)}, "
                f"got {kernel.shape}"
            )
        if len(nodes[0].input) > 2:
            return {
                "weights": float32(kernel),
                "biases": float32(self.array(nodes[0].input[2])),
            }
        _, biases, _ = self.batch_norm(nodes[0].output[0], STEM, np.zeros(CLASSES))
        return {"weights": float32(kernel), "biases": float32(biases)}


def _attribute(node: Any, name: str, default: Any) -> Any:
    from onnx import helper

    for attribute in node.attribute:
        if attribute.name == name:
            return helper.get_attribute_value(attribute)
    return default
