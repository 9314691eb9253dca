"""SavedModel for TF Serving: floats, picture files or base64, the weights stored once.

Signatures take ``inputs`` and return ``outputs``, float32 (N, 2), columns SFW, NSFW. A
trained model has one column for each of its classes, and its own preprocessing.

- ``predict_images``: float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123)
- ``predict_bytes``: strings (N,), picture files: what ``{"b64": ...}`` delivers
- ``predict_base64``: strings (N,), base64 of picture files
- ``serving_default``: one of these, by the export's input type

Elements that are not pictures, or contain NaN or infinity, are refused (TF Serving:
400, with their numbers); no signature returns scores that are NaN.
"""

import base64
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.engines.tensorflow import keep_float32, keras_network
from open_nsfw_tf.export import Job
from open_nsfw_tf.libraries import disk_errors, import_tensorflow
from open_nsfw_tf.model import predictions_of
from open_nsfw_tf.quantize.samples import generated_pictures
from open_nsfw_tf.tf_image import load_base64_tensor, load_bytes_tensor, require_finite

DEFAULTS = {
    "tensor": "predict_images",
    "bytes": "predict_bytes",
    "base64_jpeg": "predict_base64",
}
MODEL_NAME = "open_nsfw"  # in the warm-up requests, where TF Serving ignores it
WARM_UP_FILE = Path("assets.extra") / "tf_serving_warmup_requests"


def write(path: Path, job: Job) -> None:
    """Write ``saved_model.pb``, variables, labels, card and warm-up requests."""
    tf = import_tensorflow()
    module = tf.Module()
    with tempfile.TemporaryDirectory() as folder:
        labels = Path(folder) / "labels.txt"
        labels.write_text("\n".join(job.labels) + "\n", encoding="utf-8")
        module.labels = tf.saved_model.Asset(str(labels))
        card = Path(folder) / "model-card.md"
        card.write_text(model_card(job), encoding="utf-8")
        module.card = tf.saved_model.Asset(str(card))
        signatures = _signatures(module, job)
        with disk_errors():
            tf.saved_model.save(module, str(path), signatures)
    with disk_errors():
        write_warm_ups(path / WARM_UP_FILE, job)


def model_card(job: Job) -> str:
    """What a user must know of the model, in Markdown."""
    lines = [f"- {name}: {text}" for name, text in job.metadata.items()]
    return "# Model card\n\n" + "\n".join(lines) + "\n"


def _signatures(module: Any, job: Job) -> dict[str, Any]:
    tf = import_tensorflow()
    network = keras_network(job.model)
    # Only the variables: with a Keras model as an attribute, the SavedModel would load
    # in Python, but not in the C++ loader of TF Serving.
    module.tf_variables = [variable.value for variable in network.variables]
    images = tf.TensorSpec((None, *job.shape), tf.float32, "inputs")
    strings = tf.TensorSpec((None,), tf.string, "inputs")

    @tf.function(input_signature=[images], autograph=False)  # held once for all
    def predictions(batch: Any) -> Any:
        return predictions_of(network, batch)

    def signature(load: Callable[[Any], Any], spec: Any) -> Any:
        @tf.function(input_signature=[spec], autograph=False)
        def answer(inputs: Any) -> dict[str, Any]:
            scores = predictions(load(inputs))
            return {"outputs": require_finite(scores, "scores")}

        return answer.get_concrete_function()

    found = {
        "predict_images": signature(
            lambda batch: require_finite(batch, "values"), images
        ),
        "predict_bytes": signature(
            lambda files: load_bytes_tensor(files, job.preprocessing), strings
        ),
        "predict_base64": signature(
            lambda texts: load_base64_tensor(texts, job.preprocessing), strings
        ),
    }
    return {"serving_default": found[DEFAULTS[job.input_type]], **found}


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores of every signature, one after the other."""
    tf = import_tensorflow()
    keep_float32()
    loaded = tf.saved_model.load(str(path))
    found = []
    with _unoptimized():
        for name, input_type in _signature_inputs(job):
            inputs = tf.constant(as_inputs(job, input_type))
            found.append(loaded.signatures[name](inputs=inputs)["outputs"].numpy())
    return np.concatenate(found)


@contextmanager
def _unoptimized() -> Iterator[None]:
    """Switch TensorFlow's graph optimizer off, and on again as it was.

    For a graph that decodes pictures it takes seconds, and each runs once here. A
    thread that uses TensorFlow for the first time meanwhile stays without it.
    """
    optimizer = import_tensorflow().config.optimizer
    before = optimizer.get_experimental_options()
    optimizer.set_experimental_options({"disable_meta_optimizer": True})
    try:
        yield
    finally:
        optimizer.set_experimental_options(before)


def _signature_inputs(job: Job) -> Iterator[tuple[str, str]]:
    yield "serving_default", job.input_type
    yield from ((name, input_type) for input_type, name in DEFAULTS.items())


def as_inputs(job: Job, input_type: str) -> Any:
    """The job's pictures in the form of an input type; files are PNG: exact."""
    if input_type == "tensor":
        return job.batch
    files = []
    for picture in job.pictures:
        file = BytesIO()
        picture.save(file, format="PNG", compress_level=1)
        data = file.getvalue()
        files.append(base64.urlsafe_b64encode(data) if "64" in input_type else data)
    return files


# -- warm-up: a TFRecord of PredictionLog, which TF Serving replays after loading.
# Its messages are a few nested fields, which are written here, because their Python
# package (tensorflow-serving-api) is not a dependency. Field numbers:
# tensorflow_serving/apis/prediction_log.proto, predict.proto and model.proto.


def write_warm_ups(path: Path, job: Job) -> None:
    """Write requests for every signature."""
    tf = import_tensorflow()
    path.parent.mkdir(parents=True, exist_ok=True)
    small = [picture.resize((64, 64)) for picture in generated_pictures(1)]
    shape = (1, *job.shape)
    with tf.io.TFRecordWriter(str(path)) as writer:
        for name, input_type in _signature_inputs(job):
            if input_type == "tensor":  # zeros, which the proto stores as one number
                inputs = tf.make_tensor_proto(0.0, tf.float32, shape)
            else:
                files = as_inputs(replace(job, pictures=small), input_type)
                inputs = tf.make_tensor_proto(files)
            writer.write(_prediction_log(name, inputs))


def _prediction_log(signature: str, inputs: Any) -> bytes:
    spec = _field(1, MODEL_NAME.encode()) + _field(3, signature.encode())
    entry = _field(1, b"inputs") + _field(2, inputs.SerializeToString())
    request = _field(1, spec) + _field(2, entry)
    return _field(6, _field(1, request))  # predict_log.request


def _field(number: int, data: bytes) -> bytes:
    """A length-delimited protobuf field."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
