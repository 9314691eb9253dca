"""How fast this machine multiplies matrices, by each library and in each precision.

A convolution is a multiplication of matrices with some overhead, so this rate is the
roof over the network's.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.bench import Bench
from benchmarks.contenders import ContenderSpec

SIDE = 2048  # of the square matrices: 16 MB each in float32, far beyond the caches
OPERATIONS = 2 * SIDE**3
PREFIX = "matmul "
MEASURE = "multiply"

Multiply = Callable[[], object]


def _operands() -> tuple[np.ndarray, np.ndarray]:
    random = np.random.default_rng(0)
    left, right = random.standard_normal((2, SIDE, SIDE), np.float32)
    return left, right


def _numpy() -> Multiply:
    left, right = _operands()
    return lambda: left @ right


def _onnx(operation: str, left: np.ndarray, right: np.ndarray, answer: type) -> bytes:
    """A graph of one multiplication by a constant, as weights are."""
    onnx: Any = import_module("onnx")
    helper, numpy_helper = onnx.helper, onnx.numpy_helper

    def value(name: str, dtype: Any) -> Any:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
        return helper.make_tensor_value_info(name, kind, [SIDE, SIDE])

    graph = helper.make_graph(
        [helper.make_node(operation, ["left", "right"], ["product"])],
        "matmul",
        [value("left", left.dtype)],
        [value("product", answer)],
        [numpy_helper.from_array(right, "right")],
    )
    opset = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, opset_imports=opset, ir_version=8)
    serialized: bytes = model.SerializeToString()
    return serialized


def _onnxruntime(model: bytes, left: np.ndarray) -> Multiply:
    onnxruntime: Any = import_module("onnxruntime")
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"left": left})


def _onnxruntime_float(dtype: type) -> Multiply:
    left, right = _operands()
    left, right = left.astype(dtype), right.astype(dtype)
    return _onnxruntime(_onnx("MatMul", left, right, dtype), left)


def _onnxruntime_int8() -> Multiply:
    """Unsigned activations and signed weights, as in the quantized network."""
    random = np.random.default_rng(0)
    left = random.integers(0, 256, (SIDE, SIDE), np.uint8)
    right = random.integers(-127, 128, (SIDE, SIDE), np.int8)
    return _onnxruntime(_onnx("MatMulInteger", left, right, np.int32), left)


def _openvino(hint: str) -> Multiply:
    from open_nsfw_tf.libraries import import_openvino

    left, right = _operands()
    core = import_openvino().Core()
    network = core.read_model(_onnx("MatMul", left, right, np.float32))
    compiled = core.compile_model(network, "CPU", {"INFERENCE_PRECISION_HINT": hint})
    request = compiled.create_infer_request()
    return lambda: request.infer({0: left}, share_inputs=True)


# {name: (precision, package, how to make it)}
_LIBRARIES: dict[str, tuple[str, str, Callable[[], Multiply]]] = {
    "numpy float32": ("float32", "numpy", _numpy),
    "onnxruntime float32": (
        "float32",
        "onnxruntime",
        lambda: _onnxruntime_float(np.float32),
    ),
    "onnxruntime float16": (
        "float16",
        "onnxruntime",
        lambda: _onnxruntime_float(np.float16),
    ),
    "onnxruntime int8": ("int8", "onnxruntime", _onnxruntime_int8),
    "openvino float32": ("float32", "openvino", lambda: _openvino("f32")),
    "openvino bfloat16": ("bfloat16", "openvino", lambda: _openvino("bf16")),
}


class Multiplier:
    """One library's multiplication, in one precision.

    Args:
        bench: not needed.
        name: a key of `_LIBRARIES` after `PREFIX`.
    """

    def __init__(self, bench: Bench, name: str) -> None:
        self.multiply = _LIBRARIES[name.removeprefix(PREFIX)][2]()


def multipliers(precisions: set[str]) -> dict[str, ContenderSpec]:
    """The multiplications that can run here, by name.

    Args:
        precisions: that are wanted.
    """
    return {
        PREFIX + name: ContenderSpec(
            Multiplier, (MEASURE,), package, precision, compared=False
        )
        for name, (precision, package, _) in _LIBRARIES.items()
        if precision in precisions and find_spec(package)
    }
