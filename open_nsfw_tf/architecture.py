"""ResNet-50-thin as a table; checking weights against it, and folding batch norms.

The names, shapes and order of the layers are those of Yahoo's ``deploy.prototxt``
(yahoo/open_nsfw, ``nsfw_model``). The Keras model, the ONNX writer and the readers of
weights all use this table; it needs no framework.

Weights have one form everywhere, the canonical dict: ``{layer: {field: float32
array}}`` with the names and shapes of `LAYERS`. Only the last layer may have another
number of outputs than Yahoo's two, see `layers_of`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from open_nsfw_tf.errors import WeightsError

Layer = dict[str, np.ndarray]
Weights = dict[str, Layer]
Shapes = dict[str, dict[str, tuple[int, ...]]]  # {layer: {field: shape}}


INPUT_SIZE = 224  # pixels, height and width
CHANNELS = 3  # BGR
CLASSES = 2  # of Yahoo's weights; a fine-tuned network may have more
LICENCE = "BSD 2-Clause, (c) 2016 Yahoo Inc."  # of the weights
# What every file with these weights says of them; docs/model-card.md says more.
LIMITS = (
    "scores photographs for pornography, and not drawings, cartoons, text, violence or "
    "gore; a score is no verdict: choose thresholds on labelled pictures of your own, "
    "and let people decide the cases in between"
)
LABELS = ("sfw", "nsfw")  # the columns of the scores; Caffe's `prob` has this order
BATCH_NORM_EPSILON = 1e-5  # Caffe's default, which the prototxt does not change
POOL_SIZE = 3  # `pool1`: max, stride 2, no padding, output size rounded up
POOL_STRIDE = 2
DENSE = "fc_nsfw"
MAX_MISMATCHES = 8  # in one error; the rest are counted


@dataclass(frozen=True)
class Stage:
    """A stage: consecutive blocks of the same width.

    Attributes:
        blocks: how many; the first one has a projection, the others do not.
        filters: output channels of branch2a, branch2b and branch2c.
        stride: of the first block, in its branch2a and its projection.
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
        key: the part of the layers' names after ``conv_``, ``bn_`` and ``scale_``, such
            as ``1`` or ``stage0_block0_branch2a``.
        kernel: height and width in pixels.
        stride: in pixels.
        inputs: input channels.
        outputs: output channels.
    """

    key: str
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
        key: ``stage{s}_block{b}``.
        main: branch2a, branch2b and branch2c, in this order.
        projection: the shortcut's convolution; None if the shortcut is the identity.
    """

    key: str
    main: tuple[Convolution, Convolution, Convolution]
    projection: Convolution | None


def _block(stage: int, index: int, inputs: int) -> Block:
    key = f"stage{stage}_block{index}"
    a, b, c = STAGES[stage].filters
    first = index == 0
    stride = STAGES[stage].stride if first else 1
    return Block(
        key,
        (
            Convolution(f"{key}_branch2a", 1, stride, inputs, a),
            Convolution(f"{key}_branch2b", 3, 1, a, b),
            Convolution(f"{key}_branch2c", 1, 1, b, c),
        ),
        Convolution(f"{key}_proj_shortcut", 1, stride, inputs, c) if first else None,
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
    """`BLOCKS` without unused pixels: the same function with 9 % less work.

    The first block of a stage reads only every second pixel. So the last block before
    it need not compute the others: its 3x3 convolution gets the stride, its shortcut
    takes every second pixel, and the two convolutions that had the stride lose it. The
    kernels stay the same, and so do the values of the pixels that remain.
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
    convolutions = [STEM]
    for stage in BLOCKS:
        for block in stage:
            convolutions += [block.projection] if block.projection else []
            convolutions += block.main
    return tuple(convolutions)


CONVOLUTIONS = _convolutions()  # 53, in the order of the prototxt


def _layers() -> Shapes:
    layers: Shapes = {}
    for conv in CONVOLUTIONS:
        channels = (conv.outputs,)
        layers[f"conv_{conv.key}"] = {
            "weights": (conv.kernel, conv.kernel, conv.inputs, conv.outputs),
            "biases": channels,
        }
        layers[f"bn_{conv.key}"] = dict.fromkeys(
            ("mean", "variance", "scale", "offset"), channels
        )
    layers[DENSE] = {"weights": (FEATURES, CLASSES), "biases": (CLASSES,)}
    return layers


LAYERS = _layers()  # 107 layers: {layer: {field: shape}}; kernels HWIO, dense (in, out)


def layers_of(classes: int) -> Shapes:
    """`LAYERS` of a network with this number of classes."""
    return {**LAYERS, DENSE: {"weights": (FEATURES, classes), "biases": (classes,)}}


def classes_of(weights: Weights) -> int:
    """The number of classes of weights: the outputs of their last layer.

    Raises:
        WeightsError: they have no such layer, or it has fewer than two outputs.
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
    """Check names, shapes and values of the network's 107 layers.

    Args:
        weights: the canonical dict.
        classes: the number that they must have; None: any number of at least two.

    Raises:
        WeightsError: layers or fields are missing or surplus, shapes differ, or values
            are not finite numbers of dtype float32; the message lists all of these.
    """
    check_arrays(weights, layers_of(classes or _classes_or_two(weights)))


def _classes_or_two(weights: Weights) -> int:
    """The number of classes; Yahoo's two if the last layer is missing or wrong."""
    try:
        return classes_of(weights)
    except WeightsError:
        return CLASSES


def check_arrays(weights: Weights, shapes: Shapes, partial: bool = False) -> None:
    """Compare the arrays of any network with the shapes that it needs.

    Args:
        weights: ``{layer: {field: float32 array}}``.
        shapes: what is expected.
        partial: whether there may be other layers too.

    Raises:
        WeightsError: as `check_weights`.
    """
    mismatches = list(_mismatches(weights, shapes, partial))
    if mismatches:
        rest = len(mismatches) - MAX_MISMATCHES
        more = f"; and {rest} more" if rest > 0 else ""
        raise WeightsError("; ".join(mismatches[:MAX_MISMATCHES]) + more)


def _mismatches(weights: Weights, shapes: Shapes, partial: bool) -> Iterator[str]:
    if not isinstance(weights, dict):
        yield f"expected a dict of layers, got {type(weights).__name__}"
        return
    for name, expected in shapes.items():
        layer = weights.get(name)
        if layer is None:
            yield f"No weights for layer named '{name}' found"
            continue
        if not isinstance(layer, dict):
            yield f"{name}: expected a dict, got {type(layer).__name__}"
            continue
        for field, shape in expected.items():
            if field not in layer:
                yield f"No entry for field '{field}' in layer named '{name}'"
            else:
                yield from _array_mismatches(f"{name}.{field}", layer[field], shape)
        surplus = (field for field in layer if field not in expected)
        yield from (f"surplus field {f!r:.80} in layer '{name}'" for f in surplus)
    if not partial:
        yield from (f"surplus layer {n!r:.80}" for n in weights if n not in shapes)


def _array_mismatches(
    name: str, array: object, shape: tuple[int, ...]
) -> Iterator[str]:
    if not isinstance(array, np.ndarray) or array.dtype != np.float32:
        kind = getattr(array, "dtype", type(array).__name__)
        yield f"{name}: expected a float32 array, got {kind}"
    elif array.shape != shape:
        yield f"{name}: expected shape {shape}, got {array.shape}"
    elif not np.isfinite(array).all():
        yield f"{name}: holds values that are not finite (NaN or infinity)"
    elif name.endswith("variance") and array.min() < 0:
        yield f"{name}: holds a negative variance"


# -- naming layers that have no names, or other ones


def weights_in_order(
    convolutions: Sequence[Layer], batch_norms: Sequence[Layer], dense: Sequence[Layer]
) -> Weights:
    """Name layers that are in the network's order.

    Args:
        convolutions: ``weights`` (HWIO) and ``biases`` of each, in an order that
            `names_in_order` accepts.
        batch_norms: one for each convolution, in the same order.
        dense: the last layer.

    Returns:
        The canonical dict, not yet checked by `check_weights`.

    Raises:
        WeightsError: another number of layers, or kernels of another network.
    """
    counts = (len(convolutions), len(batch_norms), len(dense))
    if counts != (len(CONVOLUTIONS), len(CONVOLUTIONS), 1):
        raise WeightsError(
            f"another network: expected {len(CONVOLUTIONS)} convolutions, as many "
            f"batch norms and 1 dense layer, got {counts[0]}, {counts[1]} and "
            f"{counts[2]}"
        )
    names = names_in_order([layer["weights"].shape for layer in convolutions])
    weights = {DENSE: dense[0]}
    for name, kernel, norm in zip(names, convolutions, batch_norms, strict=True):
        weights[f"conv_{name}"], weights[f"bn_{name}"] = kernel, norm
    return {name: weights[name] for name in LAYERS}


def names_in_order(kernels: Sequence[tuple[int, ...]]) -> list[str]:
    """Name convolutions that are in a topological order.

    Models differ in the position of a block's projection among its convolutions. Within
    a block the shape identifies them: no two kernels have the same shape.

    Args:
        kernels: the shapes of all 53, HWIO.

    Returns:
        The `key` of each convolution.

    Raises:
        WeightsError: the shapes in a block are not those of its convolutions.
    """
    names: list[str] = []
    for group in convolution_groups():
        left = {
            (conv.kernel, conv.kernel, conv.inputs, conv.outputs): conv.key
            for conv in group
        }
        for shape in kernels[len(names) : len(names) + len(group)]:
            if shape not in left:
                raise WeightsError(
                    f"another network: expected, in the block of conv_{group[0].key}, "
                    f"kernels of {', '.join(map(str, left))}, got {shape}"
                )
            names.append(left.pop(shape))
    return names


def convolution_groups() -> list[tuple[Convolution, ...]]:
    """The convolutions of the stem and of each block; a block's projection is last."""
    blocks = [block for stage in BLOCKS for block in stage]
    return [(STEM,)] + [
        block.main + ((block.projection,) if block.projection else ())
        for block in blocks
    ]


# -- folding batch norms into the convolutions before them, and unfolding them


def identity_batch_norm(channels: int) -> Layer:
    """The batch norm that changes nothing: variance and epsilon sum to one."""
    one = np.ones(channels, np.float32)
    return {
        "mean": np.zeros(channels, np.float32),
        "variance": one - np.float32(BATCH_NORM_EPSILON),
        "scale": one,
        "offset": np.zeros(channels, np.float32),
    }


def fold_batch_norm(weights: Weights) -> Weights:
    """Move every batch norm into the convolution before it.

    The function that the weights compute stays the same up to float32 rounding; the
    arithmetic is done in float64. Folding folded weights changes no bit.

    Args:
        weights: the canonical dict, complete.

    Returns:
        A new canonical dict, whose batch norms are `identity_batch_norm`.

    Raises:
        WeightsError: as `check_weights`.
    """
    check_weights(weights)
    folded: Weights = {}
    for conv in CONVOLUTIONS:
        kernel, norm = weights[f"conv_{conv.key}"], weights[f"bn_{conv.key}"]
        variance = norm["variance"].astype(np.float64) + BATCH_NORM_EPSILON
        factor = norm["scale"] / np.sqrt(variance)
        biases = (kernel["biases"] - norm["mean"].astype(np.float64)) * factor
        with np.errstate(over="ignore"):  # the check below finds infinite values
            folded[f"conv_{conv.key}"] = {
                "weights": (kernel["weights"] * factor).astype(np.float32),
                "biases": (biases + norm["offset"]).astype(np.float32),
            }
        folded[f"bn_{conv.key}"] = identity_batch_norm(conv.outputs)
    folded[DENSE] = {field: array.copy() for field, array in weights[DENSE].items()}
    check_weights(folded)  # products of finite scales may be infinite
    return folded


def unfold_batch_norm(weights: Weights, seed: int) -> Weights:
    """Give every convolution a batch norm of random statistics, and compensate for it.

    The opposite of `fold_batch_norm`, to test software with batch norms that are not
    the identity: the function that the weights compute stays the same up to float32
    rounding. Some variances are as small as epsilon and some scales are negative, so
    that a reader that confuses two fields, or has another epsilon, is noticed.

    Args:
        weights: the canonical dict, complete; its batch norms are folded first.
        seed: of the random statistics; the same seed gives the same weights.

    Returns:
        A new canonical dict.

    Raises:
        WeightsError: as `check_weights`.
    """
    random = np.random.default_rng(seed)
    unfolded = fold_batch_norm(weights)
    for conv in CONVOLUTIONS:
        count = conv.outputs
        kernel = unfolded[f"conv_{conv.key}"]
        sign = random.choice([-1.0, 1.0], count)
        variance = (10 ** random.uniform(-5, 1, count)).astype(np.float32)
        deviation = np.sqrt(variance.astype(np.float64) + BATCH_NORM_EPSILON)
        norm = {
            "mean": (random.uniform(-0.25, 0.25, count) * deviation).astype(np.float32),
            "variance": variance,
            "scale": (sign * random.uniform(0.5, 2, count)).astype(np.float32),
        }
        factor = norm["scale"] / deviation
        biases = (random.uniform(-0.25, 0.25, count) * deviation).astype(np.float32)
        # From the rounded values, so that the offset compensates for their rounding.
        shift = (biases - norm["mean"].astype(np.float64)) * factor
        norm["offset"] = (kernel["biases"] - shift).astype(np.float32)
        unfolded[f"conv_{conv.key}"] = {
            "weights": (kernel["weights"] / factor).astype(np.float32),
            "biases": biases,
        }
        unfolded[f"bn_{conv.key}"] = norm
    return unfolded


def is_folded(weights: Weights) -> bool:
    """Whether every batch norm is `identity_batch_norm`, bit for bit."""
    return all(
        np.array_equal(weights[f"bn_{conv.key}"][field], array)
        for conv in CONVOLUTIONS
        for field, array in identity_batch_norm(conv.outputs).items()
    )
