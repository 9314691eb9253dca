"""ONNX graphs of this network that others make."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx as library
import pytest
from onnx import TensorProto, helper, numpy_helper

from open_nsfw_tf.architecture import BLOCKS, DENSE, STEM
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import detect, onnx, onnx_graph
from open_nsfw_tf.formats.safetensors import from_tensors


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
        layer, norm = (self.weights[f"{k}_{conv.key}"] for k in ("conv", "bn"))
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
    with pytest.raises(WeightsError, match="expected 53 convolutions.* got 1, 1 and 0"):
        onnx.read(path)


def test_a_graph_that_runs_in_a_circle_is_refused(tmp_path, trained):
    model = Graph(trained).model
    after_stem = next(node for node in model.graph.node if node.op_type == "Add")
    after_stem.output[0] = after_stem.input[0]
    with pytest.raises(
        WeightsError, match="expected 53 convolutions.* got 52, 52 and 1"
    ):
        onnx.read(saved(tmp_path / "a.onnx", model))


def test_weights_in_another_file_are_refused(tmp_path, trained):
    model = Graph(trained).model
    model.graph.initializer[0].data_location = TensorProto.EXTERNAL
    with pytest.raises(WeightsError, match="another file"):
        onnx.read(saved(tmp_path / "a.onnx", model))


# -- one change at a time

A2B = "conv_stage0_block0_branch2b"  # 3x3, padded by 1
RELU = "relu_stage0_block0_branch2a"
Change = Callable[[Any], object]


def at(model: Any, name: str) -> Any:
    return next(node for node in model.graph.node if node.name == name)


def tensor(model: Any, name: str, array: Any, dtype: type = np.float32) -> str:
    made = numpy_helper.from_array(np.asarray(array, dtype), name)
    model.graph.initializer.append(made)
    return name


def given(name: str, **attributes: Any) -> Change:
    """Set attributes of a node; None takes one away."""

    def change(model: Any) -> None:
        node = at(model, name)
        kept = [a for a in node.attribute if a.name not in attributes]
        new = {name: value for name, value in attributes.items() if value is not None}
        made = [helper.make_attribute(*pair) for pair in new.items()]
        del node.attribute[:]
        node.attribute.extend(kept + made)

    return change


def kind(name: str, kind: str, **attributes: Any) -> Change:
    """Make a node one of another kind, with these attributes only."""

    def change(model: Any) -> None:
        node = at(model, name)
        node.op_type = kind
        del node.attribute[:]
        given(name, **attributes)(model)

    return change


def dropped(*names: str) -> Change:
    """Without some nodes of one input."""

    def change(model: Any) -> None:
        for name in names or [n.name for n in model.graph.node if n.op_type == "Relu"]:
            node = at(model, name)
            after = [n for n in model.graph.node if node.output[0] in n.input]
            for user in after:
                inputs = list(user.input)
                inputs[inputs.index(node.output[0])] = node.input[0]
                del user.input[:]
                user.input.extend(inputs)
            model.graph.node.remove(node)

    return change


def before(name: str, kind: str, *more: Any, **attributes: Any) -> Change:
    """With one more node before another; `more` are arrays that go in besides."""

    def change(model: Any) -> None:
        node = at(model, name)
        names = [f"{len(model.graph.node)}_{place}" for place in range(len(more))]
        for one, array in zip(names, more, strict=True):
            tensor(model, one, array, np.asarray(array).dtype.type)
        inputs = [node.input[0], *names]
        output = f"{len(model.graph.node)}_{kind}"
        made = helper.make_node(kind, inputs, [output], **attributes)
        node.input[0] = made.output[0]
        model.graph.node.insert(list(model.graph.node).index(node), made)

    return change


def both(*changes: Change) -> Change:
    return lambda model: [change(model) for change in changes]


def one(value: float) -> np.ndarray:
    return np.array([value], np.float32)


def padded(*pads: int) -> np.ndarray:
    return np.array(pads, np.int64)


def swapped(model: Any) -> None:
    node = at(model, "predictions")
    node.output[0] = "straight"
    inputs = ["straight", tensor(model, "order", [1, 0], np.int64)]
    made = helper.make_node("Gather", inputs, ["predictions"], axis=1)
    model.graph.node.append(made)


def shortcut_from(place: int, source: str) -> Change:
    def change(model: Any) -> None:
        at(model, "eltwise_stage0_block1").input[place] = source

    return change


def projection_unused(model: Any) -> None:
    node = at(model, "eltwise_stage0_block0")
    node.input[0] = node.input[1]


def matmul(*between: str) -> Change:
    """The last layer as a MatMul, an Add and what stands between them."""

    def change(model: Any) -> None:
        node = at(model, DENSE)
        biases = node.input.pop()
        kind(DENSE, "MatMul")(model)
        end = at(model, "predictions")
        for one in between:
            before(end.name, one, np.array([0.5], np.float32))(model)
        before(end.name, "Add")(model)
        next(n for n in model.graph.node if n.output[0] == end.input[0]).input.append(
            biases
        )

    return change


UNPADDED = given("conv_1", pads=None)
SAME_UPPER = {"pads": None, "auto_pad": "SAME_UPPER"}
SAME_LOWER = {"pads": None, "auto_pad": "SAME_LOWER"}

OTHERS: dict[str, tuple[Change, str]] = {
    "conv_1 padded as SAME": (
        given("conv_1", pads=[2, 2, 3, 3]),
        "conv_1 gives other values",
    ),
    "conv_1 SAME_UPPER": (given("conv_1", **SAME_UPPER), "conv_1 gives other values"),
    "conv_1 VALID": (
        given("conv_1", pads=None, auto_pad="VALID"),
        "conv_1 gives other values",
    ),
    "3x3 shifted": (given(A2B, pads=[2, 2, 0, 0]), f"{A2B} gives other values"),
    "3x3 dilated": (
        given(A2B, dilations=[2, 2], pads=[2] * 4),
        f"{A2B} gives other values",
    ),
    "3x3 with a stride": (
        given(A2B, strides=[2, 2]),
        "broken: .*eltwise_stage0_block0",
    ),
    "3x3 in groups": (given(A2B, group=2), "broken: .*stage0_block0_branch2b"),
    "an unknown attribute": (given(A2B, secret=1), "broken: .*stage0_block0_branch2b"),
    "a ReLU less": (dropped(RELU), f"{A2B} gives other values"),
    "no ReLU": (dropped(), "stage0_block0_.* gives other values"),
    "a ReLU in a shortcut": (
        before("eltwise_stage0_block0", "Relu"),
        "conv_stage0_block1_branch2a gives other values",
    ),
    "a ReLU before the sum": (
        lambda model: (
            at(model, "eltwise_stage0_block1").input.reverse(),
            before("eltwise_stage0_block1", "Relu")(model),
        ),
        "conv_stage0_block2_branch2a gives other values",
    ),
    "a ReLU at the input": (before("conv_1", "Relu"), "conv_1 gives other values"),
    "LeakyRelu": (kind(RELU, "LeakyRelu"), f"{A2B} gives other values"),
    "Elu": (kind(RELU, "Elu"), f"{A2B} gives other values"),
    "Relu of another domain": (
        lambda model: setattr(at(model, RELU), "domain", "mine"),
        f"broken: .*{RELU}",
    ),
    "pool1 padded in front": (
        given("pool1", pads=[1, 1, 0, 0]),
        "stage0_block0_.* gives other values",
    ),
    "pool1 SAME_LOWER": (
        given("pool1", **SAME_LOWER),
        "stage0_block0_.* gives other values",
    ),
    "pool1 rounded down": (
        given("pool1", pads=None),
        "stage0_block0_.* gives other values",
    ),
    "pool1 around": (
        given("pool1", pads=[1] * 4, ceil_mode=1),
        "stage0_block0_.* gives other values",
    ),
    "pool1 2x2": (
        given("pool1", kernel_shape=[2, 2], pads=None),
        "stage0_block0_.* gives other values",
    ),
    "pool1 stride 1": (
        given("pool1", strides=[1, 1]),
        "stage0_block0_.* gives other values",
    ),
    "pool1 dilated": (
        given("pool1", dilations=[2, 2]),
        "stage0_block0_.* gives other values",
    ),
    "pool1 an average": (
        lambda model: setattr(at(model, "pool1"), "op_type", "AveragePool"),
        "stage0_block0_.* gives other values",
    ),
    "no pool1": (dropped("pool1"), "stage0_block0_.* gives other values"),
    "pool a maximum": (kind("pool", "GlobalMaxPool"), f"{DENSE} gives other values"),
    "pool of 6x6": (
        kind("pool", "AveragePool", kernel_shape=[6, 6], strides=[7, 7]),
        f"{DENSE} gives other values",
    ),
    "pool padded": (
        kind("pool", "AveragePool", kernel_shape=[7, 7], pads=[3] * 4, strides=[7, 7]),
        f"{DENSE} gives other values",
    ),
    "pool over channels": (
        kind("pool", "ReduceMean", axes=[1, 2]),
        f"broken: .*{DENSE}",
    ),
    "alpha": (given(DENSE, alpha=2.0), f"{DENSE} gives other values"),
    "beta": (given(DENSE, beta=0.0), f"{DENSE} gives other values"),
    "transA": (given(DENSE, transA=1), f"broken: .*{DENSE}"),
    "transB": (given(DENSE, transB=1), f"{DENSE} should take 1024 features"),
    "a temperature": (
        before("predictions", "Mul", one(0.5)),
        f"{DENSE} gives other values",
    ),
    "a temperature in the layer": (matmul("Mul"), f"{DENSE} gives other values"),
    "Sigmoid": (
        kind("predictions", "Sigmoid"),
        f"expected a softmax of the values of {DENSE}",
    ),
    "no Softmax": (
        kind("predictions", "Identity"),
        f"expected a softmax of the values of {DENSE}",
    ),
    "Softmax over the batch": (
        given("predictions", axis=0),
        f"expected a softmax of the values of {DENSE}",
    ),
    "columns swapped": (swapped, f"expected a softmax of the values of {DENSE}"),
    "a shortcut from nowhere": (
        shortcut_from(0, "pool1"),
        "broken: .*eltwise_stage0_block1",
    ),
    "no projection": (projection_unused, "got 52, 52 and 1"),
    "width and height": (given("nchw", perm=[0, 3, 2, 1]), "conv_1 gives other values"),
    "an inner transpose": (
        before(A2B, "Transpose", perm=[0, 1, 3, 2]),
        f"{A2B} gives other values",
    ),
    "a mean within": (
        before("conv_1", "Add", np.full((1, 3, 1, 1), 50, np.float32)),
        "conv_1 gives other values",
    ),
    "a scale within": (
        before("nchw", "Mul", one(1 / 255)),
        "conv_1 gives other values",
    ),
    "integers within": (before(A2B, "Cast", to=TensorProto.INT8), "broken: .*Cast"),
    "the input shifted": (
        before("conv_1", "Pad", padded(0, 0, 1, 1, 0, 0, -1, -1)),
        "conv_1 gives other values",
    ),
    "padded too much": (
        before("conv_1", "Pad", padded(0, 0, 3, 3, 0, 0, 3, 3)),
        "conv_1 gives other values",
    ),
    "padded with ones": (
        both(UNPADDED, before("conv_1", "Pad", padded(0, 0, 3, 3, 0, 0, 3, 3), one(1))),
        "conv_1 gives other values",
    ),
    "padded by reflection": (
        both(
            UNPADDED,
            before("conv_1", "Pad", padded(0, 0, 3, 3, 0, 0, 3, 3), mode="reflect"),
        ),
        "conv_1 gives other values",
    ),
    "padded at other sides": (
        both(UNPADDED, before("nchw", "Pad", padded(0, 0, 3, 3, 0, 0, 3, 3))),
        "broken: ",
    ),
    "an old opset": (
        lambda model: setattr(model.opset_import[0], "version", 6),
        "opset 7",
    ),
}

EQUAL: dict[str, Change] = {
    "nothing": lambda model: None,
    # Caffe's last row and column of zeros are outside of every window.
    "conv_1 SAME_LOWER": given("conv_1", **SAME_LOWER),
    "a ReLU more": before("pool1", "Relu"),
    "features in another shape": before("features", "Reshape", padded(0, 32, 32, 1)),
    "conv_1 padded before": both(
        given("conv_1", pads=None, auto_pad="VALID"),
        before("conv_1", "Pad", padded(0, 0, 3, 3, 0, 0, 3, 3)),
    ),
    "conv_1 padded before, NHWC": both(
        UNPADDED, before("nchw", "Pad", padded(0, 3, 3, 0, 0, 3, 3, 0), one(0))
    ),
    "conv_1 padded here and there": both(
        given("conv_1", pads=[1, 1, 1, 1]),
        before("conv_1", "Pad", padded(0, 0, 2, 2, 0, 0, 2, 2)),
    ),
    "3x3 SAME_UPPER": given(A2B, **SAME_UPPER),
    "3x3 SAME_LOWER": given(A2B, **SAME_LOWER),
    "pool1 rounded up": given("pool1", pads=None, ceil_mode=1),
    "pool1 SAME_UPPER": given("pool1", **SAME_UPPER),
    "pool1 padded before": both(
        given("pool1", pads=None),
        before("pool1", "Pad", padded(0, 0, 0, 0, 0, 0, 1, 1), one(-np.inf)),
    ),
    "pool an average of 7x7": kind("pool", "AveragePool", kernel_shape=[7, 7]),
    "pool a mean": kind("pool", "ReduceMean", axes=[2, 3]),
    "pool a flat mean": kind("pool", "ReduceMean", axes=[-1, -2], keepdims=0),
    "pool a mean, NHWC": both(
        kind("pool", "ReduceMean", axes=[1, 2]),
        before("pool", "Transpose", perm=[0, 2, 3, 1]),
    ),
    "features reshaped": before("features", "Reshape", padded(-1, 1, 1, 1024)),
    "transposes that cancel": both(
        before(A2B, "Transpose", perm=[0, 2, 3, 1]),
        before(A2B, "Identity"),
        before(A2B, "Transpose", perm=[0, 3, 1, 2]),
    ),
    "MatMul and Add": matmul(),
}


@pytest.fixture(scope="module")
def own(trained) -> Any:
    return onnx_graph.graph(trained)


def changed(model: Any, change: Change) -> Any:
    made = library.ModelProto()
    made.CopyFrom(model)
    change(made)
    return made


@pytest.mark.parametrize("title", OTHERS)
def test_a_graph_that_computes_something_else_is_refused(tmp_path, own, title):
    change, match = OTHERS[title]
    path = saved(tmp_path / "a.onnx", changed(own, change))
    with pytest.raises(WeightsError, match=match):
        onnx.proved_weights(path)
    path.unlink()


@pytest.mark.parametrize("title", ["3x3 shifted", "an unknown attribute", "transB"])
def test_the_error_comes_in_one_line_out_of_the_child(tmp_path, own, title):
    change, match = OTHERS[title]
    path = saved(tmp_path / "a.onnx", changed(own, change))
    with pytest.raises(WeightsError, match=match) as caught:
        onnx.read(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("title", EQUAL)
def test_a_graph_that_computes_the_same_is_read(
    tmp_path, own, trained, assert_equal, title
):
    path = saved(tmp_path / "a.onnx", changed(own, EQUAL[title]))
    assert_equal(from_tensors(onnx.proved_weights(path)), trained)
    path.unlink()


def test_own_graph_nchw_and_float16(tmp_path, trained):
    model = onnx_graph.graph(trained, "nchw", np.float16)
    read = onnx.read(saved(tmp_path / "a.onnx", model))
    kernel = trained["conv_1"]["weights"].astype(np.float16).astype(np.float32)
    assert np.array_equal(read["conv_1"]["weights"], kernel)


@pytest.mark.parametrize("sides", [["n", 3, 224, 224], [8, 3, 224, 224], None])
def test_inputs_of_open_and_of_fixed_sizes(tmp_path, trained, assert_equal, sides):
    model = Graph(trained).model
    value = helper.make_tensor_value_info("data", TensorProto.FLOAT, sides)
    model.graph.input[0].CopyFrom(value)
    path = saved(tmp_path / "a.onnx", model)
    assert_equal(from_tensors(onnx.proved_weights(path)), trained)


def test_a_graph_in_a_node_is_not_run(tmp_path, own):
    def change(model):
        branch = helper.make_graph([], "branch", [], [])
        made = helper.make_node("If", ["c"], ["d"], then_branch=branch)
        model.graph.node.append(made)

    with pytest.raises(WeightsError, match="graphs inside its graph"):
        onnx.read(saved(tmp_path / "a.onnx", changed(own, change)))


def test_a_graph_that_takes_all_memory_is_stopped(tmp_path, own):
    """It is a branch that the scores need, of 64 GB."""

    def change(model):
        tensor(model, "sides", [1 << 17, 1 << 17], np.int64)
        tensor(model, "axes", [0, 1], np.int64)
        node = at(model, "predictions")
        node.output[0] = "scores"
        model.graph.node.extend(
            [
                helper.make_node("ConstantOfShape", ["sides"], ["much"]),
                helper.make_node("ReduceMax", ["much"], ["none"], keepdims=0),
                helper.make_node("Add", ["scores", "none"], ["predictions"]),
            ]
        )

    with pytest.raises(WeightsError, match="broken"):
        onnx.read(saved(tmp_path / "a.onnx", changed(own, change)))


# -- memory

MEGABYTES = 10
PEAK = """
import sys
from pathlib import Path
import onnx
from onnx import helper, numpy_helper
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import onnx as reader

def peak():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(l.split()[1]) * 1024 for l in lines if l.startswith("VmHWM"))

before = peak()
for name in sys.argv[1:]:
    try:
        reader.read(Path(name))
    except WeightsError:
        continue
    sys.exit(f"{name} was read")
print(peak() - before)
"""


def sized(tag: bytes, content: bytes) -> bytes:
    size, made = len(content), b""
    while size > 127:
        made, size = made + bytes([size & 127 | 128]), size >> 7
    return tag + made + bytes([size]) + content


def hostile() -> dict[str, bytes]:
    """Files of pieces that become much larger than they are."""
    half = MEGABYTES * 500_000
    start = b"\x08\x08\x12\x00"  # a version and a producer
    numbers = b"\x00" * (2 * half)
    graphs = {
        "nodes": b"\x0a\x00" * half,
        "inputs of a node": sized(b"\x0a", b"\x0a\x00" * half),
        "attributes": sized(b"\x0a", b"\x2a\x00" * half),
        "integers": sized(b"\x0a", sized(b"\x2a", b"\x40\x00" * half)),
        "packed integers": sized(b"\x0a", sized(b"\x2a", sized(b"\x42", numbers))),
        "initializers": b"\x2a\x00" * half,
        "dims": sized(b"\x2a", sized(b"\x0a", numbers)),
        "int32_data": sized(b"\x2a", sized(b"\x2a", numbers)),
        "longer int32_data": sized(b"\x2a", sized(b"\x2a", b"\x80\x01" * half)),
        "int64_data": sized(b"\x2a", sized(b"\x3a", numbers)),
        "raw_data": sized(b"\x2a", sized(b"\x4a", numbers)),
        "value_info": b"\x6a\x00" * half,
    }
    files = {name: start + sized(b"\x3a", graph) for name, graph in graphs.items()}
    return {**files, "metadata": start + b"\x72\x00" * half}


@pytest.mark.skipif(sys.platform != "linux", reason="measures with /proc")
@pytest.mark.parametrize("title", ["together", "longer int32_data", "raw_data"])
def test_memory_for_a_hostile_file(tmp_path, title):
    names = []
    for name, data in hostile().items():
        if title in ("together", name):
            names.append(tmp_path / f"{name}.onnx")
            names[-1].write_bytes(data)
    ran = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, names)],
        check=False,
        capture_output=True,
        text=True,
        timeout=300,
    )
    for name in names:
        name.unlink()
    assert ran.returncode == 0, ran.stderr
    assert int(ran.stdout) < 8 * MEGABYTES * 1_000_000
