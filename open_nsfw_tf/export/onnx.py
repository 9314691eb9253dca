"""ONNX: float32, float16 or int8; NHWC or NCHW; any number of pictures at once.

int8 is approximate: weights in signed 8 bits with a scale a channel, activations in
unsigned 8 bits with a scale a tensor, found on the job's calibration pictures; the first
and the last layer and the softmax stay in float. Measured drift: see README.
"""

import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from open_nsfw_tf.architecture import DENSE
from open_nsfw_tf.backend import import_onnxruntime
from open_nsfw_tf.export import Job
from open_nsfw_tf.formats.onnx_graph import INPUT, METADATA, OUTPUT, graph

# What int8 leaves in float: the last layer, which decides, and the first, whose few
# weights cost little and whose rounding every later layer sees.
KEPT_FLOAT = ["conv_1", DENSE, OUTPUT]
DTYPES = {"float32": np.float32, "float16": np.float16, "int8": np.float32}


def write(path: Path, job: Job) -> None:
    """Write one file that carries labels, mean and channel order as metadata."""
    model = graph(job.weights, job.layout, DTYPES[job.precision])
    if job.precision == "int8":
        model = _quantized(model, _inputs(job, job.calibration))
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _inputs(job: Job, batch: np.ndarray) -> np.ndarray:
    nchw = job.layout == "nchw"
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if nchw else batch


def _quantized(model: Any, inputs: np.ndarray) -> Any:
    with warnings.catch_warnings(), tempfile.TemporaryDirectory() as folder:
        warnings.simplefilter("ignore")
        import_onnxruntime()
        from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

        source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
        source.write_bytes(model.SerializeToString())
        root, level = logging.getLogger(), logging.getLogger().level
        root.setLevel(logging.ERROR)  # it advises on pre-processing that is done here
        try:
            quantize_static(
                source,
                target,
                _Reader(inputs),
                quant_format=QuantFormat.QDQ,
                # Signed activations would leave twenty convolutions in float.
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
                per_channel=True,
                nodes_to_exclude=KEPT_FLOAT,
            )
        finally:
            root.setLevel(level)
        made = onnx.load(target)
    onnx.helper.set_model_props(made, {**METADATA, "quantization": "int8, QDQ"})
    return made


class _Reader:
    """Feeds the calibration, a picture at a time, as its library wants it."""

    def __init__(self, inputs: np.ndarray) -> None:
        self.rest: Iterator[np.ndarray] = iter(inputs)

    def get_next(self) -> dict[str, np.ndarray] | None:
        """The next input by name; None at the end."""
        picture = next(self.rest, None)
        return None if picture is None else {INPUT: picture[np.newaxis]}

    def __iter__(self) -> Iterator[dict[str, np.ndarray]]:
        while (inputs := self.get_next()) is not None:
            yield inputs


def scores(path: Path, job: Job) -> np.ndarray:
    """What ONNX Runtime answers: for all pictures at once, and for each alone."""
    onnxruntime = import_onnxruntime()
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(
        path.read_bytes(), options, providers=["CPUExecutionProvider"]
    )
    inputs = _inputs(job, job.batch)
    together = session.run([OUTPUT], {INPUT: inputs})[0]
    alone = [
        session.run([OUTPUT], {INPUT: inputs[i : i + 1]})[0] for i in range(len(inputs))
    ]
    return np.concatenate([together, *alone])
