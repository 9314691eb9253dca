"""ONNX: read the weights out of somebody's graph, or write a graph of our own.

`read` walks a graph along its shape instead of trusting names, so that it reads what
tf2onnx, Keras or we ourselves write, with batch norm folded or not. It walks back from
the output to the input, node by node, and lets nothing pass that the network has not:
what it returns is what the graph computes.
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
    LAYERS,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Block,
    Convolution,
    Layer,
    Weights,
)
from open_nsfw_tf.folding import identity_batch_norm
from open_nsfw_tf.formats import BROKEN, float32, reading, replacing, whole
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.formats.onnx_walk import (
    SAME,
    Graph,
    another,
    attributes,
    check_window,
    kind,
    window_pads,
)
from open_nsfw_tf.formats.wire import check_parts

MAX_PARTS = 100_000  # fields of messages; the published graph has 4,000
POOL = "pool"  # Caffe's names of what has no weights
POOL1 = "pool1"
PROB = "prob"


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
        WeightsError: it is broken, or the graph computes something else: the layer
            that does not fit is named, the first one from the end.
    """
    import onnx
    from google.protobuf.message import DecodeError

    with reading(path, "ONNX file", *BROKEN, DecodeError):
        data = whole(path)
        check_parts(data, onnx.ModelProto.DESCRIPTOR, MAX_PARTS)
        return _Reader(Graph(onnx.load_model_from_string(data))).weights()


_FLAT = SAME | {"Flatten", "Reshape", "Squeeze"}
_NORM = SAME | {"Add", "BatchNormalization", "Mul"}


class _Reader:
    """Follows a graph from its output back to its input, along the table.

    A method takes the tensor that a layer should make, and returns the one that goes
    into it.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.found: Weights = {}

    def weights(self) -> Weights:
        """All the network's weights, in its order."""
        at = self.dense(self.softmax(self.graph.output))
        for block in reversed([block for stage in BLOCKS for block in stage]):
            at = self.block(block, at)
        at = self.conv(STEM, self.relu(self.max_pool(at), f"relu_{STEM.place}"))
        if at != self.graph.input:
            raise another("conv_1", "given the input", self.graph.came(at))
        return {name: self.found[name] for name in LAYERS}

    # -- the end

    def softmax(self, tensor: str) -> str:
        _, at = self.graph.back(tensor, SAME - {"Transpose"}, PROB)
        node = self.graph.node(at, PROB, ["Softmax"])
        axis = attributes(node, PROB)["axis"]
        if axis not in (1, -1):  # of two: batch and classes
            raise another(PROB, "a Softmax of axis 1", f"axis {axis}")
        return str(node.input[0])

    def dense(self, tensor: str) -> str:
        """Take in the last layer; returns what goes into the pooling before it."""
        after, at = self.graph.back(tensor, SAME - {"Transpose"} | {"Add"}, DENSE)
        node = self.graph.node(at, DENSE, ["Gemm", "MatMul"])
        kernel = self.dense_kernel(node)
        classes = kernel.shape[1]
        biases = np.zeros(classes, np.float32)
        if len(node.input) > 2 and node.input[2]:
            biases = self.graph.vector(node.input[2], DENSE, classes)
        for add in after:
            if kind(add) == "Add":
                name = self.constant_of(add)
                biases = biases + self.graph.vector(name, DENSE, classes)
        self.found[DENSE] = {"weights": float32(kernel), "biases": float32(biases)}
        return self.pool(node)

    def dense_kernel(self, node: Any) -> np.ndarray:
        """The kernel (in, out) of a Gemm or a MatMul that does nothing besides."""
        given = attributes(node, DENSE)
        turned = given.pop("transB", 0)
        if given not in ({}, {"alpha": 1.0, "beta": 1.0, "transA": 0}):
            raise another(DENSE, "a Gemm of alpha 1, beta 1 and transA 0", given)
        kernel = self.graph.array(node.input[1], DENSE)
        sides = kernel.shape[::-1] if turned else kernel.shape
        if len(sides) != 2 or sides[0] != FEATURES or sides[1] < CLASSES:
            shape = (CLASSES, FEATURES) if turned else (FEATURES, CLASSES)
            raise another(DENSE, f"of shape {shape}", kernel.shape)
        return kernel.T if turned else kernel

    def pool(self, dense: Any) -> str:
        """The global average over height and width, made flat for the last layer."""
        nodes, at = self.graph.back(dense.input[0], _FLAT, POOL)
        kinds = ["AveragePool", "GlobalAveragePool", "ReduceMean"]
        node = self.graph.node(at, POOL, kinds)
        given = attributes(node, POOL)
        if kind(node) == "ReduceMean":
            shape = self.mean_shape(node, given)
        else:
            self.graph.check_nchw(node.input[0], POOL)
            shape = [0, FEATURES, 1, 1]
            if kind(node) == "AveragePool":
                check_window(given, POOL, 7)
                if window_pads(given, 7, 1).any():
                    raise another(POOL, "without padding", "padding")
        for flat in nodes:
            shape = self.flattened(flat, shape, kind(dense))
        if shape != [0, FEATURES]:
            raise another(POOL, f"made flat, (n, {FEATURES})", shape)
        return str(node.input[0])

    def mean_shape(self, node: Any, given: dict[str, Any]) -> list[int]:
        """The shape that a mean over height and width has; 0 is the batch's size."""
        layout = self.graph.layouts[node.input[0]]
        axes = given["axes"]
        if len(node.input) > 1:
            axes = self.graph.ints(node.input[1], POOL)
        over = sorted(layout[axis] for axis in axes or ()) if layout else axes
        if over != ["H", "W"] or layout not in ("NCHW", "NHWC"):
            raise another(POOL, "a mean over height and width", f"axes {axes}")
        sides = {"N": 0, "C": FEATURES}
        if given["keepdims"]:
            sides |= {"H": 1, "W": 1}
        return [sides[letter] for letter in layout if letter in sides]

    def flattened(self, node: Any, shape: list[int], dense: str) -> list[int]:
        """The shape after a node that may only add or drop ones; 0 is the batch's."""
        given = attributes(node, POOL)
        made = list(shape)
        if kind(node) == "Transpose":
            made = [shape[axis] for axis in given["perm"] or range(len(shape))[::-1]]
        elif kind(node) == "Squeeze":
            axes = given["axes"]
            if len(node.input) > 1:
                axes = self.graph.ints(node.input[1], POOL)
            gone = {axis % len(shape) for axis in axes or ()}
            made = [side for axis, side in enumerate(shape) if axis not in gone]
        elif kind(node) == "Flatten" and given["axis"] in (1, 1 - len(shape)):
            made = [0, FEATURES]
        elif kind(node) == "Reshape" and not given["allowzero"]:
            made = self.reshaped(node, shape, dense)
        elif kind(node) not in SAME:
            made = []
        if made[:1] != [0] or [side for side in made if side != 1] != [0, FEATURES]:
            raise another(POOL, f"made flat, (n, {FEATURES})", kind(node))
        return made

    def reshaped(self, node: Any, shape: list[int], dense: str) -> list[int]:
        if node.input[1] not in self.graph.constants and dense == "Gemm":
            return [0, FEATURES]  # a Gemm takes nothing else, and order is kept
        sides = self.graph.ints(node.input[1], POOL)
        sides = [side or shape[axis] for axis, side in enumerate(sides)]
        rest = [FEATURES if side == -1 else side for side in sides[1:]]
        # The first side cannot be another than the batch's if the others are known.
        return [0, *rest] if sides.count(-1) < 2 else []

    # -- between convolutions

    def relu(self, tensor: str, layer: str) -> str:
        _, at = self.graph.back(tensor, SAME, layer)
        return str(self.graph.node(at, layer, ["Relu"]).input[0])

    def max_pool(self, tensor: str) -> str:
        """Caffe rounds the output's size up: a row and a column more at the end."""
        _, at = self.graph.back(tensor, SAME, POOL1)
        node = self.graph.node(at, POOL1, ["MaxPool"])
        given = attributes(node, POOL1)
        check_window(given, POOL1, POOL_SIZE, POOL_STRIDE)
        before, at = self.graph.back(node.input[0], SAME | {"Pad"}, POOL1)
        self.graph.check_nchw(node.input[0], POOL1)
        # After a ReLU, whose output has nothing below it, zero is as good as -inf.
        pads = self.graph.pads(before, POOL1, lowest=-np.inf)
        pads += window_pads(given, POOL_SIZE, POOL_STRIDE)
        if given["ceil_mode"] and not pads.any():
            pads[2:] = 1
        if pads.tolist() != [0, 0, 1, 1]:
            raise another(POOL1, "padded [0, 0, 1, 1]", pads.tolist())
        return at

    def block(self, block: Block, tensor: str) -> str:
        """Take in a block; returns the tensor that both its branches begin with."""
        layer = f"eltwise_{block.place}"
        _, at = self.graph.back(self.relu(tensor, f"relu_{block.place}"), SAME, layer)
        node = self.graph.node(at, layer, ["Add", "Sum"])
        a, b, c = block.main
        ends = list(node.input)
        attributes(node, layer)
        if len(ends) != 2:
            raise another(layer, "a sum of two", f"{len(ends)}")
        ends.sort(key=lambda end: not self.leads_to(c, end))
        begin = self.conv(c, ends[0])
        for conv in (b, a):
            begin = self.conv(conv, self.relu(begin, f"relu_{conv.place}"))
        if block.projection:
            shortcut = self.conv(block.projection, ends[1])
        else:
            _, shortcut = self.graph.back(ends[1], SAME, layer)
        if shortcut != begin:
            came = self.graph.came(shortcut)
            raise another(layer, "with a shortcut from the block's begin", came)
        return begin

    def leads_to(self, conv: Convolution, tensor: str) -> bool:
        """Whether it is this convolution, and not its block's other, that ends here."""
        _, at = self.graph.back(tensor, _NORM, f"conv_{conv.place}")
        node = self.graph.made.get(at)
        if node is None or kind(node) != "Conv":
            return False
        kernel = self.graph.constants.get(node.input[1])
        return kernel is not None and tuple(kernel.dims) == _shape(conv)

    # -- convolutions

    def conv(self, conv: Convolution, tensor: str) -> str:
        """Take in a convolution and the batch norm after it, and look at its padding."""
        layer = f"conv_{conv.place}"
        after, at = self.graph.back(tensor, _NORM, layer)
        node = self.graph.node(at, layer, ["Conv"])
        given = attributes(node, layer)
        kernel = self.graph.array(node.input[1], layer, _shape(conv))
        check_window(given, layer, conv.kernel, conv.stride)
        if given["group"] != 1:
            raise another(layer, "of one group", f"{given['group']}")
        before, begin = self.graph.back(node.input[0], SAME | {"Pad"}, layer)
        self.graph.check_nchw(node.input[0], layer)
        pads = self.graph.pads(before, layer) + window_pads(
            given, conv.kernel, conv.stride
        )
        if pads.tolist() != [conv.padding] * 4:
            raise another(layer, f"padded {[conv.padding] * 4}", pads.tolist())
        biases = np.zeros(conv.outputs, np.float32)
        if len(node.input) > 2 and node.input[2]:
            biases = self.graph.array(node.input[2], layer, (conv.outputs,))
        norm, biases = self.batch_norm(conv, after, biases)
        self.found[layer] = {
            "weights": float32(kernel.transpose(2, 3, 1, 0)),  # OIHW to HWIO
            "biases": float32(biases),
        }
        self.found[f"bn_{conv.place}"] = norm
        return begin

    def batch_norm(
        self, conv: Convolution, nodes: list[Any], biases: np.ndarray
    ) -> tuple[Layer, np.ndarray]:
        """What a convolution's output goes through: sums and products with constants.

        Returns:
            The batch norm, the identity if there is none; the biases, with what is
            added before it.
        """
        norm: Layer = {}
        layer = f"bn_{conv.place}"
        for node in nodes:
            if kind(node) == "BatchNormalization":
                if norm:
                    raise another(layer, "one batch norm", "more after it")
                norm = self.norm(node, conv, layer)
            elif kind(node) in ("Add", "Mul"):
                layout = self.graph.layouts[node.output[0]]
                name = self.constant_of(node)
                constant = self.graph.vector(name, layer, conv.outputs, layout)
                if kind(node) == "Mul":
                    # Keras 3 has no batch norm of one piece: it multiplies and adds.
                    norm = norm or identity_batch_norm(conv.outputs)
                    for field in ("scale", "offset"):
                        norm[field] = norm[field] * constant
                elif norm:
                    norm["offset"] = norm["offset"] + constant
                else:
                    biases = biases + constant
        norm = norm or identity_batch_norm(conv.outputs)
        return {name: float32(norm[name]) for name in norm}, biases

    def norm(self, node: Any, conv: Convolution, layer: str) -> Layer:
        """A BatchNormalization's arrays, its epsilon moved to the network's."""
        given = attributes(node, layer)
        names = ("scale", "offset", "mean", "variance")
        shape = (conv.outputs,)
        arrays = [self.graph.array(name, layer, shape) for name in node.input[1:5]]
        norm = dict(zip(names, arrays, strict=True))
        self.graph.check_nchw(node.input[0], layer)
        if given["training_mode"] or given["spatial"] != 1 or len(node.output) != 1:
            raise another(layer, "a batch norm as it is used", "one that is trained")
        epsilon = float(np.float32(given["epsilon"]))
        # The attribute is a float32, and the usual one should change no bit.
        spare = epsilon - float(np.float32(BATCH_NORM_EPSILON))
        return {**norm, "variance": arrays[3].astype(np.float64) + spare}

    def constant_of(self, node: Any) -> str:
        """The name of the constant in a sum or product that was passed."""
        return str(next(name for name in node.input if name in self.graph.constants))


def _shape(conv: Convolution) -> tuple[int, ...]:
    return (conv.outputs, conv.inputs, conv.kernel, conv.kernel)
