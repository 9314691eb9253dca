"""Core ML: the network as a .mlpackage that classifies a picture.

The program is written with coremltools' MIL builder from the graph operations of the
Keras network, with batch norms folded. Its input is an image: Core ML itself puts the
channels into the order B, G, R, and the program subtracts the mean. The caller must do
the rest of the preprocessing (`preparation`). Where pictures are resized with aligned
corners the input is an array of floats: pixels with fractions are no image.

Core ML runs only on macOS. On other systems the package is read back and its program is
evaluated with numpy, beginning with the declared image input.
"""

import io
import logging
import shutil
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS
from open_nsfw_tf.backbones import graph_ops
from open_nsfw_tf.backbones.graph_ops import NEIGHBOURS, GraphOp
from open_nsfw_tf.engines.tensorflow import keras_network
from open_nsfw_tf.errors import ExportError
from open_nsfw_tf.export import Job
from open_nsfw_tf.export.mil import evaluate
from open_nsfw_tf.image import MEAN_BGR, YAHOO, Preprocessing, load_rgb
from open_nsfw_tf.libraries import import_tensorflow

SUFFIX = ".mlpackage"  # by which Core ML recognises the format
CORE_ML_RUNS = sys.platform == "darwin"
INPUT = "image"
OUTPUT = "predictions"
# Core ML adds the biases in the order of the declared channels, for Yahoo's B, G, R.
BIAS = [-mean for mean in MEAN_BGR]
_FLOAT32 = ("reduce_mean", "linear", "softmax")  # computed in float32 in any precision


def preparation(preprocessing: Preprocessing) -> str:
    """What a caller must do to a picture before the model gets it."""
    side, crop, order = preprocessing.resize, preprocessing.crop, preprocessing.order
    edge = (side - crop) // 2
    if preprocessing.aligned:
        return (
            f"{preprocessing.words}; as floats (1, 3, {crop}, {crop}): an image has no "
            "fractions, which this resize gives"
        )
    steps = [
        "Convert to RGB (drop alpha, ignore the EXIF orientation)",
        f"resize to {side} x {side} pixels with a bilinear filter that covers the "
        + "source when it shrinks (Pillow's BILINEAR)",
        "encode as JPEG of quality 75, 4:2:0, and decode" * preprocessing.jpeg,
        f"crop {crop} x {crop} pixels from ({edge}, {edge})",
    ]
    swap = "swaps to BGR and " * (order == "BGR")
    scale = " and scales" * (preprocessing.scale != 1)
    return (
        f"{'; '.join(filter(None, steps))}. The model itself {swap}takes off the mean"
        f"{scale}. Letting Vision scale the picture changes scores."
    )


def _metadata(job: Job) -> dict[str, str]:
    fields = {
        **job.metadata,
        "mean": ",".join(f"{mean:g}" for mean in job.preprocessing.mean),
        "preprocessing": preparation(job.preprocessing),
        "precision": job.precision,
    }
    fields.pop("licence", None)  # Core ML has another field for it
    if job.model.is_open_nsfw:
        fields["source"] = "https://github.com/yahoo/open_nsfw"
    return fields


def write(path: Path, job: Job) -> None:
    """Write the package.

    Args:
        path: ends in ``.mlpackage`` and does not exist yet.
        job: its weights and its precision, "float32" or "float16".

    Raises:
        WeightsError: as `check_weights`.
        OSError: the package cannot be written.
    """
    with _quiet(), _full_disk_named(path), TemporaryDirectory() as folder:
        model = _converted(job, Path(folder) / f"open_nsfw{SUFFIX}")
        _describe(model, job)
        model.save(str(path))


def scores(path: Path, job: Job) -> np.ndarray:
    """The package's scores of the job's pictures.

    On macOS Core ML predicts, on the CPU. On other systems the package's own program is
    evaluated; float16 values are computed as float32 and rounded to float16.

    Returns:
        float32 (N, classes), columns SFW, NSFW, or the model's classes.

    Raises:
        ExportError: the package has another input, or operations that the evaluator
            does not know.
    """
    if job.preprocessing.aligned:
        crops = job.batch.transpose(0, 3, 1, 2)[:, np.newaxis]
    else:
        crops = _crops(job.batch, job.preprocessing)
    with _quiet():
        if CORE_ML_RUNS:
            job.notes.append(
                "compared on the CPU: Core ML's GPU and Neural Engine may round "
                "differently"
            )
            found = _predict(path, crops)
        else:
            job.notes.append(
                "the package was read back and its program evaluated with numpy: Core "
                f"ML itself runs only on macOS, not on {sys.platform}"
            )
            found = _evaluate(path, crops)
    rows = [[answer[label] for label in job.labels] for answer in found]
    return np.array(rows, np.float32).reshape(-1, len(job.labels))


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence coremltools' progress bars, log and warnings; errors are still raised.

    It logs that newer TensorFlow and scikit-learn are untested, neither of which is
    used here, and it warns of a temporary folder that the garbage collector removes.
    """
    import_tensorflow()  # coremltools would import it without silencing its log
    logger = logging.getLogger("coremltools")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


# -- writing


@contextmanager
def _full_disk_named(path: Path) -> Iterator[None]:
    try:
        yield
    except shutil.Error as error:  # a list of (source, copy, reason)
        raise OSError(f"cannot write {path}: {error.args[0][0][2]}") from error
    except RuntimeError as error:  # of coremltools' C++ writer, without a reason
        if "Writer" not in str(error):
            raise
        raise OSError(
            "cannot write to the temporary folder, which takes the package first "
            f"({error}): is its disk full? $TMPDIR names another"
        ) from error


def _converted(job: Job, folder: Path) -> Any:
    import coremltools as ct

    preprocessing = job.preprocessing
    shape = (1, CHANNELS, *job.shape[:2])
    scaled = [-mean * preprocessing.scale for mean in preprocessing.mean]
    image = ct.ImageType(
        name=INPUT,
        shape=shape,
        scale=preprocessing.scale,
        bias=BIAS if preprocessing == YAHOO else scaled,
        color_layout=preprocessing.order,
    )
    return ct.convert(
        _program(job),
        source="milinternal",
        convert_to="mlprogram",
        inputs=[ct.TensorType(INPUT, shape) if preprocessing.aligned else image],
        classifier_config=ct.ClassifierConfig(
            list(job.labels), predicted_probabilities_output=OUTPUT
        ),
        compute_precision=_precision(job.precision),
        minimum_deployment_target=ct.target.iOS15,  # and macOS 12: the first possible
        package_dir=str(folder),
        skip_model_load=True,
    )


def _precision(name: str) -> Any:
    """The precision of each op; float16 is too coarse for the last ones, near 1."""
    import coremltools as ct

    if name == "float32":
        return ct.precision.FLOAT32
    return ct.transform.FP16ComputePrecision(lambda op: op.op_type not in _FLOAT32)


def _program(job: Job) -> Any:
    from coremltools.converters.mil import Builder as mb

    graph = graph_ops.operations(keras_network(job.model))

    @mb.program(  # type: ignore[untyped-decorator]
        input_specs=[mb.TensorSpec((1, CHANNELS, *job.shape[:2]))]
    )
    def program(image: Any) -> Any:
        return _network(mb, image, graph)

    return program


def _network(mb: Any, image: Any, graph: list[GraphOp]) -> Any:
    """Write graph operations with coremltools' MIL builder.

    Args:
        mb: `coremltools.converters.mil.Builder`.
        image: the preprocessed picture, (1, 3, height, width).
        graph: the operations, see `open_nsfw_tf.backbones.graph_ops`.

    Returns:
        The scores, (1, classes).
    """
    values = {graph_ops.INPUT: image}
    for op in graph:
        inputs = [values[name] for name in op.inputs]
        name = OUTPUT if op is graph[-1] else op.name
        values[op.name] = _BUILDERS[op.kind](mb, op, inputs, name)
    return values[graph[-1].name]


def _conv(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    kernel = op.arrays["kernel"].transpose(3, 2, 0, 1)  # HWIO to OIHW
    return mb.conv(
        x=inputs[0],
        weight=np.ascontiguousarray(kernel),
        bias=op.arrays["biases"],
        strides=list(op.options["strides"]),
        pad_type="custom",
        pad=list(op.options["pads"]),
        groups=op.options["groups"],
        name=name,
    )


def _dense(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    kernel = np.ascontiguousarray(op.arrays["kernel"].T)  # (in, out) to (out, in)
    return mb.linear(x=inputs[0], weight=kernel, bias=op.arrays["biases"], name=name)


def _affine(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    shape = (1, -1) if op.options["flat"] else (1, -1, 1, 1)
    factor, offset = (
        op.arrays[n].reshape(shape).astype(np.float32) for n in ("factor", "offset")
    )
    scaled = mb.mul(x=inputs[0], y=factor, name=f"{name}_scaled")
    return mb.add(x=scaled, y=offset, name=name)


def _relu(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    most = op.options.get("most")
    if most is None:
        return mb.relu(x=inputs[0], name=name)
    return mb.clip(x=inputs[0], alpha=0.0, beta=most, name=name)


def _window(op: GraphOp) -> dict[str, Any]:
    return {
        "kernel_sizes": list(op.options["window"]),
        "strides": list(op.options["strides"]),
        "pad_type": "custom",
        "pad": list(op.options["pads"]),
    }


def _max_pool(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    return mb.max_pool(x=inputs[0], **_window(op), name=name)


def _average_pool(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    return mb.avg_pool(
        x=inputs[0], **_window(op), exclude_padding_from_average=True, name=name
    )


def _pad(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    pads = [0, 0, 0, 0, *op.options["pads"]]
    return mb.pad(x=inputs[0], pad=pads, mode="constant", constant_val=0.0, name=name)


def _flatten(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    at = inputs[0]
    if len(op.options["shape"]) == 3:
        at = mb.transpose(x=at, perm=[0, 2, 3, 1], name=f"{name}_nhwc")
    count = int(np.prod(op.options["shape"]))
    return mb.reshape(x=at, shape=[1, count], name=name)


def _normalize(mb: Any, op: GraphOp, inputs: list[Any], name: str) -> Any:
    options = {"size": NEIGHBOURS, "alpha": 1e-4, "beta": 0.75, "k": 1.0}
    return mb.local_response_norm(x=inputs[0], **options, name=name)


_BUILDERS: dict[str, Callable[[Any, GraphOp, list[Any], str], Any]] = {
    "add": lambda mb, op, inputs, name: mb.add(x=inputs[0], y=inputs[1], name=name),
    "affine": _affine,
    "average_pool": _average_pool,
    "concat": lambda mb, op, inputs, name: mb.concat(values=inputs, axis=1, name=name),
    "conv": _conv,
    "dense": _dense,
    "flatten": _flatten,
    "max_pool": _max_pool,
    "mean": lambda mb, op, inputs, name: mb.reduce_mean(
        x=inputs[0], axes=[2, 3], keep_dims=False, name=name
    ),
    "normalize": _normalize,
    "pad": _pad,
    "relu": _relu,
    "softmax": lambda mb, op, inputs, name: mb.softmax(x=inputs[0], axis=1, name=name),
}


YAHOO_TITLE = (
    "Open-NSFW, Yahoo's classifier of pictures that are not suitable for work."
)


def _describe(model: Any, job: Job) -> None:
    origin = job.model.origin
    by = "" if origin else " trained by open_nsfw_tf"
    what = f"A classifier{by}: {', '.join(job.labels)}."
    if origin:
        model.author = f"{origin['source']}; written by open_nsfw_tf"
        model.license = origin.get("licence", "unknown")
    if job.model.is_open_nsfw:
        model.author = "Yahoo Inc. (Open-NSFW); written by open_nsfw_tf"
        model.license = "BSD 2-Clause, Copyright (c) 2016 Yahoo Inc."
        what = YAHOO_TITLE if job.trained is None else f"{what} Fine-tuned Open-NSFW."
    model.short_description = (
        f"{what} Before it, a caller must prepare the picture. "
        f"{preparation(job.preprocessing)}"
    )
    size = job.preprocessing.crop
    model.input_description[INPUT] = (
        f"{size} x {size} pixels, prepared as the model's description says"
    )
    names = model.get_spec().description
    model.output_description[names.predictedFeatureName] = "the likelier label"
    model.output_description[names.predictedProbabilitiesName] = (
        "label to probability, 0..1, which sum to 1"
    )
    model.user_defined_metadata.update(_metadata(job))


# -- reading back


def _crops(batch: np.ndarray, preprocessing: Preprocessing) -> np.ndarray:
    """The pixels that a caller would pass, uint8 (N, crop, crop, 3), RGB."""
    values = batch / preprocessing.scale + np.array(preprocessing.mean)
    pixels: np.ndarray = np.rint(values).astype(np.uint8)
    return pixels[..., ::-1] if preprocessing.order == "BGR" else pixels


def _predict(path: Path, crops: np.ndarray) -> list[dict[str, float]]:
    import coremltools as ct

    # Every Mac has it, and it computes float32 without rounding to float16.
    model = ct.models.MLModel(str(path), compute_units=ct.ComputeUnit.CPU_ONLY)
    name = model.get_spec().description.predictedProbabilitiesName
    images = (crop if crop.ndim == 4 else load_rgb(crop) for crop in crops)
    return [model.predict({INPUT: image})[name] for image in images]


def _evaluate(path: Path, crops: np.ndarray) -> list[dict[str, float]]:
    from coremltools.converters.mil.frontend.milproto.load import load
    from coremltools.models import MLModel

    model = MLModel(str(path), skip_model_load=True)
    spec = model.get_spec()
    program = load(spec, spec.specificationVersion, model.weights_dir)
    main = program.functions["main"]
    name = spec.description.predictedProbabilitiesName
    return [evaluate(main, _declared(spec, crop))[name] for crop in crops]


def _declared(spec: Any, crop: np.ndarray) -> dict[str, np.ndarray]:
    """The input that Core ML makes from pixels, by the declared image input."""
    inputs = spec.description.input
    if crop.ndim == 4 and [i.name for i in inputs] == [INPUT]:
        array = inputs[0].type.multiArrayType
        if tuple(array.shape) == crop.shape:
            return {INPUT: np.ascontiguousarray(crop)}
    image = inputs[0].type.imageType
    colours = image.ColorSpace.Name(image.colorSpace)
    declared = (image.height, image.width, len(colours))
    if [i.name for i in inputs] != [INPUT] or declared != crop.shape:
        raise ExportError(f"expected an image {INPUT!r}, {crop.shape}, got {inputs}")
    planes = [crop[..., "RGB".index(colour)] for colour in colours]
    return {INPUT: np.stack(planes)[np.newaxis].astype(np.float32)}
