"""Keras' files: `.weights.h5`, opennsfw2's `.h5`, `.keras`; Keras is the witness."""

import io
import os
import zipfile

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import h5py
import numpy as np
import pytest

from open_nsfw_tf.architecture import BLOCKS, LAYERS, STEM
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import detect, keras_h5, module, opennsfw2
from open_nsfw_tf.formats import keras as keras_archive

# TensorFlow's tensors and numpy 2.4; not of our making.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy:DeprecationWarning"
)

ORDER = {2: ("weights", "biases"), 4: ("scale", "offset", "mean", "variance")}


def weights_in(model):
    """The canonical dict of a Keras model with our names."""
    layers = {layer.name: layer.get_weights() for layer in model.layers}
    return {
        name: dict(zip(ORDER[len(layers[name])], layers[name], strict=True))
        for name in LAYERS
    }


@pytest.fixture(scope="module")
def model():
    """The network with random weights, as `open_nsfw_tf.model` builds it."""
    import keras
    from keras import layers

    def conv_and_norm(x, conv):
        if conv.stride > 1:
            x = layers.ZeroPadding2D(conv.padding)(x)
        x = layers.Conv2D(
            conv.outputs,
            conv.kernel,
            strides=conv.stride,
            padding="same" if conv.stride == 1 else "valid",
            name=f"conv_{conv.key}",
        )(x)
        name = f"bn_{conv.key}"
        return layers.BatchNormalization(epsilon=1e-5, name=name)(x)

    x = start = keras.Input((224, 224, 3))
    x = layers.ReLU()(conv_and_norm(x, STEM))
    x = layers.MaxPooling2D(3, 2, padding="same")(x)
    for block in (block for stage in BLOCKS for block in stage):
        shortcut = conv_and_norm(x, block.projection) if block.projection else x
        for conv in block.main[:2]:
            x = layers.ReLU()(conv_and_norm(x, conv))
        x = layers.Add()([shortcut, conv_and_norm(x, block.main[2])])
        x = layers.ReLU()(x)
    x = layers.Dense(2, name="fc_nsfw")(layers.GlobalAveragePooling2D()(x))
    return keras.Model(start, layers.Softmax()(x))


@pytest.fixture(scope="module")
def theirs():
    """opennsfw2's model with random weights."""
    import opennsfw2 as package

    return package.make_open_nsfw_model(weights_path=None)


def test_keras_loads_what_we_write(tmp_path, model, unfolded, assert_equal):
    path = tmp_path / "a.weights.h5"
    keras_h5.write(path, unfolded)
    assert detect(path) == "keras_h5"
    assert_equal(keras_h5.read(path), unfolded)
    model.load_weights(path)
    assert_equal(weights_in(model), unfolded)


def test_keras_scores_agree(tmp_path, model, unfolded, batch, expected):
    keras_h5.write(tmp_path / "a.weights.h5", unfolded)
    model.load_weights(tmp_path / "a.weights.h5")
    scores = model(batch, training=False).numpy()
    assert np.abs(scores - expected).max() < 1e-5


@pytest.mark.parametrize("suffix", [".weights.h5", ".keras"])
def test_what_keras_writes(tmp_path, model, assert_equal, suffix):
    path = tmp_path / f"a{suffix}"
    model.save(path) if suffix == ".keras" else model.save_weights(path)
    assert_equal(module(detect(path)).read(path), weights_in(model))


def test_opennsfw2_loads_what_we_write(
    tmp_path, unfolded, assert_equal, batch, expected
):
    import opennsfw2 as package

    path = tmp_path / "open_nsfw_weights.h5"
    opennsfw2.write(path, unfolded)
    assert detect(path) == "opennsfw2"
    assert_equal(opennsfw2.read(path), unfolded)
    loaded = package.make_open_nsfw_model(weights_path=str(path))
    assert_equal(weights_in(loaded), unfolded)
    scores = loaded(batch, training=False).numpy()
    assert np.abs(scores - expected).max() < 1e-5


@pytest.mark.parametrize("name", ["a.weights.h5", "a.keras", "a.h5"])
def test_what_opennsfw2_writes(tmp_path, theirs, assert_equal, name):
    """Its blocks' order differs from ours, with or without the names."""
    from keras.src.legacy.saving import legacy_h5_format

    path = tmp_path / name
    if name == "a.h5":
        with h5py.File(path, "w") as file:
            legacy_h5_format.save_weights_to_hdf5_group(file, theirs)
    else:
        theirs.save(path) if name == "a.keras" else theirs.save_weights(path)
    assert_equal(module(detect(path)).read(path), weights_in(theirs))


def test_keras_opens_our_archive(tmp_path, unfolded, assert_equal, batch, expected):
    import keras

    path = tmp_path / "a.keras"
    keras_archive.write(path, unfolded)
    assert detect(path) == "keras"
    assert_equal(keras_archive.read(path), unfolded)
    loaded = keras.models.load_model(path)
    assert_equal(weights_in(loaded), unfolded)
    assert np.abs(loaded(batch, training=False).numpy() - expected).max() < 1e-5


# -- what is refused or converted


def write(path, fill):
    with h5py.File(path, "w") as file:
        fill(file)
    return path


def refused(path, match):
    with pytest.raises(WeightsError, match=match):
        keras_h5.read(path)


@pytest.mark.parametrize("dtype", ["f2", "f8"])
def test_other_floats_are_converted(tmp_path, dtype):
    def fill(file):
        file["fc_nsfw/fc_nsfw/bias:0"] = np.array([0.5, -2], dtype)

    read = keras_h5.read(write(tmp_path / "a.h5", fill))["fc_nsfw"]["biases"]
    assert read.dtype == np.float32 and read.tolist() == [0.5, -2]


def test_links_are_refused(tmp_path):
    def soft(file):
        file["layers/conv2d/vars/0"] = h5py.SoftLink("/elsewhere")

    def external(file):
        file["layers/conv2d/vars/0"] = h5py.ExternalLink("/etc/passwd", "/")

    for fill in (soft, external):
        refused(write(tmp_path / "a.h5", fill), "to somewhere else")


def test_a_circle_of_groups_is_refused(tmp_path):
    def fill(file):
        file.create_group("layers")["again"] = file["/"]

    refused(write(tmp_path / "a.h5", fill), "deeper than any network")


def test_numbers_in_another_file_are_refused(tmp_path):
    (tmp_path / "secret").write_bytes(b"12345678")

    def external(file):
        outside = [(str(tmp_path / "secret"), 0, 8)]
        file.create_dataset("conv_1/bias:0", (2,), "f4", external=outside)

    def virtual(file):
        layout = h5py.VirtualLayout((2,), "f4")
        layout[:] = h5py.VirtualSource(str(tmp_path / "b.h5"), "data", (2,))
        file.create_virtual_dataset("conv_1/bias:0", layout)

    refused(write(tmp_path / "a.h5", external), "in another file")
    refused(write(tmp_path / "a.h5", virtual), "virtual, made of other arrays")


def test_a_huge_shape_is_refused(tmp_path):
    def plain(file):
        file.create_dataset("conv_1/bias:0", (1 << 40,), "f4")

    def compressed(file):
        file.create_dataset("conv_1/bias:0", (1 << 30,), "f4", compression="gzip")

    for fill in (plain, compressed):
        refused(write(tmp_path / "a.h5", fill), "larger than the file")


@pytest.mark.parametrize(
    "options", [{"compression": "gzip"}, {"compression": "lzf", "shuffle": True}, {}]
)
@pytest.mark.parametrize("libver", ["earliest", "latest"])
def test_compressed_arrays_and_newer_layouts(
    tmp_path, unfolded, assert_equal, options, libver
):
    """What other tools make of a file of Keras', such as h5repack."""
    keras_h5.write(tmp_path / "a.weights.h5", unfolded)
    path = tmp_path / "b.weights.h5"
    arrays = keras_h5.arrays_in((tmp_path / "a.weights.h5").read_bytes())
    with h5py.File(path, "w", libver=libver) as made:
        for name, array in arrays.items():
            made.create_dataset(name, data=array, **options)
    assert detect(path) == "keras_h5"
    assert_equal(keras_h5.read(path), unfolded)


def test_a_named_type_is_refused(tmp_path):
    def fill(file):
        file["layers/conv2d/vars/0"] = np.dtype("f4")

    refused(write(tmp_path / "a.h5", fill), "neither")


def test_arrays_of_any_shape_and_order_of_bytes(tmp_path):
    dice = np.random.default_rng(0)
    made = {
        f"group{index % 7}/sub{index % 3}/{index}": dice.normal(
            size=index % 5 * (2,)
        ).astype(kind)
        for index, kind in enumerate(["<f4", ">f4", "<f2", ">f8"] * 60)
    }

    def fill(file):
        for path, array in made.items():
            file[path] = array

    path = write(tmp_path / "a.h5", fill)
    found = keras_h5.arrays_in(path.read_bytes())
    assert found.keys() == made.keys()
    for name, array in made.items():
        assert np.array_equal(found[name], array.astype(np.float32))


def test_other_types_are_refused(tmp_path):
    def strings(file):
        file.create_dataset("conv_1/bias:0", data=["text"], dtype=h5py.string_dtype())

    def integers(file):
        file["conv_1/bias:0"] = np.arange(3)

    for fill in (strings, integers):
        refused(write(tmp_path / "a.h5", fill), "expected float arrays")


def test_another_network_is_named(tmp_path):
    def numbered(file):
        file["layers/conv2d/vars/0"] = np.zeros((3, 3, 3, 64))
        file["layers/conv2d/vars/1"] = np.zeros(64)

    def named(file):
        file["block1_conv1/block1_conv1/kernel:0"] = np.zeros((3, 3, 3, 64))

    refused(
        write(tmp_path / "a.h5", numbered), "expected 53 convolutions.* got 1, 0 and 0"
    )
    refused(write(tmp_path / "a.h5", named), "no layer fc_nsfw, but block1_conv1")


def test_a_kernel_of_another_shape_is_named(tmp_path, trained):
    keras_h5.write(tmp_path / "a.h5", trained)
    with h5py.File(tmp_path / "a.h5", "r+") as file:
        del file["layers/conv2d_1/vars/0"]
        file["layers/conv2d_1/vars/0"] = np.zeros((1, 1, 64, 33), np.float32)
    refused(tmp_path / "a.h5", r"conv_stage0_block0_branch2a.*\(1, 1, 64, 33\)")


def test_a_zip_bomb_is_refused(tmp_path):
    path = tmp_path / "a.keras"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model.weights.h5", b"\0" * (1 << 24))
    assert path.stat().st_size < 1 << 15
    with pytest.raises(WeightsError, match="zip bomb"):
        keras_archive.read(path)


def test_a_zip_without_weights_is_refused(tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("word/document.xml", "text")
    (tmp_path / "a.keras").write_bytes(content.getvalue())
    with pytest.raises(WeightsError, match="expected model.weights.h5.*word/document"):
        keras_archive.read(tmp_path / "a.keras")
