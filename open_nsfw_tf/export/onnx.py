"""ONNX: float32, float16 or int8; NHWC or NCHW; any number of pictures at once.

int8 is approximate: weights in signed 8 bits with one scale a channel, activations in
unsigned 8 bits with one scale a tensor, found on the job's calibration pictures; the
last layer and the softmax stay in float. See `open_nsfw_tf.quantize`.

With the input type "picture" the preprocessing is part of the file, in float32 whatever
the precision; see `open_nsfw_tf.formats.onnx_picture`.
"""

from hashlib import sha256
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper

from open_nsfw_tf.architecture import CHANNELS
from open_nsfw_tf.backbones.onnx_ops import trained_graph
from open_nsfw_tf.errors import ExportError
from open_nsfw_tf.export import Job
from open_nsfw_tf.export.job import PICTURE
from open_nsfw_tf.formats import safetensors
from open_nsfw_tf.formats.onnx_graph import INPUT, OUTPUT, graph
from open_nsfw_tf.formats.onnx_picture import IMAGE, longest_side, with_picture
from open_nsfw_tf.image import tensor
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import qdq, quantize

DTYPES = {"float32": np.float32, "float16": np.float16}
# Width and height of pictures of noise that the preprocessing is proved with, beside
# those that the job compares and the longest.
PROVED = ((1, 1), (2, 1), (1, 7), (31, 300), (256, 257), (255, 1023), (513, 90))
# Pixels. Both axes have the same operations, and the longest height takes seconds.
TALLEST = 20_000


def write(path: Path, job: Job) -> None:
    """Write one file with labels and how to feed it as metadata."""
    if job.input_type == PICTURE:
        model = with_picture(_network(job, "nchw"), job.preprocessing)
        helper.set_model_props(model, _picture_metadata(model, job))
    else:
        model = _network(job, job.layout)
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _network(job: Job, layout: str) -> onnx.ModelProto:
    """The network from its preprocessed input to the scores."""
    if not job.model.is_open_nsfw:
        dtype = DTYPES[job.precision]
        return trained_graph(job.model, layout, dtype, job.metadata)
    if job.precision == "int8":
        return qdq.graph(quantize(job.weights, job.calibration), layout, job.labels)
    return graph(job.weights, layout, DTYPES[job.precision], job.labels)


def _picture_metadata(model: onnx.ModelProto, job: Job) -> dict[str, str]:
    """The metadata of a file that prepares pictures itself: nothing is left to do."""
    fields = {prop.key: prop.value for prop in model.metadata_props}
    for done in ("channel_order", "mean", "scale"):
        fields.pop(done, None)
    longest = longest_side(job.preprocessing.resize)
    return fields | {
        "preprocessing": f"in this file: {fields['preprocessing']}",
        "input": f"{IMAGE}: uint8 (batch, height, width, 3), RGB, or 4 channels, whose "
        f"fourth is dropped; sides of 1 to {longest} pixels. Decode the picture to "
        "RGB and do nothing else: no resizing, no colour management, no rotation by "
        "EXIF. JPEG as libjpeg's islow with fancy upsampling does it",
        "exactness": f"the tensor {INPUT} is equal bit for bit to that of Pillow, in "
        "any runtime that computes float32 as float32: no bfloat16, no TensorFloat-32",
        "weights_sha256": sha256(safetensors.serialized(job.weights)).hexdigest(),
    }


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores by ONNX Runtime, for each picture alone and in a batch.

    The batch is of all pictures; of decoded ones, whose sizes differ, each is one
    twice.

    Raises:
        ExportError: the file prepares pictures otherwise than `tensor`.
    """
    data = path.read_bytes()
    session = open_session(data)
    if job.input_type == PICTURE:
        prove_preprocessing(data, job)
        pictures = [np.asarray(picture)[np.newaxis] for picture in job.pictures]
        found = [
            session.run([OUTPUT], {IMAGE: np.repeat(picture, count, axis=0)})[0]
            for picture in pictures
            for count in (1, 2)
        ]
        rows = np.concatenate(found).reshape(len(pictures), -1, len(job.labels))
        return np.concatenate(list(rows.swapaxes(0, 1)))
    inputs = job.batch
    if job.layout == "nchw":
        inputs = np.ascontiguousarray(inputs.transpose(0, 3, 1, 2))
    together = session.run([OUTPUT], {INPUT: inputs})[0]
    alone = [
        session.run([OUTPUT], {INPUT: inputs[i : i + 1]})[0] for i in range(len(inputs))
    ]
    return np.concatenate([together, *alone])


def preprocessing_only(model: onnx.ModelProto) -> onnx.ModelProto:
    """The part before the network, of a model with the input type "picture".

    Its output is `INPUT`, float32 (N, 3, side, side).
    """
    nodes = list(model.graph.node)
    last = next(index for index, node in enumerate(nodes) if INPUT in node.output)
    nodes = nodes[: last + 1]
    used = {name for node in nodes for name in node.input}
    shape = ["batch", CHANNELS, "side", "side"]
    part = helper.make_graph(
        nodes,
        "preprocessing",
        model.graph.input,
        [helper.make_tensor_value_info(INPUT, TensorProto.FLOAT, shape)],
        [one for one in model.graph.initializer if one.name in used],
    )
    return helper.make_model(
        part, ir_version=model.ir_version, opset_imports=model.opset_import
    )


def prove_preprocessing(data: bytes, job: Job) -> None:
    """Compare what a file computes of pictures of many sizes with `tensor`.

    Raises:
        ExportError: they are not equal bit for bit.
    """
    only = preprocessing_only(onnx.load_from_string(data))
    session = open_session(only.SerializeToString())
    random = np.random.default_rng(0)
    longest = longest_side(job.preprocessing.resize)
    noise = [
        random.integers(
            0, 256, (min(height, longest), min(width, longest), 4), np.uint8
        )
        for width, height in (*PROVED, (longest, 1), (2, TALLEST))
    ]
    for picture in (*map(np.asarray, job.pictures), *noise):
        (found,) = session.run([INPUT], {IMAGE: picture[np.newaxis]})
        expected = tensor(picture[..., :CHANNELS], job.preprocessing)
        if not np.array_equal(found[0].transpose(1, 2, 0), expected):
            height, width, _ = picture.shape
            raise ExportError(
                f"onnx {PICTURE}: a picture of {width} x {height} pixels is prepared "
                "otherwise than by Pillow; nothing was written"
            )
