"""The exported SavedModel as TF Serving has it: C++ loader, warm-up, bad input."""

import base64
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from PIL import Image
from serving_servers import NAME, SCRIPTS, Served, run

from open_nsfw_tf.architecture import LIMITS
from open_nsfw_tf.export.savedmodel import DEFAULTS, WARM_UP_FILE
from open_nsfw_tf.image import tensor
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.serve.tfserving import metadata

SIGNATURES = ("serving_default", *DEFAULTS.values())
CHUNK = 16  # pictures in one batch
MOST_BYTES = 26_000_000  # of the folder: one copy of the weights is 23.6 MB
ROCKET = pictures.path("rocket.jpg")


def caffe(name: str) -> float:
    return float(GOLDEN["samples"][name]["nsfw"])


def golden_files() -> dict[str, tuple[bytes, float]]:
    """Every JPEG, PNG and WebP that Caffe scored: its bytes and its NSFW score."""
    found = {
        name: (pictures.path(name).read_bytes(), row["nsfw"])
        for name, row in GOLDEN["samples"].items()
        if name.endswith((".jpg", ".png", ".webp"))
    }
    for name, row in GOLDEN["made"].items():
        made = pictures.MADE[name]()
        if isinstance(made, Image.Image):
            made = pictures.encoded(made, "PNG")
        if made.startswith((b"\xff\xd8", b"\x89PNG", b"RIFF")):
            found[name] = made, row["nsfw"]
    return found


# -- what lies on the disk


def meta_graph(saved_model: Path) -> Any:
    import_tensorflow()
    from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

    data = (saved_model / "saved_model.pb").read_bytes()
    (only,) = SavedModel.FromString(data).meta_graphs
    return only


def test_weights_are_stored_once_and_labels_lie_beside(saved_model: Path) -> None:
    assert saved_model.name == "1"
    files = [path for path in saved_model.rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < MOST_BYTES
    assert (saved_model / "assets" / "labels.txt").read_text() == "sfw\nnsfw\n"
    card = (saved_model / "assets" / "model-card.md").read_text()
    assert "Yahoo Inc." in card
    assert LIMITS in card


def test_no_op_needs_python(saved_model: Path) -> None:
    graph = meta_graph(saved_model)
    assert set(graph.meta_info_def.tags) == {"serve"}
    nodes = list(graph.graph_def.node)
    for function in graph.graph_def.library.function:
        nodes += function.node_def
    ops = {node.op for node in nodes}
    assert {"DecodeJpeg", "Conv2D", "Softmax"} <= ops
    assert not {op for op in ops if "Py" in op or "Numpy" in op}
    assert not any("GPU" in node.device for node in nodes)


def test_the_service_describes_the_same_signatures(saved_model: Path) -> None:
    """`open-nsfw serve` answers TF Serving's requests as a server of this export."""
    from google.protobuf.json_format import MessageToDict

    described = metadata(classes=2, size=224)["metadata"]["signature_def"][
        "signature_def"
    ]
    expected = MessageToDict(meta_graph(saved_model), preserving_proto_field_name=True)[
        "signature_def"
    ]
    expected.pop("__saved_model_init_op")
    for signature in expected.values():
        del signature["inputs"]["inputs"]["name"]  # of a tensor in the graph
        del signature["outputs"]["outputs"]["name"]
    for signature in described.values():
        for side in ("inputs", "outputs"):
            shape = signature[side][side]["tensor_shape"]
            assert shape.pop("unknown_rank") is False
            assert {dim.pop("name") for dim in shape["dim"]} == {""}
    assert described == expected


def test_warm_up_requests_replay(saved_model: Path, served: Served) -> None:
    from tensorflow_serving.apis.prediction_log_pb2 import PredictionLog

    tf = import_tensorflow()
    records = tf.data.TFRecordDataset(str(saved_model / WARM_UP_FILE))
    seen = []
    for record in records.as_numpy_iterator():
        log = PredictionLog.FromString(record)
        assert log.WhichOneof("log_type") == "predict_log"
        assert log.SerializeToString(deterministic=True) == record
        request = log.predict_log.request
        assert request.model_spec.name == NAME
        seen.append(request.model_spec.signature_name)
        inputs = {key: tf.make_ndarray(value) for key, value in request.inputs.items()}
        scores = served.predict(seen[-1], inputs)
        np.testing.assert_allclose(scores.sum(axis=1), [1], atol=1e-6)
    assert sorted(seen) == sorted(SIGNATURES)


# -- without Python's loader


def saved_model_cli(saved_model: Path, folder: Path, signature: str) -> Any:
    data = ROCKET.read_bytes()
    inputs: Any = [base64.b64encode(data) if "64" in signature else data]
    if signature in ("serving_default", "predict_images"):
        inputs = tensor(ROCKET)[np.newaxis]
    np.save(folder / f"{signature}.npy", inputs)
    out = folder / signature
    command = [SCRIPTS / "saved_model_cli", "run", "--dir", saved_model]
    flags = ["--tag_set", "serve", "--signature_def", signature, "--outdir", out]
    done = run(*command, *flags, "--inputs", f"inputs={folder / signature}.npy")
    assert done.returncode == 0, done.stderr[-2000:]
    return np.load(out / "outputs.npy")


def test_saved_model_cli_runs_signatures(saved_model: Path, tmp_path: Path) -> None:
    """The other two have the same functions; each start takes many seconds."""
    signatures = ("serving_default", "predict_base64")

    def ask(signature: str) -> Any:
        return saved_model_cli(saved_model, tmp_path, signature)

    with ThreadPoolExecutor(2) as pool:
        found = dict(zip(signatures, pool.map(ask, signatures), strict=True))
    expected = caffe("rocket.jpg")
    for signature, scores in found.items():
        np.testing.assert_allclose(
            scores,
            [[1 - expected, expected]],
            rtol=0,
            atol=SCORE_TOLERANCE,
            err_msg=signature,
        )


def c_loader(saved_model: Path, signature: str, folder: Path, *inputs: bytes) -> Any:
    """Load and run with libtensorflow_cc alone, in a process without `tensorflow`."""
    definition = meta_graph(saved_model).signature_def[signature]
    names = definition.inputs["inputs"].name, definition.outputs["outputs"].name
    files = [folder / f"input{number}" for number in range(len(inputs))]
    for file, data in zip(files, inputs, strict=True):
        file.write_bytes(data)
    script = Path(__file__).with_name("c_loader.py")
    return run(sys.executable, script, saved_model, *names, *files)


@pytest.mark.parametrize("signature", ["predict_bytes", "predict_base64"])
def test_the_c_loader_loads_and_runs(
    saved_model: Path, signature: str, tmp_path: Path
) -> None:
    data = ROCKET.read_bytes()
    data = base64.urlsafe_b64encode(data) if "64" in signature else data
    done = c_loader(saved_model, signature, tmp_path, data, b"text")
    loaded, row = done.stdout.splitlines()
    assert loaded == "loaded"
    sfw, nsfw = map(float, row.split())
    assert abs(nsfw - caffe("rocket.jpg")) <= SCORE_TOLERANCE
    assert sfw + nsfw == pytest.approx(1)
    assert done.returncode == 1
    assert "picture 0: not" in done.stderr  # a JPEG, or base64


@pytest.mark.parametrize("holds_model", [True, False])
def test_the_c_loader_catches_what_python_does_not(
    holds_model: bool, tmp_path: Path
) -> None:
    """A Keras model as an attribute answers in Python, and has no variables in C++."""
    tf = import_tensorflow()
    import keras

    network = keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)])
    module = tf.Module()
    if holds_model:
        module.network = network
    else:
        module.tf_variables = [variable.value for variable in network.variables]

    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "inputs")])
    def answer(inputs: Any) -> Any:
        lengths = tf.cast(tf.strings.length(inputs), tf.float32)
        return {"outputs": network(lengths[:, tf.newaxis])}

    path = tmp_path / "model"
    tf.saved_model.save(module, str(path), answer.get_concrete_function())
    assert Served(path).predict("", {"inputs": [b"abc"]}).shape == (1, 2)
    done = c_loader(path, "serving_default", tmp_path, b"abc")
    assert (done.returncode, "Could not find variable" in done.stderr) == (
        (1, True) if holds_model else (0, False)
    )


# -- scores and bad input


@pytest.mark.parametrize("signature", ["predict_bytes", "predict_base64"])
def test_every_golden_file_has_caffes_score(served: Served, signature: str) -> None:
    files = golden_files()
    assert len(files) >= 45
    rows = list(files.items())
    encode = [lambda data: data]
    if "64" in signature:
        encode = [base64.b64encode, base64.urlsafe_b64encode]
    worst = 0.0
    for start in range(0, len(rows), CHUNK):
        part = rows[start : start + CHUNK]
        inputs = [
            encode[i % len(encode)](data) for i, (_, (data, _)) in enumerate(part)
        ]
        scores = served.predict(signature, {"inputs": inputs})
        for (name, (_, expected)), (_, nsfw) in zip(part, scores, strict=True):
            worst = max(worst, abs(float(nsfw) - expected))
            assert abs(float(nsfw) - expected) <= SCORE_TOLERANCE, name
    print(f"{signature}: {len(rows)} files, largest difference {worst:.1e}")


@pytest.mark.parametrize("signature", SIGNATURES)
def test_an_empty_batch(served: Served, signature: str) -> None:
    strings = "bytes" in signature or "64" in signature
    inputs = np.empty(0, object) if strings else np.empty((0, 224, 224, 3), np.float32)
    tf = import_tensorflow()
    given = tf.constant(inputs, tf.string if strings else tf.float32)
    scores = served.signatures[signature](given)["outputs"]
    assert scores.shape == (0, 2)
    assert scores.dtype == tf.float32


GOOD = ROCKET.read_bytes()
GOOD_TEXT = base64.b64encode(GOOD)
BAD = [
    ("predict_bytes", [GOOD, b"text", GOOD], "picture 1: not a JPEG"),
    ("predict_bytes", [GOOD, GOOD[:-500]], "picture 1: truncated"),
    ("predict_bytes", [b""], "picture 0: empty"),
    ("predict_bytes", [b"", GOOD, b""], "picture 0: empty.*picture 2: empty"),
    ("predict_base64", [b""], "picture 0: empty"),
    ("predict_base64", [GOOD_TEXT, b"!?"], "picture 1: not base64"),
    ("predict_base64", [GOOD_TEXT, GOOD_TEXT[:-1000]], "picture 1: truncated"),
    ("predict_base64", [b"QUJD", GOOD_TEXT], "picture 0: not a JPEG"),
]


@pytest.mark.parametrize("signature, inputs, reason", BAD)
def test_bad_elements_are_named(
    served: Served, signature: str, inputs: Any, reason: str
) -> None:
    tf = import_tensorflow()
    with pytest.raises(tf.errors.InvalidArgumentError, match=reason):
        served.signatures[signature](tf.constant(inputs))


@pytest.mark.parametrize("signature", ["predict_images", "serving_default"])
@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (np.nan, "NaN or infinity in its values"),
        (np.inf, "NaN or infinity in its values"),
        (-np.inf, "NaN or infinity in its values"),
        (3e38, "NaN or infinity in its scores"),  # which overflows on the way
    ],
)
def test_numbers_that_have_no_score_are_refused(
    served: Served, signature: str, value: float, reason: str
) -> None:
    tf = import_tensorflow()
    batch = np.zeros((3, 224, 224, 3), np.float32)
    batch[1, 5, 5] = value
    if value == 3e38:
        batch[1] = value
    with pytest.raises(tf.errors.InvalidArgumentError, match=f"picture 1: {reason}"):
        served.signatures[signature](tf.constant(batch))
    assert np.isfinite(served.predict(signature, {"inputs": batch[:1]})).all()
