"""opennsfw2's ``open_nsfw_weights.h5``: Keras 2's layout, arrays by name.

Keras reads such a file in the order of its attribute ``layer_names``, whatever the
names are; in opennsfw2 the shortcut is the second input of a block's sum. Other
networks with the names of our layers read it by ``model.load_weights(path,
by_name=True)``.
"""

import io
from pathlib import Path

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats.keras_h5 import KERNEL, NORM, layer_names, read
from open_nsfw_tf.libraries import need

__all__ = ["read", "write"]


def write(path: Path, weights: Weights) -> None:
    """Write a file for ``opennsfw2.make_open_nsfw_model(weights_path=path)``.

    Args:
        path: of the file; Keras requires that it ends in `.h5`, and not `.weights.h5`.
        weights: the canonical dict.
    """
    need(None, "h5py")
    import h5py

    names = layer_names(shortcut_first=False)
    content = io.BytesIO()
    with h5py.File(content, "w") as file:
        file.attrs["layer_names"] = np.array(names, "S")
        file.attrs["backend"] = np.bytes_("tensorflow")
        file.attrs["keras_version"] = np.bytes_(
            "2.0.0"
        )  # for 1 Keras would flip kernels
        for name in names:
            fields = NORM if "mean" in weights[name] else KERNEL
            group = file.create_group(name)
            paths = [f"{name}/{field}:0" for field in fields]
            group.attrs["weight_names"] = np.array(paths, "S")
            for path_inside, field in zip(paths, fields.values(), strict=True):
                group[path_inside] = np.asarray(weights[name][field], np.float32)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())
