"""The `.npy` of caffe-tensorflow: whoever wrote it, and whatever it tries."""

import io
import os
import pickle
import struct
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.formats import npy

SMALL = {
    "conv_1": {
        "weights": np.arange(24, dtype=np.float32).reshape(2, 3, 4),
        "biases": np.ones(4, np.float32),
    },
    "bn_1": {"mean": np.zeros(4, np.float32)},
}


def numpy_file(pickled: bytes) -> bytes:
    file = io.BytesIO()
    header = np.lib.format.header_data_from_array_1_0(np.empty((), object))
    np.lib.format.write_array_header_1_0(file, header)
    return file.getvalue() + pickled


def saved(value: Any, protocol: int) -> bytes:
    array = np.empty((), object)
    array[()] = value
    return numpy_file(pickle.dumps(array, protocol=protocol))


def read(tmp_path: Path, data: bytes) -> Any:
    path = tmp_path / "some.npy"
    path.write_bytes(data)
    return npy.read(path)


def same(one: Any, other: Any) -> bool:
    return all(
        np.array_equal(one[layer][field], other[layer][field])
        for layer in other
        for field in other[layer]
    )


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_numpys_own_files_are_read(tmp_path: Path, protocol: int) -> None:
    assert same(read(tmp_path, saved(SMALL, protocol)), SMALL)


def python2(weights: Any) -> bytes:
    """What Python 2's `np.save` wrote: protocol 2, every string a byte string."""

    def string(text: bytes) -> bytes:
        if len(text) < 256:
            return b"U" + bytes([len(text)]) + text
        return b"T" + struct.pack("<I", len(text)) + text

    def dtype(code: bytes, order: bytes) -> bytes:
        start = b"cnumpy\ndtype\n" + string(code) + b"K\x00K\x01\x87R"
        flags = b"K\x3f" if code == b"O8" else b"K\x00"
        last = b"J\xff\xff\xff\xff" * 2 + flags + b"tb"
        return start + b"(K\x03" + string(order) + b"NNN" + last

    make = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
    )
    out = [b"\x80\x02", make, b"(K\x01)", dtype(b"O8", b"|"), b"\x89]}("]
    for name, layer in weights.items():
        out += [string(name.encode()), b"}("]
        for field, array in layer.items():
            shape = b"".join(b"K" + bytes([side]) for side in array.shape)
            out += [string(field.encode()), make, b"(K\x01(", shape, b"t"]
            out += [dtype(b"f4", b"<"), b"\x89", string(array.tobytes()), b"tb"]
        out.append(b"u")
    return numpy_file(b"".join([*out, b"uatb."]))


def test_files_of_python_2_are_read(tmp_path: Path) -> None:
    data = python2(SMALL)
    theirs = np.load(io.BytesIO(data), allow_pickle=True, encoding="latin1").item()
    assert same(theirs, SMALL)  # the file is what numpy itself takes for one
    assert same(read(tmp_path, data), SMALL)


def test_other_floats_are_converted(tmp_path: Path) -> None:
    for dtype in ("<f2", "<f8", ">f4", ">f8"):
        array = np.asfortranarray(np.arange(6).reshape(2, 3).astype(dtype))
        found = read(tmp_path, saved({"a": {"b": array}}, 3))["a"]["b"]
        assert found.dtype == np.float32
        assert np.array_equal(found, array)


@pytest.mark.parametrize("encoding", ["ASCII", "latin1", "bytes"])
def test_the_originals_np_load_reads_what_we_write(
    tmp_path: Path, encoding: Any
) -> None:
    path = tmp_path / "ours.npy"
    npy.write(path, SMALL)
    loaded = np.load(path, allow_pickle=True, encoding=encoding).item()
    assert list(loaded) == list(SMALL)
    assert same(loaded, SMALL)
    assert b"numpy._core" not in path.read_bytes()  # which numpy 1 does not know
    assert same(npy.read(path), SMALL)


class Runs:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return os.system, (f"touch {self.path}",)


def test_code_is_refused_and_not_run(tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    for value in (Runs(ran), {"a": Runs(ran)}, {"a": {"b": Runs(ran)}}):
        for protocol in (2, 3, 4, 5):
            with pytest.raises(WeightsError, match="refused: it asks for"):
                read(tmp_path, saved(value, protocol))
    assert not ran.exists()


def array(shape: bytes, data: bytes) -> bytes:
    """A pickled float32 array of a shape given as opcodes."""
    make = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    )
    dtype = b"cnumpy\ndtype\nX\x02\x00\x00\x00f4K\x00K\x01\x87R"
    return make + b"(K\x01" + shape + dtype + b"\x89" + data + b"tb"


HOSTILE = {
    "terabytes": b"}X\x01\0\0\0a}X\x01\0\0\0b"
    + array(b"J\0\0\0\x10\x85", b"C\x04abcd"),
    "negative side": b"}X\x01\0\0\0a}X\x01\0\0\0b"
    + array(b"J\xff\xff\xff\xff\x85", b"C\0"),
    "long shape": b"}X\x01\0\0\0a}X\x01\0\0\0b"
    + array(b"(" + b"K\x01" * 99 + b"t", b"C\0"),
    "extension": b"\x82\x01",
    "persistent": b"K\x01Q",
    "new object": b"cnumpy\nndarray\n)\x81",
    "instance": b"(ios\nsystem\n",
    "builtin": b"cbuiltins\neval\nX\x01\0\0\x001\x85R",
    "numpy's own caller": b"cnumpy.core.multiarray\nscalar\n)R",
    "call of a number": b"K\x01)R",
    "call of a class": b"cnumpy\nndarray\n)R",
    "state of a class": b"cnumpy\nndarray\n}b",
    "empty stack": b"0",
    "no mark": b"t",
    "unknown memo": b"h\x07",
    "list of lists": b"](" + b"]" * 9 + b"e",
    "number": b"K\x05",
    "declared size": b"B\xff\xff\xff\x7fabc",
    "deep tuple as a key": b"}" + b")" + b"\x85" * 2_000_000 + b"K\1s",
    "deep tuple as a name": b")" + b"\x85" * 2_000_000 + b"X\1\0\0\0a\x93",
    "wide tuple as a key": b"}" + b")q\0" + b"h\0h\0\x86q\0" * 31 + b"K\1s",
    "wide tuple as a code": b"cnumpy\ndtype\n"
    + b")q\0"
    + b"h\0h\0\x86q\0" * 31
    + b"\x85R",
    "colliding keys": b"}("
    + b"".join(
        b"\x8a\x0c" + (i * (2**61 - 1)).to_bytes(12, "little") + b"N"
        for i in range(1, 20_000)
    )
    + b"u",
    "millions of steps": b"]" * 3_000_000 + b"a" * 2_999_999,
    "control characters": b"}(X\5\0\0\0a\n\x1b[bNu",
    "encode bomb": b"c_codecs\nencode\nX\x04\0\0\0abcdX\x06\0\0\0latin1\x86R0" * 9,
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_pickles_are_refused(tmp_path: Path, name: str) -> None:
    # Some of these would take hours, or the memory, or the process.
    with pytest.raises(WeightsError) as caught:
        read(tmp_path, numpy_file(b"\x80\x03" + HOSTILE[name] + b"."))
    assert str(caught.value).isprintable()


def test_one_array_named_many_times_does_not_fill_the_memory(tmp_path: Path) -> None:
    one = np.zeros(1 << 16)
    value = {f"l{i}": {f"f{j}": one for j in range(100)} for i in range(100)}
    data = saved(value, 4)
    tracemalloc.start()
    with pytest.raises(WeightsError, match="larger than the file"):
        read(tmp_path, data)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 * len(data)


@pytest.mark.parametrize(
    "value",
    [
        {"a": {"b": np.zeros(3, np.int64)}},
        {"a": {"b": np.array([None])}},
        {"a": {"b": 3}},
        {"a": 3},
        [1, 2],
    ],
)
def test_other_contents_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(WeightsError, match="expected"):
        read(tmp_path, saved(value, 3))


def test_plain_arrays_are_refused(tmp_path: Path) -> None:
    file = io.BytesIO()
    np.save(file, np.zeros((3, 3)))
    with pytest.raises(WeightsError, match="expected one dict of layers"):
        read(tmp_path, file.getvalue())


def test_a_header_may_not_ask_for_memory(tmp_path: Path) -> None:
    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (1099511627776,), }\n"
    data = b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header
    with pytest.raises(WeightsError):
        read(tmp_path, data)


def test_flipped_and_cut_files_are_errors_or_weights(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    whole = saved(SMALL, 2)
    refused = 0
    for _ in range(3000):
        data = bytearray(whole[: random.integers(1, len(whole) + 1)])
        for at in random.integers(0, len(data), random.integers(0, 4)):
            data[at] = random.integers(256)
        try:
            read(tmp_path, bytes(data))
        except WeightsError:
            refused += 1
    assert refused > 2000
