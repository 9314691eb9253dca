"""The Keras network: Caffe's values at every stage."""

import subprocess
import sys
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE

from open_nsfw_tf import InputType, OpenNsfwModel, create_yahoo_image_loader
from open_nsfw_tf.architecture import BLOCKS, LAYERS, fold_batch_norm
from open_nsfw_tf.model import conv_block, identity_block

# Relative to the largest value of the stage: 50 layers of float32 in another order.
STAGE_TOLERANCE = 2e-6

load = create_yahoo_image_loader()


def statistics(values: np.ndarray) -> dict[str, Any]:
    """Of one picture's feature map (H, W, C) or (C,), in Caffe's order C, H, W."""
    caffe = np.moveaxis(values, -1, 0).astype(np.float64).ravel()
    return {
        "mean": caffe.mean(),
        "std": caffe.std(),
        "absmax": np.abs(caffe).max(),
        "first8": caffe[:8],
        "last8": caffe[-8:],
    }


@pytest.fixture(scope="module")
def stages(model: Any) -> dict[str, dict[str, np.ndarray]]:
    import keras

    probe = keras.Model(model.input, model.endpoints)
    found = {}
    for name in GOLDEN["stages"]:
        batch = load(pictures.path(name))
        ends = {key: np.asarray(value)[0] for key, value in probe(batch).items()}
        found[name] = {"data": batch[0], **ends}
    return found


@pytest.mark.parametrize("name", GOLDEN["stages"])
@pytest.mark.parametrize("stage", GOLDEN["stages"]["astronaut.png"])
def test_every_stage_is_caffes(stages: Any, name: str, stage: str) -> None:
    expected = GOLDEN["stages"][name][stage]
    came = statistics(stages[name][stage])
    tolerance = STAGE_TOLERANCE * expected["absmax"]
    if stage == "data":
        tolerance = 5e-7 * expected["absmax"]  # the numbers are written with 9 digits
    for what, value in expected.items():
        shown = came[what][: len(value)] if isinstance(value, list) else came[what]
        assert np.allclose(shown, value, rtol=0, atol=tolerance), what


def test_names_and_shapes_are_those_of_the_weights(model: Any, weights: Any) -> None:
    layers = {layer.name: layer for layer in model.keras_model.layers}
    order = {"bn": ("scale", "offset", "mean", "variance")}
    for name, fields in LAYERS.items():
        names = order.get(name.split("_")[0], ("weights", "biases"))
        arrays = layers[name].get_weights()
        assert len(arrays) == len(fields)
        for field, array in zip(names, arrays, strict=True):
            assert np.array_equal(array, weights[name][field]), (name, field)
    assert model.keras_model.count_params() == 5_917_890 + 26_624


def test_input_logits_and_predictions_fit_together(model: Any) -> None:
    import keras

    assert model.input.shape == (None, 224, 224, 3)
    assert model.logits.shape == model.predictions.shape == (None, 2)
    batch = load(pictures.path("coffee.png"))
    heads = keras.Model(model.input, [model.logits, model.predictions])
    logits, predictions = (np.asarray(value, np.float64) for value in heads(batch))
    softmax = np.exp(logits) / np.exp(logits).sum()
    assert np.allclose(softmax, predictions, atol=1e-6)
    assert np.allclose(model.predict(batch), predictions, atol=1e-6)


def test_predict_takes_any_number(model: Any) -> None:
    batch = load(pictures.path("coffee.png"))
    scores = model.predict(np.concatenate([batch] * 3))
    assert scores.shape == (3, 2)
    assert scores.dtype == np.float32
    golden = GOLDEN["samples"]["coffee.png"]["nsfw"]
    assert np.abs(scores[:, 1] - golden).max() <= SCORE_TOLERANCE
    assert model.predict(batch[:0]).shape == (0, 2)


def test_folded_weights_score_the_same(weights: Any) -> None:
    folded = OpenNsfwModel()
    folded.build_from(fold_batch_norm(weights))
    batch = load(pictures.path("astronaut.png"))
    golden = GOLDEN["samples"]["astronaut.png"]["nsfw"]
    assert abs(folded.predict(batch)[0, 1] - golden) <= SCORE_TOLERANCE


def test_misuse_is_told(model: Any, weights: Any) -> None:
    batch = load(pictures.path("coffee.png"))
    with pytest.raises(RuntimeError, match=r"call build\(\) first"):
        OpenNsfwModel().predict(batch)
    with pytest.raises(ValueError, match="shape"):
        model.predict(batch[0])
    with pytest.raises(ValueError, match="NaN"):
        model.predict(batch * np.nan)
    with pytest.raises(TypeError, match="InputType"):
        OpenNsfwModel().build(input_type="tensor")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="identity_block"):
        conv_block(model.input, BLOCKS[0][1], weights)


def test_blocks_stand_alone(weights: Any) -> None:
    import keras

    x = keras.Input((56, 56, 64))
    y = conv_block(x, BLOCKS[0][0], weights)
    assert y.shape == (None, 56, 56, 128)
    assert identity_block(y, BLOCKS[0][1], weights).shape == y.shape
    wide = keras.Input((56, 56, 128))
    assert conv_block(wide, BLOCKS[1][0], weights).shape == (None, 28, 28, 256)


def test_input_types_have_the_originals_names() -> None:
    assert {kind.name for kind in InputType} == {"TENSOR", "BASE64_JPEG"}


def test_tensorflow_comes_without_its_noise() -> None:
    code = (
        "import sys; from open_nsfw_tf.backend import import_tensorflow;"
        "print('kept', file=sys.stderr); import_tensorflow().constant(1) + 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == "kept\n"
    assert not done.stdout
