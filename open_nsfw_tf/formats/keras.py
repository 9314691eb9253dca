"""Keras archives (`.keras`): a zip of a model's config and its weights.

Only the weights are read: the config, which can name any class, is not opened. The
config that is written has the network of `open_nsfw_tf.model` in Keras' own layers, so
that ``keras.models.load_model`` works without this package.

The config is made here and not by Keras, which would need TensorFlow, which slim
installations lack (writing took 17 s and 855 MB in all, here 0.8 s and 130 MB). Keras
also puts the date into the archive, so that no two are the same, and its newest options
into the config (3.15: ``quantization_config``), which an older Keras does not know.
"""

import json
import zipfile
from pathlib import Path
from typing import Any

from open_nsfw_tf.architecture import (
    BATCH_NORM_EPSILON,
    BLOCKS,
    CHANNELS,
    DENSE,
    INPUT_SIZE,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Convolution,
    Weights,
    classes_of,
)
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import PARSE_ERRORS, check_file, reading, sandbox
from open_nsfw_tf.formats.keras_h5 import Arrays, arrays_in, file_of, layers_of

MEMBER = "model.weights.h5"
VERSION = "3.0.0"  # of Keras, the first one with this layout
MAX_MEMBERS = 64  # a model with vocabularies has a few
MAX_GROWTH = 4  # of the member over the archive; Keras does not compress at all


def read(path: Path) -> Weights:
    """Read the weights of a `.keras` archive of this network.

    Returns:
        As `open_nsfw_tf.formats.keras_h5.read`.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut or broken, a zip bomb, or another network's.
    """
    with reading(path, "Keras archive", *PARSE_ERRORS):
        check_file(path)
        return layers_of(sandbox.run(arrays_in_archive, path))


def arrays_in_archive(path: Path) -> Arrays:
    """Every float array of an archive's weights; for a child process.

    Raises:
        WeightsError: it contains no weights, or is a zip bomb.
        BadZipFile, OSError and others: it is cut or broken.
    """
    size = path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        if len(names) > MAX_MEMBERS:
            raise WeightsError(f"expected at most {MAX_MEMBERS} members in the archive")
        if MEMBER not in names:
            raise WeightsError(
                f"expected {MEMBER} in the archive, got "
                f"{', '.join(names[:4]) or 'nothing'!r:.200}"
            )
        declared = archive.getinfo(MEMBER).file_size
        if declared > MAX_GROWTH * size:
            raise WeightsError(
                f"refused: {MEMBER} would unpack to {declared} bytes, "
                f"{declared // size} times the archive: a zip bomb"
            )
        return arrays_in(archive.read(MEMBER))


# -- writing


def write(path: Path, weights: Weights) -> None:
    """Write the network with these weights for ``keras.models.load_model``."""
    members: dict[str, str | bytes] = {
        "metadata.json": json.dumps({"keras_version": VERSION}),
        "config.json": json.dumps(_config(classes_of(weights))),
        MEMBER: file_of(weights),
    }
    with replacing(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for name, content in members.items():
            # ZipInfo's fixed date, so that the same weights give the same archive.
            archive.writestr(zipfile.ZipInfo(name), content)


def _config(classes: int) -> dict[str, Any]:
    """The network as Keras serializes a Functional model, without default options."""
    layers = _Layers()
    at = layers.convolution("input", STEM)
    at = layers.add("ReLU", f"relu_{STEM.key}", at)
    pool = {"pool_size": POOL_SIZE, "strides": POOL_STRIDE, "padding": "same"}
    at = layers.add("MaxPooling2D", "pool1", at, **pool)
    for block in (block for stage in BLOCKS for block in stage):
        projection = block.projection
        shortcut = layers.convolution(at, projection) if projection else at
        for conv in block.main:
            at = layers.convolution(at, conv)
            if conv is not block.main[-1]:
                at = layers.add("ReLU", f"relu_{conv.key}", at)
        at = layers.add("Add", f"eltwise_{block.key}", shortcut, at)
        at = layers.add("ReLU", f"relu_{block.key}", at)
    at = layers.add("GlobalAveragePooling2D", "pool", at)
    at = layers.add("Dense", DENSE, at, units=classes)
    at = layers.add("Softmax", "predictions", at)
    ends = {"input_layers": ["input", 0, 0], "output_layers": [at, 0, 0]}
    return {
        "module": "keras.src.models.functional",
        "class_name": "Functional",
        "registered_name": "Functional",
        "config": {"name": "open_nsfw", "layers": layers.made, **ends},
    }


class _Layers:
    """Collects the config entries of layers, which refer to each other by name."""

    def __init__(self) -> None:
        self.made: list[dict[str, Any]] = []
        shape = [None, INPUT_SIZE, INPUT_SIZE, CHANNELS]
        self.add("InputLayer", "input", batch_shape=shape)

    def add(self, kind: str, name: str, *inputs: str, **config: Any) -> str:
        tensors = [
            {
                "class_name": "__keras_tensor__",
                # Keras uses the history of a tensor, and computes its shape itself.
                "config": {
                    "shape": [None],
                    "dtype": "float32",
                    "keras_history": [source, 0, 0],
                },
            }
            for source in inputs
        ]
        # A layer that merges takes one argument, a list.
        arguments = [tensors] if len(tensors) > 1 else tensors
        self.made.append(
            {
                "module": "keras.layers",
                "class_name": kind,
                "config": {"name": name, "dtype": "float32", **config},
                "registered_name": None,
                "name": name,
                "inbound_nodes": [{"args": arguments, "kwargs": {}}] if inputs else [],
            }
        )
        return name

    def convolution(self, at: str, conv: Convolution) -> str:
        """A convolution and its batch norm."""
        padding = "same"
        if conv.stride > 1:
            padding = "valid"
            if conv.padding:  # on both sides alike, which "same" does not do
                pad = f"pad_{conv.key}"
                at = self.add("ZeroPadding2D", pad, at, padding=conv.padding)
        at = self.add(
            "Conv2D",
            f"conv_{conv.key}",
            at,
            filters=conv.outputs,
            kernel_size=conv.kernel,
            strides=conv.stride,
            padding=padding,
        )
        norm = f"bn_{conv.key}"
        return self.add("BatchNormalization", norm, at, epsilon=BATCH_NORM_EPSILON)
