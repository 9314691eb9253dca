"""The quantized network as TensorFlow ops, for converters that quantize it again.

Its weights are multiples of their 8-bit steps already, so rounding them again changes
nothing; where to quantize and dequantize is left to the converter.
"""

from typing import Any

from open_nsfw_tf.architecture import BLOCKS, POOL_SIZE, POOL_STRIDE, STEM, Block
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.quantize import Quantized, Range
from open_nsfw_tf.quantize.calibrate import MEAN
from open_nsfw_tf.quantize.calibrate import PIXELS as LEVELS

PIXELS = "pixels"  # the scope of the ops before the first rounding
POOL = "pool1"
STRIDED = "strided"
CONCAT = "concat"


def answer(network: Quantized, images: Any) -> Any:
    """Scores of a batch, as ops in the graph under construction.

    Args:
        network: from `quantize`.
        images: tensor float32 (N, 224, 224, 3), BGR, 0..255 minus (104, 117, 123).

    Returns:
        A tensor float32 (N, 2), softmax, columns SFW, NSFW.
    """
    tf = import_tensorflow()
    at = _stem(network, images)
    for stage in BLOCKS:
        for block in stage:
            at = _block(network, block, at)
    kernel, biases = network.dense
    return tf.nn.softmax(tf.reduce_mean(at, axis=(1, 2)) @ kernel + biases)


def _stem(network: Quantized, images: Any) -> Any:
    tf = import_tensorflow()
    border = [STEM.padding] * 2
    with tf.name_scope(PIXELS):
        at = tf.pad(images, [[0, 0], border, border, [0, 0]]) + MEAN
    at = _layer(network, STEM.key, at, STEM.stride, "VALID")
    with tf.name_scope(POOL):
        return tf.nn.max_pool2d(at, POOL_SIZE, POOL_STRIDE, "SAME")


def _block(network: Quantized, block: Block, at: Any) -> Any:
    tf = import_tensorflow()
    a, b, c = (conv.key for conv in block.main)
    if block.projection and block.projection.stride > 1:
        with tf.name_scope(f"{block.key}_{STRIDED}"):
            at = tf.nn.max_pool2d(at, 1, block.projection.stride, "VALID")
    hidden = _layer(network, b, _layer(network, a, at))
    if block.projection:
        with tf.name_scope(f"{block.key}_{CONCAT}"):
            both = tf.concat([hidden, at], axis=-1)
        return _layer(network, c, both)
    with tf.name_scope(c):
        change = _conv(network, c, hidden)
    with tf.name_scope(block.key):
        return tf.nn.relu(at + change)


def _layer(network: Quantized, key: str, at: Any, *how: Any) -> Any:
    tf = import_tensorflow()
    with tf.name_scope(key):
        return tf.nn.relu(_conv(network, key, at, *how))


def _conv(
    network: Quantized, key: str, at: Any, stride: int = 1, padding: str = "SAME"
) -> Any:
    tf = import_tensorflow()
    conv = network.convolutions[key]
    return tf.nn.conv2d(at, conv.kernel, stride, padding) + conv.biases


def ranges(network: Quantized) -> dict[str, Range]:
    """The range of every tensor that `answer` makes, by the scope that names it."""
    found = {key: conv.output for key, conv in network.convolutions.items()}
    found |= network.streams | {PIXELS: LEVELS, POOL: found[STEM.key]}
    for stage in BLOCKS:
        # Both inputs of a concatenation have the range of branch2b: see `calibrate`.
        block = stage[0]
        for inputs in (STRIDED, CONCAT):
            found[f"{block.key}_{inputs}"] = found[block.main[1].key]
    return found
