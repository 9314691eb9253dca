"""Every reader of weights against files that are cut, damaged or made to do harm."""

import json
import os
import pickle
import random
import re
import resource
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper

from open_nsfw_tf.architecture import check_weights
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import (
    FORMATS,
    caffemodel,
    detect,
    keras,
    module,
    sandbox,
)
from open_nsfw_tf.formats.caffemodel import _blob, _message

NAMES = {name: f"a{known.suffixes[0]}" for name, known in FORMATS.items()}
TINY_ROUNDS = 800  # damaged copies of a file of few kB, a format
REAL_ROUNDS = 15  # damaged copies of the real file, a format
TIMEOUT = 4  # seconds of the processor, a child of parser_server.py
MORE_MEMORY = 400 << 20  # bytes; the real files have 24 MB
# What the readers say of a file that is none of theirs, or is damaged.
BROKEN = (
    r"cut or broken|an \.npy file of version|header has more than 1 MiB|this is text"
    r"|another network, or not all of it|expected opset 7"
)


def load(path: Path) -> None:
    """As `load_weights` does."""
    check_weights(module(detect(path)).read(path))


def survive(path: Path, name: str) -> None:
    """WeightsError or nothing, from the way of `load_weights` and from the reader."""
    try:
        known = detect(path) == name
    except WeightsError:
        known = False
    for read in (load,) if known else (load, module(name).read):
        try:
            read(path)
        except WeightsError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 2000


def peak_memory() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


stopped: list[bytes] = []  # files at which a parser crashed, or was stopped


@pytest.fixture(scope="module")
def server():
    """`sandbox`'s child process, forked: to start Python for each file takes long."""
    script = Path(__file__).with_name("parser_server.py")
    command = [sys.executable, str(script), str(TIMEOUT)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        yield process


@pytest.fixture(autouse=True)
def forking(monkeypatch, server):
    """Nearly every reading here is in a child process, with its limits."""

    def answer(parser, paths) -> bytes:
        written = paths[0].with_name("answer")
        job = [parser.__module__, parser.__name__, *map(str, (written, *paths))]
        print(json.dumps(job), file=server.stdin, flush=True)
        if server.stdout.readline() != "0\n":
            stopped.append(paths[0].read_bytes())
            raise ValueError("crashed")
        return written.read_bytes()

    stopped.clear()
    monkeypatch.setattr(sandbox, "_answer_of_child", answer)


@pytest.fixture(autouse=True)
def memory_stays_bounded():
    before = peak_memory()
    yield
    assert peak_memory() - before < MORE_MEMORY


# -- small files with every kind of structure


def tiny_weights():
    array = np.arange(1, 37, dtype=np.float32).reshape(3, 3, 2, 2)
    norm = {f: array[0, 0, 0] for f in ("mean", "variance", "scale", "offset")}
    pair = {"weights": array, "biases": array[0, 0, 0]}
    dense = {"weights": array[0, 0], "biases": array[0, 0, 0]}
    return {"conv_1": pair, "bn_1": norm, "fc_nsfw": dense}


def tiny_caffemodel(path: Path) -> None:
    blobs = [[_blob(np.ones((2, 2, 3, 3))), _blob(np.ones(2))]] + [[_blob(np.ones(2))]]
    kinds = zip(("Layer", "V1Layer"), blobs, strict=True)
    today, v1 = (
        _message(kind)(name=b"conv_1", blobs=blob).SerializeToString()
        for kind, blob in kinds
    )
    net = _message("Net")(name=b"net", layer=[today], v1=[v1])
    path.write_bytes(net.SerializeToString())


def tiny_onnx(path: Path) -> None:
    arrays = {"kernel": (64, 3, 7, 7), **dict.fromkeys("abcd", (64,))}
    constants = [
        numpy_helper.from_array(np.ones(shape, np.float16), name)
        for name, shape in arrays.items()
    ]
    value = helper.make_tensor_value_info
    nodes = [
        helper.make_node("Conv", ["x", "kernel"], ["y"], strides=[2, 2]),
        helper.make_node("BatchNormalization", ["y", *"abcd"], ["z"]),
        helper.make_node("Add", ["z", "a"], ["sum"]),
    ]
    ends = [
        [value("x", TensorProto.FLOAT, None)],
        [value("sum", TensorProto.FLOAT, [])],
    ]
    graph = helper.make_graph(nodes, "tiny", *ends, constants)
    path.write_bytes(helper.make_model(graph).SerializeToString())


def tiny_keras_h5(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        for number, layer in enumerate(tiny_weights().values()):
            for index, array in enumerate(layer.values()):
                file[f"layers/conv2d_{number}/vars/{index}"] = array


def tiny_opennsfw2(path: Path) -> None:
    import h5py

    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = np.array(["conv_1", "fc_nsfw"], "S")
        for name, layer in tiny_weights().items():
            file[f"{name}/{name}/kernel:0"] = next(iter(layer.values()))


def tiny_keras(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("config.json", "{}")
        inner = path.with_name("inner.h5")
        tiny_keras_h5(inner)
        archive.write(inner, keras.MEMBER)


def tiny(name: str, path: Path) -> bytes:
    makers = {
        "caffemodel": tiny_caffemodel,
        "onnx": tiny_onnx,
        "keras_h5": tiny_keras_h5,
        "opennsfw2": tiny_opennsfw2,
        "keras": tiny_keras,
    }
    make = makers.get(name)
    make(path) if make else module(name).write(path, tiny_weights())
    return path.read_bytes()


def damaged(data: bytes, dice: random.Random, places: list[int] | None) -> bytes:
    """A copy that is cut, has bits flipped or bytes replaced."""
    kind = dice.random()
    if kind < 0.15:
        return data[: dice.randrange(len(data))]
    made = bytearray(data)
    for _ in range(dice.choice((1, 1, 1, 2, 8))):
        at = dice.choice(places) if places else dice.randrange(len(made))
        at = min(at, len(made) - 1)
        if kind < 0.75:
            made[at] ^= 1 << dice.randrange(8)
        else:  # a size that became huge, or nothing
            made[at : at + 4] = dice.choice((b"\xff", b"\0", b"\x7f")) * 4
    return bytes(made)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_small_files(tmp_path, monkeypatch, name):
    path = tmp_path / NAMES[name]
    data = tiny(name, path)
    dice = random.Random(f"tiny {name}")
    for _ in range(TINY_ROUNDS):
        path.write_bytes(damaged(data, dice, None))
        survive(path, name)
    if stopped:  # the same, with a child process as users have it
        monkeypatch.undo()
        path.write_bytes(stopped[0])
        with pytest.raises(WeightsError, match=BROKEN):
            module(name).read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_damaged_real_files(tmp_path, unfolded, name):
    """Hits the structure: around the names, and the two ends of the file."""
    path = tmp_path / NAMES[name]
    module(name).write(path, unfolded)
    data = path.read_bytes()
    dice = random.Random(f"real {name}")
    marks = [0, len(data) - 64]
    for text in (b"conv_", b"bn_", b"scale_", b"fc_nsfw", b"vars", b"conv2d", b"TREE"):
        at = data.find(text)
        while at >= 0 and len(marks) < 4000:
            marks.append(at)
            at = data.find(text, at + 1)
    for _ in range(REAL_ROUNDS):
        places = [max(0, dice.choice(marks) + dice.randrange(-24, 64)) for _ in "1234"]
        path.write_bytes(damaged(data, dice, places))
        survive(path, name)


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"\x93NUMPY",
        b"\x89HDF\r\n\x1a\n",
        b"PK\x03\x04",
        b"\x08\x08" * 99,
        b"\xff" * 4096,
        b"\0" * 4096,
        b"\x0b" * 100_000,  # groups in groups of protobuf, never closed
        b"\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",
    ],
)
def test_junk(tmp_path, name, content):
    path = tmp_path / NAMES[name]
    path.write_bytes(content)
    for read in (load, module(name).read):
        with pytest.raises(
            WeightsError, match=BROKEN if content else "the file is empty; fetch"
        ):
            read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_a_missing_file_is_an_oserror(tmp_path, name):
    with pytest.raises(FileNotFoundError, match=re.escape(NAMES[name])):
        module(name).read(tmp_path / NAMES[name])


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-lfs"),
        ("<!DOCTYPE html>\n<html><body>404</body></html>", "HTML page"),
        (caffemodel.prototxt(), "prototxt"),
        ('layer { name: "data" type: "Input" }', "prototxt"),
    ],
)
def test_what_is_no_weights_is_called_by_its_name(tmp_path, name, content, what):
    path = tmp_path / NAMES[name]
    path.write_text(content)
    for read in (load, module(name).read):
        with pytest.raises(WeightsError, match=what):
            read(path)


@pytest.mark.parametrize("name", FORMATS)
def test_content_goes_before_the_suffix(tmp_path, unfolded, assert_equal, name):
    """Every format is known and read under no, and under a wrong, suffix."""
    path = tmp_path / "weights.bin"
    module(name).write(path, unfolded)
    assert detect(path) == name
    read = module(name).read(path)
    check_weights(read)
    if name != "onnx":  # whose batch norms are folded
        assert_equal(read, unfolded)


# -- pickles


class Call:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def nested(depth: int) -> bytes:
    return b"\x80\x02" + b"(" * depth + b"l" * depth + b"."


HOSTILE = {
    "a shell": (
        pickle.dumps(Call(os.system, "touch /tmp/hacked"), 2),
        "refused: it asks for posix.system,",
    ),
    "eval": (
        pickle.dumps(Call(eval, "1"), 2),
        "refused: it asks for __builtin__.eval,",
    ),
    "a huge array": (
        pickle.dumps(Call(np.zeros, (1 << 40,)), 2),
        "refused: it asks for numpy.zeros,",
    ),
    "huge bytes": (
        pickle.dumps(Call(bytes, 1 << 40), 2),
        "refused: it asks for __builtin__.bytes,",
    ),
    "a numpy file": (
        pickle.dumps(Call(np.fromfile, "/etc/passwd"), 2),
        "refused: it asks for numpy.fromfile,",
    ),
    "deep lists": (nested(100_000), "opcode LIST"),
    "deep tuples": (b"\x80\x02" + b")" + b"\x85" * 100_000 + b".", "got tuple"),
    "a memo bomb": (b"\x80\x02]" + b"q\x00h\x00h\x00\x86" * 10_000 + b".", "got tuple"),
    "a doubling": (
        b"\x80\x02)q\x00" + b"h\x00h\x00\x86q\x000" * 5_000 + b"h\x00.",
        "got tuple",
    ),
    "a long of many digits": (
        b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"1.",
        "read long4",
    ),
    "a string that is not there": (b"\x80\x04\x8d" + b"\xff" * 8 + b".", "byte count"),
    "a build of nothing": (b"\x80\x02}}b.", "refused: it sets the state"),
    "an unfinished mark": (b"\x80\x02((((.", r"cut or broken \.npy"),
}


@pytest.mark.parametrize("name", ["npy", "mmdnn"])
@pytest.mark.parametrize("title", HOSTILE)
def test_hostile_pickles(tmp_path, name, title):
    content, reason = HOSTILE[title]
    header = np.lib.format.header_data_from_array_1_0(np.empty((), dtype=object))
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(content)
    for read in (load, module(name).read):
        with pytest.raises(WeightsError, match=reason):
            read(path)
    assert not Path("/tmp/hacked").exists()


@pytest.mark.parametrize("shape", [(1 << 46,), (1 << 31, 1 << 31), (-1,)])
def test_a_huge_npy_header(tmp_path, shape):
    path = tmp_path / "a.npy"
    with path.open("wb") as file:
        header = {"descr": "<f4", "fortran_order": False, "shape": shape}
        np.lib.format.write_array_header_1_0(file, header)
        file.write(b"\0" * 64)
    with pytest.raises(
        WeightsError, match="expected one dict of layers, got an array of"
    ):
        load(path)


def test_a_huge_safetensors_header(tmp_path):
    path = tmp_path / "a.safetensors"
    tensor = b'{"conv_1.weights":{"dtype":"F32","shape":[1099511627776],'
    head = tensor + b'"data_offsets":[0,4398046511104]}}'
    path.write_bytes(struct.pack("<Q", len(head)) + head)
    with pytest.raises(
        WeightsError, match="cut or broken safetensors file.* not fully"
    ):
        load(path)


def test_a_huge_onnx_tensor(tmp_path):
    path = tmp_path / "a.onnx"
    tiny_onnx(path)
    import onnx

    model = onnx.load(path)
    model.graph.initializer[0].dims[0] = 1 << 50
    path.write_bytes(model.SerializeToString())
    with pytest.raises(
        WeightsError, match=r"cut or broken ONNX file.* \(1125899906842624,3"
    ):
        load(path)


def test_headers_of_millions_of_nothings_are_refused(tmp_path):
    empty = {
        f"l{i}.f": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]}
        for i in range(30_000)
    }
    header = json.dumps(empty).encode()
    path = tmp_path / "a.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header)
    with pytest.raises(WeightsError, match="header has more than 1 MiB"):
        load(path)
    archive = tmp_path / "a.keras"
    with zipfile.ZipFile(archive, "w") as file:
        for number in range(65):
            file.writestr(str(number), b"")
    with pytest.raises(WeightsError, match="at most 64 members"):
        load(archive)
