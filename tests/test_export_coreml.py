"""Core ML packages: what they promise, and that a wrong one is not let through."""

import shutil
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pictures
import pytest

if find_spec("coremltools") is None:
    pytest.skip("needs the extra coreml", allow_module_level=True)

from open_nsfw_tf import WeightsError
from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.errors import ExportError
from open_nsfw_tf.export import EXPORTERS, Export, Job, coreml, export
from open_nsfw_tf.image import MEAN_BGR, YAHOO, load_rgb, pixels, tensor

NAMES = ("coffee.png", "astronaut.png", "rocket.jpg", "chelsea.png")
SIZES = {"float32": 23_750_000, "float16": 11_950_000}  # bytes, at most
SPEC = Path("Data/com.apple.CoreML/model.mlmodel")
WRONG = 5 * max(EXPORTERS["coreml"].tolerances.values())  # measured: 0.012 and more


@pytest.fixture(scope="module", params=SIZES)
def exported(
    request: pytest.FixtureRequest,
    weights: Any,
    tmp_path_factory: pytest.TempPathFactory,
) -> Export:
    path = tmp_path_factory.mktemp("coreml") / f"{request.param}.mlpackage"
    named = [pictures.path(name) for name in NAMES]
    return export("coreml", path, weights, precision=request.param, pictures=named)


@pytest.fixture(scope="module")
def package(weights: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("coreml") / "open_nsfw.mlpackage"
    coreml.write(path, Job(weights))
    return path


@pytest.fixture(scope="module")
def job(weights: Any) -> Job:
    images = [load_rgb(pictures.path(name)) for name in NAMES[:2]]
    batch = np.stack([tensor(image) for image in images])
    return Job(weights, pictures=images, batch=batch)


def read(path: Path) -> Any:
    with coreml._quiet():
        from coremltools.proto.Model_pb2 import Model

    return Model.FromString((path / SPEC).read_bytes())


def operations(spec: Any, kind: str) -> list[Any]:
    (block,) = spec.mlProgram.functions["main"].block_specializations.values()
    return [op for op in block.operations if op.type == kind]


def altered(package: Path, folder: Path, alter: Callable[[Any], None]) -> Path:
    copy = folder / "altered.mlpackage"
    shutil.copytree(package, copy)
    spec = read(copy)
    alter(spec)
    (copy / SPEC).write_bytes(spec.SerializeToString())
    return copy


def test_scores_are_the_models(exported: Export) -> None:
    precision = exported.path.stem
    print(f"{precision}: {exported.difference:.2g}, {exported.size} bytes")
    assert exported.difference <= EXPORTERS["coreml"].tolerances[precision]
    assert exported.compared == len(NAMES)
    assert exported.size <= SIZES[precision]
    assert [path.name for path in exported.path.parent.iterdir()] == [
        exported.path.name
    ]
    if not coreml.CORE_ML_RUNS:
        assert "read back" in exported.notes[0]
        assert "only on macOS" in exported.notes[0]


def test_input_and_output_are_as_promised(exported: Export) -> None:
    spec = read(exported.path)
    assert spec.specificationVersion == 6  # macOS 12, iOS 15
    (image,) = spec.description.input
    kind = image.type.imageType
    assert (image.name, kind.width, kind.height) == ("image", 224, 224)
    assert kind.ColorSpace.Name(kind.colorSpace) == "BGR"
    names = [output.name for output in spec.description.output]
    assert names == ["classLabel", "classLabel_probs"]
    (classify,) = operations(spec, "classify")
    (classes,) = classify.inputs["classes"].arguments
    labels = classes.value.immediateValue.list.values
    assert (
        tuple(v.immediateValue.tensor.strings.values[0] for v in labels)
        == LABELS
        == ("sfw", "nsfw")
    )


def test_metadata_says_what_a_caller_needs(exported: Export) -> None:
    said = read(exported.path).description.metadata
    assert "Yahoo" in said.author
    assert "BSD 2-Clause" in said.license
    assert "2016 Yahoo" in said.license
    recipe = said.userDefined["preprocessing"]
    assert recipe in said.shortDescription
    for step in ("256 x 256", "JPEG of quality 75", "224 x 224", "(16, 16)", "BGR"):
        assert step in recipe
    assert said.userDefined["labels"] == "sfw,nsfw"
    assert said.userDefined["mean"] == "104,117,123"
    assert said.userDefined["channel_order"] == "BGR"
    assert said.userDefined["precision"] == exported.path.stem


def test_precisions_are_what_they_say(exported: Export) -> None:
    spec = read(exported.path)
    kinds = {
        output.type.tensorType.DESCRIPTOR.file.enum_types_by_name["DataType"]
        .values_by_number[output.type.tensorType.dataType]
        .name
        for op in operations(spec, "conv")
        for output in op.outputs
    }
    assert kinds == {exported.path.stem.upper()}


def test_biases_hit_their_channels(package: Path) -> None:
    # Added to channels in the declared order, B, G, R; the mean is blue's first.
    (bias,) = [
        op
        for op in operations(read(package), "const")
        if op.outputs[0].name.startswith("image__biased__")
    ]
    values = bias.attributes["val"].immediateValue.tensor.floats.values
    assert list(values) == [-104, -117, -123] == [-mean for mean in MEAN_BGR]


def test_crops_are_yahoos_pixels(job: Job) -> None:
    for crop, image in zip(
        coreml._crops(job.batch, job.preprocessing), job.pictures, strict=True
    ):
        assert np.array_equal(crop, pixels(image, YAHOO))


def corrupt_bias(spec: Any) -> None:
    for op in operations(spec, "const"):
        if op.outputs[0].name.startswith("image__biased__"):
            tensor = op.attributes["val"].immediateValue.tensor
            tensor.floats.values[0] = -14


def swap_channels(spec: Any) -> None:
    image = spec.description.input[0].type.imageType
    image.colorSpace = image.ColorSpace.Value("RGB")


def swap_labels(spec: Any) -> None:
    (classify,) = operations(spec, "classify")
    labels = classify.inputs["classes"].arguments[0].value.immediateValue.list.values
    for value, label in zip(labels, reversed(LABELS), strict=True):
        value.immediateValue.tensor.strings.values[0] = label


@pytest.mark.parametrize("alter", [corrupt_bias, swap_channels, swap_labels])
def test_a_wrong_package_is_noticed(
    alter: Callable[[Any], None], package: Path, job: Job, tmp_path: Path
) -> None:
    right = coreml.scores(package, job)
    wrong = coreml.scores(altered(package, tmp_path, alter), job)
    difference = np.abs(wrong - right).max()
    print(f"{alter.__name__}: {difference:.2g}")
    assert difference > WRONG


def test_unknown_operations_are_named(
    package: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(spec: Any) -> None:
        operations(spec, "relu")[0].type = "tanh"

    monkeypatch.setattr(coreml, "CORE_ML_RUNS", False)
    with pytest.raises(ExportError, match="cannot evaluate the MIL operation 'tanh'"):
        coreml.scores(altered(package, tmp_path, alter), job)


def test_another_input_is_refused(
    package: Path, job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def alter(spec: Any) -> None:
        spec.description.input[0].type.imageType.width = 256

    monkeypatch.setattr(coreml, "CORE_ML_RUNS", False)
    with pytest.raises(
        ExportError, match=r"expected an image 'image', \(224, 224, 3\)"
    ):
        coreml.scores(altered(package, tmp_path, alter), job)


def test_nothing_is_left_of_a_wrong_export(
    weights: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coreml, "BIAS", [-123.0, -117.0, -104.0])  # R, G, B
    with pytest.raises(ExportError, match="coreml float32: scores differ by"):
        export(
            "coreml",
            tmp_path / "new" / "open_nsfw.mlpackage",
            weights,
            pictures=[pictures.path("coffee.png")],
        )
    assert not list(tmp_path.iterdir())


def test_bad_destinations_and_weights_are_told(weights: Any, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ends in .mlpackage, got x.mlmodel"):
        export(
            "coreml",
            tmp_path / "x.mlmodel",
            weights,
            pictures=[pictures.sample(NAMES[0])],
        )
    with pytest.raises(WeightsError, match="No weights for layer"):
        coreml.write(tmp_path / "x.mlpackage", Job({}))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (shutil.Error([("a", "b", "[Errno 28] No space left")]), "No space left"),
        (RuntimeError("[MIL FileWriter]: Unknown error"), "TMPDIR names another"),
    ],
)
def test_a_full_disk_is_told(
    error: Exception,
    message: str,
    weights: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(coreml, "_converted", fail)
    with pytest.raises(OSError, match=message):
        coreml.write(tmp_path / "x.mlpackage", Job(weights))


def test_nothing_is_printed(
    weights: Any, job: Job, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "x.mlpackage"
    coreml.write(path, Job(weights))
    coreml.scores(path, job)
    assert capfd.readouterr() == ("", "")


def test_core_ml_predicts_where_it_runs(
    package: Path, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with coreml._quiet():
        import coremltools as ct

    class Model(ct.models.MLModel):  # Core ML's place is taken by the evaluator
        def predict(self, data: dict[str, Any], state: Any = None) -> dict[str, Any]:
            (image,) = data.values()
            assert (image.mode, image.size) == ("RGB", (224, 224))
            (scores,) = coreml._evaluate(package, np.asarray(image)[np.newaxis])
            return {"classLabel": max(scores, key=scores.get), name: scores}

    name = read(package).description.predictedProbabilitiesName
    expected = coreml.scores(package, job)
    monkeypatch.setattr(coreml, "CORE_ML_RUNS", True)
    monkeypatch.setattr(ct.models, "MLModel", Model)
    assert np.array_equal(coreml.scores(package, job), expected)
    assert "on the CPU" in job.notes[-1]
