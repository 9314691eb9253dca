"""Caffe's caffemodel, both ways, with OpenCV's importer as the witness."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from open_nsfw_tf.architecture import (
    CONVOLUTIONS,
    DENSE,
    check_weights,
    fold_batch_norm,
    is_folded,
    unfold_batch_norm,
)
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import caffemodel, detect
from open_nsfw_tf.formats.caffemodel import _blob, _message

SCALE_FACTOR = 999.982  # what Caffe's moving average ends near


@pytest.fixture
def path(tmp_path, trained) -> Path:
    caffemodel.write(tmp_path / "a.caffemodel", trained)
    return tmp_path / "a.caffemodel"


def opencv(path: Path, batch: np.ndarray) -> np.ndarray:
    """Scores by a Caffe importer that is not ours."""
    prototxt = path.with_suffix(".prototxt")
    prototxt.write_text(caffemodel.prototxt())
    net = cv2.dnn.readNetFromCaffe(str(prototxt), str(path))
    net.setInput(np.ascontiguousarray(batch.transpose(0, 3, 1, 2)))
    return net.forward("prob")


def multiply_statistics(path: Path, factor: float) -> None:
    """Give the batch norms a scale factor, as Caffe's moving average leaves one."""
    net = _message("Net").FromString(path.read_bytes())
    for number, part in enumerate(net.layer):
        layer = _message("Layer").FromString(part)
        if layer.type == b"BatchNorm":
            blobs = [caffemodel._array(blob, "a layer") for blob in layer.blobs]
            layer.blobs[:] = [_blob(blob * np.float32(factor)) for blob in blobs]
            net.layer[number] = layer.SerializeToString()
    path.write_bytes(net.SerializeToString())


def test_round_trip(path, trained, assert_equal):
    assert detect(path) == "caffemodel"
    assert_equal(caffemodel.read(path), trained)


def test_round_trip_of_batch_norms(tmp_path, unfolded, assert_equal):
    path = tmp_path / "a.caffemodel"
    caffemodel.write(path, unfolded)
    assert_equal(caffemodel.read(path), unfolded)


def test_opencv_agrees(path, batch, expected):
    assert np.abs(opencv(path, batch) - expected).max() < 5e-6


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("factor", [1.0, SCALE_FACTOR])
def test_random_batch_norms(tmp_path, trained, batch, score, expected, seed, factor):
    path = tmp_path / "a.caffemodel"
    caffemodel.write(path, unfold_batch_norm(trained, seed))
    multiply_statistics(path, factor)
    assert np.abs(score(caffemodel.read(path)) - expected).max() < 1e-5
    assert np.abs(opencv(path, batch) - expected).max() < 1e-5


def test_unfolding_is_undone_by_folding(trained, unfolded):
    check_weights(unfolded)
    assert not is_folded(unfolded)
    folded = fold_batch_norm(unfolded)
    for name, layer in trained.items():
        for field, array in layer.items():
            near = np.abs(folded[name][field] - array).max()
            assert near <= 2e-6 * max(1, np.abs(array).max()), f"{name}.{field}"


def test_prototxt_names_every_layer():
    text = caffemodel.prototxt()
    for conv in CONVOLUTIONS:
        for kind in ("conv", "bn", "scale"):
            assert text.count(f'  name: "{kind}_{conv.key}"\n') == 1
    assert text.count("use_global_stats: true") == len(CONVOLUTIONS)
    assert text.count("bias_term: true") == len(CONVOLUTIONS)
    assert text.count('type: "Eltwise"') == 16
    assert text.count('type: "ReLU"') == 49


# -- other ways to write the same network


def parts(path: Path) -> dict[str, list[np.ndarray]]:
    """The blobs of a file by the names of their layers."""
    net = _message("Net").FromString(path.read_bytes())
    layers = [_message("Layer").FromString(part) for part in net.layer]
    return {
        layer.name.decode(): [
            caffemodel._array(blob, "a layer") for blob in layer.blobs
        ]
        for layer in layers
    }


def save(path: Path, layers: dict[str, list[bytes]], v1: bool = False) -> Path:
    kind = _message("V1Layer" if v1 else "Layer")
    made = [
        kind(name=name.encode(), blobs=blobs).SerializeToString()
        for name, blobs in layers.items()
    ]
    net = _message("Net")(name=b"made", **{"v1" if v1 else "layer": made})
    path.write_bytes(net.SerializeToString())
    return path


def old_blob(array: np.ndarray) -> bytes:
    """A blob as before BlobShape: four sides, ones in front; one tag per number."""
    num, channels, height, width = (1,) * (4 - array.ndim) + array.shape
    made = _message("Blob")(num=num, channels=channels, height=height, width=width)
    numbers = _message("UnpackedBlob")(data=array.reshape(-1).tolist())
    return made.SerializeToString() + numbers.SerializeToString()


def double_blob(array: np.ndarray) -> bytes:
    shape = _message("Shape")(dim=array.shape).SerializeToString()
    data = array.astype("<f8").tobytes()
    return _message("Blob")(shape=shape, double_data=data).SerializeToString()


@pytest.mark.parametrize("v1", [False, True])
def test_v1_and_legacy_shapes(tmp_path, path, trained, assert_equal, v1):
    layers = {n: [old_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    made = save(tmp_path / "b.caffemodel", layers, v1)
    assert detect(made) == "caffemodel"
    assert_equal(caffemodel.read(made), trained)


def test_doubles(tmp_path, path, trained, assert_equal):
    layers = {n: [double_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    assert_equal(caffemodel.read(save(tmp_path / "b.caffemodel", layers)), trained)


def test_merged_batch_norms(tmp_path, path, trained, assert_equal):
    """Tools that fold batch norms leave no layers of them."""
    layers = {n: [_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    kept = {n: b for n, b in layers.items() if not n.startswith(("bn_", "scale_"))}
    assert_equal(caffemodel.read(save(tmp_path / "b.caffemodel", kept)), trained)


def test_half_a_batch_norm(tmp_path, unfolded):
    caffemodel.write(tmp_path / "a.caffemodel", unfolded)
    layers = parts(tmp_path / "a.caffemodel")
    encoded = {n: [_blob(b) for b in blobs] for n, blobs in layers.items()}
    del encoded["scale_1"], encoded["bn_stage0_block0_branch2a"]
    read = caffemodel.read(save(tmp_path / "b.caffemodel", encoded))
    assert (read["bn_1"]["scale"] == 1).all() and (read["bn_1"]["offset"] == 0).all()
    assert np.array_equal(read["bn_1"]["mean"], unfolded["bn_1"]["mean"])
    assert (read["bn_stage0_block0_branch2a"]["mean"] == 0).all()


def test_a_scale_factor_of_zero_means_no_statistics(tmp_path, path):
    layers = {n: [_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    layers["bn_1"][2] = _blob(np.zeros(1, np.float32))
    read = caffemodel.read(save(tmp_path / "b.caffemodel", layers))
    assert (read["bn_1"]["mean"] == 0).all() and (read["bn_1"]["variance"] == 0).all()


# -- what is refused


def test_another_network_names_the_first_layers(tmp_path):
    kernel = _blob(np.zeros((96, 3, 11, 11), np.float32))
    path = save(tmp_path / "a.caffemodel", {"conv1": [kernel], "data": []})
    with pytest.raises(WeightsError) as error:
        caffemodel.read(path)
    message = str(error.value)
    assert "conv_1 (64, 3, 7, 7) (64,) is missing" in message
    assert "conv1 (96, 3, 11, 11) is not in it" in message
    assert "\n" not in message


def test_a_wrong_shape_is_named(tmp_path, path):
    layers = {n: [_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    layers[DENSE] = [_blob(np.zeros((1000, 512))), _blob(np.zeros(1000))]
    with pytest.raises(WeightsError, match=r"fc_nsfw should be .*\(1000, 512\)"):
        caffemodel.read(save(tmp_path / "b.caffemodel", layers))


def test_a_lost_layer_is_named(tmp_path, path):
    layers = {n: [_blob(b) for b in blobs] for n, blobs in parts(path).items()}
    del layers["bn_1"], layers["scale_1"]
    with pytest.raises(WeightsError, match="bn_1 .* is missing; scale_1 .* is missing"):
        caffemodel.read(save(tmp_path / "b.caffemodel", layers))


def test_sizes_that_the_file_does_not_have(tmp_path):
    shape = _message("Shape")(dim=[1 << 40, 1 << 20]).SerializeToString()
    blob = _message("Blob")(shape=shape, data=b"\0" * 8).SerializeToString()
    path = save(tmp_path / "a.caffemodel", {"conv_1": [blob]})
    with pytest.raises(WeightsError, match="needs 1.153e.18 numbers, the file has 2"):
        caffemodel.read(path)


def test_a_million_empty_layers(tmp_path):
    path = tmp_path / "a.caffemodel"
    path.write_bytes(b"\xa2\x06\x00" * 1_000_000)
    with pytest.raises(WeightsError, match="more than 4096 layers"):
        caffemodel.read(path)


@pytest.mark.skipif(
    not Path("/proc/self/status").exists(), reason="memory is measured on Linux only"
)
def test_reading_takes_little_memory(path):
    """Less than four times the file's size, in a fresh process."""
    code = (
        "import sys, pathlib\n"
        "from open_nsfw_tf.formats import caffemodel\n"
        "def kib(key):\n"
        "    lines = open('/proc/self/status').read().splitlines()\n"
        "    return next(int(l.split()[1]) for l in lines if l.startswith(key))\n"
        "before = kib('VmRSS')\n"
        "caffemodel.read(pathlib.Path(sys.argv[1]))\n"
        "print((kib('VmHWM') - before) * 1024)\n"
    )
    output = subprocess.check_output([sys.executable, "-c", code, str(path)])
    assert int(output) < 4 * path.stat().st_size
