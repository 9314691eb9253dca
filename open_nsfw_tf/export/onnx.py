"""ONNX: float32, float16 or int8; NHWC or NCHW; any number of pictures at once.

int8 is approximate: weights in signed 8 bits with one scale a channel, activations in
unsigned 8 bits with one scale a tensor, found on the job's calibration pictures; the
last layer and the softmax stay in float. See `open_nsfw_tf.quantize`.
"""

from pathlib import Path

import numpy as np
import onnx

from open_nsfw_tf.backbones.onnx_ops import trained_graph
from open_nsfw_tf.export import Job
from open_nsfw_tf.formats.onnx_graph import INPUT, OUTPUT, graph
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import qdq, quantize

DTYPES = {"float32": np.float32, "float16": np.float16}


def write(path: Path, job: Job) -> None:
    """Write one file with labels, mean and channel order as metadata."""
    if not job.model.is_open_nsfw:
        dtype = DTYPES[job.precision]
        model = trained_graph(job.model, job.layout, dtype, job.metadata)
    elif job.precision == "int8":
        network = quantize(job.weights, job.calibration)
        model = qdq.graph(network, job.layout, job.labels)
    else:
        dtype = DTYPES[job.precision]
        model = graph(job.weights, job.layout, dtype, job.labels)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _inputs(job: Job, batch: np.ndarray) -> np.ndarray:
    nchw = job.layout == "nchw"
    return np.ascontiguousarray(batch.transpose(0, 3, 1, 2)) if nchw else batch


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores by ONNX Runtime, for all pictures at once and for each alone."""
    session = open_session(path.read_bytes())
    inputs = _inputs(job, job.batch)
    together = session.run([OUTPUT], {INPUT: inputs})[0]
    alone = [
        session.run([OUTPUT], {INPUT: inputs[i : i + 1]})[0] for i in range(len(inputs))
    ]
    return np.concatenate([together, *alone])
