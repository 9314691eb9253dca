"""The networks that can be trained: what they are, what they cost, and their values."""

import json
import math
import subprocess
import sys
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from trained_models import with_blocks
from typer.testing import CliRunner

from open_nsfw_tf.architecture import (
    BLOCKS,
    DENSE,
    LAYERS,
    is_folded,
    unfold_batch_norm,
)
from open_nsfw_tf.backbones import (
    BACKBONES,
    body_of,
    build,
    graph_ops,
    network_of,
    set_weights,
    weights_of,
    with_dtype,
)
from open_nsfw_tf.backbones.caffe_nets import MaxPool, PyramidPool, build_rows
from open_nsfw_tf.backbones.model_stats import (
    PUBLISHED_STATS,
    milliseconds_of,
    model_stats,
)
from open_nsfw_tf.backbones.trained import (
    HeadLayer,
    TrainedModel,
    read_trained,
    write_trained,
)
from open_nsfw_tf.cli.app import app
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.image import YAHOO, Preprocessing

# Trainable values with 1000 classes: of keras.applications (whose totals count running
# statistics too), of SqueezeNet's paper, of BVLC's GoogLeNet without auxiliary heads.
WITH_1000 = {
    "resnet50": 25_636_712 - 53_120,
    "mobilenet_v2": 3_538_984 - 34_112,
    "inception_v3": 23_851_784 - 34_432,
    "squeezenet": 1_248_424,
    "googlenet": 6_998_552,
}
HEAD = (
    HeadLayer("dense", units=8, activation="relu", initializer="he_normal", l2=5e-4),
    HeadLayer("batch_norm"),
    HeadLayer("dropout", rate=0.5),
)
SMALL = Preprocessing(72, 64, False, "RGB", (127.5, 127.5, 127.5), 1 / 127.5)


@cache
def network(name: str) -> Any:
    """A backbone at its usual size with 2 classes, built once."""
    return with_blocks(build(name, 2, init="random", seed=0))


@cache
def small(seed: int = 0) -> Any:
    """MobileNetV2 with a head, for what holds of every network."""
    model = build("mobilenet_v2", 3, head=HEAD, size=64, init="random", seed=seed)
    return with_blocks(model)


@pytest.fixture(scope="module", autouse=True)
def forgotten() -> Iterator[None]:
    """Give the networks' memory back to the tests that follow."""
    yield
    network.cache_clear()
    small.cache_clear()


def pictures(side: int = 64) -> np.ndarray:
    random = np.random.default_rng(5)
    return random.normal(size=(2, side, side, 3)).astype(np.float32)


def scores(model: Any, side: int = 64) -> np.ndarray:
    return np.asarray(model(pictures(side), training=False))


def trained(**changes: Any) -> TrainedModel:
    model = TrainedModel(
        "mobilenet_v2", ("a", "b", "c"), SMALL, HEAD, weights_of(small())
    )
    return replace(model, **changes)


def parameters_of(model: Any) -> tuple[int, int]:
    """The trainable values of a network, and its running means and variances.

    Both are told apart by their names, so that frozen layers are counted as others.
    """
    counts = {True: 0, False: 0}
    for layer in model.layers:
        for variable in layer.weights:
            size = math.prod(variable.shape)
            counts[not variable.name.startswith("moving_")] += size
    return counts[True], counts[False]


def madds_of(model: Any) -> int:
    """Multiply-adds of the convolutions and dense layers, for one picture."""
    total = 0
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel: tuple[int, ...] = tuple(layer.kernel.shape)
            maps = layer.output.shape[1:3] if len(kernel) == 4 else ()
            total += math.prod((*kernel, *maps))
    return total


@pytest.mark.parametrize("name", BACKBONES)
def test_the_table_says_what_is_built(name: str) -> None:
    backbone, model = BACKBONES[name], network(name)
    body = body_of(model)
    assert body.output.shape == (None, backbone.features)
    assert parameters_of(body) == (backbone.parameters, backbone.statistics)
    assert madds_of(body) == backbone.madds
    side = backbone.preprocessing.crop
    assert model.name == name
    assert model.input.shape == (None, side, side, 3)
    assert model.output.shape == (None, 2)
    names = [layer.name for layer in model.layers]
    assert names[0] == "input"
    assert names[-3:] == ["pool", backbone.last, "predictions"]
    # The same layers, whatever was built before in this process.
    assert not any(layer.endswith("_94") for layer in names)


@pytest.mark.parametrize("name", WITH_1000)
def test_parameters_are_the_published_ones(name: str) -> None:
    backbone = BACKBONES[name]
    values = backbone.parameters + 1000 * backbone.features + 1000
    assert values == WITH_1000[name]


def test_resnet50_thin_costs_what_yahoo_s_costs() -> None:
    model = network("resnet50_thin")
    assert parameters_of(model) == (5_917_890, 26_624)
    assert madds_of(model) == 1_068_550_144


SHAPES = {  # some layers' outputs at the usual size, as the papers' tables have them
    "resnet50": {"conv2_block3_out": (56, 56, 256), "conv5_block3_out": (7, 7, 2048)},
    "mobilenet_v2": {"block_13_expand": (14, 14, 576), "out_relu": (7, 7, 1280)},
    "inception_v3": {"conv2d": (149, 149, 32), "mixed10": (8, 8, 2048)},
    "vgg16": {"block1_conv1": (224, 224, 64), "block5_pool": (7, 7, 512)},
    "squeezenet": {
        "conv1": (111, 111, 96),
        "pool1": (55, 55, 96),
        "fire4_concat": (55, 55, 256),
        "pool4": (27, 27, 256),
        "fire8_concat": (27, 27, 512),
        "pool8": (13, 13, 512),
        "fire9_expand3x3": (13, 13, 256),
    },
    "googlenet": {
        "conv1_7x7_s2": (112, 112, 64),
        "pool1_3x3_s2": (56, 56, 64),
        "conv2_norm2": (56, 56, 192),
        "inception_3a_output": (28, 28, 256),
        "inception_4e_output": (14, 14, 832),
        "inception_5b_output": (7, 7, 1024),
    },
    "ms_ctc": {
        "pool1": (107, 107, 64),
        "conv2_1": (36, 36, 128),
        "conv3_1": (18, 18, 256),
        "conv4_1": (6, 6, 2304),
        "spp_6x6": (6, 6, 256),
        "spp_2x2": (2, 2, 256),
    },
    "resnet50_thin": {"pool1": (56, 56, 64), "relu_stage3_block2": (7, 7, 1024)},
}


@pytest.mark.parametrize("name", BACKBONES)
def test_maps_have_the_papers_sizes(name: str) -> None:
    model = network(name)
    for layer, shape in SHAPES[name].items():
        assert model.get_layer(layer).output.shape[1:] == shape, layer


@pytest.mark.parametrize("name", BACKBONES)
def test_the_stored_graph_is_the_one_that_keras_builds(name: str) -> None:
    stored = (graph_ops.GRAPHS / f"{name}.json").read_text(encoding="utf-8")
    assert stored == graph_ops.body_text(network(name)), "python tools/write_graphs.py"


def test_a_stored_body_and_a_head_are_the_whole_network() -> None:
    usual = BACKBONES["mobilenet_v2"].preprocessing
    model = build("mobilenet_v2", 3, head=HEAD, init="random", seed=0)
    whole = TrainedModel(
        "mobilenet_v2", ("a", "b", "c"), usual, HEAD, weights_of(model)
    )
    found, wanted = graph_ops.operations_of(whole), graph_ops.operations(model)
    assert [(op.kind, op.name, op.inputs, op.options) for op in found] == [
        (op.kind, op.name, op.inputs, op.options) for op in wanted
    ]
    for op, other in zip(found, wanted, strict=True):
        for name, array in op.arrays.items():
            assert np.array_equal(array, other.arrays[name])


def test_inception_s_layers_are_numbered_anew() -> None:
    again = build("inception_v3", 2, size=75, init="random", seed=0)
    names = [layer.name for layer in again.layers]
    assert names == [layer.name for layer in network("inception_v3").layers]
    assert {"conv2d", "conv2d_56", "conv2d_93", "mixed0"} <= set(names)


@pytest.mark.parametrize(
    ("side", "row"),
    [(113, MaxPool("pool", 3, 2)), (112, MaxPool("pool", 3, 2))]
    + [(7, MaxPool("pool", 3, 1, pad=1)), (36, MaxPool("pool", 3, 2, pad=1))],
)
def test_pooling_rounds_up_as_caffe_does(side: int, row: MaxPool) -> None:
    import keras

    x = np.abs(np.random.default_rng(0).normal(size=(1, side, side, 2)))
    batch = keras.Input((side, side, 2))
    found = np.asarray(
        keras.Model(batch, build_rows(batch, [row]))(x.astype(np.float32))
    )
    places = math.ceil((side + 2 * row.pad - row.kernel) / row.stride) + 1
    assert found.shape == (1, places, places, 2)
    starts = [index * row.stride - row.pad for index in range(places)]
    for top, line in zip(starts, found[0], strict=True):
        for left, value in zip(starts, line, strict=True):
            window = x[0, max(top, 0) : top + row.kernel, max(left, 0) :][
                :, : row.kernel + min(left, 0)
            ]
            assert np.allclose(value, window.max(axis=(0, 1)))


@pytest.mark.parametrize("side", [6, 7, 13])
def test_the_pyramid_covers_a_map_with_its_bins(side: int) -> None:
    import keras

    x = np.random.default_rng(0).normal(size=(1, side, side, 1)).astype(np.float32)
    batch = keras.Input((side, side, 1))
    model = keras.Model(batch, build_rows(batch, [PyramidPool((3, 1))]))
    found = np.asarray(model(x))
    assert found.shape == (1, 10)
    assert found[0, :9].max() == found[0, 9] == x.max()
    assert found[0, 0] == x[0, : -(-side // 3), : -(-side // 3), 0].max()


def test_normalisation_is_caffe_s() -> None:
    layer = network("googlenet").get_layer("pool1_norm1")
    x = np.random.default_rng(0).normal(0, 50, (1, 2, 2, 8)).astype(np.float32)
    padded = np.pad(x.astype(np.float64) ** 2, [(0, 0)] * 3 + [(2, 2)])
    energy = sum(padded[..., first : first + 8] for first in range(5))
    assert np.allclose(layer(x), x / (1 + 1e-4 / 5 * energy) ** 0.75, rtol=1e-5)


def test_random_residual_blocks_begin_as_their_input() -> None:
    model = build("resnet50_thin", 2, size=64, init="random", seed=0)
    arrays = weights_of(model)
    norms = {
        layer: fields["scale"] for layer, fields in arrays.items() if "bn_" in layer
    }
    last = {f"bn_{block.main[-1].key}" for stage in BLOCKS for block in stage}
    assert {layer for layer, scale in norms.items() if not scale.any()} == last
    assert all((norms[layer] == 1).all() for layer in norms.keys() - last)


def test_the_same_seed_gives_the_same_network() -> None:
    again = build("mobilenet_v2", 3, head=HEAD, size=64, init="random", seed=0)
    first, second = weights_of(small()), weights_of(with_blocks(again))
    assert all(
        np.array_equal(array, second[layer][field])
        for layer, fields in first.items()
        for field, array in fields.items()
    )
    other = weights_of(small(seed=1))
    for layer in ("Conv1", "block_3_depthwise", "head_0", "logits"):
        assert not np.array_equal(first[layer]["kernel"], other[layer]["kernel"])


def test_kernels_have_he_s_variance() -> None:
    kernel = weights_of(network("vgg16"))["block4_conv2"]["kernel"]
    assert np.std(kernel) == pytest.approx(math.sqrt(2 / (9 * 512)), rel=0.01)
    depthwise = weights_of(small())["block_16_depthwise"]["kernel"]
    assert np.std(depthwise) == pytest.approx(math.sqrt(2 / 9), rel=0.05)


def test_the_head_is_what_was_asked_for() -> None:
    model = small()
    names = [layer.name for layer in model.layers]
    after = names.index("pool") + 1
    assert names[after:] == ["head_0", "head_1", "head_2", "logits", "predictions"]
    dense = model.get_layer("head_0")
    assert dense.kernel.shape == (1280, 8)
    assert dense.activation.__name__ == "relu"
    assert float(dense.kernel_regularizer.l2) == pytest.approx(5e-4)
    assert type(dense.kernel_initializer).__name__ == "HeNormal"
    assert model.get_layer("head_2").rate == 0.5
    assert model.get_layer("logits").kernel.shape == (8, 3)
    paper = BACKBONES["ms_ctc"].head
    assert [layer.units for layer in paper if layer.kind == "dense"] == [4096, 4096]


def test_values_go_out_and_in() -> None:
    weights, expected = weights_of(small()), scores(small())
    other = build("mobilenet_v2", 3, head=HEAD, size=64, init="random", seed=2)
    assert not np.array_equal(scores(other), expected)
    set_weights(other, weights)
    assert np.array_equal(scores(other), expected)
    assert np.allclose(expected.sum(axis=1), 1)
    assert "head_2" not in weights  # dropout has no values to keep


def test_a_trained_model_is_built_again(tmp_path: Path) -> None:
    write_trained(tmp_path, trained())
    again = network_of(read_trained(tmp_path))
    assert np.array_equal(scores(again), scores(small()))


def test_mixed_precision_answers_in_float32() -> None:
    model = with_dtype(small.__wrapped__(), "mixed_float16")
    assert model.get_layer("Conv1").compute_dtype == "float16"
    assert model.get_layer("Conv1").variable_dtype == "float32"
    found = model(pictures())
    assert found.dtype == "float32"
    assert np.allclose(found, scores(small()), atol=0.05)
    set_weights(model, weights_of(small()))
    googlenet = build("googlenet", 2, size=32, init="random", seed=0)
    for dtype, tolerance in (("float16", 0.005), ("bfloat16", 0.05)):
        own = with_dtype(googlenet, f"mixed_{dtype}")
        assert own.get_layer("pool1_norm1").compute_dtype == dtype
        assert np.allclose(scores(own, 32), scores(googlenet, 32), atol=tolerance)


def test_the_body_shares_its_layers() -> None:
    model = network("squeezenet")
    body = body_of(model)
    assert body.get_layer("conv1") is model.get_layer("conv1")
    features = np.asarray(body(pictures(227)))
    last = weights_of(model)["logits"]
    logits = features @ last["kernel"] + last["bias"]
    exponents = np.exp(logits - logits.max(axis=1, keepdims=True))
    expected = exponents / exponents.sum(axis=1, keepdims=True)
    assert np.allclose(scores(model, 227), expected, atol=1e-5)


def test_the_small_tables_take_small_pictures() -> None:
    for name in ("squeezenet", "googlenet", "resnet50_thin", "vgg16"):
        found = scores(build(name, 2, size=32, init="random", seed=0), 32)
        assert np.isfinite(found).all(), name


def test_yahoo_s_weights_score_as_ever(
    weights: Any, weights_path: Path, model: Any, batch: np.ndarray, assert_equal: Any
) -> None:
    ours = build("resnet50_thin", 2, weights=weights_path)
    found = np.asarray(ours(batch, training=False))
    assert np.allclose(found, model.predict(batch), atol=1e-6)
    assert_equal(weights_of(ours), weights)
    again = network_of(TrainedModel("resnet50_thin", ("s", "n"), YAHOO, (), weights))
    assert np.array_equal(np.asarray(again(batch, training=False)), found)


def test_yahoo_s_body_takes_another_last_layer(weights: Any) -> None:
    for changes in ({"classes": 3}, {"classes": 2, "replace_last": True}):
        model = build("resnet50_thin", size=64, weights=weights, seed=0, **changes)
        found = weights_of(model)
        assert found.keys() == LAYERS.keys()
        assert found[DENSE]["weights"].shape == (1024, changes["classes"])
        assert not np.array_equal(found[DENSE]["weights"], weights[DENSE]["weights"])
        kernel = found["conv_stage2_block1_branch2b"]["weights"]
        assert np.array_equal(kernel, weights["conv_stage2_block1_branch2b"]["weights"])
    headed = build("resnet50_thin", 2, head=HEAD, size=64, weights=weights, seed=0)
    assert "kernel" in weights_of(headed)["conv_1"]  # not the canonical names


def test_the_body_s_batch_norms_are_folded_or_not(weights: Any) -> None:
    for given, folded in ((weights, True), (unfold_batch_norm(weights, 1), False)):
        for head, dtype in (
            ((), "float32"),
            (HEAD, "float32"),
            ((), "mixed_bfloat16"),
        ):
            model = build("resnet50_thin", 2, head=head, size=64, weights=given)
            model = with_dtype(model, dtype)
            assert is_folded(weights_of(body_of(model))) == folded


def test_batch_norms_can_be_trained_and_frozen() -> None:
    model = build("resnet50_thin", 2, size=32, init="random", seed=0)
    norms = [layer for layer in model.layers if layer.name.startswith("bn_")]
    assert len(norms) == 53
    before = weights_of(model)["bn_1"]["mean"]
    assert not before.any()
    model(pictures(32), training=True)
    assert weights_of(model)["bn_1"]["mean"].any()
    for layer in norms:
        layer.trainable = False
    frozen = weights_of(model)["bn_1"]["mean"]
    model(pictures(32), training=True)
    assert np.array_equal(weights_of(model)["bn_1"]["mean"], frozen)
    assert parameters_of(model) == (5_917_890, 26_624)


@pytest.fixture
def keras_home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where Keras keeps what it downloaded, on a machine without a network."""
    from keras.src.backend import config

    for name in ("http_proxy", "https_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # nobody answers there
    monkeypatch.setenv("no_proxy", "")
    monkeypatch.setattr(config, "_KERAS_DIR", str(tmp_path))
    (tmp_path / "models").mkdir()
    return tmp_path


def keras_file(path: Path) -> Any:
    """A file in the layout that Keras' own have, and the network it is of."""
    import h5py
    import keras
    from keras.src.legacy.saving import legacy_h5_format

    theirs = keras.applications.MobileNetV2(
        include_top=False, weights=None, input_shape=(64, 64, 3)
    )
    with h5py.File(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # Keras' own
        legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    return theirs


def test_imagenet_weights_are_loaded_where_keras_keeps_them(keras_home: Path) -> None:
    name = "mobilenet_v2_weights_tf_dim_ordering_tf_kernels_1.0_224_no_top.h5"
    path = keras_home / "models" / name
    theirs = keras_file(path)
    features = np.asarray(theirs(pictures())).mean(axis=(1, 2))
    for weights in (None, path):
        ours = build("mobilenet_v2", 2, size=64, weights=weights, seed=0)
        assert np.allclose(body_of(ours)(pictures()), features, atol=1e-6)
        assert ours.name == "mobilenet_v2"
    with pytest.raises(WeightsError, match="VGG16: cannot load .*--init random"):
        build("vgg16", 2, size=64, weights=path)


def test_without_a_network_the_choices_are_named(
    keras_home: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    import keras

    damaged = (
        keras_home / "models" / "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5"
    )
    damaged.write_bytes(b"damaged")  # Keras' checksum says so
    for name in ("mobilenet_v2", "resnet50"):
        with pytest.raises(
            WeightsError, match="cannot load ImageNet's weights"
        ) as caught:
            build(name, 2, size=96)
        message = str(caught.value)
        assert "cannot load ImageNet's weights" in message
        assert "--init random" in message
        assert "KERAS_HOME" in message
        assert "\n" not in message
    assert keras.config.dtype_policy().name == "float32"
    assert not capfd.readouterr().out  # scores and tables go there


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"name": "resnet51"}, "choose of resnet50_thin, resnet50, "),
        ({"classes": 1}, "2 to 10000 classes, got 1"),
        ({"classes": 10**9}, "2 to 10000 classes"),
        ({"size": 31}, "takes an input of 32 to 1024 pixels a side, got 31"),
        ({"size": 10**6}, "takes an input of 32 to 1024 pixels"),
        ({"name": "inception_v3", "size": 74}, "input of 75 to 1024 .* got 74"),
        ({"name": "ms_ctc", "size": 186}, "input of 187 to 1024 .* got 186"),
        ({"init": "imagenet"}, "an init of pretrained, random"),
        ({"weights": "a.h5"}, "takes no weights"),
        ({"head": [HeadLayer("dropout")] * 33}, "at most 32 layers"),
        ({"head": [HeadLayer("dense", 2, initializer="os.system")]}, "no initialiser"),
        ({"head": [HeadLayer("dense", 2, l2=-1.0)]}, "an l2 of 0 to below 1"),
    ],
)
def test_wrong_arguments_are_told(arguments: dict[str, Any], complaint: str) -> None:
    given = {"name": "mobilenet_v2", "classes": 2, "init": "random", **arguments}
    with pytest.raises(ValueError, match=complaint):
        build(given.pop("name"), given.pop("classes"), **given)


def test_an_unknown_dtype_is_refused() -> None:
    with pytest.raises(ValueError, match="a dtype of float32, mixed_float16"):
        with_dtype(small(), "float16")


@pytest.mark.parametrize("name", ["squeezenet", "googlenet", "ms_ctc"])
def test_what_has_no_weights_says_so(name: str) -> None:
    with pytest.raises(WeightsError, match=f"{name} has no .*--init random"):
        build(name, 2)


def test_missing_and_wrong_files_are_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no such file"):
        build("resnet50", 2, size=32, weights=tmp_path / "none.h5")
    (tmp_path / "text.txt").write_text("no weights")
    with pytest.raises(WeightsError, match="expected Keras' weights file"):
        build("resnet50", 2, size=32, weights=tmp_path / "text.txt")
    (tmp_path / "broken.h5").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(100))
    with pytest.raises(WeightsError, match="cannot load .*broken.h5"):
        build("resnet50", 2, size=32, weights=tmp_path / "broken.h5")
    with pytest.raises(WeightsError, match="the path of Keras' weights file"):
        build("resnet50", 2, size=32, weights={})
    with pytest.raises(WeightsError, match="'conv_1'"):
        build("resnet50_thin", 2, size=32, weights={"other": {}})


def broken(weights: Any, layer: str, field: str, array: Any) -> Any:
    return {**weights, layer: {**weights[layer], field: array}}


def test_values_that_do_not_fit_are_refused_and_nothing_is_set() -> None:
    model, weights = small(), weights_of(small())
    bias = weights["logits"]["bias"]
    cases = {
        "No weights for layer named 'Conv1'": {
            name: layer for name, layer in weights.items() if name != "Conv1"
        },
        "surplus layer 'other'": {**weights, "other": {}},
        "surplus field 'gain' in layer 'logits'": broken(
            weights, "logits", "gain", bias
        ),
        r"expected shape \(3,\), got \(4,\)": broken(
            weights, "logits", "bias", np.zeros(4, np.float32)
        ),
        "expected a float32 array, got float64": broken(
            weights, "logits", "bias", bias.astype(np.float64)
        ),
        "not finite": broken(weights, "logits", "bias", bias + np.float32(np.nan)),
        "negative variance": broken(
            weights, "bn_Conv1", "moving_variance", -np.ones(32, np.float32)
        ),
        "expected a dict of layers": ["Conv1"],
        "and 99 more": {},
    }
    before = scores(model)
    for complaint, given in cases.items():
        with pytest.raises(WeightsError, match=complaint) as caught:
            set_weights(model, given)
        assert "\n" not in str(caught.value)
    assert np.array_equal(scores(model), before)


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"backbone": "os.system"}, "no backbone is called os.system"),
        ({"backbone": "vgg16"}, r"head_0.kernel: expected shape \(512, 8\)"),
        ({"classes": tuple(map(str, range(9999)))}, r"expected shape \(8, 9999\)"),
        ({"head": (HeadLayer("dense", units=1 << 16),) * 9}, "head_0.kernel: expected"),
        ({"head": (HeadLayer("dropout"),) * 10**4}, "at most 32 layers"),
        ({"head": ()}, r"logits.kernel: expected shape \(1280, 3\)"),
        (
            {"preprocessing": replace(SMALL, crop=16)},
            "an input of 32 to 1024 pixels a side, got 16",
        ),
        ({"weights": {}}, "No weights for layer named 'head_0'"),
        ({"backbone": "resnet50_thin", "head": ()}, "layer named 'fc_nsfw'"),
    ],
)
def test_hostile_models_are_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(WeightsError, match=complaint) as caught:
        network_of(trained(**changes))
    assert "\n" not in str(caught.value)


def models(*arguments: str) -> Any:
    return CliRunner().invoke(app, ["models", *arguments])


def test_models_prints_every_network(tmp_path: Path) -> None:
    json_file, svg = tmp_path / "models.json", tmp_path / "models.svg"
    done = models("--no-measure", "--json-file", str(json_file), "--svg", str(svg))
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    for name in (*BACKBONES, "ResNet-50 (pynet", "ResNet-50 1by2 (pynet"):
        assert any(line.startswith(name) for line in lines), name
    (thin,) = (line.split() for line in lines if line.startswith("resnet50_thin"))
    assert thin == ["resnet50_thin", "224", "5,917,890", "1,068,550,144", "23.8"]
    (mobilenet,) = (line.split() for line in lines if line.startswith("mobilenet"))
    assert mobilenet[-2:] == [".713", "[1]"]
    assert "[1] keras.io/api/applications" in lines
    rows = {row["name"]: row for row in json.loads(json_file.read_text())}
    assert rows["ms_ctc"]["top1"] is None
    assert rows["ResNet-50 1by2"]["madds"] == 1_069_600_000
    assert rows["googlenet"]["milliseconds"] is None
    root = ET.fromstring(svg.read_text(encoding="utf-8"))
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    drawn = {text.text for text in root.iter("{http://www.w3.org/2000/svg}text")}
    assert {
        row.name for row in (*model_stats(measure=False), *PUBLISHED_STATS)
    } <= drawn


def test_models_counts_as_many_classes_as_asked() -> None:
    done = models("--no-measure", "--classes", "1000")
    assert "1,248,424" in done.output
    assert "6,998,552" in done.output
    assert models("--classes", "1").exit_code == 2
    with pytest.raises(ValueError, match="2 to 10000 classes, got 1"):
        model_stats(1, measure=False)


def test_models_destroys_nothing(tmp_path: Path) -> None:
    picture = tmp_path / "a.jpg"
    for arguments, kind in (
        (("--json-file", str(tmp_path)), IsADirectoryError),
        (("--svg", str(tmp_path / "no" / "a.svg")), FileNotFoundError),
        (("--json-file", str(picture)), ValueError),
        (
            ("--json-file", str(tmp_path / "a"), "--svg", str(tmp_path / "a")),
            ValueError,
        ),
    ):
        done = models("--no-measure", *arguments)
        assert isinstance(done.exception, kind), arguments
        assert not done.output.startswith("network")
    assert not list(tmp_path.iterdir())


def test_a_figure_needs_its_extra_the_table_does_not(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert models("--no-measure").exit_code == 0
    done = models("--svg", str(tmp_path / "a.svg"))
    assert isinstance(done.exception, ImportError)
    assert "pip install" in str(done.exception)
    assert not list(tmp_path.iterdir())


def test_the_table_loads_no_tensorflow() -> None:
    code = (
        "import sys; sys.argv = ['open-nsfw', 'models', '--no-measure']\n"
        "from open_nsfw_tf.cli import main\n"
        "try: main()\nexcept SystemExit: pass\n"
        "print('tensorflow' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "False"


def test_time_is_measured() -> None:
    assert milliseconds_of("squeezenet", runs=1) > 0
