"""caffe-tensorflow's `.npy`: one pickled dict of dicts of arrays, never unpickled.

The layout is that of mdietrichstein/tensorflow-open_nsfw
(``data/open_nsfw-weights.npy``): conv and dense layers hold ``weights biases``, batch
norms ``mean variance scale offset``.
"""

import ast
import struct
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Layer, Weights
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import PARSE_ERRORS, from_file, read_bytes, reading
from open_nsfw_tf.formats.pickled import PickledArray, unpickle

MAX_HEADER = 4096  # bytes; such a file's header has about 110
MAGIC = b"\x93NUMPY"


def read(path: Path) -> Weights:
    """Read the arrays of a caffe-tensorflow file, written by Python 2 or 3.

    Args:
        path: of the `.npy` file.

    Returns:
        ``{layer: {field: float32 array}}`` with the file's own names; float16 and
        float64 arrays are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut, broken, too large, or contains anything but arrays.
    """
    return read_dict(path)


def read_dict(path: Path) -> Weights:
    """Read any `.npy` of one pickled dict of dicts of arrays, with any names.

    Returns:
        ``{layer: {field: float32 array}}``.

    Raises:
        OSError, WeightsError: as `read`.
    """
    with reading(path, ".npy file", *PARSE_ERRORS):
        data = read_bytes(path)
        return _weights(unpickle(_pickle_of(data)), limit=2 * len(data))


def write(path: Path, weights: Weights) -> None:
    """Write a file that ``np.load(path, allow_pickle=True).item()`` reads.

    Every numpy since 1.5 on Python 3 can read it (protocol 3, the old module names),
    with any ``encoding``.
    """
    header = np.lib.format.header_data_from_array_1_0(np.empty((), dtype=object))
    with replacing(path) as temporary, temporary.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(_pickled(weights))


# -- reading


def _pickle_of(data: bytes) -> bytes:
    """The pickle behind the header of an `.npy` file of one Python object.

    The header's layout: numpy's `numpy.lib.format` (version 1 and 2 differ in the size
    of the length).
    """
    size = {b"\1\0": 2, b"\2\0": 4}.get(data[6:8])
    if not data.startswith(MAGIC) or size is None:
        raise WeightsError("expected an .npy file of version 1.0 or 2.0")
    start = 8 + size
    end = start + int.from_bytes(data[8:start], "little")
    if end - start > MAX_HEADER:
        raise WeightsError("expected one dict of layers, got a header of many fields")
    header = ast.literal_eval(data[start:end].decode("latin-1").strip())
    if header["shape"] != () or header["descr"] not in ("O", "|O"):
        raise WeightsError(
            "expected one dict of layers, got an array of shape "
            f"{header['shape']!r:.80}, dtype {header['descr']!r:.80}"
        )
    return data[end:]


def _weights(content: object, limit: int) -> Weights:
    if isinstance(content, PickledArray) and isinstance(content.data, list):
        content = content.data[0]
    if not isinstance(content, dict):
        raise WeightsError(f"expected a dict of layers, got {type(content).__name__}")
    weights: Weights = {}
    for name, layer in content.items():
        if not isinstance(layer, dict):
            raise WeightsError(f"expected a dict of arrays in layer {sanitize(name)}")
        weights[name] = fields = {}
        for field, array in layer.items():
            fields[field] = _float32(array, f"{name}.{field}")
            limit -= fields[field].nbytes
            if limit < 0:  # the same array under many names
                raise WeightsError("refused: its arrays are larger than the file")
    return weights


def _float32(array: object, name: str) -> np.ndarray:
    if not isinstance(array, PickledArray):
        raise WeightsError(
            f"expected an array in {sanitize(name)}, got {type(array).__name__}"
        )
    return from_file(array.numpy())


# -- writing: the opcodes are written here, because today's pickle refers to
# `numpy._core`, which does not exist in the numpy of the original project.


def _pickled(weights: Weights) -> bytes:
    out = [b"\x80\x03", _global("numpy.core.multiarray", "_reconstruct"), b"q\x00"]
    out += [_global("numpy", "ndarray"), b"q\x01", _global("numpy", "dtype"), b"q\x02"]
    out += [b"000"]  # all three stay in the memo
    out += [_new_array(), b"(K\x01)", _dtype("O8", b"|"), b"\x89](}("]
    for name, layer in weights.items():
        out += [_unicode(name), b"}(", *_fields(layer), b"u"]
    return b"".join([*out, b"uetb."])


def _fields(layer: Layer) -> list[bytes]:
    out = []
    for field, array in layer.items():
        data = np.ascontiguousarray(array, dtype="<f4").tobytes()
        sides = b"".join(b"J" + struct.pack("<i", side) for side in array.shape)
        out += [_unicode(field), _new_array(), b"(K\x01(", sides, b"t"]
        out += [_dtype("f4", b"<"), b"\x89B", struct.pack("<I", len(data)), data, b"tb"]
    return out


def _global(module: str, name: str) -> bytes:
    return f"c{module}\n{name}\n".encode()


def _unicode(text: str) -> bytes:
    encoded = text.encode()
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def _new_array() -> bytes:
    return b"h\x00h\x01K\x00\x85C\x01b\x87R"


def _dtype(code: str, order: bytes) -> bytes:
    flags = b"J\xff\xff\xff\xff" * 2 + (b"K\x3f" if code == "O8" else b"K\x00")
    start = b"h\x02" + _unicode(code) + b"K\x00K\x01\x87R"
    return start + b"(K\x03" + _unicode(order.decode()) + b"NNN" + flags + b"tb"
