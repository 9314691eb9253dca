"""Networks of `keras.applications` as backbones, with ImageNet's weights or without.

Keras downloads the weights, compares them with its own checksums (it has none for
MobileNetV2) and caches them in ``$KERAS_HOME/models`` (``~/.keras/models``). A file
that a user names is read by the same code. It executes nothing in the file, but the
HDF5 library is not safe against a hostile one: use files from the source that Keras
uses.
"""

import io
import os
import re
import socket
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from open_nsfw_tf.errors import WeightsError, one_line, sanitize

IMAGENET = "imagenet"
TIMEOUT = 30.0  # seconds without an answer before a download is given up
CHOICES = (
    "choose --init random, or fetch Keras' file elsewhere and name it with --weights, "
    "or put it into $KERAS_HOME/models (~/.keras/models)"
)
_NUMBERED = re.compile(r"(.*?)(?:_(\d+))?")


def resnet50(batch: Any, source: str | None) -> Any:
    """He et al., with the stride on the first 1x1 of a block, as Caffe's has it."""
    return _body("ResNet50", batch, source)


def mobilenet_v2(batch: Any, source: str | None) -> Any:
    """Sandler et al., of width 1."""
    return _body("MobileNetV2", batch, source)


def inception_v3(batch: Any, source: str | None) -> Any:
    """Szegedy et al.; its convolutions are called conv2d, conv2d_1, ... conv2d_93."""
    return _body("InceptionV3", batch, source)


def vgg16(batch: Any, source: str | None) -> Any:
    """Simonyan and Zisserman's convolutions; the mean of each map is a feature."""
    return _body("VGG16", batch, source)


def pretrained(name: str, weights: object) -> str:
    """Keras' name of its own weights, or the path of the given file.

    Raises:
        WeightsError: the file is not there.
    """
    if weights is None:
        return IMAGENET
    if not isinstance(weights, str | os.PathLike):
        raise WeightsError(f"{name}: expected the path of Keras' weights file")
    path = os.fspath(weights)
    if not os.path.isfile(path):
        raise WeightsError(f"{sanitize(path)}: no such file; name Keras' weights file")
    if not path.lower().endswith((".h5", ".hdf5")):
        raise WeightsError(f"{sanitize(path)}: expected Keras' weights file, a .h5")
    return path


def _body(kind: str, batch: Any, source: str | None) -> Any:
    """A network of `keras.applications` and the mean of each of its last maps.

    Args:
        kind: what `keras.applications` calls it.
        batch: float32 (N, H, W, 3), preprocessed, symbolic.
        source: "imagenet", the path of a file, or None.

    Returns:
        float32 (N, channels), the layer ``pool``.
    """
    import keras

    make = getattr(keras.applications, kind)
    with _default_settings(), _one_error(kind, source):
        network = make(include_top=False, weights=source, input_tensor=batch)
    _renumber(network)
    pool = keras.layers.GlobalAveragePooling2D(
        name="pool", dtype="float32", data_format="channels_last"
    )
    return pool(network.output)


@contextmanager
def _default_settings() -> Iterator[None]:
    """Keras' defaults, whatever the application has set for its own networks."""
    import keras

    policy, layout = keras.config.dtype_policy(), keras.config.image_data_format()
    keras.config.set_dtype_policy("float32")
    keras.config.set_image_data_format("channels_last")
    try:
        yield
    finally:
        keras.config.set_dtype_policy(policy)
        keras.config.set_image_data_format(layout)


@contextmanager
def _one_error(kind: str, source: str | None) -> Iterator[None]:
    """Raise whatever keeps weights from being fetched or read as a WeightsError."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT)  # Keras sets none
    messages = sys.stderr or io.StringIO()  # Keras writes to standard output
    try:
        with redirect_stdout(messages), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            warnings.filterwarnings("error", "Skipping")  # values of another network
            yield
    except Exception as error:  # Keras raises nothing narrower
        if source is None:
            raise
        what = "ImageNet's weights" if source == IMAGENET else sanitize(source)
        alien = isinstance(error, UserWarning)
        reason = "it is another network's" if alien else one_line(error)
        raise WeightsError(
            f"{kind}: cannot load {what}: {reason}; {CHOICES}"
        ) from error
    finally:
        socket.setdefaulttimeout(before)


def _renumber(network: Any) -> None:
    layers = network.layers
    names = renumbered((layer.name, type(layer).__name__) for layer in layers)
    for layer in layers:
        layer.name = names.get(layer.name, layer.name)


def renumbered(layers: Iterable[tuple[str, str]]) -> dict[str, str]:
    """The names that Keras gives in a new process to the layers that it numbers.

    It counts all layers of a process: the second Inception v3 begins with conv2d_94.

    Args:
        layers: the name and the class of each.

    Returns:
        The new names by the old ones, of layers that are called after their class.
    """
    numbers: dict[str, list[tuple[int, str]]] = {}
    for name, kind in layers:
        found = _NUMBERED.fullmatch(name)
        if found is not None and found[1] == _snake(kind):
            numbers.setdefault(found[1], []).append((int(found[2] or 0), name))
    return {
        name: f"{stem}_{index}" if index else stem
        for stem, numbered in numbers.items()
        for index, (_, name) in enumerate(sorted(numbered))
    }


def _snake(kind: str) -> str:
    words = re.sub(r"(.)([A-Z][a-z0-9]+)", r"\1_\2", kind)
    return re.sub(r"([a-z])([A-Z])", r"\1_\2", words).lower()
