"""Any network that can be trained in Core ML's language, written step by step."""

from collections.abc import Callable
from typing import Any

import numpy as np

from open_nsfw_tf.export.steps import INPUT, NEIGHBOURS, Step


def network(mb: Any, image: Any, found: list[Step], output: str) -> Any:
    """Write steps with coremltools' MIL builder.

    Args:
        mb: `coremltools.converters.mil.Builder`.
        image: the preprocessed picture, (1, 3, height, width).
        found: the steps, see `open_nsfw_tf.export.steps`.
        output: what the scores are called.

    Returns:
        The scores, (1, classes).
    """
    values = {INPUT: image}
    for step in found:
        inputs = [values[name] for name in step.inputs]
        name = output if step is found[-1] else step.name
        values[step.name] = _STEPS[step.kind](mb, step, inputs, name)
    return values[found[-1].name]


def _conv(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    kernel = step.arrays["kernel"].transpose(3, 2, 0, 1)  # HWIO to OIHW
    return mb.conv(
        x=inputs[0],
        weight=np.ascontiguousarray(kernel),
        bias=step.arrays["biases"],
        strides=list(step.options["strides"]),
        pad_type="custom",
        pad=list(step.options["pads"]),
        groups=step.options["groups"],
        name=name,
    )


def _dense(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    kernel = np.ascontiguousarray(step.arrays["kernel"].T)  # (in, out) to (out, in)
    return mb.linear(x=inputs[0], weight=kernel, bias=step.arrays["biases"], name=name)


def _affine(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    shape = (1, -1) if step.options["flat"] else (1, -1, 1, 1)
    factor, offset = (
        step.arrays[n].reshape(shape).astype(np.float32) for n in ("factor", "offset")
    )
    scaled = mb.mul(x=inputs[0], y=factor, name=f"{name}_scaled")
    return mb.add(x=scaled, y=offset, name=name)


def _relu(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    most = step.options.get("most")
    if most is None:
        return mb.relu(x=inputs[0], name=name)
    return mb.clip(x=inputs[0], alpha=0.0, beta=most, name=name)


def _window(step: Step) -> dict[str, Any]:
    return {
        "kernel_sizes": list(step.options["window"]),
        "strides": list(step.options["strides"]),
        "pad_type": "custom",
        "pad": list(step.options["pads"]),
    }


def _max_pool(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    return mb.max_pool(x=inputs[0], **_window(step), name=name)


def _average_pool(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    return mb.avg_pool(
        x=inputs[0], **_window(step), exclude_padding_from_average=True, name=name
    )


def _pad(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    pads = [0, 0, 0, 0, *step.options["pads"]]
    return mb.pad(x=inputs[0], pad=pads, mode="constant", constant_val=0.0, name=name)


def _flatten(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    at = inputs[0]
    if len(step.options["shape"]) == 3:
        at = mb.transpose(x=at, perm=[0, 2, 3, 1], name=f"{name}_nhwc")
    count = int(np.prod(step.options["shape"]))
    return mb.reshape(x=at, shape=[1, count], name=name)


def _normalize(mb: Any, step: Step, inputs: list[Any], name: str) -> Any:
    options = {"size": NEIGHBOURS, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    return mb.local_response_norm(x=inputs[0], **options, name=name)


_STEPS: dict[str, Callable[[Any, Step, list[Any], str], Any]] = {
    "add": lambda mb, step, inputs, name: mb.add(x=inputs[0], y=inputs[1], name=name),
    "affine": _affine,
    "average_pool": _average_pool,
    "concat": lambda mb, step, inputs, name: mb.concat(
        values=inputs, axis=1, name=name
    ),
    "conv": _conv,
    "dense": _dense,
    "flatten": _flatten,
    "max_pool": _max_pool,
    "mean": lambda mb, step, inputs, name: mb.reduce_mean(
        x=inputs[0], axes=[2, 3], keep_dims=False, name=name
    ),
    "normalize": _normalize,
    "pad": _pad,
    "relu": _relu,
    "softmax": lambda mb, step, inputs, name: mb.softmax(
        x=inputs[0], axis=1, name=name
    ),
}
