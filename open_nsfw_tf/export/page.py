"""The page and ES module that score pictures in the browser: a folder of files.

int8 is approximate; see `open_nsfw_tf.quantize`.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.export import Job, onnx
from open_nsfw_tf.export.job import PICTURE
from open_nsfw_tf.page import MODEL, Site, model


def write(path: Path, job: Job) -> None:
    """Write the site into a folder."""
    if not job.model.is_open_nsfw or job.labels != LABELS:
        raise ValueError(
            "the page is for Yahoo's network with the classes "
            f"{' and '.join(LABELS)}, and this model has another"
        )
    calibration = job.calibration if job.precision == "int8" else None
    Site(lambda: model(job.weights, calibration), job.precision).write(path)


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores of the page's model, by ONNX Runtime.

    Raises:
        ExportError: it prepares pictures otherwise than `open_nsfw_tf.image.tensor`.
    """
    return onnx.scores(path / MODEL, replace(job, input_type=PICTURE))
