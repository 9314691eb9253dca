"""ResNet-50-thin as a table, and what the table alone can say of its weights.

Every layer's name, shape and place is what Yahoo's ``deploy.prototxt`` (yahoo/open_nsfw,
``nsfw_model``) says. Everything that walks the network - the Keras model, the ONNX
writer, the readers of weights - walks it from here; no framework is needed for it.

Weights are one canonical dict everywhere: ``{layer: {field: float32 array}}`` with the
names and shapes of `LAYERS`; the last layer may have another number of outputs than
Yahoo's two, see `layers_of`.
"""

from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from open_nsfw_tf.errors import WeightsError

Layer = dict[str, np.ndarray]
Weights = dict[str, Layer]


INPUT_SIZE = 224  # pixels, height and width
CHANNELS = 3  # BGR
CLASSES = 2  # of Yahoo's weights; a fine-tuned network may have more
LABELS = ("sfw", "nsfw")  # the columns of the scores; Caffe's `prob` has this order
BATCH_NORM_EPSILON = 1e-5  # Caffe's default, which the prototxt keeps
POOL_SIZE = 3  # `pool1`: max, stride 2, no padding, output size rounded up
POOL_STRIDE = 2
DENSE = "fc_nsfw"


@dataclass(frozen=True)
class Stage:
    """Some blocks of one width.

    Attributes:
        blocks: how many; the first one projects its shortcut, the others do not.
        filters: output channels of branch2a, branch2b and branch2c.
        stride: of the first block. It sits on branch2a and on the projection.
    """

    blocks: int
    filters: tuple[int, int, int]
    stride: int


STAGES = (
    Stage(blocks=3, filters=(32, 32, 128), stride=1),
    Stage(blocks=4, filters=(64, 64, 256), stride=2),
    Stage(blocks=6, filters=(128, 128, 512), stride=2),
    Stage(blocks=3, filters=(256, 256, 1024), stride=2),
)


@dataclass(frozen=True)
class Convolution:
    """One convolution with bias; a batch norm and a scale of its name follow it.

    Attributes:
        place: what follows ``conv_``, ``bn_`` and ``scale_`` in the layers' names,
            such as ``1`` or ``stage0_block0_branch2a``.
        kernel: height and width in pixels.
        stride: in pixels.
        inputs: channels that go in.
        outputs: channels that come out.
    """

    place: str
    kernel: int
    stride: int
    inputs: int
    outputs: int

    @property
    def padding(self) -> int:
        """Zeros on each of the four sides, in pixels."""
        return self.kernel // 2


@dataclass(frozen=True)
class Block:
    """One residual block: the main path a, b, c and, where shapes change, a projection.

    Attributes:
        place: ``stage{s}_block{b}``.
        main: branch2a, branch2b and branch2c in their order.
        projection: the shortcut's convolution; None where the shortcut is the identity.
    """

    place: str
    main: tuple[Convolution, Convolution, Convolution]
    projection: Convolution | None


def _block(stage: int, index: int, inputs: int) -> Block:
    place = f"stage{stage}_block{index}"
    a, b, c = STAGES[stage].filters
    first = index == 0
    stride = STAGES[stage].stride if first else 1
    return Block(
        place,
        (
            Convolution(f"{place}_branch2a", 1, stride, inputs, a),
            Convolution(f"{place}_branch2b", 3, 1, a, b),
            Convolution(f"{place}_branch2c", 1, 1, b, c),
        ),
        Convolution(f"{place}_proj_shortcut", 1, stride, inputs, c) if first else None,
    )


def _blocks(inputs: int) -> tuple[tuple[Block, ...], ...]:
    stages = []
    for number, stage in enumerate(STAGES):
        blocks = []
        for index in range(stage.blocks):
            blocks.append(_block(number, index, inputs))
            inputs = stage.filters[2]
        stages.append(tuple(blocks))
    return tuple(stages)


STEM = Convolution("1", kernel=7, stride=2, inputs=CHANNELS, outputs=64)
BLOCKS = _blocks(STEM.outputs)  # BLOCKS[stage][index]


def lean_blocks() -> tuple[tuple[Block, ...], ...]:
    """`BLOCKS` without the pixels that nobody looks at: the same function, 9 % less work.

    The first block of a stage takes every second pixel only. So the last block before it
    need not compute the others: its 3x3 convolution has the stride instead, its shortcut
    takes every second pixel, and both convolutions after it have no stride. The kernels
    and the values of the pixels that remain are the same.
    """
    stages = [list(stage) for stage in BLOCKS]
    for before, stage in pairwise(stages):
        (a, b, c), projection = stage[0].main, stage[0].projection
        if projection is None or a.stride == 1:
            continue
        first, middle, last = before[-1].main
        middle = replace(middle, stride=a.stride)
        before[-1] = replace(before[-1], main=(first, middle, last))
        stage[0] = replace(
            stage[0],
            main=(replace(a, stride=1), b, c),
            projection=replace(projection, stride=1),
        )
    return tuple(map(tuple, stages))


FEATURES = STAGES[-1].filters[2]  # channels of `pool`, inputs of the last layer


def _convolutions() -> tuple[Convolution, ...]:
    found = [STEM]
    for stage in BLOCKS:
        for block in stage:
            found += [block.projection] if block.projection else []
            found += block.main
    return tuple(found)


CONVOLUTIONS = _convolutions()  # 53, in the order of the prototxt


def _layers() -> dict[str, dict[str, tuple[int, ...]]]:
    layers: dict[str, dict[str, tuple[int, ...]]] = {}
    for conv in CONVOLUTIONS:
        channels = (conv.outputs,)
        layers[f"conv_{conv.place}"] = {
            "weights": (conv.kernel, conv.kernel, conv.inputs, conv.outputs),
            "biases": channels,
        }
        layers[f"bn_{conv.place}"] = dict.fromkeys(
            ("mean", "variance", "scale", "offset"), channels
        )
    layers[DENSE] = {"weights": (FEATURES, CLASSES), "biases": (CLASSES,)}
    return layers


LAYERS = _layers()  # 107 layers: {layer: {field: shape}}; kernels HWIO, dense (in, out)


SHOWN = 8  # complaints in one error; the rest are counted


def layers_of(classes: int) -> dict[str, dict[str, tuple[int, ...]]]:
    """`LAYERS` of a network with so many outputs."""
    return {**LAYERS, DENSE: {"weights": (FEATURES, classes), "biases": (classes,)}}


def classes_of(weights: Weights) -> int:
    """How many classes weights score: the outputs of their last layer.

    Raises:
        WeightsError: they have no such layer, or it has not two outputs or more.
    """
    try:
        shape = weights[DENSE]["weights"].shape
    except (KeyError, TypeError, AttributeError) as error:
        raise WeightsError(f"No weights for layer named '{DENSE}' found") from error
    if len(shape) != 2 or shape[0] != FEATURES or shape[1] < 2:
        raise WeightsError(
            f"{DENSE}.weights: expected shape ({FEATURES}, 2 or more), got {shape}"
        )
    return int(shape[1])


def check_weights(weights: Weights, classes: int | None = None) -> None:
    """Hold names, shapes and values against the network's 107 layers.

    Args:
        weights: the canonical dict.
        classes: that they must score; None: as many as they do, two or more.

    Raises:
        WeightsError: layers or fields are missing or surplus, shapes differ, or values
            are not finite numbers of dtype float32; all of it is said in one line.
    """
    complaints = _complaints(weights, layers_of(classes or _classes_or_two(weights)))
    if complaints:
        rest = len(complaints) - SHOWN
        more = f"; and {rest} more" if rest > 0 else ""
        raise WeightsError("; ".join(complaints[:SHOWN]) + more)


def _classes_or_two(weights: Weights) -> int:
    """The number of classes; Yahoo's two where there is a complaint to come."""
    try:
        return classes_of(weights)
    except WeightsError:
        return CLASSES


def _complaints(
    weights: Weights, layers: dict[str, dict[str, tuple[int, ...]]]
) -> list[str]:
    if not isinstance(weights, dict):
        return [f"expected a dict of layers, got {type(weights).__name__}"]
    found = []
    for name, shapes in layers.items():
        layer = weights.get(name)
        if layer is None:
            found.append(f"No weights for layer named '{name}' found")
            continue
        if not isinstance(layer, dict):
            found.append(f"{name}: expected a dict, got {type(layer).__name__}")
            continue
        for field, shape in shapes.items():
            if field not in layer:
                found.append(f"No entry for field '{field}' in layer named '{name}'")
            else:
                found += _array_complaints(f"{name}.{field}", layer[field], shape)
        found += [
            f"surplus field {f!r:.80} in layer '{name}'" for f in layer.keys() - shapes
        ]
    return found + [f"surplus layer {n!r:.80}" for n in weights if n not in LAYERS]


def _array_complaints(name: str, array: object, shape: tuple[int, ...]) -> list[str]:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        kind = getattr(array, "dtype", type(array).__name__)
        return [f"{name}: expected a float32 array, got {kind}"]
    if array.shape != shape:
        return [f"{name}: expected shape {shape}, got {array.shape}"]
    if not np.isfinite(array).all():
        return [f"{name}: holds values that are not finite (NaN or infinity)"]
    if name.endswith(".variance") and array.min() < 0:
        return [f"{name}: holds a negative variance"]
    return []
