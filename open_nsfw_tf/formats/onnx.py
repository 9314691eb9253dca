"""ONNX: read the weights out of somebody's graph, or write a graph of our own.

`read` takes the convolutions and the dense layer in the order in which data flow through
them, so that it reads what tf2onnx, Keras or we ourselves write, with batch norm folded
or not. That the graph does with these weights what this network does is then proved:
ONNX Runtime runs both on the same inputs, and the scores must agree.
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
    BROKEN,
    PUBLISHED,
    check_file,
    float32,
    from_file,
    reading,
    sandbox,
    sha256,
)
from open_nsfw_tf.formats.onnx_graph import graph
from open_nsfw_tf.formats.safetensors import from_tensors, to_tensors
from open_nsfw_tf.libraries import import_onnxruntime

# Of onnx.TensorProto.DataType: float32, float16, float64.
FLOATS = FLOAT32, FLOAT16, FLOAT64 = (1, 10, 11)
FIRST_OPSET = 7  # before it, broadcasting and batch norms were other things
MAX_BATCH = 64  # of a graph that takes batches of one size only
LAYOUTS = {
    "nhwc": (INPUT_SIZE, INPUT_SIZE, CHANNELS),
    "nchw": (CHANNELS, INPUT_SIZE, INPUT_SIZE),
}
SCORES = 1e-5  # the largest difference of a score in the proof
LAYER_OUTPUTS = (
    1e-4  # of the logits or a convolution's output, over their largest value
)
# What a convolution or dense layer goes through before anything else happens.
_PASSED = ("Add", "BatchNormalization", "Cast", "Identity", "Mul", "Transpose")


def write(path: Path, weights: Weights) -> None:
    """Write the network with these weights, batch norm folded, as an ONNX graph."""
    with replacing(path) as temporary:
        temporary.write_bytes(graph(weights).SerializeToString(deterministic=True))


def read(path: Path) -> Weights:
    """Read the weights out of an ONNX graph of this network.

    Batch norms may be folded (they come back as the identity) or not; the input may be
    NHWC or NCHW. The graph runs in a child process only; no other file is opened.

    Returns:
        The canonical dict; float16 and float64 weights are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is broken, or the graph computes something else: the first
            layer that does not fit is named.
    """
    with reading(path, "ONNX file", *BROKEN):
        check_file(path)
        if sha256(path) == PUBLISHED["onnx"]:
            return weights_of(_Graph(_model_in(path)))
        return from_tensors(sandbox.run(proved_weights, path))


def scores(path: Path, batch: np.ndarray) -> np.ndarray:
    """What a graph itself answers, in a child process unless it is the published one.

    Args:
        path: of a file that `read` reads.
        batch: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Returns:
        float32 (N, classes).

    Raises:
        OSError, WeightsError: as `read`.
    """
    with reading(path, "ONNX file", *BROKEN), TemporaryDirectory() as folder:
        if sha256(path) == PUBLISHED["onnx"]:
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
    """The nodes that a model's output needs, in their order, and its constants."""

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
        """The nodes that a node's output goes through, alone with constants."""
        while len(users := self.users.get(node.output[0], [])) == 1:
            free = [name for name in users[0].input if name not in self.constants]
            if kind(users[0]) not in _PASSED or free != [node.output[0]]:
                return
            node = users[0]
            yield node

    def end_of(self, node: Any) -> str:
        """The tensor with what a convolution and its batch norm make."""
        names = [
            one.output[0]
            for one in self.after(node)
            if kind(one) in ("Add", "BatchNormalization", "Mul")
        ]
        return str(names[-1] if names else node.output[0])

    def array(self, name: str, node: Any) -> np.ndarray:
        """A constant that a node takes, as float32.

        Raises:
            WeightsError: there is none of floats.
        """
        from onnx import numpy_helper

        tensor = self.constants.get(name)
        if tensor is None or tensor.data_type not in FLOATS:
            raise WeightsError(
                f"another network: expected constant floats in {name!r:.80}, which the "
                f"{kind(node):.40} {node.name!r:.80} takes"
            )
        return from_file(numpy_helper.to_array(tensor))

    def vector(self, node: Any, size: int) -> np.ndarray:
        """The constant of a sum or product, one value for each channel."""
        name = next(name for name in node.input if name in self.constants)
        array = self.array(name, node)
        if array.size not in (1, size):
            raise WeightsError(
                f"another network: expected {size} values in {name!r:.80}, got shape "
                f"{array.shape}"
            )
        return np.broadcast_to(array.reshape(-1), (size,))


def kind(node: Any) -> str:
    """A node's operator; one of another domain is never ONNX's own."""
    standard = node.domain in ("", "ai.onnx")
    return str(node.op_type if standard else f"{node.domain}.{node.op_type}")


def _check_plain(model: Any) -> None:
    """Refuse what this network does not need, before anything is run."""
    standard = ("", "ai.onnx")
    opsets = [one.version for one in model.opset_import if one.domain in standard]
    if len(opsets) != 1 or opsets[0] < FIRST_OPSET:
        raise WeightsError(f"expected opset {FIRST_OPSET} or later, got {opsets[:9]}")
    if model.functions:
        raise WeightsError("another network: it defines operators of its own")
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

    A batch norm may be in parts, sums and products with constants: Keras 3 has no such
    layer of one piece.
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
    """A BatchNormalization's arrays, its epsilon moved to the network's."""
    names = ("scale", "offset", "mean", "variance")
    arrays = [graph.array(name, node) for name in node.input[1:5]]
    norm = dict(zip(names, arrays, strict=True))
    given = [a.f for a in node.attribute if a.name == "epsilon"]
    # The attribute is a float32, and the usual one should change no bit.
    usual = float(np.float32(BATCH_NORM_EPSILON))
    spare = float(np.float32(given[0])) - usual if given else 0.0
    return {**norm, "variance": norm["variance"].astype(np.float64) + spare}


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
    """The weights in a file, once its graph has given the scores that they give here."""
    graph = _Graph(_model_in(path))
    weights = weights_of(graph)
    check_weights(weights)
    prove(graph, weights)
    return to_tensors(weights)


def scores_of_file(path: Path, batch: Path) -> dict[str, np.ndarray]:
    """What a file's graph answers for the batch in an `.npy` file."""
    # ONNX Runtime has no convolutions of float64.
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
    came = _Run(model, [dense]).outputs(batch)
    expected = _Run(graph(weights), [DENSE]).outputs(batch)
    if _alike(came[:1], expected[:1], SCORES) and _alike(came[1:], expected[1:]):
        return
    nodes = theirs.of_kind("Conv")
    kernels = [theirs.array(node.input[1], node).shape for node in nodes]
    names = names_in_order([(h, w, i, o) for o, i, h, w in kernels])
    layers = {f"conv_{name}": theirs.end_of(node) for name, node in zip(names, nodes)}
    layers[DENSE] = dense
    one = batch[:1]
    came = _Run(model, list(layers.values())).outputs(one)[1:]
    expected = _Run(graph(weights), list(layers)).outputs(one)[1:]
    for name, array, should in zip(layers, came, expected, strict=True):
        if not _alike([array], [should]):
            raise WeightsError(
                f"another network: {name} gives other values than here with the same "
                "weights: its padding, stride or options differ, or what goes into it"
            )
    raise WeightsError(
        f"another network: what it makes of the values of {DENSE} is not a softmax"
    )


def _alike(
    came: Iterable[np.ndarray], expected: Iterable[np.ndarray], bound: float = 0.0
) -> bool:
    """Whether arrays agree within a bound; 0: `LAYER_OUTPUTS` of the largest value."""
    return all(
        one.shape == other.shape
        and float(np.abs(one - other).max())
        <= (bound or LAYER_OUTPUTS * float(np.abs(other).max()))
        for one, other in zip(came, expected, strict=True)
    )


def sample_batch() -> np.ndarray:
    """Inputs on which small faults show: two soft colour fields, and noise.

    Returns:
        float32 (3, 224, 224, 3), as preprocessed pictures.
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
        model: of one input and one output.
        more: tensors that are given out besides.
    """

    def __init__(self, model: Any, more: Iterable[str] = ()) -> None:
        import onnx

        runtime = import_onnxruntime()
        options = runtime.SessionOptions()
        options.log_severity_level = 4  # fatal: what is refused is reported by us
        options.intra_op_num_threads = 1
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        there = {output.name for output in model.graph.output}
        for name in more:
            if name not in there:
                changed.graph.output.append(onnx.ValueInfoProto(name=name))
        self.names = [model.graph.output[0].name, *more]
        try:
            self.session = runtime.InferenceSession(
                changed.SerializeToString(), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise _refused(error) from error

    def outputs(self, batch: np.ndarray) -> list[np.ndarray]:
        """The outputs for a batch, which is run in the size that the graph takes.

        Args:
            batch: float32 (N, 224, 224, 3).

        Raises:
            WeightsError: it takes no such batch, or cannot be run.
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
            turned = batch if layout == "nhwc" else batch.transpose(0, 3, 1, 2)
            typed = np.ascontiguousarray(turned, _DTYPES[inputs[0].type])
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
    """The layouts that an input may have, where a side may be open."""
    return [
        layout
        for layout, known in LAYOUTS.items()
        if not sides
        or all(
            not isinstance(side, int) or side == should
            for side, should in zip_longest(sides[1:], known)
        )
    ]


def _refused(error: Exception) -> WeightsError:
    return WeightsError(f"another network, or broken: {one_line(error)}")


def _input_mismatch(came: object) -> WeightsError:
    should = f"floats (n, {', '.join(map(str, LAYOUTS['nhwc']))}), or channels first"
    return WeightsError(f"another network: the input should be {should}; got {came}")


def in_float32(model: Any, types: tuple[int, ...] = FLOATS) -> Any:
    """A copy of a model that computes in float32 what it does in other floats.

    Args:
        model: with plain nodes only, see `_check_plain`.
        types: the types that become float32, values of onnx.TensorProto.DataType.
    """
    import onnx
    from onnx import numpy_helper

    made = onnx.ModelProto()
    made.CopyFrom(model)
    attributes = [(node, a) for node in made.graph.node for a in node.attribute]
    of_nodes = [a.t for _, a in attributes if a.HasField("t")]
    for tensor in (*made.graph.initializer, *of_nodes):
        if tensor.data_type in types and tensor.data_type != tensor.FLOAT:
            array = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    for node, attribute in attributes:
        if kind(node) == "Cast" and attribute.name == "to" and attribute.i in types:
            attribute.i = onnx.TensorProto.FLOAT
    for value in (*made.graph.input, *made.graph.output, *made.graph.value_info):
        if value.type.tensor_type.elem_type in types:
            value.type.tensor_type.elem_type = onnx.TensorProto.FLOAT
    return made
