"""The Keras network: Caffe's values at every stage."""

import base64
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pictures
import pytest
from conftest import GOLDEN, SCORE_TOLERANCE

from open_nsfw_tf import (
    ImageError,
    InputType,
    OpenNsfwModel,
    create_yahoo_image_loader,
)
from open_nsfw_tf.architecture import (
    BLOCKS,
    LAYERS,
    fold_batch_norm,
)
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


def test_strings_are_scored_as_pictures(weights: Any) -> None:
    model = OpenNsfwModel()
    model.build_from(weights, InputType.BASE64_JPEG)
    assert model.input.shape == (None,)
    files = [pictures.path(name).read_bytes() for name in ("rocket.jpg", "coffee.png")]
    texts = [base64.b64encode(files[0]), base64.urlsafe_b64encode(files[1]).decode()]
    scores = model.predict(texts)
    golden = [GOLDEN["samples"][name]["nsfw"] for name in ("rocket.jpg", "coffee.png")]
    assert np.abs(scores[:, 1] - golden).max() <= SCORE_TOLERANCE
    assert model.predict([]).shape == (0, 2)
    with pytest.raises(ImageError, match="^picture 1: not base64"):
        model.predict([texts[0], "no base64!"])
    with pytest.raises(ValueError, match="sequence of strings"):
        model.predict(texts[0])
    byte_model = OpenNsfwModel()
    byte_model.build_from(weights, InputType.BYTES)
    assert np.abs(byte_model.predict(files) - scores).max() <= 1e-6


def test_a_network_without_batch_norms_takes_empty_batches(weights: Any) -> None:
    """oneDNN's convolution mistakes the shape of an empty batch."""
    from open_nsfw_tf.model import compile_network

    folded = OpenNsfwModel()
    folded.build_from(weights, fold=True)
    names = {layer.name.split("_")[0] for layer in folded.keras_model.layers}
    assert "bn" not in names
    empty = np.empty((0, 224, 224, 3), np.float32)
    assert compile_network(folded.keras_model)(empty).shape == (0, 2)


FOREIGN = """
import sys
import keras
keras.config.set_floatx("float16")
keras.config.set_dtype_policy("mixed_bfloat16")
keras.config.set_image_data_format("channels_first")
from open_nsfw_tf import Classifier
print(Classifier(engine="tensorflow").classify(sys.argv[1]).nsfw)
"""


def test_an_applications_keras_settings_do_not_reach_the_network() -> None:
    path = pictures.path("astronaut.png")
    done = subprocess.run(
        [sys.executable, "-c", FOREIGN, path],
        capture_output=True,
        text=True,
        check=True,
    )
    golden = GOLDEN["samples"]["astronaut.png"]["nsfw"]
    assert abs(float(done.stdout) - golden) <= SCORE_TOLERANCE


RACE = """
import os, sys, threading, time
from open_nsfw_tf.libraries import import_tensorflow

def work(delay):
    time.sleep(delay)
    import_tensorflow()

threads = [threading.Thread(target=work, args=(d,)) for d in (0, 0, 0.02, 0.05)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
os.write(2, b"still here")
"""


def test_threads_that_need_tensorflow_together_keep_standard_error() -> None:
    done = subprocess.run(
        [sys.executable, "-c", RACE], capture_output=True, text=True, check=True
    )
    assert done.stderr == "still here"


def test_another_backend_of_keras_is_told() -> None:
    code = "from open_nsfw_tf.libraries import import_tensorflow; import_tensorflow()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "KERAS_BACKEND": "jax"},
    )
    assert (
        "ImportError: Keras runs on jax, this network needs TensorFlow" in done.stderr
    )


def test_input_types_have_the_originals_names() -> None:
    assert {kind.name for kind in InputType} == {"TENSOR", "BASE64_JPEG", "BYTES"}


def test_tensorflow_comes_without_its_noise() -> None:
    code = (
        "import sys; from open_nsfw_tf.libraries import import_tensorflow;"
        "print('kept', file=sys.stderr); import_tensorflow().constant(1) + 1"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stderr == "kept\n"
    assert not done.stdout
