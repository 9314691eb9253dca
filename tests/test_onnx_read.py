"""ONNX graphs of this network that others make."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx as library
import pytest
from onnx import TensorProto, helper, numpy_helper

from open_nsfw_tf.architecture import BLOCKS, DENSE, STEM, WeightsError
from open_nsfw_tf.formats import detect, onnx


class Graph:
    """Builds the network with its batch norms apart, in a dtype and a layout."""

    def __init__(
        self, weights, dtype=np.float32, nchw=True, epsilon=1e-5, parts=False
    ) -> None:
        self.weights, self.dtype = weights, dtype
        self.epsilon, self.parts = epsilon, parts
        self.nodes: list[Any] = []
        self.constants: list[Any] = []
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        shape = ["n", 3, 224, 224] if nchw else ["n", 224, 224, 3]
        at = "data" if nchw else self.node("Transpose", ["data"], perm=[0, 3, 1, 2])
        logits = self.network(at)
        value = helper.make_tensor_value_info
        made = helper.make_graph(
            self.nodes,
            "made",
            [value("data", kind, shape)],
            [value(logits, kind, ["n", 2])],
            self.constants,
        )
        opsets = [helper.make_opsetid("", 17)]
        self.model = helper.make_model(made, opset_imports=opsets, ir_version=8)

    def node(self, kind: str, inputs: list[str], **attributes: Any) -> str:
        name = f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name, **attributes))
        return name

    def constant(self, array: np.ndarray) -> str:
        name = f"constant_{len(self.constants)}"
        array = np.ascontiguousarray(array, self.dtype)
        self.constants.append(numpy_helper.from_array(array, name))
        return name

    def conv(self, conv, at: str) -> str:
        layer, norm = (self.weights[f"{k}_{conv.place}"] for k in ("conv", "bn"))
        kernel = self.constant(layer["weights"].transpose(3, 2, 0, 1))
        at = self.node(
            "Conv",
            [at, kernel],
            pads=[conv.padding] * 4,
            strides=[conv.stride] * 2,
        )
        at = self.node("Add", [at, self.constant(layer["biases"].reshape(-1, 1, 1))])
        if self.parts:  # as tf2onnx 1.17 leaves a BatchNormalization of Keras 3
            factor = norm["scale"] / np.sqrt(norm["variance"] + self.epsilon)
            offset = norm["offset"] - norm["mean"] * factor
            for kind, array in (("Mul", factor), ("Add", offset)):
                at = self.node(kind, [at, self.constant(array.reshape(1, -1, 1, 1))])
            return at
        fields = ("scale", "offset", "mean", "variance")
        arrays = [self.constant(norm[field]) for field in fields]
        return self.node("BatchNormalization", [at, *arrays], epsilon=self.epsilon)

    def network(self, at: str) -> str:
        at = self.node("Relu", [self.conv(STEM, at)])
        at = self.node(
            "MaxPool", [at], kernel_shape=[3, 3], strides=[2, 2], pads=[0, 0, 1, 1]
        )
        for block in (block for stage in BLOCKS for block in stage):
            shortcut = self.conv(block.projection, at) if block.projection else at
            for conv in block.main[:2]:
                at = self.node("Relu", [self.conv(conv, at)])
            at = self.node("Add", [self.conv(block.main[2], at), shortcut])
            at = self.node("Relu", [at])
        at = self.node("GlobalAveragePool", [at])
        at = self.node("Reshape", [at, self.shape()])
        kernel = self.constant(self.weights[DENSE]["weights"])
        at = self.node("MatMul", [at, kernel])
        at = self.node("Add", [self.constant(self.weights[DENSE]["biases"]), at])
        return self.node("Softmax", [at])

    def shape(self) -> str:
        self.constants.append(numpy_helper.from_array(np.array([-1, 1024]), "shape"))
        return "shape"


def saved(path: Path, model: Any) -> Path:
    path.write_bytes(model.SerializeToString())
    return path


@pytest.mark.parametrize("nchw", [True, False])
def test_batch_norms_apart_come_back_to_the_bit(tmp_path, unfolded, assert_equal, nchw):
    path = saved(tmp_path / "a.onnx", Graph(unfolded, nchw=nchw).model)
    library.checker.check_model(str(path), full_check=True)
    assert detect(path) == "onnx"
    assert_equal(onnx.read(path), unfolded)


def test_batch_norms_in_parts(tmp_path, unfolded, score, expected):
    path = saved(tmp_path / "a.onnx", Graph(unfolded, parts=True).model)
    assert np.abs(score(onnx.read(path)) - expected).max() < 1e-5


def test_another_epsilon_is_moved_into_the_variance(tmp_path, unfolded):
    path = saved(tmp_path / "a.onnx", Graph(unfolded, epsilon=1e-3).model)
    read = onnx.read(path)["bn_1"]["variance"]
    assert np.allclose(read, unfolded["bn_1"]["variance"] + (1e-3 - 1e-5), rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float16, np.float64])
def test_other_floats_are_converted(tmp_path, trained, assert_equal, dtype):
    path = saved(tmp_path / "a.onnx", Graph(trained, dtype).model)
    rounded = {
        name: {
            field: array.astype(dtype).astype(np.float32)
            for field, array in layer.items()
        }
        for name, layer in trained.items()
    }
    assert_equal(onnx.read(path), rounded)


def test_float16_keeps_the_scores_nearly(tmp_path, trained, score, expected):
    path = saved(tmp_path / "a.onnx", Graph(trained, np.float16).model)
    assert np.abs(score(onnx.read(path)) - expected).max() < 0.005


def test_own_graph_round_trip(tmp_path, trained, assert_equal):
    onnx.write(tmp_path / "a.onnx", trained)
    assert_equal(onnx.read(tmp_path / "a.onnx"), trained)


def test_another_network_is_named(tmp_path):
    kernel = numpy_helper.from_array(np.zeros((64, 3, 11, 11), np.float32), "w")
    node = helper.make_node("Conv", ["x", "w"], ["y"], strides=[4, 4])
    value = helper.make_tensor_value_info
    made = helper.make_graph(
        [node],
        "alexnet",
        [value("x", TensorProto.FLOAT, ["n", 3, 224, 224])],
        [value("y", TensorProto.FLOAT, None)],
        [kernel],
    )
    path = saved(tmp_path / "a.onnx", helper.make_model(made))
    with pytest.raises(WeightsError, match=r"conv_1 should be .*\(64, 3, 7, 7\)"):
        onnx.read(path)


def test_a_graph_that_runs_in_a_circle_is_refused(tmp_path, trained):
    model = Graph(trained).model
    after_stem = next(node for node in model.graph.node if node.op_type == "Add")
    after_stem.output[0] = after_stem.input[0]
    with pytest.raises(WeightsError):
        onnx.read(saved(tmp_path / "a.onnx", model))


def test_weights_in_another_file_are_refused(tmp_path, trained):
    model = Graph(trained).model
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(WeightsError, match="another file"):
        onnx.read(saved(tmp_path / "a.onnx", model))
