"""MMdnn's `.npy`."""

import numpy as np
import pytest

from open_nsfw_tf import load_weights
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import detect, mmdnn, npy


def test_round_trip(tmp_path, unfolded, assert_equal):
    path = tmp_path / "a.npy"
    mmdnn.write(path, unfolded)
    assert detect(path) == "mmdnn"
    assert_equal(mmdnn.read(path), unfolded)


def test_the_other_npy_is_told_apart(tmp_path, unfolded):
    npy.write(tmp_path / "a.npy", unfolded)
    assert detect(tmp_path / "a.npy") == "npy"


def test_the_layout_is_mmdnns(tmp_path, unfolded):
    """As mmtoir 0.3.1 wrote it: 107 layers, and the names and shapes below."""
    mmdnn.write(tmp_path / "a.npy", unfolded)
    layers = np.load(tmp_path / "a.npy", allow_pickle=True).item()
    assert len(layers) == 107
    assert {f: a.shape for f, a in layers["conv_1"].items()} == {
        "weights": (7, 7, 3, 64),
        "bias": (1, 1, 1, 64),
    }
    assert {f: a.shape for f, a in layers["bn_1"].items()} == {
        "mean": (64,),
        "var": (64,),
        "scale": (1, 1, 1, 64),
        "bias": (64,),
    }
    assert {f: a.shape for f, a in layers["fc_nsfw_1"].items()} == {
        "weights": (1024, 2),
        "bias": (2,),
    }


def test_a_dense_layer_without_the_suffix(tmp_path, trained, assert_equal):
    mmdnn.write(tmp_path / "a.npy", trained)
    layers = npy.read_dict(tmp_path / "a.npy")
    layers["fc_nsfw"] = layers.pop("fc_nsfw_1")
    npy.write(tmp_path / "b.npy", layers)
    assert_equal(mmdnn.read(tmp_path / "b.npy"), trained)


def test_a_batch_norm_without_scale_or_bias(tmp_path, trained):
    mmdnn.write(tmp_path / "a.npy", trained)
    layers = npy.read_dict(tmp_path / "a.npy")
    del layers["bn_1"]["scale"], layers["bn_1"]["bias"]
    npy.write(tmp_path / "b.npy", layers)
    norm = mmdnn.read(tmp_path / "b.npy")["bn_1"]
    assert (norm["scale"] == 1).all() and (norm["offset"] == 0).all()


@pytest.mark.parametrize("name", ["out.json", "out.pb"])
def test_its_graph_is_refused(tmp_path, name):
    path = tmp_path / name
    node = b"\x0a\x04data\x12\x09DataInput"  # its name and its operation
    text = b'{"node": [{"name": "data", "op": "DataInput"}]}'
    path.write_bytes(text if name.endswith("json") else b"\x0a%c" % len(node) + node)
    assert detect(path) == "mmdnn"
    with pytest.raises(WeightsError, match=r"pass the \.npy"):
        mmdnn.read(path)


@pytest.mark.parametrize(
    "name, content, reason",
    [
        ("frozen.pb", b"\x0a\x1a\x0a\x05input\x12\x0bPlaceholder", "TensorFlow"),
        ("model.json", b'{"version": 1}', "got a .json file, which contains none"),
        ("empty.pb", b"", "got a .pb file, which contains none"),
    ],
)
def test_other_graphs_are_not_called_mmdnns(tmp_path, name, content, reason):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(WeightsError, match=reason) as caught:
        load_weights(path)
    assert "MMdnn" not in str(caught.value)
    assert str(path) in str(caught.value)
    with pytest.raises(
        FileNotFoundError, match=r"No such file or directory: .*none\.pb"
    ):
        mmdnn.read(tmp_path / "none.pb")


def test_unknown_fields_are_named(tmp_path):
    npy.write(tmp_path / "a.npy", {"conv_1": {"kernel": np.ones(2)}})
    with pytest.raises(WeightsError, match="conv_1.*kernel"):
        mmdnn.read(tmp_path / "a.npy")
