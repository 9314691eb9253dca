"""What a reader of ONNX graphs asks of one: nodes, constants, attributes, layouts.

Nothing is guessed: an attribute that is not in `ATTRIBUTES`, and whatever the readers
do not expect, makes the graph another network.
"""

from collections.abc import Collection
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS, INPUT_SIZE
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import from_file

# Of onnx.TensorProto.DataType.
FLOATS = (1, 10, 11)  # float32, float16, float64
INTEGERS = (6, 7)  # int32, int64
FIRST_OPSET = 7  # before it, broadcasting and batch norms were other things
SIDES = {"C": CHANNELS, "H": INPUT_SIZE, "W": INPUT_SIZE}
SAME = {"Identity", "Cast", "Transpose"}

_WINDOW = {"auto_pad": b"NOTSET", "dilations": [1, 1], "kernel_shape": None}
_WINDOW |= {"pads": [0, 0, 0, 0], "strides": [1, 1]}
# {kind of node: {attribute: its default}}
ATTRIBUTES: dict[str, dict[str, Any]] = {
    "Add": {},
    "AveragePool": {**_WINDOW, "ceil_mode": 0, "count_include_pad": 0},
    "BatchNormalization": {
        "epsilon": 1e-5,
        "momentum": 0.9,
        "spatial": 1,
        "training_mode": 0,
    },
    "Cast": {"to": 0, "saturate": 1, "round_mode": b"up"},
    "Conv": {**_WINDOW, "group": 1},
    "Flatten": {"axis": 1},
    "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0, "transB": 0},
    "GlobalAveragePool": {},
    "Identity": {},
    "MatMul": {},
    "MaxPool": {**_WINDOW, "ceil_mode": 0, "storage_order": 0},
    "Mul": {},
    "Pad": {"mode": b"constant", "pads": None, "value": 0.0},
    "ReduceMean": {"axes": None, "keepdims": 1, "noop_with_empty_axes": 0},
    "Relu": {},
    "Reshape": {"allowzero": 0},
    "Softmax": {"axis": -1},
    "Squeeze": {"axes": None},
    "Sum": {},
    "Transpose": {"perm": None},
}


def another(layer: str, should: str, came: object) -> WeightsError:
    """The error for a graph that is not this network's."""
    return WeightsError(f"another network: {layer} should be {should}; found {came}")


def kind(node: Any) -> str:
    """A node's operator; one of another domain is never ONNX's own."""
    standard = node.domain in ("", "ai.onnx")
    return str(node.op_type if standard else f"{node.domain}.{node.op_type}")


def attributes(node: Any, layer: str) -> dict[str, Any]:
    """A node's attributes, completed by ONNX's defaults."""
    from onnx import helper

    found = dict(ATTRIBUTES.get(kind(node), {}))
    if len({attribute.name for attribute in node.attribute}) != len(node.attribute):
        raise another(layer, f"a plain {kind(node)}", "an attribute twice")
    for attribute in node.attribute:
        name = attribute.name
        if name not in found or attribute.ref_attr_name:
            raise another(layer, f"a plain {kind(node)}", f"the attribute {name!r:.40}")
        found[name] = helper.get_attribute_value(attribute)
    return found


class Graph:
    """A model's graph, of one input and one output, in its order.

    Attributes:
        input: the name of the input.
        output: the name of the output.
        constants: tensors by name.
        made: the nodes by the name of their first output.
        layouts: of every tensor with height and width, such as NCHW. That of any other
            means nothing, and is empty where branches of two layouts meet.
    """

    def __init__(self, model: Any) -> None:
        graph = model.graph
        _check_opset(model)
        self.constants = {tensor.name: tensor for tensor in graph.initializer}
        self.made: dict[str, Any] = {}
        inputs = [i for i in graph.input if i.name not in self.constants]
        for title, values in (("input", inputs), ("output", graph.output)):
            if len(values) != 1:
                raise WeightsError(
                    f"expected a graph with one {title}, got {len(values)}"
                )
        self.input, self.output = inputs[0].name, graph.output[0].name
        self.layouts = {self.input: _input_layout(inputs[0], graph.node)}
        for node in graph.node:
            self._take(node)

    def _take(self, node: Any) -> None:
        """Note a node; those before it made what goes in, and none made its output."""
        for name in node.input:
            if name and name not in self.layouts and name not in self.constants:
                raise WeightsError(
                    f"broken: a node needs {name!r:.80} before it is made"
                )
        layout = self._layout(node)
        for name in filter(None, node.output):
            if name in self.layouts or name in self.constants:
                raise WeightsError(f"broken: two nodes make {name!r:.80}")
            self.layouts[name] = layout
        if kind(node) == "Constant" and node.attribute[0].name == "value":
            self.constants[node.output[0]] = node.attribute[0].t
        elif kind(node) == "Identity" and node.input[0] in self.constants:
            self.constants[node.output[0]] = self.constants[node.input[0]]
        elif node.output:
            self.made[node.output[0]] = node

    def _layout(self, node: Any) -> str:
        """The layout of what a node makes, for the kinds that readers follow."""
        names = [name for name in node.input if name and name not in self.constants]
        layouts = {self.layouts[name] for name in names}
        layout = layouts.pop() if len(layouts) == 1 else ""
        if kind(node) == "Conv":
            return "NCHW"  # or its reader refuses it
        if kind(node) != "Transpose":
            return layout
        perm = attributes(node, "a Transpose")["perm"] or ()
        moves = sorted(perm) == [0, 1, 2, 3] and len(layout) == 4
        return "".join(layout[axis] for axis in perm) if moves else ""

    # -- nodes

    def came(self, tensor: str) -> str:
        """What a tensor comes from, for an error."""
        if tensor in self.made:
            return f"{kind(self.made[tensor]):.40}"
        return "the graph's input" if tensor == self.input else "no node"

    def node(self, tensor: str, layer: str, kinds: Collection[str]) -> Any:
        """The node that makes a tensor.

        Raises:
            WeightsError: it is of no kind that the layer may be.
        """
        node = self.made.get(tensor)
        if node is None or kind(node) not in kinds:
            raise another(layer, " or ".join(sorted(kinds)), self.came(tensor))
        return node

    def back(
        self, tensor: str, through: Collection[str], layer: str
    ) -> tuple[list[Any], str]:
        """Go back from a tensor through nodes of some kinds.

        Sums and products are passed only if they are with a constant.

        Returns:
            The nodes, the first one in front; the tensor that goes into it.
        """
        nodes: list[Any] = []
        while (node := self.made.get(tensor)) and kind(node) in through:
            name = node.input[0]
            if kind(node) in ("Add", "Mul"):
                free = [name for name in node.input if name not in self.constants]
                if len(free) != 1:
                    break
                name = free[0]
            given = attributes(node, layer)
            if kind(node) == "Cast" and given["to"] not in FLOATS:
                raise another(layer, "of floats", f"a Cast to type {given['to']}")
            nodes.insert(0, node)
            tensor = name
        return nodes, str(tensor)

    def check_nchw(self, tensor: str, layer: str) -> None:
        """Refuse what does not go into a layer as batch, channels, height, width."""
        if self.layouts.get(tensor) != "NCHW":
            layout = self.layouts.get(tensor) or "no layout of pictures"
            raise another(layer, "given NCHW", layout)

    # -- constants

    def array(
        self, name: str, layer: str, shape: tuple[int, ...] | None = None
    ) -> np.ndarray:
        """A constant as float32.

        Raises:
            WeightsError: there is none of this name, of floats, in the file, of this
                shape.
        """
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        if tensor is None:
            raise another(layer, f"of constant weights in {name!r:.80}", "none")
        if tensor.data_type not in FLOATS:
            raise another(layer, "of float weights", f"type {tensor.data_type}")
        if shape is not None and tuple(tensor.dims) != shape:
            raise another(layer, f"of shape {shape}", tuple(tensor.dims[:9]))
        return from_file(numpy_helper.to_array(_inside(tensor)))

    def ints(self, name: str, layer: str) -> list[int]:
        """A constant list of integers.

        Raises:
            WeightsError: as `array`.
        """
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type not in INTEGERS:
            raise another(layer, f"with constant integers in {name!r:.80}", "none")
        array = numpy_helper.to_array(_inside(tensor))
        return [int(number) for number in array.reshape(-1)[:9]]

    def vector(
        self, name: str, layer: str, size: int, layout: str = "NC"
    ) -> np.ndarray:
        """A constant with one value for all channels, or for each, in some layout."""
        array = self.array(name, layer)
        sides = {"C": size}
        shape = tuple(sides.get(letter, 1) for letter in layout)
        came = (1,) * (len(layout) - array.ndim) + array.shape
        if came not in (shape, (1,) * len(layout)) or not layout:
            raise another(
                layer, f"with constants of shape {shape or size}", array.shape
            )
        return np.broadcast_to(array.reshape(-1), (size,))

    # -- paddings

    def pads(self, nodes: list[Any], layer: str, lowest: float = 0.0) -> np.ndarray:
        """What Pads among some nodes add: [top, left, bottom, right], in pixels.

        Args:
            nodes: one after another.
            layer: for errors.
            lowest: the smallest number that may be padded with; 0 always may.
        """
        total = np.zeros(4, np.int64)
        for node in nodes:
            if kind(node) == "Pad":
                total += self._pad(node, layer, lowest)
        return total

    def _pad(self, node: Any, layer: str, lowest: float) -> list[int]:
        given = attributes(node, layer)
        names = [*node.input, "", "", ""]
        value = self.array(names[2], layer).item() if names[2] else given["value"]
        if not lowest <= value <= 0:
            raise another(layer, "padded with zeros", "a Pad with another value")
        pads = given["pads"] or self.ints(names[1], layer)
        axes = self.ints(names[3], layer) if names[3] else list(range(4))
        layout = self.layouts[node.input[0]]
        found = dict.fromkeys(("H0", "W0", "H1", "W1"), 0)
        exact = given["mode"] == b"constant" and len(pads) == 2 * len(axes)
        exact &= len({axis % 4 for axis in axes}) == len(axes)
        for place, pad in enumerate(pads if exact and layout else ()):
            side, axis = divmod(place, len(axes))
            name = f"{layout[axes[axis]]}{side}"
            exact &= pad >= 0 and (name in found or not pad)
            found[name] = pad
        if not exact or not layout:
            raise another(layer, "padded at height and width", f"a Pad by {pads[:9]}")
        return [found[name] for name in ("H0", "W0", "H1", "W1")]


def _inside(tensor: Any) -> Any:
    """A tensor, which is not in another file: `to_array` would open it."""
    if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
        raise WeightsError("its weights are in another file: save it as one file")
    return tensor


def _check_opset(model: Any) -> None:
    standard = ("", "ai.onnx")
    opsets = [one.version for one in model.opset_import if one.domain in standard]
    if len(opsets) != 1 or opsets[0] < FIRST_OPSET:
        raise WeightsError(f"expected opset {FIRST_OPSET} or later, got {opsets[:9]}")
    if any(function.domain in standard for function in model.functions):
        raise WeightsError("another network: it gives ONNX's operators other meanings")


def _input_layout(value: Any, nodes: Any) -> str:
    """NHWC or NCHW, by the input's shape; where that is open, by what is done to it."""
    kind_of = value.type.tensor_type
    if kind_of.elem_type not in FLOATS:
        raise another("the input", "of floats", f"type {kind_of.elem_type}")
    came = [side.dim_value for side in kind_of.shape.dim]
    sides = came if kind_of.HasField("shape") else [0] * 4
    fitting = [
        layout
        for layout in ("NCHW", "NHWC")
        if len(sides) == 4
        and all(
            side in (0, SIDES.get(letter, side))
            for letter, side in zip(layout, sides, strict=True)
        )
    ]
    if not fitting:
        should = f"(n, {INPUT_SIZE}, {INPUT_SIZE}, {CHANNELS}), or channels first"
        raise another("the input", should, tuple(came[:9]))
    moved = any(
        kind(node) == "Transpose" and value.name in node.input for node in nodes
    )
    return fitting[-1] if moved else fitting[0]


def check_window(
    given: dict[str, Any], layer: str, size: int, stride: int | None = None
) -> None:
    """Hold the attributes of a window against the network's; None is any stride."""
    should = {"kernel_shape": [size] * 2, "dilations": [1, 1]}
    if stride is not None:
        should["strides"] = [stride] * 2
    for name, sides in should.items():
        came = given[name]
        if came != sides and (came is not None or name != "kernel_shape"):
            raise another(layer, f"of {name} {sides}", came)


def window_pads(given: dict[str, Any], size: int, stride: int) -> np.ndarray:
    """What a window adds: [top, left, bottom, right], in pixels.

    With SAME that depends on the size of what goes in: here every size is a multiple of
    the stride.
    """
    auto = given["auto_pad"]
    if auto == b"NOTSET":
        return np.array([int(pad) for pad in given["pads"]]).reshape(4)
    spare = 0 if auto == b"VALID" else max(size - stride, 0)
    less, more = spare // 2, spare - spare // 2
    first, last = (more, less) if auto == b"SAME_LOWER" else (less, more)
    return np.array([first, first, last, last])
