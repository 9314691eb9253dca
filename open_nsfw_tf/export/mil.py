"""Evaluating MIL, the language of Core ML's programs, with numpy.

The operations of the exported networks are supported, and all others refused. float16
values are computed as float32 and rounded to float16 after every operation.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from open_nsfw_tf.errors import ExportError


def evaluate(block: Any, values: dict[str, Any]) -> dict[str, Any]:
    """Run a block of a program that coremltools has read.

    Args:
        block: a function of a `coremltools.converters.mil.Program`.
        values: the inputs by name.

    Returns:
        Every value by its name; that of ``classify`` is a dict of label to probability.

    Raises:
        ExportError: an operation, or a variant of one, is not supported; it is named.
    """
    from coremltools.converters.mil.mil import types

    for op in block.operations:
        if op.op_type == "const":
            values[op.outputs[0].name] = op.outputs[0].val
            continue
        if op.op_type not in _OPERATIONS:
            raise ExportError(f"cannot evaluate the MIL operation {op.op_type!r}")
        given = {n: _given(v, values) for n, v in op.inputs.items() if v is not None}
        result = _OPERATIONS[op.op_type](**given)
        if op.op_type != "classify":
            result = result.astype(types.nptype_from_builtin(op.outputs[0].dtype))
        values[op.outputs[-1].name] = (
            result  # of classify's label and scores, the scores
        )
    return values


def _given(value: Any, values: dict[str, Any]) -> Any:
    if isinstance(value, list | tuple):
        return [_wide(values[one.name]) for one in value]
    return _wide(values[value.name])


def _wide(value: Any) -> Any:
    half = getattr(value, "dtype", None) == np.float16
    return value.astype(np.float32) if half else value


def _windows(x: np.ndarray, size: Any, strides: Any) -> np.ndarray:
    """The values under a kernel at each position: (N, C, height, width, *size)."""
    windows = sliding_window_view(x, tuple(size), axis=(2, 3))
    return windows[:, :, :: strides[0], :: strides[1]]


def _padded(x: np.ndarray, pad_type: str, pad: Any, value: float) -> np.ndarray:
    if pad_type not in ("custom", "valid"):
        raise ExportError(f"cannot evaluate the MIL padding {pad_type!r}")
    if pad_type == "valid" or pad is None:
        return x
    sides = ((0, 0), (0, 0), (pad[0], pad[1]), (pad[2], pad[3]))
    return np.pad(x, sides, constant_values=value)


def _eval_conv(
    x: Any,
    weight: Any,
    strides: Any,
    pad_type: Any,
    dilations: Any,
    groups: Any,
    pad: Any = None,
    bias: Any = 0.0,
) -> np.ndarray:
    if list(dilations) != [1, 1]:
        raise ExportError("cannot evaluate a MIL conv with dilations")
    windows = _windows(_padded(x, pad_type, pad, 0), weight.shape[2:], strides)
    if groups == 1:
        product = np.tensordot(windows, weight, axes=((1, 4, 5), (1, 2, 3)))
        return np.asarray((product + bias).transpose(0, 3, 1, 2))
    outputs, inputs = len(weight) // groups, weight.shape[1]
    parts = [
        np.tensordot(
            windows[:, group * inputs : (group + 1) * inputs],
            weight[group * outputs : (group + 1) * outputs],
            axes=((1, 4, 5), (1, 2, 3)),
        )
        for group in range(groups)
    ]
    return np.asarray((np.concatenate(parts, 3) + bias).transpose(0, 3, 1, 2))


def _eval_max_pool(
    x: Any,
    kernel_sizes: Any,
    strides: Any,
    pad_type: Any,
    ceil_mode: Any,
    pad: Any = None,
) -> np.ndarray:
    if ceil_mode:
        raise ExportError("cannot evaluate a MIL max_pool with ceil_mode")
    padded = _padded(x, pad_type, pad, -np.inf)
    return np.asarray(_windows(padded, kernel_sizes, strides).max((-2, -1)))


def _eval_avg_pool(
    x: Any,
    kernel_sizes: Any,
    strides: Any,
    pad_type: Any,
    exclude_padding_from_average: Any,
    ceil_mode: Any,
    pad: Any = None,
) -> np.ndarray:
    if ceil_mode or not exclude_padding_from_average:
        raise ExportError("cannot evaluate a MIL avg_pool that counts its padding")
    sums, counts = (
        _windows(_padded(v, pad_type, pad, 0), kernel_sizes, strides).sum((-2, -1))
        for v in (x, np.ones_like(x))
    )
    return np.asarray(sums / counts)


def _eval_pad(x: Any, pad: Any, mode: str, constant_val: Any = 0.0) -> np.ndarray:
    if mode != "constant":
        raise ExportError(f"cannot evaluate the MIL pad {mode!r}")
    sides = np.asarray(pad).reshape(-1, 2)
    sides = np.concatenate([np.zeros((x.ndim - len(sides), 2), sides.dtype), sides])
    return np.pad(x, sides, constant_values=constant_val)


def _eval_concat(values: Any, axis: Any, interleave: Any = False) -> np.ndarray:
    if interleave:
        raise ExportError("cannot evaluate a MIL concat that interleaves")
    return np.concatenate(values, int(axis))


def _eval_local_response_norm(
    x: Any, size: Any, alpha: Any, beta: Any, k: Any
) -> np.ndarray:
    reach = int(size) // 2
    squares = np.pad(x * x, ((0, 0), (reach, reach), (0, 0), (0, 0)))
    energy = sliding_window_view(squares, int(size), axis=1).sum(-1)
    return np.asarray(x / (k + alpha / size * energy) ** beta)


def _eval_reduce_mean(x: Any, axes: Any, keep_dims: Any) -> np.ndarray:
    return np.asarray(x.mean(tuple(axes), keepdims=bool(keep_dims)))


def _eval_softmax(x: Any, axis: Any) -> np.ndarray:
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


def _eval_classify(probabilities: Any, classes: Any) -> dict[str, float]:
    names = [str(getattr(name, "val", name)) for name in classes]
    return dict(zip(names, map(float, probabilities.reshape(-1)), strict=True))


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda x, y: x + y,
    "avg_pool": _eval_avg_pool,
    "cast": lambda x, dtype: x,  # every result gets the dtype that is declared for it
    "classify": _eval_classify,
    "clip": lambda x, alpha, beta: np.clip(x, alpha, beta),
    "concat": _eval_concat,
    "conv": _eval_conv,
    "linear": lambda x, weight, bias=0.0: x @ weight.T + bias,
    "local_response_norm": _eval_local_response_norm,
    "max_pool": _eval_max_pool,
    "mul": lambda x, y: x * y,
    "pad": _eval_pad,
    "reduce_mean": _eval_reduce_mean,
    "relu": lambda x: np.maximum(x, 0),
    "reshape": lambda x, shape: x.reshape(shape),
    "softmax": _eval_softmax,
    "sub": lambda x, y: x - y,
    "transpose": lambda x, perm: x.transpose(tuple(perm)),
}
