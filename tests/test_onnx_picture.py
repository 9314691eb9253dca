"""The whole preprocessing as ONNX operations: pictures in, Caffe's scores out."""

import base64
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import nsfwjs_golden
import numpy as np
import onnx
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE
from onnx import TensorProto, helper
from trained_models import open_nsfw_of_three, other_network
from typer.testing import CliRunner

import open_nsfw_tf.cli  # noqa: F401 - registers the commands
from open_nsfw_tf import load_weights
from open_nsfw_tf.backbones.trained import TrainedModel, write_trained
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.convert import convert
from open_nsfw_tf.engines import FLOAT16, FLOAT32
from open_nsfw_tf.errors import ExportError, WeightsError
from open_nsfw_tf.export import Job, export
from open_nsfw_tf.export import onnx as onnx_module
from open_nsfw_tf.formats import sha256
from open_nsfw_tf.formats.onnx_picture import longest_side, with_picture
from open_nsfw_tf.image import YAHOO, Preprocessing, load_rgb, tensor
from open_nsfw_tf.libraries import import_openvino, open_session

NAMES = [*GOLDEN["samples"], *GOLDEN["made"]]
PHOTOS = [pictures.path(name) for name in ("astronaut.png", "rocket.jpg")]
ROOT = Path(__file__).parent.parent
SCORES = Path(__file__).parent / "onnx_picture_scores.cjs"
DTYPES = {TensorProto.FLOAT, TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8}


def golden(name: str) -> tuple[np.ndarray, float]:
    """A picture's pixels, (1, height, width, 3), and Caffe's score."""
    if name in GOLDEN["samples"]:
        source, figures = pictures.path(name), GOLDEN["samples"][name]
    else:
        source, figures = pictures.MADE[name](), GOLDEN["made"][name]
    return np.asarray(load_rgb(source))[np.newaxis], figures["nsfw"]


@pytest.fixture(scope="module")
def exported(weights: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("picture") / "nsfw.onnx"
    made = export("onnx", path, weights, input_type="picture", pictures=PHOTOS)
    assert made.difference <= FLOAT32
    return path


@pytest.fixture(scope="module")
def both(exported: Path) -> bytes:
    """The export with the preprocessed pictures as a second output."""
    model = onnx.load(exported)
    model.graph.output.extend(onnx_module.preprocessing_only(model).graph.output)
    data: bytes = model.SerializeToString()
    return data


@pytest.fixture(scope="module")
def session(both: bytes) -> Any:
    return open_session(both)


def answers(session: Any, batch: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Scores, and the network's input (N, side, side, 3)."""
    scores, inputs = session.run(["predictions", "input"], {"image": batch})
    return scores, inputs.transpose(0, 2, 3, 1)


# -- Yahoo's network


@pytest.mark.parametrize("name", NAMES)
def test_golden_pictures(session: Any, name: str) -> None:
    batch, score = golden(name)
    scores, inputs = answers(session, batch)
    assert np.array_equal(inputs[0], tensor(batch[0]))
    assert abs(scores[0, 1] - score) <= SCORE_TOLERANCE


SIZES = [(1, 1), (1, 5), (7, 3), (255, 257), (256, 256), (30_000, 2)]


def check_noise(session: Any, width: int, height: int, channels: int) -> None:
    random = np.random.default_rng(width)
    noise = random.integers(0, 256, (height, width, channels), np.uint8)
    if channels == 4:  # black and white: what overshoots most in a JPEG
        noise = np.uint8(255) * (noise > 127)
    _, inputs = answers(session, noise[np.newaxis])
    expected = tensor(np.ascontiguousarray(noise[..., :3]))
    assert np.array_equal(inputs[0], expected), (width, height)


def test_noise_of_many_sizes(session: Any) -> None:
    for size in [*SIZES, *np.random.default_rng(0).integers(1, 900, (12, 2))]:
        for channels in (3, 4):
            check_noise(session, *size, channels)


def test_noise_of_the_longest_side(session: Any) -> None:
    check_noise(session, 2, 99_999, 4)


def test_a_batch(session: Any) -> None:
    photo = golden("coffee.png")[0]
    batch = np.concatenate([photo, photo[:, ::-1]])
    scores, inputs = answers(session, batch)
    for index, picture in enumerate(batch):
        assert np.array_equal(inputs[index], tensor(picture))
    assert np.abs(scores[:1] - answers(session, photo)[0]).max() <= FLOAT32


GUARD = "sides_of_1_to_99999_and_3_or_4_channels"
REFUSED = [
    (9, 100_000, 3),
    (100_000, 1, 3),
    (0, 9, 3),
    (9, 0, 3),
    *((9, 9, channels) for channels in (0, 1, 2, 5)),
]


@pytest.mark.parametrize("shape", REFUSED)
def test_other_pictures_are_refused_by_the_runtime(session: Any, shape: Any) -> None:
    for batch in (1, 2):
        with pytest.raises(Exception, match=GUARD):
            session.run(["predictions"], {"image": np.zeros((batch, *shape), np.uint8)})


def test_no_pictures_are_refused_by_the_runtime(session: Any) -> None:
    with pytest.raises(Exception, match="ONNXRuntimeError"):
        session.run(["predictions"], {"image": np.zeros((0, 9, 9, 3), np.uint8)})


def test_only_plain_operations_are_used(exported: Path) -> None:
    """What every runtime has, and computes exactly."""
    model = onnx.load(exported)
    assert [(one.domain, one.version) for one in model.opset_import] == [("", 17)]
    assert model.ir_version == 8
    assert not model.functions
    kinds = {node.op_type for node in model.graph.node}
    assert not kinds & {"MatMulInteger", "QLinearMatMul", "Loop", "If", "Scan"}
    assert {node.domain for node in model.graph.node} == {""}
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    dtypes = {one.type.tensor_type.elem_type for one in inferred.value_info}
    assert dtypes <= {*DTYPES, TensorProto.BOOL}
    # int64 is for shapes, axes and the places of slices.
    large = [
        one.name
        for one in inferred.initializer
        if one.data_type == TensorProto.INT64 and np.prod(one.dims) > 8
    ]
    assert not large
    (image,) = model.graph.input
    assert image.name == "image"
    assert image.type.tensor_type.elem_type == TensorProto.UINT8
    assert all(dim.dim_param for dim in image.type.tensor_type.shape.dim)


def test_the_file_says_how_to_feed_it(
    exported: Path, weights_path: Path, tmp_path: Path
) -> None:
    props = {one.key: one.value for one in onnx.load(exported).metadata_props}
    assert props.keys() == {
        "labels",
        "preprocessing",
        "licence",
        "limits",
        "source",
        "input",
        "exactness",
        "weights_sha256",
    }
    assert props["labels"] == "sfw,nsfw"
    assert "Decode the picture to RGB and do nothing else" in props["input"]
    saved = convert(weights_path, tmp_path / "saved.safetensors").path
    assert props["weights_sha256"] == sha256(saved)


def test_it_is_no_file_of_weights(exported: Path) -> None:
    with pytest.raises(WeightsError, match="name the weights that it was made from"):
        load_weights(exported)


# -- other runtimes


@pytest.fixture(scope="module")
def openvino(both: bytes) -> Any:
    core = import_openvino().Core()
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    return core.compile_model(core.read_model(both), "CPU", hints)


def test_openvino(openvino: Any) -> None:
    for name in ("coffee.png", "tiny_10x10", "wide_2000x20"):
        batch, score = golden(name)
        answer = openvino(batch)
        assert np.array_equal(answer[1][0].transpose(1, 2, 0), tensor(batch[0])), name
        assert abs(answer[0][0, 1] - score) <= SCORE_TOLERANCE
    # It turns divisions into products, which rounds otherwise for some numbers only.
    noise = np.random.default_rng(0).integers(0, 256, (8, 256, 256, 3), np.uint8)
    for found, picture in zip(openvino(noise)[1], noise, strict=True):
        assert np.array_equal(found.transpose(1, 2, 0), tensor(picture))


@pytest.mark.parametrize("shape", REFUSED)
def test_openvino_refuses_other_pictures(openvino: Any, shape: Any) -> None:
    """It has no check of a Reshape's size."""
    for batch in (1, 2):
        with pytest.raises(RuntimeError, match=GUARD):
            openvino(np.zeros((batch, *shape), np.uint8))


def test_openvino_refuses_long_pictures_of_fixed_channels() -> None:
    """It replaces the product that refuses them, if the channels are known."""
    core = import_openvino().Core()
    only = onnx_module.preprocessing_only(with_picture(of_means(YAHOO), YAHOO))
    model = core.read_model(only.SerializeToString())
    model.reshape([-1, -1, -1, 3])
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = core.compile_model(model, "CPU", hints)
    noise = np.random.default_rng(0).integers(0, 256, (1, 9, 30, 3), np.uint8)
    found = compiled(noise)[0][0].transpose(1, 2, 0)
    assert np.array_equal(found, tensor(noise[0]))
    for shape in ((1, 9, 100_000, 3), (1, 100_000, 1, 3), (1, 9, 0, 3)):
        with pytest.raises(RuntimeError):
            compiled(np.zeros(shape, np.uint8))


# ONNX Runtime and its numpy; older ones have no wheels for that version of Python.
OLDEST = {
    (3, 11): ("1.15.0", "1.26.4"),
    (3, 12): ("1.17.0", "1.26.4"),
    (3, 13): ("1.20.0", "2.1.0"),
}


@pytest.mark.install
def test_the_oldest_onnx_runtime(both: bytes, tmp_path: Path) -> None:
    version, numpy = OLDEST[sys.version_info[:2]]
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--only-binary", ":all:"]
    packages = (f"onnxruntime=={version}", f"numpy=={numpy}")
    subprocess.run([*pip, "--target", tmp_path / "old", *packages], check=True)
    (tmp_path / "both.onnx").write_bytes(both)
    np.savez(tmp_path / "pictures.npz", **{name: golden(name)[0] for name in NAMES})
    program = """
import numpy, onnxruntime
print(onnxruntime.__version__)
session = onnxruntime.InferenceSession("both.onnx", providers=["CPUExecutionProvider"])
pictures = numpy.load("pictures.npz")
found = [session.run(None, {"image": pictures[name]}) for name in pictures]
scores, inputs = map(numpy.concatenate, zip(*found))
numpy.savez("found.npz", scores=scores, inputs=inputs)
"""
    environment = {**os.environ, "PYTHONPATH": str(tmp_path / "old")}
    run = [sys.executable, "-c", program]
    said = subprocess.check_output(run, cwd=tmp_path, env=environment, text=True)
    assert said.strip() == version
    found = np.load(tmp_path / "found.npz")
    for name, scores, inputs in zip(
        NAMES, found["scores"], found["inputs"], strict=True
    ):
        (picture,), score = golden(name)
        assert np.array_equal(inputs.transpose(1, 2, 0), tensor(picture)), name
        assert abs(scores[1] - score) <= SCORE_TOLERANCE, name


def test_the_example_in_cpp(exported: Path, tmp_path: Path) -> None:
    """OpenVINO's own C++, which its wheel brings, and libjpeg-turbo."""
    if not shutil.which("g++") or not Path("/usr/include/jpeglib.h").exists():
        pytest.skip("g++ and libjpeg62-turbo-dev are not installed")
    folder = Path(import_openvino().__file__).parent
    (library,) = folder.glob("libs/libopenvino.so.*")
    options = ["-std=c++17", f"-I{folder}/include", f"-Wl,-rpath,{folder}/libs"]
    program = ["-x", "c++", ROOT / "examples" / "classify_onnx.cpp", "-x", "none"]
    command = [
        "g++",
        *options,
        *program,
        library,
        "-ljpeg",
        "-o",
        tmp_path / "classify",
    ]
    subprocess.run(command, check=True)
    names = ("rocket.jpg", "grace_hopper.jpg", "retina.jpg")
    files = [*unreadable(tmp_path), *map(pictures.path, names)]
    run = [tmp_path / "classify", exported, *files]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    for file in unreadable(tmp_path):
        assert f"error: {file}: " in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == len(names)
    for line, name in zip(lines, names, strict=True):
        expected = GOLDEN["samples"][name]["nsfw"]
        assert abs(json.loads(line)["nsfw"] - expected) <= SCORE_TOLERANCE
    of_three = with_picture(of_means(YAHOO), YAHOO).SerializeToString()
    (tmp_path / "three.onnx").write_bytes(of_three)
    run = [tmp_path / "classify", tmp_path / "three.onnx", files[-1]]
    done = subprocess.run(run, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "the model is not Yahoo's" in done.stderr
    assert not done.stdout


def unreadable(folder: Path) -> list[Path]:
    """Files that are no whole JPEG: one is missing."""
    data = pictures.path("rocket.jpg").read_bytes()
    made = {"empty.jpg": b"", "text.jpg": b"text", "cut.jpg": data[: len(data) // 2]}
    for name, content in made.items():
        (folder / name).write_bytes(content)
    return [folder / "missing.jpg", *(folder / name for name in made)]


def test_onnxs_own_reference(exported: Path) -> None:
    from onnx.reference import ReferenceEvaluator

    only = onnx_module.preprocessing_only(onnx.load(exported))
    noise = np.random.default_rng(0).integers(0, 256, (1, 90, 300, 3), np.uint8)
    reference = ReferenceEvaluator(only)
    (found,) = reference.run(None, {"image": noise})
    assert np.array_equal(found[0].transpose(1, 2, 0), tensor(noise[0]))
    for shape in REFUSED:
        with pytest.raises(TypeError, match="MatMul"):
            reference.run(None, {"image": np.zeros((1, *shape), np.uint8)})


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where npm has installed ONNX Runtime and a decoder of JPEGs."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm")
    try:
        nsfwjs_golden.install(folder, (*RUNTIMES, "jpeg-js"))
    except OSError as error:
        pytest.skip(f"the npm registry is not there: {error}")
    return folder


def node(
    folder: Path, *command: object, lines: str = ""
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["node", *map(str, command)],
        cwd=folder,
        input=lines,
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )


def printed(done: subprocess.CompletedProcess[str]) -> list[Any]:
    """What a program has printed, as JSON lines."""
    return [json.loads(line) for line in done.stdout.splitlines()]


RUNTIMES = ("onnxruntime-node", "onnxruntime-web")  # compiled for this machine; wasm


@pytest.mark.npm
@pytest.mark.parametrize("package", RUNTIMES)
def test_node(installed: Path, both: bytes, tmp_path: Path, package: str) -> None:
    (tmp_path / "both.onnx").write_bytes(both)
    lines = []
    names = ("astronaut.png", "coffee.png", "retina.jpg", "tiny_10x10", "wide_2000x20")
    for name in names:
        (rgb,) = golden(name)[0]
        height, width, _ = rgb.shape
        text = base64.b64encode(rgb.tobytes()).decode()
        job = {"name": name, "height": height, "width": width, "rgb": text}
        lines.append(json.dumps(job) + "\n")
    command = (SCORES, package, tmp_path / "both.onnx")
    done = node(installed, *command, lines="".join(lines))
    assert done.returncode == 0, done.stderr
    found = printed(done)
    assert [one["name"] for one in found] == list(names)
    for one in found:
        (rgb,), score = golden(one["name"])
        made = np.frombuffer(base64.b64decode(one["input"]), np.float32)
        assert np.array_equal(made.reshape(3, 224, 224).transpose(1, 2, 0), tensor(rgb))
        assert abs(one["nsfw"] - score) <= SCORE_TOLERANCE


@pytest.mark.npm
@pytest.mark.parametrize("package", RUNTIMES)
def test_pictures_that_node_refuses(
    installed: Path, both: bytes, tmp_path: Path, package: str
) -> None:
    (tmp_path / "both.onnx").write_bytes(both)
    pixels = base64.b64encode(bytes(3 * 100_000)).decode()
    line = json.dumps({"name": "long", "height": 1, "width": 100_000, "rgb": pixels})
    done = node(installed, SCORES, package, tmp_path / "both.onnx", lines=line + "\n")
    assert done.returncode == 1
    assert GUARD in done.stderr
    assert not done.stdout


@pytest.mark.npm
def test_the_example_for_node(installed: Path, exported: Path, tmp_path: Path) -> None:
    """jpeg-js decodes otherwise than libjpeg: docs/other-languages.md."""
    example = ROOT / "examples" / "classify_onnx.cjs"
    names = ("rocket.jpg", "grace_hopper.jpg")
    broken = unreadable(tmp_path)
    done = node(installed, example, exported, *broken, *map(pictures.path, names))
    assert done.returncode == 1
    for file in broken:
        assert f"error: {file}: " in done.stderr
    found = printed(done)
    assert len(found) == len(names)
    for one, name in zip(found, names, strict=True):
        assert abs(one["nsfw"] - GOLDEN["samples"][name]["nsfw"]) <= 0.02
    of_three = with_picture(of_means(YAHOO), YAHOO).SerializeToString()
    (tmp_path / "three.onnx").write_bytes(of_three)
    done = node(installed, example, tmp_path / "three.onnx", pictures.path(names[0]))
    assert done.returncode == 1
    assert "the model is not Yahoo's" in done.stderr
    assert not done.stdout


# -- other precisions and networks


def test_float16_is_of_the_network_alone(weights: Any, tmp_path: Path) -> None:
    path = tmp_path / "nsfw.onnx"
    made = export(
        "onnx",
        path,
        weights,
        precision="float16",
        input_type="picture",
        pictures=PHOTOS[:1],
    )
    assert made.difference <= FLOAT16
    assert made.size < 12e6


@pytest.mark.parametrize("of", [open_nsfw_of_three, other_network])
def test_trained_models(weights: Any, tmp_path: Path, of: Any) -> None:
    model = of(weights) if of is open_nsfw_of_three else of()
    write_trained(tmp_path, model)
    path = tmp_path / "run.onnx"
    options = ("--input", "picture", "--pictures", PHOTOS[0], "--pictures", PHOTOS[1])
    command = ("export", "onnx", path, "--model", tmp_path, *options)
    done = CliRunner().invoke(app, list(map(str, command)))
    assert done.exit_code == 0, done.output
    assert "over 2 pictures (allowed: 5e-06)" in done.output
    props = {one.key: one.value for one in onnx.load(path).metadata_props}
    assert props["labels"] == "drawing,neutral,nsfw"
    assert not props.keys() & {"mean", "scale", "channel_order"}


MEAN = (123.68, 116.779, 103.939)
OTHERS = [
    Preprocessing(224, 224, False, "BGR", MEAN, 1.0),
    Preprocessing(299, 299, False, "RGB", (127.5, 127.5, 127.5), 1 / 127.5),
    Preprocessing(300, 227, False, "BGR", MEAN, 0.017),
    Preprocessing(320, 224, True, "RGB", MEAN, 0.017),
    Preprocessing(16, 15, True, "BGR", MEAN, 1.0),
    Preprocessing(3, 3, False, "RGB", MEAN, 1.0),
    Preprocessing(1, 1, False, "RGB", MEAN, 1.0),
]


def of_means(preprocessing: Preprocessing) -> onnx.ModelProto:
    """A network that answers with the mean of each channel."""
    shape = ["batch", 3, preprocessing.crop, preprocessing.crop]
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("GlobalAveragePool", ["input"], ["means"]),
            helper.make_node("Flatten", ["means"], ["predictions"]),
        ],
        "means",
        [value("input", TensorProto.FLOAT, shape)],
        [value("predictions", TensorProto.FLOAT, ["batch", 3])],
    )
    opset = [helper.make_opsetid("", 17)]
    return helper.make_model(graph, ir_version=8, opset_imports=opset)


def job_of(preprocessing: Preprocessing) -> Job:
    trained = TrainedModel("other", ("a", "b", "c"), preprocessing, (), {})
    job = Job({}, "float32", "picture", trained=trained)
    job.pictures = [load_rgb(PHOTOS[0])]
    return job


@pytest.mark.parametrize("preprocessing", OTHERS)
def test_other_preprocessings(
    preprocessing: Preprocessing,
) -> None:
    job = job_of(preprocessing)
    if preprocessing.resize <= 16:  # the longest side is small
        job.pictures = [image.resize((99, 80)) for image in job.pictures]
    model = with_picture(of_means(preprocessing), preprocessing)
    onnx.checker.check_model(model, full_check=True)
    onnx_module.prove_preprocessing(model.SerializeToString(), job)


@pytest.mark.slow
@pytest.mark.parametrize("preprocessing", OTHERS)
def test_the_longest_height(preprocessing: Preprocessing) -> None:
    model = with_picture(of_means(preprocessing), preprocessing)
    only = onnx_module.preprocessing_only(model).SerializeToString()
    shape = (longest_side(preprocessing.resize), 2, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    (found,) = open_session(only).run(None, {"image": noise[np.newaxis]})
    assert np.array_equal(found[0].transpose(1, 2, 0), tensor(noise, preprocessing))


def test_a_wrong_preprocessing_is_found() -> None:
    model = with_picture(of_means(YAHOO), YAHOO)
    means = Preprocessing(256, 224, True, "BGR", (104.0, 117.0, 123.5), 1.0)
    with pytest.raises(ExportError, match="512 x 512 pixels is prepared otherwise"):
        onnx_module.prove_preprocessing(model.SerializeToString(), job_of(means))


def test_preprocessings_that_cannot_be_written(tmp_path: Path) -> None:
    for preprocessing, reason in (
        (Preprocessing(64, 64, False, "RGB", MEAN, 1.0, "aligned"), "aligned corners"),
        (Preprocessing(300, 224, True, "BGR", MEAN, 1.0), "needs a multiple of 16"),
    ):
        trained = TrainedModel("other", ("a", "b"), preprocessing, (), {})
        with pytest.raises(ValueError, match=reason):
            export("onnx", tmp_path / "x.onnx", model=trained, input_type="picture")
    assert not list(tmp_path.iterdir())


def test_the_longest_side_follows_the_size() -> None:
    assert longest_side(256) == 99_999
    assert longest_side(128) == 49_999  # as many pixels in a sum
    assert longest_side(1024) == 199_998  # as large sums of int32


def test_wrong_options(weights: Any, tmp_path: Path) -> None:
    for format in ("savedmodel", "coreml"):
        with pytest.raises(ValueError, match="decoded pictures, 'picture', are for on"):
            export(format, tmp_path / "x", weights, input_type="picture")
    with pytest.raises(ValueError, match="no nchw"):
        export("onnx", tmp_path / "x", weights, input_type="picture", layout="nchw")
