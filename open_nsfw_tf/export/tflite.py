"""TensorFlow Lite: float32, float16 or int8, with a named signature.

The signature ``serving_default`` takes ``inputs``, float32 (1, 224, 224, 3), BGR,
0..255 minus (104, 117, 123), and returns ``outputs``, float32 (1, 2), columns SFW,
NSFW. A JSON file beside the network describes its input and output. int8 is
approximate: weights and activations in 8 bits, calibrated by `open_nsfw_tf.quantize`.
TensorFlow Lite has no operation that refuses a value: NaN in the input gives NaN, as in
ONNX and Core ML.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS, INPUT_SIZE
from open_nsfw_tf.engines.litert import SIGNATURE, convert, flatbuffer
from open_nsfw_tf.errors import ExportError
from open_nsfw_tf.export import Job
from open_nsfw_tf.libraries import without_noise
from open_nsfw_tf.quantize import Quantized, quantize, tf_graph

# Operations that stay in float with int8, by the tensors' names and the operation: the
# input and the output are floats, the mean is added to the picture exactly, and the
# last layer matters most for the scores.
FLOAT_OPS = (
    (".*", "INPUT"),
    (".*", "OUTPUT"),
    (f".*{tf_graph.PIXELS}.*", "ADD"),
    (f".*{tf_graph.PIXELS}.*", "PAD"),
    (".*", "MEAN"),
    (".*", "FULLY_CONNECTED"),
    (".*", "SOFTMAX"),
)


def write(path: Path, job: Job) -> None:
    """Write the network, without the JSON file beside it."""
    if job.precision == "int8":
        path.write_bytes(quantized(quantize(job.weights, job.calibration)))
    else:
        path.write_bytes(convert(job.model, job.precision))


def description(job: Job) -> dict[str, Any]:
    """The input and output of the network, for the JSON file beside it."""
    preprocessing, metadata = job.preprocessing, job.metadata
    return {
        "labels": list(job.labels),
        "signature": SIGNATURE,
        "input": {
            "name": "inputs",
            "shape": [1, *job.shape],
            "dtype": "float32",
            "channel_order": metadata["channel_order"],
            "range": f"0..255 {preprocessing.values}",
            "mean": list(preprocessing.mean),
        },
        "output": {
            "name": "outputs",
            "shape": [1, len(job.labels)],
            "dtype": "float32",
        },
        "preprocessing": metadata["preprocessing"],
        "precision": job.precision,
        **{name: metadata[name] for name in ("licence", "limits") if name in metadata},
    }


def quantized(network: Quantized) -> bytes:
    """The flatbuffer in 8 bits, by ai_edge_quantizer with our weights and ranges."""
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        # The quantizer prints progress bars.
        redirect_stderr(StringIO()),
        redirect_stdout(StringIO()),
    ):
        warnings.simplefilter("ignore")
        source, target = Path(folder) / "float.tflite", Path(folder) / "int8.tflite"
        source.write_bytes(
            flatbuffer(lambda images: {"outputs": tf_graph.answer(network, images)})
        )
        quantizer = _quantizer(source)
        # This gives the tensors' names; the ranges on a gray picture are replaced.
        gray = np.zeros((1, INPUT_SIZE, INPUT_SIZE, CHANNELS), np.float32)
        calibrated = quantizer.calibrate({SIGNATURE: list(_inputs(gray))})
        ranges = _our_ranges(calibrated, network)
        result = quantizer.quantize(ranges, enable_progress_report=False)
        result.export_model(str(target))
        return target.read_bytes()


def _quantizer(source: Path) -> Any:
    from ai_edge_quantizer import quantizer, recipe

    worker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
    for scope, operation in FLOAT_OPS:
        worker.update_quantization_recipe(
            scope, operation, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE
        )
    return worker


def _our_ranges(calibrated: dict[str, Any], network: Quantized) -> dict[str, Any]:
    """Our range of every tensor, in the form of the quantizer's calibration."""
    ours, found = tf_graph.ranges(network), {}
    for tensor, extremes in calibrated.items():
        scope = tensor.partition("/")[0]
        if scope not in ours:
            raise ExportError(f"tflite int8: no range is known for the tensor {tensor}")
        low, high = ours[scope].extremes
        found[tensor] = {
            "min": np.full_like(extremes["min"], low),
            "max": np.full_like(extremes["max"], high),
        }
    return found


def _inputs(batch: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for index in range(len(batch)):
        yield {"inputs": batch[index : index + 1]}


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores by LiteRT's interpreter, through the signature."""
    from ai_edge_litert.interpreter import Interpreter

    with without_noise():
        interpreter = Interpreter(model_path=str(path))
        runner = interpreter.get_signature_runner(SIGNATURE)
        answers = [runner(**inputs)["outputs"] for inputs in _inputs(job.batch)]
    scores: np.ndarray = np.concatenate(answers)
    return scores
