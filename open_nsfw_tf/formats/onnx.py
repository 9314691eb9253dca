"""ONNX: read the weights of any graph of this network, or write a graph.

`read` takes the convolutions and the dense layer in topological order, so it reads
graphs from tf2onnx, Keras or this package, with batch norms folded or not. To prove
that the graph computes the same as this network, ONNX Runtime runs both on the same
inputs, and the scores must agree.
"""

from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    CHANNELS,
    DENSE,
    FEATURES,
    INPUT_SIZE,
    Layer,
    Weights,
    check_weights,
    identity_batch_norm,
    names_in_order,
    weights_in_order,
)
from open_nsfw_tf.errors import WeightsError, one_line
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import (
    CHECKSUMS,
    PARSE_ERRORS,
    check_file,
    float32,
    from_file,
    reading,
    sandbox,
    sha256,
)
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.formats.safetensors import from_tensors, to_tensors
from open_nsfw_tf.libraries import open_session

# Of onnx.TensorProto.DataType: float32, float16, float64; pixels.
FLOATS = FLOAT32, FLOAT16, FLOAT64 = (1, 10, 11)
UINT8 = 2
FIRST_OPSET = 7  # earlier ones define broadcasting and batch norms differently
MAX_BATCH = 64  # of a graph that accepts only one batch size
LAYOUTS = {
    "nhwc": (INPUT_SIZE, INPUT_SIZE, CHANNELS),
    "nchw": (CHANNELS, INPUT_SIZE, INPUT_SIZE),
}
SCORES = 1e-5  # the largest difference of a score in the proof
# The largest difference of logits or a convolution's output, over their largest value.
LAYER_OUTPUTS = 1e-4
# Operators that may belong to the convolution or dense layer before them.
_PASSED = ("Add", "BatchNormalization", "Cast", "Identity", "Mul", "Transpose")


def write(path: Path, weights: Weights) -> None:
    """Write the network with these weights, batch norm folded, as an ONNX graph."""
    with replacing(path) as temporary:
        temporary.write_bytes(graph(weights).SerializeToString(deterministic=True))


def read(path: Path) -> Weights:
    """Read the weights from an ONNX graph of this network.

    Batch norms may be folded (they come back as the identity) or not; the input may be
    NHWC or NCHW. The graph runs only in a child process; no other file is opened.

    Returns:
        The canonical dict; float16 and float64 weights are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is broken, or the graph computes something else: the first
            layer that does not fit is named.
    """
    with reading(path, "ONNX file", *PARSE_ERRORS):
        check_file(path)
        if sha256(path) == CHECKSUMS["onnx"]:
            return weights_of(_Graph(_model_in(path)))
        return from_tensors(sandbox.run(proved_weights, path))


def scores(path: Path, batch: np.ndarray) -> np.ndarray:
    """The scores that a graph itself computes, for a file that `read` accepts.

    It runs in a child process, unless it is the published file.

    Args:
        path: of the file.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Returns:
        float32 (N, classes).

    Raises:
        OSError, WeightsError: as `read`.
    """
    with reading(path, "ONNX file", *PARSE_ERRORS), TemporaryDirectory() as folder:
        if sha256(path) == CHECKSUMS["onnx"]:
            return _Run(_model_in(path)).outputs(batch)[0]
        inputs = Path(folder, "batch.npy")
        np.save(inputs, batch)
        return sandbox.run(scores_of_file, path, inputs)["scores"]


def _model_in(path: Path) -> Any:
    import onnx

    return onnx.load_model_from_string(path.read_bytes())


# -- the weights, in the order of the network


def weights_of(graph: "_Graph") -> Weights:
    """The weights of a graph's convolutions and its dense layer, if they fit.

    Raises:
        WeightsError: there are more or fewer, or their shapes are another network's.
    """
    convolutions = [_convolution(graph, node) for node in graph.of_kind("Conv")]
    return weights_in_order(
        [kernel for kernel, _ in convolutions],
        [norm for _, norm in convolutions],
        [_dense(graph, node) for node in graph.of_kind("Gemm", "MatMul")],
    )


class _Graph:
    """The nodes that a model's output depends on, in order, and its constants."""

    def __init__(self, model: Any) -> None:
        _check_plain(model)
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        makers: dict[str, Any] = {}
        for node in model.graph.node:
            if kind(node) == "Constant" and node.attribute[0].name == "value":
                self.constants[node.output[0]] = node.attribute[0].t
            elif kind(node) == "Identity" and node.input[0] in self.constants:
                self.constants[node.output[0]] = self.constants[node.input[0]]
            makers |= dict.fromkeys(node.output, node)
        needed: set[str] = set()
        ahead = [output.name for output in model.graph.output]
        while ahead:
            node = makers.get(ahead.pop())
            if node is not None and node.output[0] not in needed:
                needed.add(node.output[0])
                ahead += node.input
        self.nodes = [n for n in model.graph.node if n.output and n.output[0] in needed]
        self.users: dict[str, list[Any]] = {}
        for node in self.nodes:
            for name in node.input:
                self.users.setdefault(name, []).append(node)

    def of_kind(self, *kinds: str) -> list[Any]:
        """The nodes of some kinds."""
        return [node for node in self.nodes if kind(node) in kinds]

    def after(self, node: Any) -> Iterator[Any]:
        """The chain of nodes after a node whose other inputs are all constants."""
        while len(users := self.users.get(node.output[0], [])) == 1:
            free = [name for name in users[0].input if name not in self.constants]
            if kind(users[0]) not in _PASSED or free != [node.output[0]]:
                return
            node = users[0]
            yield node

    def end_of(self, node: Any) -> str:
        """The output of a convolution and its batch norm."""
        names = [
            one.output[0]
            for one in self.after(node)
            if kind(one) in ("Add", "BatchNormalization", "Mul")
        ]
        return str(names[-1] if names else node.output[0])

    def array(self, name: str, node: Any) -> np.ndarray:
        """A constant input of a node, as float32.

        Raises:
            WeightsError: it is not a constant of floats.
        """
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type not in FLOATS:
            raise WeightsError(
                f"another network: expected constant floats in {name!r:.80}, an input "
                f"of the {kind(node):.40} {node.name!r:.80}"
            )
        return from_file(numpy_helper.to_array(tensor))

    def vector(self, node: Any, size: int) -> np.ndarray:
        """The constant input of a sum or product, one value for each channel."""
        name = next(name for name in node.input if name in self.constants)
        array = self.array(name, node)
        if array.size not in (1, size):
            raise WeightsError(
                f"another network: expected {size} values in {name!r:.80}, got shape "
                f"{array.shape}"
            )
        return np.broadcast_to(array.reshape(-1), (size,))


def kind(node: Any) -> str:
    """A node's operator, with its domain if that is not ONNX's own."""
    standard = node.domain in ("", "ai.onnx")
    return str(node.op_type if standard else f"{node.domain}.{node.op_type}")


def _check_plain(model: Any) -> None:
    """Refuse features that this network does not need, before the graph is run."""
    standard = ("", "ai.onnx")
    opsets = [one.version for one in model.opset_import if one.domain in standard]
    if len(opsets) != 1 or opsets[0] < FIRST_OPSET:
        raise WeightsError(f"expected opset {FIRST_OPSET} or later, got {opsets[:9]}")
    if model.functions:
        raise WeightsError("another network: it defines operators of its own")
    if any(one.type.tensor_type.elem_type == UINT8 for one in model.graph.input):
        raise WeightsError(
            "it takes decoded pictures, as `open-nsfw export onnx --input picture` "
            "writes it for other programs: name the weights that it was made from"
        )
    attributes = [a for node in model.graph.node for a in node.attribute]
    if any(a.HasField("g") or a.graphs for a in attributes):
        raise WeightsError("another network: it has graphs inside its graph")
    tensors = [*model.graph.initializer, *(a.t for a in attributes if a.HasField("t"))]
    for tensor in tensors:
        if tensor.data_location == tensor.EXTERNAL or tensor.external_data:
            raise WeightsError("its weights are in another file: save it as one file")
    if model.graph.sparse_initializer:
        raise WeightsError("another network: it has sparse weights")


def _convolution(graph: _Graph, node: Any) -> tuple[Layer, Layer]:
    """A convolution, and the batch norm that follows it: the identity if there is none.

    A batch norm may be written as sums and products with constants, as by Keras 3.
    """
    kernel = graph.array(node.input[1], node)
    if kernel.ndim != 4:
        raise WeightsError(f"another network: a kernel of shape {kernel.shape}")
    outputs = kernel.shape[0]
    biases = np.zeros(outputs, np.float32)
    if len(node.input) > 2 and node.input[2]:
        biases = graph.array(node.input[2], node)
    norm: Layer = {}
    for after in graph.after(node):
        if kind(after) == "BatchNormalization":
            if norm:
                raise WeightsError(
                    f"another network: two batch norms after {node.name!r:.80}"
                )
            norm = _batch_norm(graph, after)
        elif kind(after) == "Mul":
            norm = norm or identity_batch_norm(outputs)
            for field in ("scale", "offset"):
                norm[field] = norm[field] * graph.vector(after, outputs)
        elif kind(after) == "Add" and norm:
            norm["offset"] = norm["offset"] + graph.vector(after, outputs)
        elif kind(after) == "Add":
            biases = biases + graph.vector(after, outputs)
    layer = {"weights": kernel.transpose(2, 3, 1, 0), "biases": biases}  # OIHW to HWIO
    return _as_float32(layer), _as_float32(norm or identity_batch_norm(outputs))


def _batch_norm(graph: _Graph, node: Any) -> Layer:
    """A BatchNormalization's arrays, converted to this network's epsilon."""
    names = ("scale", "offset", "mean", "variance")
    arrays = [graph.array(name, node) for name in node.input[1:5]]
    norm = dict(zip(names, arrays, strict=True))
    given = [a.f for a in node.attribute if a.name == "epsilon"]
    # The attribute is a float32: with this network's epsilon no bit should change.
    usual = float(np.float32(BATCH_NORM_EPSILON))
    difference = float(np.float32(given[0])) - usual if given else 0.0
    return {**norm, "variance": norm["variance"].astype(np.float64) + difference}


def _dense(graph: _Graph, node: Any) -> Layer:
    kernel = graph.array(node.input[1], node)
    if any(a.name == "transB" and a.i for a in node.attribute):
        kernel = kernel.T
    if kernel.ndim != 2 or kernel.shape[0] != FEATURES:
        raise WeightsError(
            f"another network: {DENSE} should take {FEATURES} features, its kernel has "
            f"shape {kernel.shape}"
        )
    classes = kernel.shape[1]
    biases = np.zeros(classes, np.float32)
    if len(node.input) > 2 and node.input[2]:
        biases = graph.array(node.input[2], node).reshape(-1)
    for after in graph.after(node):
        if kind(after) == "Add":
            biases = biases + graph.vector(after, classes)
    return _as_float32({"weights": kernel, "biases": biases})


def _as_float32(layer: Layer) -> Layer:
    return {field: float32(array) for field, array in layer.items()}


# -- the proof, in a child process


def proved_weights(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file, after the proof that its graph computes this network."""
    graph = _Graph(_model_in(path))
    weights = weights_of(graph)
    check_weights(weights)
    prove(graph, weights)
    return to_tensors(weights)


def scores_of_file(path: Path, batch: Path) -> dict[str, np.ndarray]:
    """The scores of a file's graph for the batch in an `.npy` file."""
    # ONNX Runtime has no convolutions for float64.
    run = _Run(in_float32(_model_in(path), (FLOAT64,)))
    return {"scores": run.outputs(np.load(batch))[0].astype(np.float32)}


def prove(theirs: _Graph, weights: Weights) -> None:
    """Compare a graph's scores with those of this network with the same weights.

    Raises:
        WeightsError: they differ; the first layer with other outputs is named.
    """
    batch = sample_batch()
    model = in_float32(theirs.model)
    dense = theirs.end_of(theirs.of_kind("Gemm", "MatMul")[0])
    actual = _Run(model, [dense]).outputs(batch)
    expected = _Run(graph(weights), [DENSE]).outputs(batch)
    if _alike(actual[:1], expected[:1], SCORES) and _alike(actual[1:], expected[1:]):
        return
    nodes = theirs.of_kind("Conv")
    kernels = [theirs.array(node.input[1], node).shape for node in nodes]
    names = names_in_order([(h, w, i, o) for o, i, h, w in kernels])
    layers = {f"conv_{name}": theirs.end_of(node) for name, node in zip(names, nodes)}
    layers[DENSE] = dense
    picture = batch[:1]
    actual = _Run(model, list(layers.values())).outputs(picture)[1:]
    expected = _Run(graph(weights), list(layers)).outputs(picture)[1:]
    for name, array, wanted in zip(layers, actual, expected, strict=True):
        if not _alike([array], [wanted]):
            raise WeightsError(
                f"another network: {name} gives other values than here with the same "
                "weights: its padding, stride, options or inputs differ"
            )
    raise WeightsError(
        f"another network: expected a softmax of the values of {DENSE} as the output"
    )


def _alike(
    actual: Iterable[np.ndarray], expected: Iterable[np.ndarray], bound: float = 0.0
) -> bool:
    """Whether arrays agree within a bound; 0: `LAYER_OUTPUTS` of the largest value."""
    return all(
        one.shape == other.shape
        and float(np.abs(one - other).max())
        <= (bound or LAYER_OUTPUTS * float(np.abs(other).max()))
        for one, other in zip(actual, expected, strict=True)
    )


def sample_batch() -> np.ndarray:
    """Inputs on which small differences show: two smooth colour fields, and noise.

    Returns:
        float32 (3, 224, 224, 3), in the range of preprocessed pictures.
    """
    random = np.random.default_rng(0)
    side = np.linspace(0, np.pi, INPUT_SIZE)
    waves = np.stack([np.cos(count * side) for count in range(3)])
    fields = np.einsum(
        "ih,jw,nijc->nhwc", waves, waves, random.normal(size=(2, 3, 3, 3))
    )
    fields *= 100 / np.abs(fields).max()
    noise = random.uniform(-120, 150, size=(1, *LAYOUTS["nhwc"]))
    return np.concatenate([fields, noise]).astype(np.float32)


class _Run:
    """A model in ONNX Runtime.

    Args:
        model: with one input and one output.
        more: tensors that become outputs too.
    """

    def __init__(self, model: Any, more: Iterable[str] = ()) -> None:
        import onnx

        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        outputs = {output.name for output in model.graph.output}
        for name in more:
            if name not in outputs:
                changed.graph.output.append(onnx.ValueInfoProto(name=name))
        self.names = [model.graph.output[0].name, *more]
        try:
            self.session = open_session(changed.SerializeToString(), threads=1)
        except Exception as error:
            raise _refused(error) from error

    def outputs(self, batch: np.ndarray) -> list[np.ndarray]:
        """The outputs for a batch, which is run in the batch size of the graph.

        Args:
            batch: float32 (N, 224, 224, 3).

        Raises:
            WeightsError: the graph has another input, or cannot be run.
        """
        inputs = self.session.get_inputs()
        if len(inputs) != 1:
            raise WeightsError(f"expected a graph with one input, got {len(inputs)}")
        sides = inputs[0].shape
        size = sides[0] if sides and isinstance(sides[0], int) else 1
        if not 1 <= size <= MAX_BATCH or inputs[0].type not in _DTYPES:
            raise _input_mismatch(f"{inputs[0].type} {sides}")
        count = len(batch)
        batch = np.resize(batch, (-(-count // size) * size, *batch.shape[1:]))
        refused = _input_mismatch(f"{inputs[0].type} {sides}")
        for layout in _layouts(sides):
            images = batch if layout == "nhwc" else batch.transpose(0, 3, 1, 2)
            typed = np.ascontiguousarray(images, _DTYPES[inputs[0].type])
            parts = typed.reshape(-1, size, *typed.shape[1:])
            try:
                rows = [
                    self.session.run(self.names, {inputs[0].name: p}) for p in parts
                ]
            except Exception as error:  # noqa: BLE001 - ONNX Runtime's have no base
                refused = _refused(error)
            else:
                return [
                    np.concatenate(column)[:count] for column in zip(*rows, strict=True)
                ]
        raise refused


_DTYPES = {"tensor(float)": np.float32, "tensor(float16)": np.float16}


def _layouts(sides: list[Any]) -> list[str]:
    """The layouts that fit an input's shape, in which sides may be unknown."""
    return [
        layout
        for layout, known in LAYOUTS.items()
        if not sides
        or all(
            not isinstance(side, int) or side == expected
            for side, expected in zip_longest(sides[1:], known)
        )
    ]


def _refused(error: Exception) -> WeightsError:
    return WeightsError(f"another network, or broken: {one_line(error)}")


def _input_mismatch(actual: object) -> WeightsError:
    expected = f"floats (n, {', '.join(map(str, LAYOUTS['nhwc']))}), or channels first"
    return WeightsError(
        f"another network: the input should be {expected}; got {actual}"
    )


def in_float32(model: Any, types: tuple[int, ...] = FLOATS) -> Any:
    """A copy of a model that computes in float32 instead of other floats.

    Args:
        model: with plain nodes only, see `_check_plain`.
        types: the types that become float32, values of onnx.TensorProto.DataType.
    """
    import onnx
    from onnx import numpy_helper

    converted = onnx.ModelProto()
    converted.CopyFrom(model)
    attributes = [(node, a) for node in converted.graph.node for a in node.attribute]
    of_nodes = [a.t for _, a in attributes if a.HasField("t")]
    for tensor in (*converted.graph.initializer, *of_nodes):
        if tensor.data_type in types and tensor.data_type != tensor.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node, attribute in attributes:
        if kind(node) == "Cast" and attribute.name == "to" and attribute.i in types:
            attribute.i = onnx.TensorProto.FLOAT
    for value in (
        *converted.graph.input,
        *converted.graph.output,
        *converted.graph.value_info,
    ):
        if value.type.tensor_type.elem_type in types:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return converted
