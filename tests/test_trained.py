"""A trained model is a model everywhere: scores, tables, exports, weights formats."""

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import SCORE_TOLERANCE, installed_engines
from trained_models import CLASSES, OTHER, open_nsfw_of_three, other_network
from typer.testing import CliRunner

import open_nsfw_tf.cli  # noqa: F401 - registers the commands
from open_nsfw_tf import Classifier, ClassScores, Scores, WeightsError, load_weights
from open_nsfw_tf.architecture import DENSE, check_weights, classes_of
from open_nsfw_tf.backbones.trained import (
    ARRAYS,
    MODEL,
    TrainedModel,
    read_trained,
    write_trained,
)
from open_nsfw_tf.batch import score_batch
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.convert import convert, inspect
from open_nsfw_tf.engines import FLOAT16
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.evaluate import evaluate_files
from open_nsfw_tf.export import export
from open_nsfw_tf.formats import FORMATS
from open_nsfw_tf.image import (
    YAHOO,
    Preprocessing,
    check_batch,
    create_yahoo_image_loader,
    load_rgb,
    pixels,
    tensor,
)
from open_nsfw_tf.tables import read_table

PICTURES = [str(pictures.path(name)) for name in ("coffee.png", "rocket.jpg")]
ROOT = Path(__file__).parent.parent
RUNS = ("open_nsfw", "other")


@pytest.fixture(scope="module")
def models(weights: Any) -> dict[str, TrainedModel]:
    return {"open_nsfw": open_nsfw_of_three(weights), "other": other_network()}


@pytest.fixture(scope="module")
def runs(
    models: dict[str, TrainedModel], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    folders = {}
    for name, model in models.items():
        folders[name] = tmp_path_factory.mktemp(name)
        write_trained(folders[name], model)
    return folders


@pytest.fixture(scope="module")
def classifiers(runs: dict[str, Path]) -> dict[str, Classifier]:
    return {name: Classifier(model=run) for name, run in runs.items()}


@pytest.fixture(scope="module")
def expected(models: dict[str, TrainedModel]) -> dict[str, np.ndarray]:
    """What Keras answers for the pictures, loaded by hand."""
    from open_nsfw_tf.backbones import network_of

    return {
        name: network_of(model)(
            np.stack([tensor(p, model.preprocessing) for p in PICTURES]), training=False
        ).numpy()
        for name, model in models.items()
    }


def run_cli(*arguments: Any) -> Any:
    """A command in this process; what goes wrong is the result's exception."""
    return CliRunner().invoke(app, list(map(str, arguments)))


def process(home: Path, *arguments: Any) -> Any:
    """A command as a process of its own, which succeeds."""
    done = subprocess.run(
        [Path(sys.executable).parent / "open-nsfw", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        cwd=home,
        env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    return done


# -- pixels


def test_yahoos_pixels_are_one_case() -> None:
    found = tensor(PICTURES[0], YAHOO)
    load = create_yahoo_image_loader(expand_dims=False)
    assert np.array_equal(found, load(PICTURES[0]))
    assert found.dtype == np.float32


@pytest.mark.parametrize("order", ["BGR", "RGB"])
def test_other_preprocessing_is_what_it_says(order: str) -> None:
    steps = Preprocessing(72, 64, False, order, (1.0, 2.0, 3.0), 0.5)
    image = load_rgb(PICTURES[0])
    whole = image.resize((72, image.height), 2).resize((72, 72), 2)
    crop = np.asarray(whole)[4:68, 4:68]
    assert np.array_equal(pixels(image, steps), crop)
    crop = crop if order == "RGB" else crop[..., ::-1]
    wanted = (crop.astype(np.float32) - np.float32([1, 2, 3])) * np.float32(0.5)
    assert np.array_equal(tensor(PICTURES[0], steps), wanted)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (6, 5), (3, 400)])
def test_a_resize_with_aligned_corners(size: tuple[int, int]) -> None:
    """TensorFlow 1's own operation does the same, but rounds positions to float32."""
    from open_nsfw_tf.libraries import import_tensorflow

    tf = import_tensorflow()
    picture = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    steps = Preprocessing(6, 6, False, "RGB", (0.0, 0.0, 0.0), 1.0, "aligned")
    wanted = tf.compat.v1.image.resize_bilinear(picture[None], (6, 6), True)[0]
    found = tensor(picture, steps)
    assert found.dtype == np.float32
    assert np.abs(found - wanted.numpy()).max() < 255 * max(size) * 2.0**-23
    assert np.array_equal(found[0, 0], picture[0, 0])
    if min(size) > 1:
        assert np.array_equal(found[-1, -1], picture[-1, -1])


def test_an_older_record_is_of_pillows_resize() -> None:
    record = YAHOO.record()
    assert record.pop("filter") == "antialiased"
    assert Preprocessing.from_record(record) == YAHOO
    for wrong in ({"filter": "nearest"}, {"filter": "aligned"}):  # with YAHOO's JPEG
        with pytest.raises(ValueError, match="the filter is antialiased or aligned"):
            Preprocessing.from_record({**record, **wrong})


def test_a_resize_to_the_pictures_own_size() -> None:
    picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
    steps = Preprocessing(32, 32, False, "RGB", (0.0, 0.0, 0.0), 1.0)
    assert np.array_equal(tensor(picture, steps), picture)


@pytest.mark.parametrize(
    "steps",
    [
        Preprocessing(75, 75, True, "RGB", (1.5, 2.0, 3.0), 0.017),
        Preprocessing(99, 98, False, "BGR", (103.939, 116.779, 123.68), 1.0),
        Preprocessing(224, 220, False, "RGB", (0.0, 0.0, 0.0), 1 / 255, "aligned"),
        Preprocessing(299, 299, False, "RGB", (0.0, 0.0, 0.0), 1 / 255, "aligned"),
        Preprocessing(512, 512, False, "RGB", (0.0, 0.0, 0.0), 1 / 255, "aligned"),
    ],
    ids=lambda steps: str(steps.resize),
)
def test_the_graph_loads_the_same_to_the_bit(steps: Preprocessing) -> None:
    from open_nsfw_tf.libraries import import_tensorflow
    from open_nsfw_tf.tf_image import load_bytes_tensor

    tf = import_tensorflow()
    files = [Path(path).read_bytes() for path in PICTURES]

    def load(strings: Any) -> Any:
        return load_bytes_tensor(strings, steps)

    spec = tf.TensorSpec((None,), tf.string)
    came = tf.function(load, input_signature=[spec])(tf.constant(files)).numpy()
    assert np.array_equal(came, np.stack([tensor(data, steps) for data in files]))


def test_a_batch_of_another_size() -> None:
    batch = np.zeros((1, 64, 64, 3), np.float32)
    assert check_batch(batch, 64) is not None
    with pytest.raises(ValueError, match=r"\(N, 224, 224, 3\), got shape"):
        check_batch(batch)


# -- weights of other classes


def test_classes_are_counted(models: dict[str, TrainedModel]) -> None:
    weights = models["open_nsfw"].weights
    assert classes_of(weights) == 3
    check_weights(weights)
    check_weights(weights, 3)
    with pytest.raises(WeightsError, match=r"shape \(1024, 2\), got \(1024, 3\)"):
        check_weights(weights, 2)
    odd = {**weights, DENSE: {**weights[DENSE], "biases": np.zeros(2, np.float32)}}
    with pytest.raises(
        WeightsError, match=r"biases: expected shape \(3,\), got \(2,\)"
    ):
        check_weights(odd)


@pytest.mark.parametrize("format", FORMATS)
def test_every_weights_format_holds_them(
    format: str, runs: dict[str, Path], tmp_path: Path, models: dict[str, TrainedModel]
) -> None:
    path = tmp_path / f"fine-tuned{FORMATS[format].suffixes[0]}"
    done = convert(runs["open_nsfw"], path, target_format=format, pictures=PICTURES)
    assert (done.array_difference, done.score_difference <= 5e-6) == (0, True)
    read = load_weights(path, classes=3)
    assert np.array_equal(
        read[DENSE]["weights"], models["open_nsfw"].weights[DENSE]["weights"]
    )
    back = convert(path, tmp_path / "back.safetensors", pictures=PICTURES)
    assert classes_of(back.weights) == 3
    with pytest.raises(WeightsError, match=r"expected shape \(1024, 2\)"):
        load_weights(path)  # it would be called sfw and nsfw
    if done.network:
        assert "num_output: 3 " in done.network.read_text()


def test_inspection_of_other_classes(runs: dict[str, Path]) -> None:
    found = inspect(runs["open_nsfw"] / "model.safetensors")
    assert found.mismatch == ""
    assert "other classes" in found.difference or "no reference" in found.difference


def test_another_network_is_no_weights_file(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(WeightsError, match=f"resnet50_thin .* got one of {OTHER}"):
        convert(runs["other"], tmp_path / "a.npy")
    assert not any(tmp_path.iterdir())


# -- scores


@pytest.mark.parametrize("engine", installed_engines())
def test_every_engine_scores_yahoos_network(
    engine: str, runs: dict[str, Path], expected: dict[str, np.ndarray]
) -> None:
    classifier = Classifier(engine, model=runs["open_nsfw"])
    found = np.array(list(classifier.classify_many(PICTURES)))
    assert np.abs(found - expected["open_nsfw"]).max() <= SCORE_TOLERANCE


@pytest.mark.parametrize("run", RUNS)
def test_a_classifier_answers_as_keras_does(
    run: str, classifiers: dict[str, Classifier], expected: dict[str, np.ndarray]
) -> None:
    classifier = classifiers[run]
    assert classifier.classes == CLASSES
    one = classifier.classify(PICTURES[0])
    assert isinstance(one, ClassScores)
    assert np.abs(np.array(one) - expected[run][0]).max() <= SCORE_TOLERANCE
    many = classifier.classify_many(
        [*PICTURES, b"none"] * 3, batch_size=2, errors="yield"
    )
    for index, scores in enumerate(many):
        if index % 3 == 2:
            assert isinstance(scores, ImageError)
        else:
            wanted = expected[run][index % 3]
            assert np.abs(np.array(scores) - wanted).max() <= SCORE_TOLERANCE
    size = classifier.preprocessing.crop
    assert classifier.predict(np.empty((0, size, size, 3), np.float32)).shape == (0, 3)


@pytest.mark.parametrize("engine", installed_engines())
def test_every_engine_scores_another_network(
    engine: str, runs: dict[str, Path], expected: dict[str, np.ndarray]
) -> None:
    classifier = Classifier(engine, model=runs["other"])
    found = np.array(list(classifier.classify_many(PICTURES)))
    assert np.abs(found - expected["other"]).max() <= SCORE_TOLERANCE


def test_other_networks_are_exact_or_in_float16(
    runs: dict[str, Path], expected: dict[str, np.ndarray]
) -> None:
    assert Classifier(model=runs["other"]).engine_name == "onnxruntime"
    half = Classifier(model=runs["other"], precision="float16")
    found = np.array(list(half.classify_many(PICTURES)))
    assert 0 < np.abs(found - expected["other"]).max() <= FLOAT16
    with pytest.raises(ValueError, match="no engine offers the precision 'int8'"):
        Classifier(model=runs["other"], precision="int8")
    with pytest.raises(ValueError, match="float32, float16 for other networks"):
        Classifier("onnxruntime", model=runs["other"], precision="int8")


def test_another_network_of_the_usual_size_needs_no_tensorflow(tmp_path: Path) -> None:
    from open_nsfw_tf.backbones import BACKBONES, network_of

    usual = BACKBONES[OTHER].preprocessing
    model = replace(other_network(), preprocessing=usual)
    (tmp_path / "run").mkdir()
    write_trained(tmp_path / "run", model)
    code = (
        "import sys\nsys.modules['tensorflow'] = sys.modules['keras'] = None\n"
        "from open_nsfw_tf import Classifier\n"
        f"print(*Classifier(model={str(tmp_path / 'run')!r}).classify({PICTURES[0]!r}))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    batch = tensor(PICTURES[0], usual)[np.newaxis]
    wanted = network_of(model)(batch, training=False).numpy()[0]
    found = np.array(done.stdout.split(), np.float32)
    assert np.abs(found - wanted).max() <= SCORE_TOLERANCE
    assert np.abs(wanted - 1 / 3).max() > 0.01


def test_two_classes_of_yahoos_names_are_scores(weights: Any) -> None:
    model = TrainedModel("resnet50_thin", ("sfw", "nsfw"), YAHOO, (), weights)
    scores = Classifier("onnxruntime", model=model).classify(PICTURES[0])
    assert type(scores) is Scores
    assert scores == Classifier("onnxruntime", weights).classify(PICTURES[0])


def test_class_scores() -> None:
    scores = ClassScores(("cat", "a dog", "count"), (0.5, 0.3, 0.2))
    assert (scores["cat"], scores.cat, scores[0], scores["count"]) == (
        0.5,
        0.5,
        0.5,
        0.2,
    )
    cat, *others = scores
    assert (cat, others, scores[1:]) == (0.5, [0.3, 0.2], (0.3, 0.2))
    assert scores.classes == ("cat", "a dog", "count")
    for again in (pickle.loads(pickle.dumps(scores)), copy.deepcopy(scores)):
        assert (again, again.classes) == (scores, scores.classes)
    with pytest.raises(KeyError, match="no class 'bird'"):
        scores["bird"]
    with pytest.raises(AttributeError, match="bird"):
        scores.bird  # noqa: B018
    with pytest.raises(ValueError, match="expected 2 scores, got 1"):
        ClassScores(("a", "b"), (1.0,))
    assert "a dog=0.3" in repr(scores)


# -- tables and the command line


@pytest.fixture(scope="module")
def labelled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("labelled")
    for name, picture in zip(CLASSES, [*PICTURES, PICTURES[0]], strict=True):
        (folder / name).mkdir()
        shutil.copy(picture, folder / name)
    return folder


@pytest.mark.parametrize("run", RUNS)
def test_a_table_has_the_classes(
    run: str,
    classifiers: dict[str, Classifier],
    expected: dict[str, np.ndarray],
    tmp_path: Path,
) -> None:
    path = tmp_path / "scores.csv"
    score_batch(classifiers[run], PICTURES, path)
    assert (
        path.read_text().splitlines()[0]
        == "path,drawing,neutral,nsfw,error,size,mtime_ns"
    )
    table = read_table(path)
    assert table.paths == PICTURES
    found = np.stack([table.columns[name] for name in CLASSES], axis=1)
    assert np.abs(found - expected[run]).max() <= SCORE_TOLERANCE
    with pytest.raises(ValueError, match="column"):
        score_batch(Classifier(), PICTURES, path, mode="resume")


def test_evaluated_on_the_fly(runs: dict[str, Path], labelled: Path) -> None:
    def by(**options: Any) -> Callable[[], Classifier]:
        return partial(Classifier, model=runs["open_nsfw"], **options)

    found = evaluate_files([labelled], labelled, bootstrap=0, classifier=by())
    assert json.dumps(found.to_dict())
    with pytest.raises(ValueError, match="got both"):
        evaluate_files([labelled], labelled, classifier=by(weights="x"))


@pytest.mark.ray
def test_ray_sends_the_model(
    runs: dict[str, Path], tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    from open_nsfw_tf.batch import Network, score_on_ray

    out = tmp_path / "out"
    ray = ["--model", runs["open_nsfw"], "--ray", "--actors=1"]
    process(tmp_path, "batch", *PICTURES, "-o", out, *ray)
    table = read_table(out)
    assert list(table.columns) == list(CLASSES)
    order = [table.paths.index(path) for path in PICTURES]
    found = np.stack([table.columns[name][order] for name in CLASSES], axis=1)
    assert np.abs(found - expected["open_nsfw"]).max() <= SCORE_TOLERANCE
    with pytest.raises(ValueError, match="no engine offers the precision 'int8'"):
        network = Network(precision="int8", model=runs["other"])
        score_on_ray(PICTURES, tmp_path / "rows", network=network)
    assert not (tmp_path / "rows").exists()


def test_the_command_line(
    runs: dict[str, Path], expected: dict[str, np.ndarray], tmp_path: Path
) -> None:
    run = runs["open_nsfw"]
    classify = ["classify", PICTURES[0], "--model", run]
    row = json.loads(run_cli(*classify, "--json", "--threshold", "0").output)
    assert list(row) == ["path", *CLASSES, "error", "label"]
    assert abs(row["neutral"] - expected["open_nsfw"][0, 1]) <= SCORE_TOLERANCE
    assert row["label"] == "nsfw"
    line = run_cli(*classify).output
    best = CLASSES[int(expected["open_nsfw"][0].argmax())]
    assert line.startswith(f"{best} ")
    assert "coffee.png" in line

    table = tmp_path / "scores.jsonl"
    sort = ["--move-to", tmp_path / "sorted", "--threshold", "0", "--action", "link"]
    done = process(tmp_path, "batch", *PICTURES, "-o", table, "--model", run, *sort)
    assert "2 nsfw" in done.stdout
    assert len(read_table(table)) == len(PICTURES)
    assert run_cli("convert", run, tmp_path / "fine.npy").exit_code == 0


def test_wrong_commands_end_in_one_line(
    runs: dict[str, Path], tmp_path: Path, weights_path: Path
) -> None:
    cats = tmp_path / "cats"
    cats.mkdir()
    known = read_trained(runs["open_nsfw"])
    write_trained(cats, replace(known, classes=("a", "b", "c")))
    picture, out = PICTURES[0], tmp_path / "out.csv"
    both = ["--model", cats, "-m", weights_path]
    sort = ["--move-to", tmp_path / "sorted", "--threshold", "0.5"]
    for arguments, reason in (
        (["classify", picture, "--model", tmp_path / "none"], "expected the folder of"),
        (["classify", picture, *both], "got both"),
        (["classify", picture, "--model", cats, "--threshold", "0.5"], "a class nsfw"),
        (["batch", picture, "-o", out, "--model", cats, *sort], "a class nsfw"),
        (["batch", picture, "-o", out, *both], "got both"),
        (["export", "onnx", tmp_path / "a.onnx", *both], "got both"),
        (["export", "onnx", tmp_path / "a.onnx", "--model", tmp_path], "the folder of"),
        (["convert", runs["other"], tmp_path / "a.npy"], "open-nsfw export"),
    ):
        done = run_cli(*arguments)
        assert done.exit_code == 1, arguments
        assert reason in str(done.exception)
        assert "\n" not in str(done.exception)
    assert {path.name for path in tmp_path.iterdir()} == {"cats"}


# -- files that lie


def changed(run: Path, folder: Path, **fields: Any) -> Path:
    """A copy of a run with other fields in its record."""
    shutil.copytree(run, folder, dirs_exist_ok=True)
    record = json.loads((folder / MODEL).read_text())
    (folder / MODEL).write_text(json.dumps({**record, **fields}))
    return folder


@pytest.mark.parametrize(
    "fields, reason",
    [
        ({"classes": ["a", "b"]}, "expected shape"),
        ({"classes": ["a", "a", "b"]}, "expected different classes"),
        ({"classes": ["path", "a", "b"]}, "expected different classes"),
        ({"classes": ["\x1b[2J", "a", "b"]}, "printable"),
        ({"classes": "abc"}, "a list of 2 classes or more"),
        ({"preprocessing": {}}, "preprocessing's"),
        ({"preprocessing": None}, "preprocessing's"),
        ({"preprocessing": {**YAHOO.record(), "scale": 10**400}}, "preprocessing's"),
        ({"preprocessing": {**YAHOO.record(), "scale": 1e308}}, "preprocessing's"),
        ({"classes": ["a", "b\nc", "d"]}, "printable"),
        ({"classes": ["a", "\ud800", "d"]}, "printable"),
        ({"head": [{"kind": "dense", "units": "8"}]}, "no layer of a head"),
        ({"head": [{"kind": "dropout", "rate": True}]}, "no layer of a head"),
        ({"head": [{"kind": "lambda"}]}, "no layer of a head"),
        ({"head": 3}, "list of the head's layers"),
        ({"backbone": ""}, "expected a name, got ''"),
        ({"backbone": "../evil"}, r"no backbone is called \.\./evil"),
        ({"version": 2}, "not of version 1"),
    ],
    ids=str,
)
def test_hostile_records_are_one_line(
    fields: dict[str, Any], reason: str, runs: dict[str, Path], tmp_path: Path
) -> None:
    for name in RUNS:
        folder = changed(runs[name], tmp_path / name, **fields)
        with pytest.raises(WeightsError, match=reason) as error:
            Classifier(model=folder)
        assert "\n" not in str(error.value)


def test_a_file_of_a_run_is_no_run(runs: dict[str, Path]) -> None:
    for name in (MODEL, ARRAYS):
        with pytest.raises(OSError, match="expected the folder of a trained model"):
            read_trained(runs["other"] / name)


def test_a_record_without_a_field_says_which(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    folder = changed(runs["other"], tmp_path / "run")
    record = json.loads((folder / MODEL).read_text())
    del record["head"]
    (folder / MODEL).write_text(json.dumps(record))
    with pytest.raises(WeightsError, match=r"model\.json does not tell the head"):
        read_trained(folder)


def test_broken_files_are_one_line(runs: dict[str, Path], tmp_path: Path) -> None:
    folder = changed(runs["open_nsfw"], tmp_path)
    arrays = folder / "model.safetensors"
    data = arrays.read_bytes()
    for content in (b"", data[:1000], data[:-1]):
        arrays.write_bytes(content)
        with pytest.raises(WeightsError, match="broken safetensors|is empty") as error:
            Classifier(model=folder)
        assert "\n" not in str(error.value)
    arrays.unlink()
    with pytest.raises(OSError, match="expected the folder of a trained model"):
        Classifier(model=folder)
    (folder / MODEL).write_bytes(b"[" * 100_000)
    with pytest.raises(
        WeightsError, match=r"expected a trained model.*recursion"
    ) as deep:
        read_trained(folder)
    assert str(deep.value).startswith(f"{folder}: ")
    assert "model.json is no JSON" in str(deep.value)


def test_arrays_of_another_shape_are_refused(
    models: dict[str, TrainedModel], tmp_path: Path
) -> None:
    for name, layer in (("open_nsfw", DENSE), ("other", "logits")):
        model = models[name]
        fields = {f: np.zeros((5, 5), np.float32) for f in model.weights[layer]}
        wrong = {**model.weights, layer: fields}
        folder = tmp_path / name
        folder.mkdir()
        write_trained(folder, replace(model, weights=wrong))
        with pytest.raises(WeightsError, match=layer):
            Classifier(model=folder)


# -- exports


@pytest.mark.parametrize(
    ("format", "name", "options"),
    [
        ("onnx", "a.onnx", {}),
        ("onnx", "half.onnx", {"precision": "float16", "layout": "nchw"}),
        ("tflite", "a.tflite", {"precision": "float16"}),
        ("graph", "graphs", {"optimize": False}),
        ("coreml", "a.mlpackage", {}),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_other_networks_are_exported(
    format: str,
    name: str,
    options: dict[str, Any],
    runs: dict[str, Path],
    tmp_path: Path,
) -> None:
    done = export(
        format, tmp_path / name, model=runs["other"], pictures=PICTURES, **options
    )
    assert done.difference <= done.tolerance
    if format == "tflite":
        said = json.loads((tmp_path / "a.json").read_text())
        assert said["labels"] == list(CLASSES)
        assert said["input"]["shape"] == [1, 64, 64, 3]
        assert said["input"]["channel_order"] == "RGB"
        assert "times 0.00784314" in said["preprocessing"]


def test_yahoos_network_is_exported_with_its_labels(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    import onnx

    path = tmp_path / "a.onnx"
    done = export("onnx", path, model=runs["open_nsfw"], pictures=PICTURES)
    assert done.difference <= done.tolerance
    props = {p.key: p.value for p in onnx.load(str(path)).metadata_props}
    assert props["labels"] == ",".join(CLASSES)


def test_a_saved_model_has_the_preprocessing_in_it(
    runs: dict[str, Path], tmp_path: Path, expected: dict[str, np.ndarray]
) -> None:
    from open_nsfw_tf.libraries import import_tensorflow

    tf = import_tensorflow()
    optimizer = tf.config.optimizer.get_experimental_options()
    done = export(
        "savedmodel",
        tmp_path,
        model=runs["other"],
        pictures=PICTURES,
        input_type="bytes",
    )
    assert tf.config.optimizer.get_experimental_options() == optimizer
    served = tf.saved_model.load(str(done.path)).signatures["serving_default"]
    files = tf.constant([Path(path).read_bytes() for path in PICTURES])
    found = served(inputs=files)["outputs"].numpy()
    assert np.abs(found - expected["other"]).max() <= SCORE_TOLERANCE
    labels = (done.path / "assets" / "labels.txt").read_text().split()
    assert labels == list(CLASSES)


def test_int8_of_another_network_is_refused(
    runs: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="int8 is only for Yahoo's network"):
        export("onnx", tmp_path / "a.onnx", model=runs["other"], precision="int8")
    with pytest.raises(ValueError, match="got both"):
        export("onnx", tmp_path / "a.onnx", "w.npy", model=runs["other"])
