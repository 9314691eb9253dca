"""8 bits: each step against what it must keep, the whole against the float network."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pictures
import pytest
from numpy.lib.stride_tricks import sliding_window_view

from open_nsfw_tf.architecture import (
    BLOCKS,
    STEM,
    Convolution,
    fold_batch_norm,
)
from open_nsfw_tf.image import load_rgb, tensor
from open_nsfw_tf.libraries import open_session
from open_nsfw_tf.quantize import (
    Quantized,
    QuantizedConv,
    Range,
    qdq,
    quantize,
    tf_graph,
)
from open_nsfw_tf.quantize.calibrate import (
    LEVELS,
    MEAN,
    PIXELS,
    STEM_INSIDE,
    bordered,
    edges,
    equalize,
    observe,
    patches,
    round_kernel,
)

NAMES = ("astronaut.png", "coffee.png", "rocket.jpg", "retina.jpg")


@pytest.fixture(scope="module")
def photos() -> np.ndarray:
    return np.stack([tensor(pictures.path(name)) for name in NAMES])


@pytest.fixture(scope="module")
def rounded(weights: Any, photos: np.ndarray) -> Quantized:
    return quantize(weights, photos)


def answers(model: Any, batch: np.ndarray, output: str = "predictions") -> np.ndarray:
    session = open_session(model.SerializeToString())
    found: np.ndarray = session.run([output], {"input": batch})[0]
    return found


def test_a_range_holds_its_ends_and_zero_exactly() -> None:
    held = Range(0.5, 100)
    assert held.extremes == (-50, 77.5)
    values = np.float32([-50, 0, 77.5, -60, 99])
    codes = held.round(values).astype(float)
    assert ((codes - held.zero) * held.scale).tolist() == [-50, 0, 77.5, -50, 77.5]
    assert held.round(values).tolist() == [0, 100, 255, 0, 255]


def test_biases_are_whole_steps() -> None:
    codes = np.arange(-4, 4, dtype=np.int8).reshape(1, 1, 4, 2)
    conv = QuantizedConv(codes, np.float32([1, 2]), np.float32([3.2, 4]), Range(0.5))
    assert np.array_equal(conv.kernel, codes * np.float32([1, 2]))
    assert conv.steps(Range(0.25)).tolist() == [0.25, 0.5]
    assert conv.integer_biases(Range(0.25)).tolist() == [13, 8]


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
    flat = kernel.reshape(-1, conv.outputs)
    came = patches(images, conv) @ flat + biases
    assert np.abs(came.transpose(0, 3, 1, 2) - wanted).max() <= 1e-4


def test_later_weights_make_up_for_the_rounding_of_earlier_ones() -> None:
    random = np.random.default_rng(1)
    mixed = random.normal(size=(12, 48)) @ random.normal(size=(48, 48)) * 0.2
    seen = random.normal(size=(2, 20, 20, 12)).astype(np.float32) @ mixed
    images = (seen + 0.3 * random.normal(size=seen.shape)).astype(np.float32)
    kernel = random.normal(size=(48, 16)).astype(np.float32)
    rows = images.reshape(-1, 48).astype(np.float64)
    moments = rows.T @ rows
    codes, scales = round_kernel(kernel, moments)
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
    even = equalize(folded, observe(folded, photos))
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

    stem = rounded.convolutions[STEM.key]
    pixels = PIXELS.round(bordered(photos) + MEAN).astype(np.float32)
    kernel = stem.codes.astype(np.float32).reshape(-1, STEM.outputs)
    sums = patches(pixels, STEM_INSIDE) @ kernel  # whole numbers, exact in float32
    values = (sums + stem.integer_biases(PIXELS)) * stem.steps(PIXELS)
    codes = stem.output.round(values)
    ends = ((0, 0), (0, 1), (0, 1), (0, 0))  # Caffe rounds the pooled size up
    windows = sliding_window_view(np.pad(codes, ends), (3, 3), axis=(1, 2))
    wanted = windows[:, ::2, ::2].max((-1, -2)).transpose(0, 3, 1, 2)
    model = qdq.graph(rounded)
    model.graph.output.append(onnx.ValueInfoProto(name="pool1.codes"))
    came = answers(model, photos, "pool1.codes")
    steps = np.abs(came.astype(int) - wanted)  # a tie may be rounded otherwise
    assert steps.max() <= 1
    assert (steps > 0).mean() <= 1e-4
    exact = answers(graph(weights), photos)
    drift = np.abs(answers(qdq.graph(rounded), photos) - exact).max()
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


def test_pictures_are_an_input_of_the_onnx_graph(
    weights: Any,
    rounded: Quantized,
    photos: np.ndarray,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from open_nsfw_tf.export import Job
    from open_nsfw_tf.export import onnx as export

    monkeypatch.setattr(export, "quantize", lambda *_: rounded)  # a minute's work
    job = Job(weights, "int8", "picture")
    job.pictures = [load_rgb(pictures.path(name)) for name in NAMES]
    export.write(tmp_path / "nsfw.onnx", job)
    assert (tmp_path / "nsfw.onnx").stat().st_size < 6.6e6
    scores = export.scores(tmp_path / "nsfw.onnx", job)
    nchw = np.ascontiguousarray(photos.transpose(0, 3, 1, 2))
    expected = answers(qdq.graph(rounded, "nchw"), nchw)
    assert np.abs(scores.reshape(3, *expected.shape) - expected).max() <= 1e-6
    props = {p.key: p.value for p in onnx.load(tmp_path / "nsfw.onnx").metadata_props}
    assert props["quantization"] == "int8, QDQ"


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
    came = np.asarray(tf_graph.answer(rounded, photos))
    assert np.abs(came - wanted).max() <= 2e-3  # biases are whole steps in ONNX
    assert len(tf_graph.ranges(rounded)) == 49 + 12 + 2 + 8


def test_inputs_of_a_concatenation_have_one_range(rounded: Quantized) -> None:
    entering = rounded.convolutions[STEM.key].output
    for stage in BLOCKS:
        assert rounded.convolutions[stage[0].main[1].key].output == entering
        entering = rounded.streams[stage[-1].key]


def test_nothing_to_calibrate_with_is_told(weights: Any) -> None:
    with pytest.raises(ValueError, match="at least one picture"):
        quantize(weights, np.empty((0, 224, 224, 3), np.float32))
    with pytest.raises(ValueError, match="shape"):
        quantize(weights, np.zeros((1, 224, 224), np.float32))
