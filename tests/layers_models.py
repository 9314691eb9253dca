"""TensorFlow.js layers models made by hand, as its converter writes them."""

import base64
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.backbones.trained import HeadLayer

CLASSES = ("drawing", "hentai", "neutral", "porn", "sexy")
HEAD = (
    HeadLayer("dense", units=6, activation="relu"),
    HeadLayer("batch_norm"),
    HeadLayer("dropout", rate=0.5),
)
SHARDS = 3


def topology(network: Any) -> dict[str, Any]:
    """The description of a Keras network, without its softmax, which a layer has."""
    layers = []
    for layer in network.layers[:-1]:
        config = layer.get_config()
        sources: list[Any] = []
        if type(layer).__name__ == "InputLayer":
            config["batch_input_shape"] = list(config.pop("batch_shape"))
        else:
            tensors = layer.input if isinstance(layer.input, list) else [layer.input]
            names = [tensor._keras_history.operation.name for tensor in tensors]
            sources = [[[name, 0, 0, {}] for name in names]]
        if layer is network.layers[-2]:
            config["activation"] = "softmax"
        record = {"class_name": type(layer).__name__, "name": layer.name}
        layers.append({**record, "config": config, "inbound_nodes": sources})
    config = {"name": "model_1", "layers": layers}
    model = {"class_name": "Model", "config": config}
    return {"keras_version": "2.2.4", "backend": "tensorflow", "model_config": model}


def packed(array: np.ndarray, dtype: str) -> tuple[bytes, dict[str, Any], np.ndarray]:
    """An array's bytes, its record in the manifest, and what is read of it."""
    if dtype == "float32":
        return array.astype("<f4").tobytes(), {}, array
    if dtype == "float16":
        half = array.astype("<f2")
        record = {"quantization": {"dtype": "float16"}}
        return half.tobytes(), record, half.astype(np.float32)
    top = np.iinfo(dtype).max
    least, most = float(array.min()), float(array.max())
    scale = (most - least) / top or 1.0
    codes = np.rint((array.astype(np.float64) - least) / scale)
    record = {"quantization": {"min": least, "scale": scale, "dtype": dtype}}
    read = (codes * scale + least).astype(np.float32)
    return codes.astype(np.dtype(dtype).newbyteorder("<")).tobytes(), record, read


def write(folder: Path, network: Any, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Write a Keras network; returns the arrays that are read, by the file's names."""
    data, specs, arrays = b"", [], {}
    for layer in network.layers:
        depthwise = type(layer).__name__ == "DepthwiseConv2D"
        for variable in layer.weights:
            prefix = "depthwise_" if depthwise and variable.name == "kernel" else ""
            name = f"{layer.name}/{prefix}{variable.name}"
            part, record, read = packed(np.asarray(variable, np.float32), dtype)
            data += part
            spec = {"name": name, "shape": list(read.shape), "dtype": "float32"}
            specs.append({**spec, **record})
            arrays[name] = read
    size = -(-len(data) // SHARDS)
    paths = [f"group1-shard{n + 1}of{SHARDS}" for n in range(SHARDS)]
    for number, path in enumerate(paths):
        (folder / path).write_bytes(data[number * size : (number + 1) * size])
    model = {
        "modelTopology": topology(network),
        "weightsManifest": [{"paths": paths, "weights": specs}],
    }
    (folder / "model.json").write_text(json.dumps(model))
    return arrays


_AROUND = (
    "!function(e){module.exports=e()}(function(){return{1:[function(e,t,n){t.exports=",
    "},{}]},{},[1])(1)});",
)


def minified(source: Path, target: Path) -> None:
    """The same files as scripts, as nsfwjs's npm package has them."""
    text = json.dumps(json.loads((source / "model.json").read_text()))
    text = re.sub(r'"([A-Za-z_]\w*)": ', r"\1:", text).replace(", ", ",")
    text = re.sub(r"(?<=[:\[,])(-?)0\.", r"\1.", text)
    text = text.replace(":true", ":!0").replace(":false", ":!1")
    (target / "model.min.js").write_text(text.join(_AROUND))
    for shard in source.glob("group*"):
        encoded = json.dumps(base64.b64encode(shard.read_bytes()).decode())
        (target / f"{shard.name}.min.js").write_text(encoded.join(_AROUND))
