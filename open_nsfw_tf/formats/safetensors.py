"""safetensors: this package's own format. Tensors are called ``layer.field``."""

from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import PARSE_ERRORS, from_file, read_bytes, reading

LAYOUT = "open_nsfw_tf: {layer}.{field}, float32, kernels HWIO, dense (in, out), BGR"
MAX_HEADER = 1 << 20  # bytes; that of 107 layers has 20,000
FLOATS = (np.float16, np.float32, np.float64)


def read(path: Path) -> Weights:
    """Read ``layer.field`` tensors.

    Returns:
        ``{layer: {field: float32 array}}``; float16 and float64 are converted.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut or broken, or holds other dtypes.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load

    with reading(path, "safetensors file", *PARSE_ERRORS, SafetensorError):
        data = read_bytes(path)
        if int.from_bytes(data[:8], "little") > MAX_HEADER:
            raise WeightsError(f"its header has more than {MAX_HEADER >> 20} MiB")
        return from_tensors(load(data))


def from_tensors(tensors: dict[str, np.ndarray]) -> Weights:
    """Convert ``layer.field`` tensors to layers.

    Raises:
        WeightsError: a tensor does not have floats.
    """
    weights: Weights = {}
    for name, array in sorted(tensors.items()):  # safetensors gives them in any order
        if array.dtype not in FLOATS:
            raise WeightsError(f"{name:.80} has dtype {array.dtype}, not a float's")
        layer, _, field = name.rpartition(".")
        weights.setdefault(layer, {})[field] = from_file(array)
    return weights


def to_tensors(weights: Weights) -> dict[str, np.ndarray]:
    """Convert layers to ``layer.field`` tensors, float32."""
    return {
        f"{layer}.{field}": np.ascontiguousarray(array, dtype=np.float32)
        for layer, fields in weights.items()
        for field, array in fields.items()
    }


def write(path: Path, weights: Weights) -> None:
    """Write the arrays as float32, with the layout in the file's metadata."""
    with replacing(path) as temporary:
        temporary.write_bytes(serialized(weights))


def serialized(weights: Weights) -> bytes:
    """The content of the file that `write` writes: the same for the same arrays."""
    from safetensors.numpy import save

    return save(to_tensors(weights), metadata={"layout": LAYOUT})
