"""A trained model on disk: a folder with its weights and their description.

The folder has ``model.json`` (backbone, classes, preprocessing, head) and
``model.safetensors``. No code is stored and none is run: the network is built again
from the table of backbones. `open_nsfw_tf.train` writes more files beside them, which
scoring does not need.
"""

import json
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from open_nsfw_tf.architecture import Weights, check_weights
from open_nsfw_tf.errors import WeightsError, one_line, sanitize
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import safetensors
from open_nsfw_tf.image import YAHOO, Preprocessing

MODEL = "model.json"
ARRAYS = "model.safetensors"
VERSION = 1  # of the layout of `MODEL`
LONGEST = 1 << 20  # bytes of `MODEL`
OPEN_NSFW = "resnet50_thin"  # the backbone that is Yahoo's network
KINDS = ("dense", "batch_norm", "dropout")
ACTIVATIONS = ("linear", "relu")
MAX_UNITS = 1 << 16
MAX_CLASSES = 10_000


@dataclass(frozen=True)
class HeadLayer:
    """A layer between a backbone's pooled features and its last dense layer.

    Attributes:
        kind: of `KINDS`.
        units: of a dense layer.
        activation: of a dense layer, of `ACTIVATIONS`.
        initializer: of a dense layer's kernel, as Keras calls it.
        l2: weight decay of a dense layer's kernel, added to the loss.
        rate: of dropout, 0 to below 1.
    """

    kind: str
    units: int = 0
    activation: str = "linear"
    initializer: str = "glorot_uniform"
    l2: float = 0.0
    rate: float = 0.0

    def __post_init__(self) -> None:
        dense = self.kind == "dense"
        if (
            type(self.units) is not int
            or type(self.rate) not in (int, float)
            or self.kind not in KINDS
            or (dense and not 1 <= self.units <= MAX_UNITS)
            or self.activation not in ACTIVATIONS
            or not 0 <= self.rate < 1
        ):
            raise ValueError(f"no layer of a head: {sanitize(str(self), 200)}")


@dataclass(frozen=True)
class TrainedModel:
    """What training results in.

    Attributes:
        backbone: a key of `open_nsfw_tf.backbones.BACKBONES`.
        classes: the scores' columns, in the order of the network's outputs.
        preprocessing: of pictures; its crop is the network's input size.
        head: the layers before the last one, which is dense with a softmax.
        weights: ``{layer: {field: float32 array}}``; of `OPEN_NSFW` without a head the
            canonical dict with as many outputs as there are classes, of other networks
            the layers and variables as Keras calls them.
        origin: of weights that were not trained here: their ``source``, ``licence`` and
            checksums, by what they are called; of what was trained from such weights
            their ``source`` and ``licence``.
    """

    backbone: str
    classes: tuple[str, ...]
    preprocessing: Preprocessing
    head: tuple[HeadLayer, ...]
    weights: Weights
    origin: dict[str, str] = field(default_factory=dict)

    @property
    def is_open_nsfw(self) -> bool:
        """Whether it is Yahoo's network and preprocessing, whatever its classes."""
        alike = self.preprocessing == YAHOO and not self.head
        return alike and self.backbone == OPEN_NSFW


def is_trained(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with a trained model."""
    return os.path.isfile(os.path.join(os.fspath(path), MODEL))


def write_trained(folder: Path, model: TrainedModel) -> None:
    """Write a trained model into a folder that exists.

    A model that is already there stays whole until the new one is written.

    Raises:
        OSError: it cannot be written.
    """
    safetensors.write(folder / ARRAYS, model.weights)
    record = {
        "version": VERSION,
        "backbone": model.backbone,
        "classes": list(model.classes),
        "preprocessing": model.preprocessing.record(),
        "head": [asdict(layer) for layer in model.head],
    }
    if model.origin:
        record["origin"] = model.origin
    with replacing(folder / MODEL) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def read_trained(folder: str | os.PathLike[str]) -> TrainedModel:
    """Read what `write_trained` wrote.

    The arrays of Yahoo's network are checked here; those of others when it is built.

    Raises:
        OSError: a file is not there or cannot be read.
        WeightsError: a file is broken, or its content makes no sense.
    """
    path = Path(folder)
    try:
        record = _record(path / MODEL)
        model = TrainedModel(
            backbone=_text(record["backbone"]),
            classes=_classes(record["classes"]),
            preprocessing=Preprocessing.from_record(record["preprocessing"]),
            head=_head(record["head"]),
            weights=safetensors.read(path / ARRAYS),
            origin=_origin(record.get("origin", {})),
        )
        if model.is_open_nsfw:
            check_weights(model.weights, len(model.classes))
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
        raise type(error)(
            f"{sanitize(str(path))}: expected the folder of a trained model, which "
            f"`open-nsfw train` writes, with {MODEL} and {ARRAYS}"
        ) from error
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise WeightsError(
            f"{sanitize(str(path))}: expected a trained model as `open-nsfw train` "
            f"writes it: {error}"
        ) from error
    return model


def _record(path: Path) -> dict[str, Any]:
    with open(path, "rb") as file:
        data = file.read(LONGEST + 1)
    if len(data) > LONGEST:
        raise ValueError(f"{MODEL} has more than {LONGEST >> 20} MiB")
    try:
        record = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{MODEL} is no JSON ({one_line(error)})") from error
    if isinstance(record, dict) and "weightsManifest" in record:
        raise ValueError(
            "this is a model of TensorFlow.js: make a trained model of it with "
            "`open-nsfw convert FOLDER RUN`"
        )
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise ValueError(f"{MODEL} is not of version {VERSION}")
    missing = sorted(
        {field.name for field in fields(TrainedModel)} - {*record, "weights", "origin"}
    )
    if missing:
        raise ValueError(f"{MODEL} does not tell the {', '.join(missing)}")
    return record


def _origin(value: object) -> dict[str, str]:
    texts = isinstance(value, dict) and all(map(_is_line, [*value, *value.values()]))
    if not isinstance(value, dict) or not texts:
        raise ValueError(f"expected an origin of printable texts, got {value!r:.80}")
    return value


def _is_line(text: object) -> bool:
    return isinstance(text, str) and text.isprintable()


def _text(value: object) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError(f"expected a name, got {value!r:.80}")
    return value


def _classes(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not 2 <= len(value) <= MAX_CLASSES:
        raise ValueError(f"expected a list of 2 classes or more, got {value!r:.80}")
    names = tuple(map(_text, value))
    check_classes(names)
    return names


def check_classes(names: Sequence[str]) -> None:
    """Refuse names that cannot be columns of one table, lines of a list, or printed.

    Raises:
        ValueError: two are the same, one is that of another column, or one has
            characters that cannot be printed.
    """
    from open_nsfw_tf.tables import NOT_SCORES  # which scoring itself does not need

    counts = Counter([*NOT_SCORES, *names])
    for name in names:
        if counts[name] > 1:
            raise ValueError(
                "expected different classes, none of them called "
                f"{', '.join(NOT_SCORES)}, got {name!r:.80}"
            )
        if not name.isprintable():
            raise ValueError(
                f"expected classes of printable characters, got {name!r:.80}"
            )


def _head(value: object) -> tuple[HeadLayer, ...]:
    if isinstance(value, list):
        return tuple(map(_head_layer, value))
    raise ValueError(f"expected a list of the head's layers, got {value!r:.80}")


def _head_layer(record: object) -> HeadLayer:
    known = {field.name for field in fields(HeadLayer)}
    if not isinstance(record, dict) or not set(record) <= known:
        raise ValueError(f"expected a layer of the head, got {record!r:.80}")
    return HeadLayer(**record)
