"""8 bits: each step against what it must keep, and the whole against the float network."""

from dataclasses import replace
from typing import Any

import numpy as np
import onnx
import pictures
import pytest

from open_nsfw_tf.architecture import (
    BLOCKS,
    STEM,
    Convolution,
    fold_batch_norm,
)
from open_nsfw_tf.backend import import_onnxruntime
from open_nsfw_tf.image import yahoo_tensor
from open_nsfw_tf.quantize import (
    Quantized,
    Range,
    Rounded,
    choice,
    ops,
    qdq,
    quantize,
)
from open_nsfw_tf.quantize.arithmetic import convolve, max_pool, second_moments
from open_nsfw_tf.quantize.choice import varied
from open_nsfw_tf.quantize.equalize import edges, equalize
from open_nsfw_tf.quantize.rounding import LEVELS, round_kernel
from open_nsfw_tf.quantize.walk import MEAN, PIXELS, STEM_INSIDE, bordered, walk

NAMES = ("astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg")


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([yahoo_tensor(pictures.path(name)) for name in NAMES])


@pytest.fixture(scope="module")
def rounded(weights: Any, photos: np.ndarray) -> Quantized:
    return walk(weights, photos)


def answers(model: Any, batch: np.ndarray, output: str = "predictions") -> np.ndarray:
    session = import_onnxruntime().InferenceSession(
        model.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found: np.ndarray = session.run([output], {"input": batch})[0]
    return found


def test_a_range_holds_its_ends_and_zero_exactly() -> None:
    held = Range(0.5, 100)
    assert held.extremes == (-50, 77.5)
    values = np.float32([-50, 0, 77.5, -60, 99])
    assert held.through(values).tolist() == [-50, 0, 77.5, -50, 77.5]
    assert held.round(values).tolist() == [0, 100, 255, 0, 255]


def test_stretching_scales_the_output_and_keeps_the_codes() -> None:
    codes = np.arange(-4, 4, dtype=np.int8).reshape(1, 1, 4, 2)
    made = Rounded(codes, np.float32([1, 2]), np.float32([3, 4]), Range(0.5))
    twice = made.stretched(2)
    assert np.array_equal(twice.kernel, 2 * made.kernel)
    assert twice.biases.tolist() == [6, 8]
    assert twice.output == Range(1.0)
    assert np.array_equal(twice.codes, codes)


@pytest.mark.parametrize(
    "conv", [Convolution("x", 3, 1, 5, 7), Convolution("x", 1, 2, 5, 7), STEM]
)
def test_convolutions_are_those_of_onnx(conv: Convolution) -> None:
    from onnx.reference.ops.op_conv import _conv_implementation as reference

    random = np.random.default_rng(0)
    images = random.normal(size=(9, 14, 12, conv.inputs)).astype(np.float32)
    shape = (conv.kernel, conv.kernel, conv.inputs, conv.outputs)
    kernel = random.normal(size=shape).astype(np.float32)
    biases = random.normal(size=conv.outputs).astype(np.float32)
    wanted = reference(
        images.transpose(0, 3, 1, 2),
        kernel.transpose(3, 2, 0, 1),
        biases,
        auto_pad="NOTSET",
        dilations=[1, 1],
        group=1,
        kernel_shape=[conv.kernel] * 2,
        pads=[conv.padding] * 4,
        strides=[conv.stride] * 2,
    )
    came = convolve(images, conv, kernel, biases)
    assert np.abs(came.transpose(0, 3, 1, 2) - wanted).max() <= 1e-4


def test_pooling_rounds_its_size_up() -> None:
    images = np.arange(36, dtype=np.float32).reshape(1, 6, 6, 1)
    assert max_pool(images)[0, :, :, 0].tolist() == [
        [14, 16, 17],
        [26, 28, 29],
        [32, 34, 35],
    ]


def test_later_weights_make_up_for_the_rounding_of_earlier_ones() -> None:
    random = np.random.default_rng(1)
    conv = Convolution("x", 1, 1, 48, 16)
    mixed = random.normal(size=(12, 48)) @ random.normal(size=(48, 48)) * 0.2
    seen = random.normal(size=(2, 20, 20, 12)).astype(np.float32) @ mixed
    images = (seen + 0.3 * random.normal(size=seen.shape)).astype(np.float32)
    kernel = random.normal(size=(48, 16)).astype(np.float32)
    codes, scales = round_kernel(kernel, second_moments(images, conv))
    assert codes.dtype == np.int8
    assert np.abs(codes).max() <= LEVELS
    plain = np.round(kernel / scales) * scales

    def error(rounded: np.ndarray) -> float:
        return float(((images @ (rounded - kernel)) ** 2).mean())

    assert error(codes * scales) < 0.4 * error(plain)


def test_inputs_that_are_always_zero_are_no_trouble() -> None:
    kernel = np.float32([[1, -2], [3, 4], [5, -6]])
    codes, scales = round_kernel(kernel, np.zeros((3, 3)))
    assert np.abs(codes * scales - kernel).max() <= scales.max() / 2
    moments = np.diag([0.0, 1.0, 2.0])
    codes, scales = round_kernel(kernel, moments)
    assert np.abs(codes * scales - kernel).max() <= scales.max() / 2


def test_even_channels_compute_the_same(
    weights: Any, photos: np.ndarray, score: Any
) -> None:
    folded = fold_batch_norm(weights)
    even = equalize(folded, photos, 0.7)
    assert np.abs(score(even) - score(folded)).max() <= 2e-6
    changed = [n for n in folded if (even[n].keys() == {"weights", "biases"})]
    assert len(changed) == 54
    assert all(
        not np.array_equal(even[n]["weights"], folded[n]["weights"]) for n in changed
    )


def test_every_tensor_but_the_last_is_between_layers() -> None:
    written = [layer for edge in edges() for layer in edge.writers]
    read = [layer for edge in edges() for layer in edge.readers]
    assert len(written) == len(set(written)) == 53
    assert len(read) == len(set(read)) == 53  # all but conv_1, and the last layer


def test_onnx_runtime_answers_what_was_computed(
    rounded: Quantized, weights: Any, photos: np.ndarray
) -> None:
    from open_nsfw_tf.formats.onnx_graph import graph

    made = rounded.convolutions[STEM.place]
    pixels = PIXELS.round(bordered(photos) + MEAN)
    sums = convolve(pixels, STEM_INSIDE, made.codes.astype(np.float32))
    wanted = made.codes_of(max_pool(sums), PIXELS).transpose(0, 3, 1, 2)
    model = qdq.graph(rounded)
    model.graph.output.append(onnx.ValueInfoProto(name="pool1.codes"))
    came = answers(model, photos, "pool1.codes")
    steps = np.abs(came.astype(int) - wanted)  # a tie may be rounded otherwise
    assert steps.max() <= 1
    assert (steps > 0).mean() <= 1e-4
    exact = answers(graph(weights), photos)
    drift = np.abs(answers(qdq.graph(rounded), photos) - exact).max()
    # A tie that is rounded otherwise is one step of one value, and there are a few.
    assert abs(drift - rounded.drift) <= 5e-3
    assert drift <= 0.03


def test_both_layouts_are_one_network(rounded: Quantized, photos: np.ndarray) -> None:
    nhwc = answers(qdq.graph(rounded), photos)
    nchw = answers(
        qdq.graph(rounded, "nchw"), np.ascontiguousarray(photos.transpose(0, 3, 1, 2))
    )
    assert np.array_equal(nhwc, nchw)


def test_the_graph_is_eight_bits_but_for_the_end(rounded: Quantized) -> None:
    model = qdq.graph(rounded)
    constants = {one.name: one for one in model.graph.initializer}
    floats = {
        name: one.dims
        for name, one in constants.items()
        if one.data_type == 1 and np.prod(one.dims) > 1024
    }
    assert set(floats) == {"fc_nsfw.weights"}
    makers = {node.output[0]: node.op_type for node in model.graph.node}
    for node in model.graph.node:
        if node.op_type == "Conv":
            assert {makers[name] for name in node.input} == {"DequantizeLinear"}
    zeros = [one for one in constants.values() if one.name.endswith(".zero")]
    assert {one.data_type for one in zeros} == {2}  # uint8
    codes = [one for one in constants.values() if one.name.endswith("weights.codes")]
    assert {one.data_type for one in codes} == {3}  # int8
    assert len(codes) == 53 - 4  # a projection and its branch2c are one
    props = {prop.key: prop.value for prop in model.metadata_props}
    assert props["quantization"] == "int8, QDQ"
    assert props["labels"] == "sfw,nsfw"


def test_tensorflow_ops_have_the_same_weights_and_a_range_each(
    rounded: Quantized, photos: np.ndarray
) -> None:
    """Without roundings of activations, in both: the same sums in another order."""
    model = qdq.graph(rounded)
    plain = {}
    for node in list(model.graph.node):
        if node.op_type == "QuantizeLinear":
            plain[node.output[0]] = node.input[0]
    for node in list(model.graph.node):
        if node.op_type == "DequantizeLinear" and node.input[0] in plain:
            source, target = plain[node.input[0]], node.output[0]
            model.graph.node.remove(node)
            for reader in model.graph.node:
                for index, name in enumerate(reader.input):
                    if name == target:
                        reader.input[index] = source
    wanted = answers(model, photos)
    came = np.asarray(ops.answer(rounded, photos))
    assert np.abs(came - wanted).max() <= 2e-3  # biases are whole steps in ONNX
    assert len(ops.ranges(rounded)) == 49 + 12 + 2 + 8


def test_ranges_are_varied_together_where_they_must_be(rounded: Quantized) -> None:
    other = varied(rounded, np.random.default_rng(3))
    for stage in BLOCKS:
        for block in stage:
            a = other.convolutions[block.main[0].place]
            before = rounded.convolutions[block.main[0].place]
            assert before.output.scale < a.output.scale < 1.15 * before.output.scale
            assert a.codes is before.codes
    assert (
        other.convolutions["stage0_block0_branch2b"].output
        == other.convolutions["1"].output
    )
    assert (
        other.convolutions["stage2_block0_branch2b"].output
        == other.streams["stage1_block3"]
    )


def test_the_variant_that_drifts_least_is_kept(
    weights: Any, photos: np.ndarray
) -> None:
    """A network whose ranges cut off is changed for any that does not."""
    from open_nsfw_tf.formats.onnx_graph import graph

    narrow = walk(weights, photos)
    for place, made in narrow.convolutions.items():
        output = Range(made.output.scale * 0.9, made.output.zero)
        narrow.convolutions[place] = replace(made, output=output)
    kept = choice.settle(
        narrow, weights, photos, choice.onnx_scores, trials=4, enough=0
    )
    drifts = [
        np.abs(answers(qdq.graph(one), photos) - answers(graph(weights), photos))
        for one in (narrow, kept)
    ]
    assert kept.drift == pytest.approx(drifts[1].max(), abs=1e-6)
    assert drifts[1].max() <= drifts[0].max()


def test_nothing_to_calibrate_with_is_told(weights: Any) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        quantize(weights, np.empty((0, 224, 224, 3), np.float32))
    with pytest.raises(ValueError, match="shape"):
        quantize(weights, np.zeros((1, 224, 224), np.float32))
