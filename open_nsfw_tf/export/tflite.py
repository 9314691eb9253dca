"""TensorFlow Lite: float32, float16 or int8, with a named signature.

The signature ``serving_default`` takes ``inputs``, float32 (1, 224, 224, 3), BGR, 0..255
minus (104, 117, 123), and answers ``outputs``, float32 (1, 2), columns SFW, NSFW. What a
caller must know stands in a JSON file beside the network. int8 is approximate: weights
and activations in 8 bits, found on the job's calibration pictures.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS, INPUT_SIZE, LABELS
from open_nsfw_tf.backend import without_noise
from open_nsfw_tf.engines.litert import SIGNATURE, convert
from open_nsfw_tf.export import Job
from open_nsfw_tf.image import MEAN_BGR

# What int8 leaves alone: callers feed and get floats, and the last layer decides.
KEPT_FLOAT = ("INPUT", "OUTPUT", "FULLY_CONNECTED", "SOFTMAX")


def write(path: Path, job: Job) -> None:
    """Write the network; `description` is what stands beside it."""
    network = convert(job.weights, job.precision)
    path.write_bytes(_quantized(network, job) if job.precision == "int8" else network)


def description(job: Job) -> dict[str, Any]:
    """What a caller must know of the network, for the JSON file beside it."""
    return {
        "labels": list(LABELS),
        "signature": SIGNATURE,
        "input": {
            "name": "inputs",
            "shape": [1, INPUT_SIZE, INPUT_SIZE, CHANNELS],
            "dtype": "float32",
            "channel_order": "BGR",
            "range": "0..255 minus mean",
            "mean": list(MEAN_BGR),
        },
        "output": {"name": "outputs", "shape": [1, len(LABELS)], "dtype": "float32"},
        "preprocessing": "RGB; bilinear resize to 256x256; JPEG, quality 75, and back; "
        "centre crop 224x224; BGR; minus mean",
        "precision": job.precision,
        "licence": "weights: BSD 2-Clause, (c) 2016 Yahoo Inc.",
    }


def _quantized(network: bytes, job: Job) -> bytes:
    with (
        tempfile.TemporaryDirectory() as folder,
        warnings.catch_warnings(),
        # Its progress bars would mix with ours.
        redirect_stderr(StringIO()),
        redirect_stdout(StringIO()),
    ):
        warnings.simplefilter("ignore")
        from ai_edge_quantizer import quantizer, recipe

        source, target = Path(folder) / "float.tflite", Path(folder) / "int8.tflite"
        source.write_bytes(network)
        worker = quantizer.Quantizer(str(source), recipe.static_wi8_ai8())
        for operation in KEPT_FLOAT:
            worker.update_quantization_recipe(
                ".*", operation, algorithm_key=quantizer.AlgorithmName.NO_QUANTIZE
            )
        calibration = worker.calibrate({SIGNATURE: list(_inputs(job.calibration))})
        quantized = worker.quantize(calibration, enable_progress_report=False)
        quantized.export_model(str(target))
        return target.read_bytes()


def _inputs(batch: np.ndarray) -> Iterator[dict[str, np.ndarray]]:
    for index in range(len(batch)):
        yield {"inputs": batch[index : index + 1]}


def scores(path: Path, job: Job) -> np.ndarray:
    """What LiteRT's interpreter answers through the signature."""
    from ai_edge_litert.interpreter import Interpreter

    with without_noise():
        runner = Interpreter(model_path=str(path)).get_signature_runner(SIGNATURE)
        return np.concatenate(
            [runner(**inputs)["outputs"] for inputs in _inputs(job.batch)]
        )
