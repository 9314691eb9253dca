"""opennsfw2's ``open_nsfw_weights.h5``: Keras 2's layout, layers and arrays by name.

Keras reads such a file in the order of its attribute ``layer_names``, whatever the names
are, and opennsfw2's sums take the shortcut as their second input. In other networks with
our names it is read by ``model.load_weights(path, by_name=True)``.
"""

import io
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats.keras_h5 import KERNEL, NORM, layer_names, read

__all__ = ["read", "write"]


def write(path: Path, weights: Weights) -> None:
    """Write what ``opennsfw2.make_open_nsfw_model(weights_path=path)`` reads.

    Args:
        path: of the file; Keras demands that it ends in `.h5`, and not `.weights.h5`.
        weights: the canonical dict.
    """
    import h5py

    names = layer_names(shortcut_first=False)
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = np.array(names, "S")
        file.attrs["backend"] = np.bytes_("tensorflow")
        file.attrs["keras_version"] = np.bytes_("2.0.0")  # 1 would have kernels turned
        for name in names:
            fields = NORM if "mean" in weights[name] else KERNEL
            group = file.create_group(name)
            paths = [f"{name}/{field}:0" for field in fields]
            group.attrs["weight_names"] = np.array(paths, "S")
            for path_inside, field in zip(paths, fields.values(), strict=True):
                group[path_inside] = np.asarray(weights[name][field], np.float32)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
