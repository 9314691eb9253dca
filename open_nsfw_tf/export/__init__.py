"""Exporting the network to other formats, and proving that it computes the same there.

An export is written beside its destination, loaded again with that format's own
runtime, compared with the model on pictures, and renamed to its destination only if its
scores are within the tolerance. One module a format, each with `write` and `scores`.
"""

import json
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, TypedDict, Unpack, cast

import numpy as np

from open_nsfw_tf import CallableModule
from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.backbones.trained import TrainedModel, read_trained
from open_nsfw_tf.engines import FLOAT16, FLOAT32
from open_nsfw_tf.errors import ExportError, ImageError, sanitize
from open_nsfw_tf.export.job import PICTURE, Job, expected_scores, take_pictures
from open_nsfw_tf.export.request import INPUT_TYPES, predict_request
from open_nsfw_tf.files import (
    beside,
    check_free,
    made_folder,
    rename_over,
    replacing,
)
from open_nsfw_tf.formats.onnx_picture import check_picture
from open_nsfw_tf.image import Picture
from open_nsfw_tf.libraries import need
from open_nsfw_tf.weights import load_weights

__all__ = [
    "EXPORTERS",
    "Export",
    "ExportError",
    "ImageError",
    "Job",
    "Options",
    "export",
    "predict_request",
]


@dataclass(frozen=True)
class Exporter:
    """The description of an export format, available without loading its libraries.

    Attributes:
        title: for people.
        tolerances: by precision, the largest difference of a score from the model's
            that is allowed; the first precision is the default.
        input_types: the inputs that the exported network can have.
        layouts: the orders of axes that the exported network's input can have.
        packages: that it needs beside the core.
        extra: the extra of this distribution that installs them.
        described: whether a JSON file with the description is written beside it.
        suffix: that the destination must have; "" for any.
        marker: a file that every folder of this format has; "" if it is a file.
        reference: the engine whose scores those of the export are compared with, one
            that has little in common with what wrote it.
    """

    title: str
    tolerances: dict[str, float]
    input_types: tuple[str, ...] = ("tensor",)
    layouts: tuple[str, ...] = ("nhwc",)
    packages: tuple[str, ...] = ()
    extra: str | None = None
    described: bool = False
    suffix: str = ""
    marker: str = ""
    reference: str = "onnxruntime"

    @property
    def default(self) -> str:
        """The default precision."""
        return next(iter(self.tolerances))

    @property
    def any_network(self) -> tuple[str, ...]:
        """The precisions that networks other than Yahoo's can be exported in."""
        return tuple(name for name in self.tolerances if name != "int8")


INT8 = 0.03  # measured on photographs left out: .029 (ONNX), .022 (TFLite); see docs

EXPORTERS = {
    "savedmodel": Exporter(
        "TensorFlow SavedModel, for TF Serving",
        {"float32": FLOAT32},
        INPUT_TYPES,
        marker="saved_model.pb",
    ),
    "graph": Exporter(
        "TensorFlow checkpoint, graph, frozen and optimised graph",
        {"float32": FLOAT32},
        INPUT_TYPES,
        marker="checkpoint",
    ),
    "tflite": Exporter(
        "TensorFlow Lite / LiteRT",
        {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8},
        packages=("ai_edge_litert", "ai_edge_quantizer"),
        extra="tflite",
        described=True,
        suffix=".tflite",
    ),
    "onnx": Exporter(
        "ONNX",
        {"float32": FLOAT32, "float16": FLOAT16, "int8": INT8},
        ("tensor", PICTURE),
        layouts=("nhwc", "nchw"),
        reference="tensorflow",
    ),
    "coreml": Exporter(
        "Core ML .mlpackage",
        {"float32": FLOAT32, "float16": FLOAT16},
        packages=("coremltools",),
        extra="coreml",
        suffix=".mlpackage",
        marker="Manifest.json",
        reference="tensorflow",
    ),
    "page": Exporter(
        "page and ES module for browsers",
        {"float32": FLOAT32, "int8": INT8},
        marker="precache.js",
        reference="tensorflow",
    ),
}


@dataclass(frozen=True)
class Export:
    """A finished export.

    Attributes:
        path: of the file or folder.
        size: in bytes, of all its files.
        difference: the largest difference of a score from the model's.
        tolerance: the largest difference that was allowed.
        compared: how many pictures were compared.
        notes: for the user, one line each.
    """

    path: Path
    size: int
    difference: float
    tolerance: float
    compared: int
    notes: tuple[str, ...]


class Module(Protocol):
    """The functions of a format's module."""

    def write(self, path: Path, job: Job) -> None:
        """Write the export to a path that does not exist yet."""

    def scores(self, path: Path, job: Job) -> np.ndarray:
        """The scores of the job's pictures in the format's own runtime, float32 (N, 2).

        If one export contains k networks, the scores of all of them, one after the
        other: float32 (k * N, 2).
        """

    def description(self, job: Job) -> dict[str, Any]:
        """The content of the JSON file beside it; only if the format is `described`."""


class Options(TypedDict, total=False):
    """Keywords of `export`; those left out are as in `Job`.

    Attributes:
        input_type: "tensor", "base64_jpeg", "bytes" or "picture", if the format offers
            it.
        layout: "nhwc" or "nchw", of the ONNX input.
        version: of the SavedModel, at least 1.
        text: write graphs as text (graph only).
        freeze: write the frozen graph (graph only).
        optimize: write the optimised graph (graph only).
    """

    input_type: str
    layout: str
    version: int
    text: bool
    freeze: bool
    optimize: bool


def export(
    format: str,
    destination: str | os.PathLike[str],
    weights: str | os.PathLike[str] | Weights | None = None,
    *,
    precision: str | None = None,
    model: str | os.PathLike[str] | TrainedModel | None = None,
    pictures: Iterable[Picture] = (),
    overwrite: bool = False,
    **options: Unpack[Options],
) -> Export:
    """Write the network in another format, and prove that its scores are the same.

    Args:
        format: a key of `EXPORTERS`.
        destination: the file or folder to make; for "savedmodel" the folder that will
            contain a folder named after `version`.
        weights: a path, the canonical dict, or None to search.
        precision: "float32", which is exact, or another one that the format offers.
        model: the folder of a trained model, or the result of `read_trained`, instead
            of weights; the export has its classes and its preprocessing.
        pictures: to compare with, and to calibrate int8 with; none: installed samples
            and generated ones.
        overwrite: whether an existing destination is replaced.
        options: see `Options`.

    Returns:
        The export, and the difference of its scores.

    Raises:
        ValueError: unknown format, precision, input type, layout or version, or one
            that the model's network cannot have; or both weights and a model are given.
        FileExistsError: the destination exists.
        ExportError: the scores differ by more than the tolerance; nothing is left.
        ImportError: a package is missing; the message says how to install it.
        OSError: a file cannot be read or written.
        WeightsError, ImageError: the weights or the pictures cannot be read.
    """
    if format not in EXPORTERS:
        raise ValueError(f"no export {format!r}: choose one of {', '.join(EXPORTERS)}")
    known = EXPORTERS[format]
    precision = precision or known.default
    job = Job({}, precision, **options)
    _check_options(format, known, job)
    job.trained = _trained(model, weights, format, precision)
    if job.input_type == PICTURE:
        check_picture(job.preprocessing)
    target = Path(destination)
    if not target.name.endswith(known.suffix):
        raise ValueError(
            f"{format}: expected a name that ends in {known.suffix}, got "
            f"{sanitize(target.name)}"
        )
    if format == "savedmodel":
        target = target / str(job.version)
    description = target.with_suffix(".json") if known.described else None
    for path, marker in ((target, known.marker), (description, "")):
        if path is not None:
            check_free(path, overwrite, marker)
    if job.trained:
        job.weights = job.trained.weights
    else:
        job.weights = weights if isinstance(weights, dict) else load_weights(weights)
    take_pictures(job, pictures)
    return _written(format, target, description, job)


def _written(format: str, target: Path, description: Path | None, job: Job) -> Export:
    """Write beside the destination, prove it, and rename it."""
    module = cast(Module, import_module(f"{__name__}.{format}"))
    tolerance = EXPORTERS[format].tolerances[job.precision]
    with made_folder(target.parent), beside(target) as temporary:
        module.write(temporary, job)
        expected = expected_scores(job, EXPORTERS[format].reference)
        difference = _difference(module.scores(temporary, job), expected)
        if not difference <= tolerance:
            raise ExportError(
                f"{format} {job.precision}: scores differ by {difference:.2g} from the "
                f"model's, more than {tolerance:.2g}; nothing was written"
            )
        size = _size_of(temporary)
        if description:
            text = json.dumps(module.description(job), indent=1)
            with replacing(description) as unfinished:
                unfinished.write_text(text + "\n", encoding="utf-8")
                rename_over(temporary, target)  # the description is renamed after it
        else:
            rename_over(temporary, target)
    compared = len(job.pictures)
    return Export(target, size, difference, tolerance, compared, tuple(job.notes))


def _size_of(path: Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    files: list[Path] = [path] if path.is_file() else list(path.rglob("*"))
    return sum(file.stat().st_size for file in files if file.is_file())


def _check_options(format: str, known: Exporter, job: Job) -> None:
    """Refuse options that the format does not have, and name a missing extra.

    Raises:
        ValueError: the format has no such precision, input type, layout or version.
        ImportError: a package is missing.
    """
    if job.precision not in known.tolerances:
        offered = ", ".join(known.tolerances)
        raise ValueError(
            f"{format} offers the precisions {offered}, not {job.precision!r}"
        )
    if job.input_type not in known.input_types:
        offered = ", ".join(known.input_types)
        reason = "its runtime cannot decode pictures as Yahoo's loader does"
        if job.input_type not in INPUT_TYPES:
            reason = f"decoded pictures, {PICTURE!r}, are for onnx"
        raise ValueError(
            f"{format} takes the input type {offered}, not {job.input_type!r}: {reason}"
        )
    if job.layout not in known.layouts:
        raise ValueError(f"{format} has no layout {job.layout!r}; nchw is for onnx")
    if (job.input_type, job.layout) == (PICTURE, "nchw"):
        raise ValueError("decoded pictures are (height, width, channels): no nchw")
    if job.version < 1:
        raise ValueError(f"expected a version of at least 1, got {job.version}")
    if known.extra:
        need(known.extra, *known.packages)


def _trained(
    model: str | os.PathLike[str] | TrainedModel | None,
    weights: object,
    format: str,
    precision: str,
) -> TrainedModel | None:
    if model is None:
        return None
    if weights is not None:
        raise ValueError("expected weights or a trained model, got both: name one")
    found = model if isinstance(model, TrainedModel) else read_trained(model)
    if not found.is_open_nsfw and precision not in EXPORTERS[format].any_network:
        others = "; ".join(
            f"{name} in {', '.join(known.any_network)}"
            for name, known in EXPORTERS.items()
        )
        raise ValueError(
            f"{format} in {precision} is only for Yahoo's network, and this model has "
            f"another: export it to {others}"
        )
    return found


def _difference(scores: np.ndarray, expected: np.ndarray) -> float:
    actual = np.asarray(scores).reshape(-1, *expected.shape)
    if not len(actual) or not np.isfinite(actual).all():
        return float("inf")
    return float(np.abs(actual - expected).max())


sys.modules[__name__].__class__ = CallableModule
