"""Caffe's binary caffemodel, of current layers and of the older V1, and its prototxt.

The messages are a small part of Caffe's ``caffe.proto`` (BVLC), declared here at run
time. Repeated messages and packed numbers are declared as ``bytes``, which is the same
on the wire: numpy then takes the numbers without a Python object for each.

A caffemodel stores a batch norm as two layers: ``bn_X`` (mean and variance, both to be
divided by a third blob, the scale factor) and ``scale_X`` (scale and offset).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.architecture import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    CONVOLUTIONS,
    DENSE,
    FEATURES,
    INPUT_SIZE,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Convolution,
    Weights,
    check_weights,
    classes_of,
    identity_batch_norm,
)
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.files import replacing
from open_nsfw_tf.formats import (
    CHECKSUMS,
    PARSE_ERRORS,
    check_file,
    float32,
    from_file,
    git_blob,
    reading,
    sandbox,
)
from open_nsfw_tf.formats.safetensors import from_tensors, to_tensors

NETWORK = "ResNet_50_1by2_nsfw"
MAX_LAYERS = 4096  # a ResNet-152 without merged layers has 700
MAX_SHAPE = 64  # bytes; four sides need less than 20
MAX_MISMATCHES = 4  # layers that do not fit, in one error

Blobs = list[np.ndarray]

# {message: {field: (number, type)}}; "*" is repeated.
_MESSAGES = {
    "Net": {"name": (1, "bytes"), "v1": (2, "bytes*"), "layer": (100, "bytes*")},
    "Layer": {
        "name": (1, "bytes"),
        "type": (2, "bytes"),
        "bottom": (3, "bytes*"),
        "top": (4, "bytes*"),
        "blobs": (7, "bytes*"),
    },
    "V1Layer": {"name": (4, "bytes"), "type": (5, "int32"), "blobs": (6, "bytes*")},
    "Blob": {
        "num": (1, "int32"),
        "channels": (2, "int32"),
        "height": (3, "int32"),
        "width": (4, "int32"),
        "data": (5, "bytes"),  # packed floats
        "shape": (7, "bytes"),
        "double_data": (8, "bytes"),  # packed doubles
    },
    "Shape": {"dim": (1, "int64*")},  # packed
    # The same blob from a writer that does not pack numbers, or packs them in parts.
    "UnpackedBlob": {"data": (5, "float*"), "double_data": (8, "double*")},
}


@cache
def _message(name: str) -> Any:
    """The class of one message of `_MESSAGES`."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    file = descriptor_pb2.FileDescriptorProto(
        name="open_nsfw_tf/caffe.proto", package="open_nsfw_tf", syntax="proto2"
    )
    for message, fields in _MESSAGES.items():
        declared = file.message_type.add(name=message)
        for field, (number, kind) in fields.items():
            descriptor = declared.field.add(name=field, number=number)
            descriptor.type = getattr(descriptor, f"TYPE_{kind.rstrip('*').upper()}")
            repeated = kind.endswith("*")
            descriptor.label = (
                descriptor.LABEL_REPEATED if repeated else descriptor.LABEL_OPTIONAL
            )
            if message == "Shape":
                descriptor.options.packed = True
    pool = descriptor_pool.DescriptorPool()
    pool.AddSerializedFile(file.SerializeToString())
    class_descriptor = pool.FindMessageTypeByName(f"open_nsfw_tf.{name}")
    return message_factory.GetMessageClass(class_descriptor)


# -- the network in Caffe's layers


@dataclass(frozen=True)
class CaffeLayer:
    """One layer of the prototxt.

    Attributes:
        name: of the layer.
        kind: Caffe's type.
        bottoms: its inputs.
        top: its output; the name of the input, if it works in place.
        conv: the convolution that it is or follows; `STEM` for other kinds.
        options: its parameters in the prototxt's syntax.
        classes: outputs of the last layer.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    conv: Convolution = STEM
    options: str = ""
    classes: int = CLASSES

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shapes of its blobs, in order; empty if it has none."""
        return _SHAPES[self.kind](self) if self.kind in _SHAPES else []


def _kernel(conv: Convolution) -> tuple[int, ...]:
    return (conv.outputs, conv.inputs, conv.kernel, conv.kernel)


_SHAPES: dict[str, Callable[[CaffeLayer], list[tuple[int, ...]]]] = {
    "Convolution": lambda a: [_kernel(a.conv), (a.conv.outputs,)],
    "BatchNorm": lambda a: [(a.conv.outputs,), (a.conv.outputs,), (1,)],
    "Scale": lambda a: [(a.conv.outputs,)] * 2,
    "InnerProduct": lambda a: [(a.classes, FEATURES), (a.classes,)],
}


def caffe_layers(classes: int = CLASSES) -> list[CaffeLayer]:
    """Every layer in the order of Yahoo's deploy.prototxt, with `classes` outputs."""
    sides = f"dim: 1 dim: {CHANNELS} dim: {INPUT_SIZE} dim: {INPUT_SIZE}"
    options = f"input_param {{ shape {{ {sides} }} }}"
    layers = [CaffeLayer("data", "Input", (), "data", options=options)]
    layers += _convolution(STEM, "data") + [_relu("conv_1", STEM.key)]
    options = f"pool: MAX kernel_size: {POOL_SIZE} stride: {POOL_STRIDE}"
    at = "pool1"
    layers.append(_pooling(at, "conv_1", options))
    for stage in BLOCKS:
        for block in stage:
            shortcut = at
            if block.projection:
                layers += _convolution(block.projection, at)
                shortcut = layers[-1].top
            for conv in block.main:
                layers += _convolution(conv, at)
                at = layers[-1].top
                if conv is not block.main[-1]:
                    layers.append(_relu(at, conv.key))
            total = f"eltwise_{block.key}"
            layers.append(CaffeLayer(total, "Eltwise", (shortcut, at), total))
            at = total
            layers.append(_relu(at, block.key))
    layers.append(_pooling("pool", at, "pool: AVE kernel_size: 7 stride: 1"))
    last = CaffeLayer(
        DENSE,
        "InnerProduct",
        ("pool",),
        DENSE,
        options=f"inner_product_param {{ num_output: {classes} }}",
        classes=classes,
    )
    layers.append(last)
    return [*layers, CaffeLayer("prob", "Softmax", (DENSE,), "prob")]


def _convolution(conv: Convolution, bottom: str) -> list[CaffeLayer]:
    """A convolution with its batch norm and scale, which work in place."""
    top = f"conv_{conv.key}"
    options = (
        f"convolution_param {{ num_output: {conv.outputs} pad: {conv.padding} "
        f"kernel_size: {conv.kernel} stride: {conv.stride} }}"
    )
    norm = "batch_norm_param { use_global_stats: true }"
    scale = "scale_param { bias_term: true }"
    return [
        CaffeLayer(top, "Convolution", (bottom,), top, conv, options),
        CaffeLayer(f"bn_{conv.key}", "BatchNorm", (top,), top, conv, norm),
        CaffeLayer(f"scale_{conv.key}", "Scale", (top,), top, conv, scale),
    ]


def _relu(at: str, key: str) -> CaffeLayer:
    return CaffeLayer(f"relu_{key}", "ReLU", (at,), at)


def _pooling(name: str, bottom: str, options: str) -> CaffeLayer:
    options = f"pooling_param {{ {options} }}"
    return CaffeLayer(name, "Pooling", (bottom,), name, options=options)


def prototxt(classes: int = CLASSES) -> str:
    """The deploy.prototxt of our caffemodels, for software that runs Caffe networks.

    As in Yahoo's, the input is ``data`` (1, 3, 224, 224), BGR, 0..255 minus
    (104, 117, 123), and the output ``prob``, SFW and NSFW, or other classes. Parameters
    that only training needs are left out.
    """
    lines = [f'name: "{NETWORK}"']
    for layer in caffe_layers(classes):
        lines += ["layer {", f'  name: "{layer.name}"', f'  type: "{layer.kind}"']
        lines += [f'  bottom: "{bottom}"' for bottom in layer.bottoms]
        lines += [f'  top: "{layer.top}"']
        lines += [f"  {layer.options}"] if layer.options else []
        lines += ["}"]
    return "\n".join(lines) + "\n"


# -- reading


def read(path: Path) -> Weights:
    """Read a caffemodel of this network, with current layers or Caffe's older V1.

    Args:
        path: of the binary `.caffemodel`.

    Returns:
        The canonical dict, with mean and variance divided by the scale factors. A
        network whose batch norms were merged into its convolutions gets identity batch
        norms. Doubles are converted to float32.

    Raises:
        OSError: the file cannot be read.
        WeightsError: it is cut or broken, or of another network: the first layers that
            do not fit are named.
    """
    with reading(path, "caffemodel", *PARSE_ERRORS):
        check_file(path)
        if git_blob(path) == CHECKSUMS["caffemodel"]:
            return _weights_in(path)
        return from_tensors(sandbox.run(tensors_in_file, path))


def tensors_in_file(path: Path) -> dict[str, np.ndarray]:
    """The weights in a file as ``layer.field`` tensors; for a child process."""
    return to_tensors(_weights_in(path))


def _weights_in(path: Path) -> Weights:
    # Without a variable for the file's bytes, which would keep them in memory.
    return _canonical(_layers(_message("Net").FromString(path.read_bytes())))


def _layers(net: Any) -> dict[str, Blobs]:
    """Every layer of the file that has blobs."""
    if len(net.layer) + len(net.v1) > MAX_LAYERS:
        raise WeightsError(f"another network: more than {MAX_LAYERS} layers")
    layers: dict[str, Blobs] = {}
    for kind, parts in (("Layer", net.layer), ("V1Layer", net.v1)):
        for part in parts:
            layer = _message(kind).FromString(part)
            name = layer.name.decode("utf-8", "replace")[:80]
            blobs = [_array(blob, name) for blob in layer.blobs]
            if name in layers and blobs:
                raise WeightsError(f"two layers are called {name!r}")
            if blobs:  # data, loss, pooling and the like have none
                layers[name] = blobs
    return layers


_DTYPES: dict[str, np.dtype[Any]] = {
    "data": np.dtype("<f4"),
    "double_data": np.dtype("<f8"),
}


def _array(encoded: bytes, name: str) -> np.ndarray:
    """One blob in the file's own shape, as float32."""
    blob = _message("Blob").FromString(encoded)
    shape = _shape(blob, name)
    count = math.prod(shape)
    for field, dtype in _DTYPES.items():
        raw = getattr(blob, field)
        if count and len(raw) == count * dtype.itemsize:
            return from_file(np.frombuffer(raw, dtype).reshape(shape))
    unpacked = _message("UnpackedBlob").FromString(encoded)
    for field, dtype in _DTYPES.items():
        values = getattr(unpacked, field)
        if count and len(values) == count:
            return from_file(np.fromiter(values, dtype, count).reshape(shape))
    has = len(unpacked.data) + len(unpacked.double_data)
    raise WeightsError(
        f"layer {name!r}: a blob of shape {shape} needs {count:.4g} numbers, the "
        f"file has {has}; it is cut or broken"
    )


def _shape(blob: Any, name: str) -> tuple[int, ...]:
    """A blob's shape; files older than BlobShape have four sides, most of them 1."""
    shape: tuple[int, ...]
    if not blob.HasField("shape"):
        shape = (blob.num, blob.channels, blob.height, blob.width)
    elif len(blob.shape) <= MAX_SHAPE:
        shape = tuple(_message("Shape").FromString(blob.shape).dim)
    else:
        shape = (-1,)
    if any(side < 0 for side in shape):
        raise WeightsError(f"layer {name!r}: broken, a blob of shape {shape}")
    return shape


def _canonical(layers: dict[str, Blobs]) -> Weights:
    layers = _fitted(layers)
    weights: Weights = {}
    for conv in CONVOLUTIONS:
        kernel, biases = layers[f"conv_{conv.key}"]
        weights[f"conv_{conv.key}"] = {
            "weights": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0)),
            "biases": biases,
        }
        norm = identity_batch_norm(conv.outputs)
        if blobs := layers.get(f"bn_{conv.key}"):
            mean, variance, factor = blobs
            norm["mean"] = _divided(mean, factor[0])
            norm["variance"] = _divided(variance, factor[0])
        if blobs := layers.get(f"scale_{conv.key}"):
            norm["scale"], norm["offset"] = blobs
        weights[f"bn_{conv.key}"] = norm
    kernel, biases = layers[DENSE]
    weights[DENSE] = {
        "weights": np.ascontiguousarray(kernel.T),
        "biases": biases,
    }
    return weights


def _divided(values: np.ndarray, factor: np.float32) -> np.ndarray:
    """A running statistic; a scale factor of 0 means for Caffe that there is none."""
    with np.errstate(all="ignore"):
        quotient = values.astype(np.float64) / factor if factor else values * 0
    return float32(quotient)


def _fitted(layers: dict[str, Blobs]) -> dict[str, Blobs]:
    """The file's layers in the network's shapes, after a check that all of them fit."""
    merged = not any(name.startswith(("bn_", "scale_")) for name in layers)
    norms = ("BatchNorm", "Scale")
    fitted: dict[str, Blobs] = {}
    wrong = []
    network = caffe_layers(_classes(layers))
    for layer in network:
        blobs = layers.get(layer.name, [])
        came = [blob.shape for blob in blobs]
        if not blobs and layer.shapes and not (merged and layer.kind in norms):
            if _partner(layer.name) not in layers:
                wrong.append(f"{layer.name} {_text(layer.shapes)} is missing")
        elif list(map(_core, came)) != list(map(_core, layer.shapes)) and blobs:
            should = _text(layer.shapes) or "without blobs"
            wrong.append(f"{layer.name} should be {should}, is {_text(came)}")
        else:
            pairs = zip(blobs, layer.shapes, strict=False)
            fitted[layer.name] = [blob.reshape(shape) for blob, shape in pairs]
    surplus = [
        f"{name} {_text([blob.shape for blob in blobs])} is not in it"
        for name, blobs in layers.items()
        if name not in {layer.name for layer in network}
    ]
    if wrong or surplus:
        listed = wrong[:MAX_MISMATCHES] + surplus[:MAX_MISMATCHES]
        rest = len(wrong) + len(surplus) - len(listed)
        raise WeightsError(
            "another network, or not all of it; the first layers that do not fit: "
            + "; ".join(listed)
            + (f"; and {rest} more" if rest else "")
        )
    return fitted


def _classes(layers: dict[str, Blobs]) -> int:
    """The outputs of the last layer if it has a kernel, or else Yahoo's two."""
    blobs = layers.get(DENSE, [])
    core = _core(blobs[0].shape) if blobs else ()
    return core[0] if len(core) == 2 else CLASSES


def _partner(name: str) -> str:
    """The other layer of a batch norm; a file may have only one of the two."""
    kind, _, key = name.partition("_")
    return {"bn": f"scale_{key}", "scale": f"bn_{key}"}.get(kind, "")


def _core(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without leading ones, which older files add to have four sides."""
    while shape[:1] == (1,):
        shape = shape[1:]
    return shape


def _text(shapes: list[tuple[int, ...]]) -> str:
    return " ".join(str(shape) for shape in shapes)


# -- writing


def write(path: Path, weights: Weights) -> None:
    """Write a caffemodel that Caffe loads with Yahoo's prototxt, or with `prototxt`.

    Args:
        path: of the file.
        weights: the canonical dict, complete.

    Raises:
        OSError: the file cannot be written.
        WeightsError: as `check_weights`.
    """
    check_weights(weights)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(_message("Net")(name=NETWORK.encode()).SerializeToString())
        for layer in caffe_layers(classes_of(weights)):
            made = _encoded(layer, weights)
            # One layer at a time: a message's pieces may be written one after another.
            net = _message("Net")(layer=[made])
            file.write(net.SerializeToString())


def _encoded(layer: CaffeLayer, weights: Weights) -> bytes:
    conv, bn = f"conv_{layer.conv.key}", f"bn_{layer.conv.key}"
    blobs: Blobs = []
    if layer.kind == "Convolution":
        kernel = weights[conv]["weights"].transpose(3, 2, 0, 1)  # HWIO to OIHW
        blobs = [kernel, weights[conv]["biases"]]
    elif layer.kind == "BatchNorm":
        factor = np.ones(1, np.float32)  # Caffe divides mean and variance by it
        blobs = [weights[bn]["mean"], weights[bn]["variance"], factor]
    elif layer.kind == "Scale":
        blobs = [weights[bn]["scale"], weights[bn]["offset"]]
    elif layer.kind == "InnerProduct":
        blobs = [weights[DENSE]["weights"].T, weights[DENSE]["biases"]]
    made = _message("Layer")(
        name=layer.name.encode(),
        type=layer.kind.encode(),
        bottom=[bottom.encode() for bottom in layer.bottoms],
        top=[layer.top.encode()],
        blobs=map(_blob, blobs),
    )
    return bytes(made.SerializeToString())


def _blob(array: np.ndarray) -> bytes:
    shape = _message("Shape")(dim=array.shape)
    data = np.ascontiguousarray(array, "<f4").tobytes()
    made = _message("Blob")(shape=shape.SerializeToString(), data=data)
    return bytes(made.SerializeToString())
