"""TensorFlow.js layers models: read, refused, fetched, as exact as nsfwjs itself."""

import functools
import hashlib
import http.server
import json
import random
import resource
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import layers_models
import nsfwjs_golden
import numpy as np
import pictures
import pytest
from conftest import SCORE_TOLERANCE, installed_engines
from layers_models import CLASSES, HEAD
from nsfwjs_golden import golden_picture
from trained_models import OTHER, with_blocks
from training_pictures import make_bands
from typer.testing import CliRunner

from open_nsfw_tf import Classifier, WeightsError
from open_nsfw_tf.backbones import build, network_of, nsfwjs
from open_nsfw_tf.backbones.layers_model import trained_model
from open_nsfw_tf.backbones.trained import read_trained
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.convert import convert, fetch_model
from open_nsfw_tf.engines import FLOAT32
from open_nsfw_tf.export import EXPORTERS, export
from open_nsfw_tf.formats import tfjs
from open_nsfw_tf.image import tensor
from open_nsfw_tf.train import Callbacks, TrainingOptions, train
from open_nsfw_tf.train.config import make_config
from open_nsfw_tf.train.data import read_data
from open_nsfw_tf.train.trainer import Trainer

GOLDEN = json.loads(nsfwjs_golden.GOLDEN.read_text())  # nsfwjs_golden.COMMAND writes it
NSFWJS = 1e-5  # from its scores; measured: 2.3e-6, LiteRT
PICTURE = str(pictures.path("coffee.png"))
ROUNDS = 250  # damaged copies
MORE_MEMORY = 300 << 20  # bytes, of a process that reads damaged files


@pytest.fixture(scope="module")
def network() -> Any:
    """MobileNetV2 of random weights and five classes, which it is not sure of."""
    model = build(OTHER, len(CLASSES), head=HEAD, init="random", seed=4)
    with_blocks(model)
    kernel, biases = model.get_layer("logits").get_weights()
    model.get_layer("logits").set_weights([kernel * np.float32(0.1), biases])
    return model


@pytest.fixture(scope="module")
def made(network: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("layers-model")
    layers_models.write(folder, network, "uint8")
    return folder


@pytest.fixture
def copied(made: Path, tmp_path: Path) -> Path:
    """A copy of its own, to be damaged."""
    return shutil.copytree(made, tmp_path / "copied")


def change(folder: Path, how: Callable[[dict[str, Any]], Any]) -> None:
    model = json.loads((folder / "model.json").read_text())
    how(model)
    (folder / "model.json").write_text(json.dumps(model))


def layer_of(model: dict[str, Any], name: str) -> dict[str, Any]:
    layers = model["modelTopology"]["model_config"]["config"]["layers"]
    return next(layer for layer in layers if layer["name"] == name)


# -- reading


@pytest.mark.parametrize("dtype", ["float32", "float16", "uint8", "uint16"])
def test_arrays_are_read_to_the_bit(dtype: str, network: Any, tmp_path: Path) -> None:
    wanted = layers_models.write(tmp_path, network, dtype)
    found = tfjs.read(tmp_path).weights
    flat = {
        f"{layer}/{v}": a for layer, fields in found.items() for v, a in fields.items()
    }
    assert flat.keys() == wanted.keys()
    for name, array in flat.items():
        assert array.dtype == np.float32
        assert np.array_equal(array, wanted[name]), name


def test_scripts_have_the_same_in_them(made: Path, tmp_path: Path) -> None:
    layers_models.minified(made, tmp_path)
    plain, scripts = tfjs.read(made), tfjs.read(tmp_path)
    assert scripts.layers == plain.layers
    for layer, fields in plain.weights.items():
        for name, array in fields.items():
            assert np.array_equal(array, scripts.weights[layer][name])


def test_a_converted_model_is_a_trained_model(network: Any, tmp_path: Path) -> None:
    folder = tmp_path / "tfjs"
    folder.mkdir()
    layers_models.write(folder, network)
    done = convert(folder, tmp_path / "run")
    assert (done.source, done.target, done.array_difference) == ("tfjs", "run", 0)
    assert done.notes == (
        "the file does not name its classes: nsfwjs's five were taken",
    )
    model = read_trained(tmp_path / "run")
    assert (model.backbone, model.classes, model.head) == (OTHER, CLASSES, HEAD)
    assert set(model.origin) == {
        "source",
        "git blob of model.json",
        *(f"git blob of group1-shard{number}of3" for number in (1, 2, 3)),
    }
    batch = tensor(PICTURE, model.preprocessing)[np.newaxis]
    wanted = network(batch, training=False).numpy()[0]
    scores = Classifier(model=tmp_path / "run").classify(PICTURE)
    assert np.abs(np.array(scores) - wanted).max() <= SCORE_TOLERANCE
    again = network_of(model)(batch, training=False).numpy()[0]
    assert np.array_equal(again, wanted)


def test_the_command_names_other_classes(made: Path, tmp_path: Path) -> None:
    arguments = ["convert", str(made), str(tmp_path / "run"), "--classes"]
    few = CliRunner().invoke(app, [*arguments, "a,b"])
    assert "expected the names of 5 classes, got 2" in str(few.exception)
    assert not (tmp_path / "run").exists()
    done = CliRunner().invoke(app, [*arguments, "a,b,c,d,e"])
    assert done.exit_code == 0, done.exception
    assert "TensorFlow.js layers model -> trained model" in done.output
    assert read_trained(tmp_path / "run").classes == ("a", "b", "c", "d", "e")
    again = CliRunner().invoke(app, [*arguments, "a,b,c,d,e"])
    assert isinstance(again.exception, FileExistsError)


def test_a_folder_is_made_and_no_file(made: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="expected a folder for a trained model"):
        convert(made, tmp_path / "a.npy")
    with pytest.raises(ValueError, match="leave formats and unfold out"):
        convert(made, tmp_path / "run", unfold=1)
    with pytest.raises(ValueError, match="needs the names of its classes"):
        convert("a.npy", tmp_path / "b.npy", classes=CLASSES)


def test_a_layers_model_is_no_trained_model_yet(made: Path) -> None:
    with pytest.raises(WeightsError, match=r"open-nsfw convert FOLDER RUN"):
        read_trained(made)


# -- what is refused


def graph_model(model: dict[str, Any]) -> None:
    model["format"] = "graph-model"


def graph_of_nodes(model: dict[str, Any]) -> None:
    model["modelTopology"] = {"node": [], "versions": {}}


def swapped(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["paths"].reverse()


def outside(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["paths"][0] = "../group1-shard1of3"


def gigabytes(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["shape"] = [1 << 20, 1 << 20]


def transposed(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["shape"] = [3, 3, 32, 3]


def negative(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["shape"] = [-1]


def endless(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["quantization"]["scale"] = float("nan")


def of_words(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["dtype"] = "string"


def twice(model: dict[str, Any]) -> None:
    specs = model["weightsManifest"][0]["weights"]
    specs[2]["name"] = specs[1]["name"]


def renamed_array(model: dict[str, Any]) -> None:
    model["weightsManifest"][0]["weights"][0]["name"] = "conv/kernel"


def strided(model: dict[str, Any]) -> None:
    layer_of(model, "block_1_depthwise")["config"]["strides"] = [1, 1]


def of_another_epsilon(model: dict[str, Any]) -> None:
    layer_of(model, "bn_Conv1")["config"]["epsilon"] = 1e-5


def linear(model: dict[str, Any]) -> None:
    layer_of(model, "Conv1_relu")["config"]["max_value"] = None


def wired(model: dict[str, Any]) -> None:
    nodes = layer_of(model, "block_2_add")["inbound_nodes"][0]
    nodes[1][0] = nodes[0][0]


def unknown(model: dict[str, Any]) -> None:
    layer_of(model, "block_2_add")["class_name"] = "Lambda"


def small(model: dict[str, Any]) -> None:
    layers = model["modelTopology"]["model_config"]["config"]["layers"]
    layers[0]["config"]["batch_input_shape"] = [None, 96, 96, 3]


def sigmoid(model: dict[str, Any]) -> None:
    layer_of(model, "logits")["config"]["activation"] = "sigmoid"


def of_another_output(model: dict[str, Any]) -> None:
    config = model["modelTopology"]["model_config"]["config"]
    config["output_layers"] = [["head_0", 0, 0]]


def of_channels_first(model: dict[str, Any]) -> None:
    layer_of(model, "Conv1")["config"]["data_format"] = "channels_first"


def in_part(model: dict[str, Any]) -> None:
    """Four pixels of seven are one window too."""
    layers = model["modelTopology"]["model_config"]["config"]["layers"]
    at = layers.index(layer_of(model, "pool"))
    config = {"pool_size": [4, 4], "strides": [4, 4], "padding": "valid"}
    average = {"class_name": "AveragePooling2D", "name": "average", "config": config}
    average["inbound_nodes"] = layers[at]["inbound_nodes"]
    nodes = [[["average", 0, 0, {}]]]
    flat = {"class_name": "Flatten", "name": "pool", "config": {}}
    layers[at : at + 1] = [average, {**flat, "inbound_nodes": nodes}]


def without_layers(model: dict[str, Any]) -> None:
    model["modelTopology"]["model_config"]["config"]["layers"] = []


def looped(model: dict[str, Any]) -> None:
    layer_of(model, "Conv1")["inbound_nodes"] = [[["out_relu", 0, 0, {}]]]


REFUSED = [
    (graph_model, "this is a TensorFlow.js graph model, which is not read"),
    (graph_of_nodes, "this is a TensorFlow.js graph model, which is not read"),
    (swapped, "not in order: expected group1-shard1of3, got group1-shard3of3"),
    (outside, "expected the name of a shard"),
    (gigabytes, r"declares 1,099,\d+,\d+,\d+ bytes of weights, and its shards have"),
    (transposed, r"Conv1\.kernel: expected shape \(3, 3, 3, 32\), got \(3, 3, 32, 3\)"),
    (negative, r"expected a shape, got \(-1,\)"),
    (endless, "expected a scale and a min that are finite"),
    (of_words, "expected values of uint8, uint16, float16, float32, got uint8, string"),
    (twice, "bn_Conv1/gamma: declared twice"),
    (renamed_array, "No weights for layer named 'Conv1' found"),
    (strided, "its layer block_1_depthwise differs"),
    (of_another_epsilon, "its layer bn_Conv1 differs"),
    (linear, "its layer Conv1_relu differs"),
    (wired, "its layer block_2_add differs"),
    (unknown, "its layer block_2_add is of the kind Lambda, not of"),
    (small, "its input has 96 pixels a side, not one of 224, 299"),
    (sigmoid, "its last layer is no softmax"),
    (of_another_output, "expected one output, of the last layer"),
    (of_channels_first, "its channels are not the last axis"),
    (in_part, r"it averages \(4, 4\) pixels of its last maps of \(7, 7\)"),
    (without_layers, "its input is None"),
    (looped, "nothing comes into its layer Conv1"),
]


@pytest.mark.parametrize(
    ("how", "reason"), REFUSED, ids=lambda v: getattr(v, "__name__", "")
)
def test_another_model_is_refused(
    how: Callable[[dict[str, Any]], None], reason: str, copied: Path, tmp_path: Path
) -> None:
    change(copied, how)
    with pytest.raises(WeightsError, match=reason) as caught:
        convert(copied, tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_shards_that_are_missing_or_cut(copied: Path, tmp_path: Path) -> None:
    shard = copied / "group1-shard2of3"
    data = shard.read_bytes()
    shard.write_bytes(data[:-1])
    with pytest.raises(WeightsError, match="a shard is cut, or another model's"):
        convert(copied, tmp_path / "run")
    shard.unlink()
    with pytest.raises(WeightsError, match="shard group1-shard2of3 is missing"):
        convert(copied, tmp_path / "run")
    with pytest.raises(WeightsError, match=r"expected a folder with model\.json"):
        tfjs.read(tmp_path)


def damaged(data: bytes, dice: random.Random) -> bytes:
    if dice.random() < 0.2:
        return data[: dice.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(dice.choice((1, 1, 2, 8))):
        at = dice.randrange(len(changed))
        if dice.random() < 0.7:
            changed[at] ^= 1 << dice.randrange(8)
        else:
            changed[at : at + 2] = dice.choice((b"99", b"{}", b"[]", b"-1", b'""'))
    return bytes(changed)


@pytest.mark.parametrize("scripts", [False, True])
def test_damaged_files_are_an_error_of_one_line(
    scripts: bool, made: Path, tmp_path: Path
) -> None:
    """Every damage is refused, or changes numbers only: the format has no checksum."""
    folder = tmp_path / "damaged"
    folder.mkdir()
    if scripts:
        layers_models.minified(made, folder)
    else:
        shutil.copytree(made, folder, dirs_exist_ok=True)
    whole = {path: path.read_bytes() for path in sorted(folder.iterdir())}
    dice = random.Random(14)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refused = 0
    for _ in range(ROUNDS):
        path = dice.choice(list(whole)) if dice.random() < 0.3 else max(whole)
        path.write_bytes(damaged(whole[path], dice))
        try:
            trained_model(tfjs.read(folder), CLASSES)
        except WeightsError as error:
            refused += 1
            assert "\n" not in str(error)
            assert len(str(error)) < 2000
        path.write_bytes(whole[path])
    assert refused > ROUNDS / 3
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert (after - before) << 10 < MORE_MEMORY


# -- fetching, from a server of our own


@pytest.fixture
def published(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be served, whose network stands for nsfwjs's MobileNetV2."""
    folder = tmp_path / "served"
    plain, package = folder / "mobilenet_v2", folder / "package" / "mobilenet_v2"
    shutil.copytree(made, plain)
    package.mkdir(parents=True)
    layers_models.minified(made, package)

    def blob(path: Path) -> str:
        data = path.read_bytes()
        return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()

    ours = nsfwjs.Network(
        "ours",
        "mobilenet_v2",
        (blob(plain / "model.json"), blob(package / "model.min.js")),
        tuple(blob(shard) for shard in sorted(plain.glob("group*"))),
    )
    monkeypatch.setitem(nsfwjs.NETWORKS, "nsfwjs-mobilenet", ours)
    return folder


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(published: Path) -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(published))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}"
        running.shutdown()
        thread.join()


@pytest.mark.parametrize("folder", ["mobilenet_v2", "mobilenet_v2/"])
def test_a_fetched_network_is_a_trained_model(
    folder: str, server: str, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    url = f"{server}/{folder}"
    done = CliRunner().invoke(
        app, ["weights", "fetch", "nsfwjs-mobilenet", "-o", str(run), "--url", url]
    )
    assert done.exit_code == 0, done.exception
    assert done.output.split() == [str(run)]
    model = read_trained(run)
    assert model.classes == nsfwjs.CLASSES
    assert model.origin["licence"] == "MIT, Copyright (c) 2019 Infinite Red, Inc."
    assert model.origin["source"] == "infinitered/nsfwjs, models/mobilenet_v2"
    assert len(Classifier(model=run).classify(PICTURE)) == 5
    with pytest.raises(FileExistsError):
        fetch_model("nsfwjs-mobilenet", run, url)


def test_a_damaged_network_is_not_kept(
    server: str, published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shard = published / "mobilenet_v2" / "group1-shard2of3"
    shard.write_bytes(damaged(shard.read_bytes(), random.Random(1)))
    run = tmp_path / "run"
    with pytest.raises(WeightsError, match="expected git_blob"):
        fetch_model("nsfwjs-mobilenet", run, f"{server}/mobilenet_v2")
    monkeypatch.setattr(nsfwjs, "UPSTREAM", f"{server}/none")
    with pytest.raises(WeightsError, match=r"answered 404; .*`npm pack nsfwjs@4.3.0`"):
        fetch_model("nsfwjs-mobilenet", run)
    assert not run.exists()


def test_the_npm_package_is_a_network_too(published: Path, tmp_path: Path) -> None:
    done = convert(published / "package" / "mobilenet_v2", tmp_path / "run")
    assert read_trained(done.path).origin["source"] == (
        "infinitered/nsfwjs, models/mobilenet_v2"
    )


def test_a_folder_of_mixed_files_is_refused(published: Path, tmp_path: Path) -> None:
    folder = published / "mobilenet_v2"
    shard = folder / "group1-shard2of3"
    whole = shard.read_bytes()
    shard.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        WeightsError, match="group1-shard2of3: expected that of nsfwjs-"
    ):
        convert(folder, tmp_path / "run")
    shard.write_bytes(whole)
    first, third = (folder / f"group1-shard{n}of3" for n in (1, 2))
    one, other = first.read_bytes(), third.read_bytes()
    first.write_bytes(other)  # of the same size
    third.write_bytes(one)
    with pytest.raises(
        WeightsError, match="group1-shard1of3: expected that of nsfwjs-"
    ):
        convert(folder, tmp_path / "run")


def test_only_known_networks_are_fetched(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="choose of nsfwjs-inception, nsfwjs-mob"):
        fetch_model("nsfwjs", tmp_path / "run")
    done = CliRunner().invoke(app, ["weights", "fetch", "nsfwjs-mobilenet"])
    assert done.exit_code == 2
    assert "-o RUN" in done.output


# -- nsfwjs itself


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where npm has installed nsfwjs."""
    if not shutil.which("node") or not shutil.which("npm"):
        pytest.skip("node and npm are not installed")
    folder = tmp_path_factory.mktemp("npm")
    try:
        nsfwjs_golden.install(folder)
    except OSError as error:
        pytest.skip(f"the npm registry is not there: {error}")
    return folder


@pytest.fixture(scope="module")
def runs(installed: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Trained models from the package's files."""
    folder = tmp_path_factory.mktemp("runs")
    models = installed / "node_modules" / "nsfwjs" / "dist" / "models"
    for name in nsfwjs_golden.NETWORKS:
        done = convert(models / name, folder / name)
        assert not done.notes
    return {name: folder / name for name in nsfwjs_golden.NETWORKS}


def check(found: dict[str, Any], golden: dict[str, Any], bound: float) -> None:
    for name, wanted in golden.items():
        for label, score in wanted.items():
            assert abs(found[name][label] - score) <= bound, (name, label)


def scored(classifier: Classifier, names: Any) -> dict[str, Any]:
    return {name: classifier.classify(golden_picture(name)) for name in names}


@pytest.mark.nsfwjs
@pytest.mark.parametrize("engine", installed_engines())
@pytest.mark.parametrize("network", nsfwjs_golden.NETWORKS)
def test_scores_are_nsfwjs_s(network: str, engine: str, runs: dict[str, Path]) -> None:
    wanted = GOLDEN[network]
    classifier = Classifier(engine, model=runs[network])
    check(scored(classifier, wanted), wanted, NSFWJS)


@pytest.mark.nsfwjs
def test_nsfwjs_answers_the_same_today(installed: Path, runs: dict[str, Path]) -> None:
    """One network alone, and three pictures, for time."""
    answers = nsfwjs_golden.scores(installed, OTHER, nsfwjs_golden.SAMPLES[:3])
    check(answers, {name: GOLDEN[OTHER][name] for name in answers}, NSFWJS)
    check(scored(Classifier(model=runs[OTHER]), answers), answers, NSFWJS)


@pytest.mark.nsfwjs
@pytest.mark.parametrize("format", sorted(EXPORTERS.keys() - {"page"}))  # Yahoo's
def test_exports_give_nsfwjs_s_scores(
    format: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    """Each export compares itself with the model, whose scores are nsfwjs's."""
    named = [golden_picture(name) for name in nsfwjs_golden.SAMPLES[:2]]
    target = tmp_path / f"out{EXPORTERS[format].suffix or '.onnx'}"
    done = export(format, target, model=runs[OTHER], pictures=named)
    assert done.difference <= FLOAT32


@pytest.mark.nsfwjs
def test_training_begins_with_nsfwjs_s_network(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    """Its body soon learns two new classes, of which random weights learn nothing."""
    data = make_bands(tmp_path / "data", train=28, test=8, side=112)
    options = TrainingOptions(
        "mobilenet",
        init=runs[OTHER],
        epochs=2,
        learning_rate=0.02,
        overrides={"batch_size": 8, "batch_norm_momentum": 0.5},  # few steps
        validation=0.15,
        bootstrap=0,
    )
    done = train(data, tmp_path / "nsfwjs", options)
    (tmp_path / "random").mkdir()
    config = make_config(replace(options, init="random"))
    found = read_data(data, validation=options.validation, seed=options.seed)
    random = Trainer(config, found, tmp_path / "random")  # its test set is not scored
    assert random.run(Callbacks())
    last, other = done.history[-1], random.history[-1]
    assert last["val_loss"] < 0.5 * other["val_loss"], (last, other)
    assert last["val_accuracy"] >= other["val_accuracy"] + 0.2, (last, other)
    assert done.accuracy is not None
    assert done.accuracy >= 0.7
    trained = read_trained(tmp_path / "nsfwjs")
    assert trained.preprocessing == read_trained(runs[OTHER]).preprocessing
    assert trained.origin == {
        "source": "trained from infinitered/nsfwjs, models/mobilenet_v2",
        "licence": nsfwjs.LICENCE,
    }
