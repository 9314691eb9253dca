"""TensorFlow.js layers models: a folder of ``model.json`` and shards of weights.

`read` also takes the folders of nsfwjs's npm package, where each file is a script that
exports the same data (``model.min.js``, shards in base64); no script is run. Sizes are
compared with the files' before anything is allocated. TensorFlow.js graph models are
refused: they have operations in place of layers.

Sources: tfjs-core's io/io_utils.ts (`decodeWeights`) and io/types.ts; Keras' JSON.
"""

import base64
import json
import math
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import Weights
from open_nsfw_tf.errors import WeightsError, sanitize
from open_nsfw_tf.formats import PARSE_ERRORS, float32, git_blob_of, reading

TITLE = "TensorFlow.js layers model"
MODEL = "model.json"
# The suffix of the npm package's files, in place of .json or nothing.
SCRIPT = ".min.js"
MAX_BYTES = 1 << 27  # of all shards; as float32 they may take four times as much
LONGEST = 1 << 22  # bytes of the description; the real ones have 200 kB
MAX_LAYERS = 10_000
DTYPES = {"uint8": "u1", "uint16": "<u2", "float16": "<f2", "float32": "<f4"}
GRAPH = (
    "this is a TensorFlow.js graph model, which is not read: expected a layers model, "
    "as nsfwjs's mobilenet_v2 and inception_v3 are"
)
_SHARD = re.compile(r"(.*shard)(\d+)(of\d+.*)")
# A string, a name before a colon, a minifier's truth value or number.
_TOKEN = re.compile(
    r'"(?:[^"\\]|\\.)*"|(?<![\w$])[A-Za-z_$][\w$]*+(?=:)|![01]'
    r"|(?<![\w.])-?\.\d++(?:e-?\d+)?"
)
_EXPORTS = re.compile(r"\.exports=(?=[{\"])")
_BASE64 = re.compile(r'"([A-Za-z0-9+/]*={0,2})"')


@dataclass(frozen=True)
class Layer:
    """A layer of the description.

    Attributes:
        kind: Keras' class, such as ``Conv2D``.
        name: of the layer.
        inputs: the names of the layers before it.
        config: Keras' options of the layer.
    """

    kind: str
    name: str
    inputs: tuple[str, ...]
    config: dict[str, Any]


@dataclass(frozen=True)
class LayersModel:
    """The content of a layers model.

    Attributes:
        layers: in the file's order.
        weights: ``{layer: {variable: float32 array}}``, by the file's names.
        git_blobs: git's names of what was read, by the names of the description and the
            shards; of a shard in a script that of the data in it.
    """

    layers: tuple[Layer, ...]
    weights: Weights
    git_blobs: dict[str, str]


def is_layers_model(path: str | os.PathLike[str]) -> bool:
    """Whether a path is a folder with a TensorFlow.js model, or its ``model.json``."""
    return _description(Path(path)) is not None


def _description(path: Path) -> Path | None:
    """The file with the description; None if there is none of TensorFlow.js's."""
    scripted = MODEL.replace(".json", SCRIPT)
    if path.name in (MODEL, scripted):
        path = path.parent
    if (path / scripted).is_file():
        return path / scripted
    if not (path / MODEL).is_file():
        return None
    with (path / MODEL).open("rb") as file:  # trained models of ours have one too
        return path / MODEL if b'"weightsManifest"' in file.read(LONGEST) else None


def read(path: Path) -> LayersModel:
    """Read a layers model.

    Args:
        path: the folder, or the ``model.json`` in it.

    Raises:
        OSError: a file cannot be read.
        WeightsError: it is a graph model, a file is missing, cut or broken, the shards
            are not in order, or sizes do not fit.
    """
    description = _description(path)
    if description is None:
        raise WeightsError(f"{sanitize(path)}: expected a folder with {MODEL}")
    with reading(description, TITLE, *PARSE_ERRORS):
        record = _record(description)
        layers = tuple(_layers(record))
        _check_output(record, layers)
        specs = [_spec(each) for group in _groups(record) for each in group["weights"]]
        names = [name for group in _groups(record) for name in group["paths"]]
        shards = _shards(description, names)
        blobs = {description.name: git_blob_of(description.read_bytes())}
        blobs |= {name: git_blob_of(data) for name, data in shards.items()}
        return LayersModel(layers, _weights(specs, list(shards.values())), blobs)


# -- the description


def _record(path: Path) -> dict[str, Any]:
    if path.stat().st_size > LONGEST:
        raise WeightsError(f"its description is larger than {LONGEST >> 20} MiB")
    text = path.read_text(encoding="utf-8")
    if path.name.endswith(SCRIPT):
        text = _TOKEN.sub(_as_json, _exported(text))
        record, _ = json.JSONDecoder().raw_decode(text)
    else:
        record = json.loads(text)
    if record.get("format") == "graph-model" or "node" in record["modelTopology"]:
        raise WeightsError(GRAPH)
    return dict(record)


def _exported(script: str) -> str:
    """What a script of the npm package exports, and what follows it."""
    found = _EXPORTS.search(script)
    if found is None:
        raise WeightsError(
            "expected a script that exports data, as nsfwjs's package has"
        )
    return script[found.end() :]


def _as_json(token: re.Match[str]) -> str:
    text = token[0]
    if text[0] == '"':
        return text
    if text[0] == "!":
        return "true" if text == "!0" else "false"
    if text[0] in "-.":
        return text.replace(".", "0.", 1)
    return f'"{text}"'


def _layers(record: dict[str, Any]) -> Iterator[Layer]:
    topology = record["modelTopology"]
    config = topology.get("model_config", topology)["config"]
    layers = config["layers"] if isinstance(config, dict) else config
    if len(layers) > MAX_LAYERS:
        raise WeightsError(f"it has more than {MAX_LAYERS} layers")
    before: tuple[str, ...] = ()  # of a sequential model, whose layers tell no inputs
    for layer in layers:
        options = layer["config"]
        name = str(layer["name"] if "name" in layer else options["name"])
        inputs = before
        if "inbound_nodes" in layer:
            nodes = layer["inbound_nodes"]
            if len(nodes) > 1:
                raise WeightsError(f"the layer {name} is used more than once")
            inputs = tuple(str(source[0]) for node in nodes for source in node)
        before = (name,)
        yield Layer(str(layer["class_name"]), name, inputs, dict(options))


def _check_output(record: dict[str, Any], layers: tuple[Layer, ...]) -> None:
    topology = record["modelTopology"]
    config = topology.get("model_config", topology)["config"]
    outputs = config.get("output_layers") if isinstance(config, dict) else None
    if outputs and (len(outputs) > 1 or outputs[0][0] != layers[-1].name):
        raise WeightsError("expected one output, of the last layer")


def _groups(record: dict[str, Any]) -> list[dict[str, Any]]:
    return list(record["weightsManifest"])


# -- the weights


@dataclass(frozen=True)
class _Spec:
    """An array of the manifest."""

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype
    scale: float = 1.0
    least: float = 0.0

    @property
    def size(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _spec(record: dict[str, Any]) -> _Spec:
    name, shape = str(record["name"]), tuple(record["shape"])
    if not all(type(side) is int and side > 0 for side in shape) or len(shape) > 4:
        raise WeightsError(f"{name}: expected a shape, got {sanitize(shape, 80)}")
    packing = record.get("quantization") or {"dtype": record["dtype"]}
    if packing["dtype"] not in DTYPES or record["dtype"] != "float32":
        raise WeightsError(
            f"{name}: expected values of {', '.join(DTYPES)}, got "
            f"{sanitize(packing['dtype'], 40)}, {sanitize(record['dtype'], 40)}"
        )
    numbers = [packing.get("scale", 1.0), packing.get("min", 0.0)]
    if packing["dtype"].startswith("u"):
        numbers = [packing["scale"], packing["min"]]
    if not all(type(n) in (int, float) and math.isfinite(n) for n in numbers):
        raise WeightsError(
            f"{name}: expected a scale and a min that are finite numbers"
        )
    return _Spec(name, shape, np.dtype(DTYPES[packing["dtype"]]), *map(float, numbers))


def _shards(description: Path, names: list[Any]) -> dict[str, bytes]:
    """The weights in each shard, all of which exist and are in order."""
    for name in names:
        if not isinstance(name, str) or not name or set(name) & set("/\\\0"):
            raise WeightsError(f"expected the name of a shard, got {name!r:.80}")
    _check_order(names)
    script = SCRIPT * description.name.endswith(SCRIPT)
    paths = {name: description.with_name(name + script) for name in names}
    missing = [name for name, path in paths.items() if not path.is_file()]
    if missing:
        raise WeightsError(f"the shard {missing[0]} is missing: fetch the model again")
    if sum(path.stat().st_size for path in paths.values()) > MAX_BYTES:
        raise WeightsError(f"its shards have more than {MAX_BYTES >> 20} MiB")
    return {name: _shard(path) for name, path in paths.items()}


def _check_order(names: list[str]) -> None:
    numbers: dict[tuple[str, str], int] = {}
    for found in filter(None, map(_SHARD.fullmatch, names)):
        key = (found[1], found[3])
        numbers[key] = numbers.get(key, 0) + 1
        if int(found[2]) != numbers[key]:
            raise WeightsError(
                "its shards are not in order: expected "
                f"{key[0]}{numbers[key]}{key[1]}, got {found[0]}"
            )


def _shard(path: Path) -> bytes:
    data = path.read_bytes()
    if not path.name.endswith(SCRIPT):
        return data
    found = _BASE64.match(_exported(data.decode("ascii")))
    if found is None:
        raise WeightsError(f"{sanitize(path.name)}: expected base64")
    return base64.b64decode(found[1], validate=True)


def _weights(specs: list[_Spec], shards: list[bytes]) -> Weights:
    expected, size = sum(spec.size for spec in specs), sum(map(len, shards))
    if size != expected:
        raise WeightsError(
            f"its manifest declares {expected:,} bytes of weights, and its shards have "
            f"{size:,}: a shard is cut, or another model's"
        )
    data = b"".join(shards)
    weights: Weights = {}
    at = 0
    for spec in specs:
        layer, _, variable = spec.name.rpartition("/")
        if variable in weights.get(layer, {}):
            raise WeightsError(f"{spec.name}: declared twice")
        array = np.frombuffer(data, spec.dtype, math.prod(spec.shape), at)
        at += spec.size
        if spec.dtype.kind == "u":  # in float64, as JavaScript computes
            # Values that are not finite are found later.
            with np.errstate(all="ignore"):
                array = array * np.float64(spec.scale) + spec.least
        weights.setdefault(layer, {})[variable] = float32(array.reshape(spec.shape))
    return weights
