"""SqueezeNet, GoogLeNet and He and Sun's network as tables, and what builds them.

The rows are what Caffe's layers were: every convolution has a bias and a ReLU after it,
pads are zeros on all four sides, and a pooling's output size is rounded up. Layers have
the names of the networks' prototxts, with ``_`` for ``/``, which Keras does not allow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from open_nsfw_tf.backbones.trained import HeadLayer
from open_nsfw_tf.libraries import import_tensorflow

Tensor = Any  # a symbolic Keras tensor, float32 (N, H, W, C)

EXACT = {"dtype": "float32"}
IMAGE = {**EXACT, "data_format": "channels_last"}


@dataclass(frozen=True)
class Conv:
    """A convolution with bias and its ReLU; `kernel`, `stride` and `pad` in pixels."""

    name: str
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0


@dataclass(frozen=True)
class MaxPool:
    """The largest value of a window; `kernel`, `stride` and `pad` in pixels."""

    name: str
    kernel: int
    stride: int
    pad: int = 0


@dataclass(frozen=True)
class Normalize:
    """AlexNet's local response normalisation: 5 channels, alpha 1e-4, beta .75."""

    name: str


@dataclass(frozen=True)
class Fire:
    """SqueezeNet's module: 1x1 `squeeze`, then 1x1 and 3x3 side by side."""

    name: str
    squeeze: int
    expand: int


@dataclass(frozen=True)
class Inception:
    """GoogLeNet's module: four branches side by side, with the filters of each."""

    name: str
    ones: int
    threes_reduce: int
    threes: int
    fives_reduce: int
    fives: int
    pool: int


@dataclass(frozen=True)
class MeanPool:
    """The mean of each map: (N, C). Ends a table."""

    name: str = "pool"


@dataclass(frozen=True)
class PyramidPool:
    """Spatial pyramid pooling (He et al., arXiv 1406.4729). Ends a table.

    Attributes:
        levels: bins along a side; the largest value of each bin is a feature.
    """

    levels: tuple[int, ...]
    name: str = "pool"


Row = Conv | MaxPool | Normalize | Fire | Inception | MeanPool | PyramidPool

# Iandola et al., arXiv 1602.07360, table 1: SqueezeNet 1.0. Yahoo's comparison of 2016
# says "SqueezeNet" without a version; 1.0 is the paper's. In the paper a convolution
# with a ReLU, ``conv10``, gives a map for each class and the mean comes last. Here, as
# in all backbones, the mean comes first and a dense layer of as many parameters last:
# the same function but for that ReLU. With 1000 classes there are 1,248,424 parameters,
# as in the authors' model.
SQUEEZENET: tuple[Row, ...] = (
    Conv("conv1", 96, kernel=7, stride=2),
    MaxPool("pool1", 3, 2),
    Fire("fire2", squeeze=16, expand=64),
    Fire("fire3", squeeze=16, expand=64),
    Fire("fire4", squeeze=32, expand=128),
    MaxPool("pool4", 3, 2),
    Fire("fire5", squeeze=32, expand=128),
    Fire("fire6", squeeze=48, expand=192),
    Fire("fire7", squeeze=48, expand=192),
    Fire("fire8", squeeze=64, expand=256),
    MaxPool("pool8", 3, 2),
    Fire("fire9", squeeze=64, expand=256),
    MeanPool(),
)


# Szegedy et al., arXiv 1409.4842, as BVLC's ``bvlc_googlenet``, without the two
# auxiliary classifiers, which help training only. With 1000 classes there are 6,998,552
# parameters.
GOOGLENET: tuple[Row, ...] = (
    Conv("conv1_7x7_s2", 64, kernel=7, stride=2, pad=3),
    MaxPool("pool1_3x3_s2", 3, 2),
    Normalize("pool1_norm1"),
    Conv("conv2_3x3_reduce", 64, kernel=1),
    Conv("conv2_3x3", 192, kernel=3, pad=1),
    Normalize("conv2_norm2"),
    MaxPool("pool2_3x3_s2", 3, 2),
    #                       1x1  3x3: reduce, filters  5x5: reduce, filters  pool
    Inception("inception_3a", 64, 96, 128, 16, 32, 32),
    Inception("inception_3b", 128, 128, 192, 32, 96, 64),
    MaxPool("pool3_3x3_s2", 3, 2),
    Inception("inception_4a", 192, 96, 208, 16, 48, 64),
    Inception("inception_4b", 160, 112, 224, 24, 64, 64),
    Inception("inception_4c", 128, 128, 256, 24, 64, 64),
    Inception("inception_4d", 112, 144, 288, 32, 64, 64),
    Inception("inception_4e", 256, 160, 320, 32, 128, 128),
    MaxPool("pool4_3x3_s2", 3, 2),
    Inception("inception_5a", 256, 160, 320, 32, 128, 128),
    Inception("inception_5b", 384, 192, 384, 48, 128, 128),
    MeanPool(),
)


# He and Sun, arXiv 1412.1710, model J'. Model J of the paper's table 1 is (7, 64)/2,
# pool 3, (2, 128) four times, pool 2, (2, 256) four times, pool 3, (2, 2304), (2, 256),
# spatial pyramid pooling, two dense layers of 4096. In J' each of the poolings has
# stride 1 and the convolution after it has the stride that the pooling had ("delayed
# subsampling").
#
# The paper was not at hand: filters and strides were compared with the HeNet of
# ducha-aiki/caffenet-benchmark, which follows it (for 128 pixels, without the pyramid).
# Two things are chosen here: the pads, so that the stages' maps have the 36, 18 and 6
# pixels a side that the table's caption gives (an even kernel pads none and one pixel
# by turns); and the levels of the pyramid, which are those of SPP-net (arXiv
# 1406.4729), by the same authors. `build` adds the two dense layers, MS_CTC_HEAD, only
# if they are given.
MS_CTC: tuple[Row, ...] = (
    Conv("conv1", 64, kernel=7, stride=2),
    MaxPool("pool1", 3, 1),
    Conv("conv2_1", 128, kernel=2, stride=3),
    Conv("conv2_2", 128, kernel=2, pad=1),
    Conv("conv2_3", 128, kernel=2),
    Conv("conv2_4", 128, kernel=2, pad=1),
    MaxPool("pool2", 2, 1),
    Conv("conv3_1", 256, kernel=2, stride=2),
    Conv("conv3_2", 256, kernel=2, pad=1),
    Conv("conv3_3", 256, kernel=2),
    Conv("conv3_4", 256, kernel=2, pad=1),
    MaxPool("pool3", 3, 1),
    Conv("conv4_1", 2304, kernel=2, stride=3),
    Conv("conv4_2", 256, kernel=2, pad=1),
    PyramidPool((6, 3, 2, 1)),
)
MS_CTC_HEAD = (
    HeadLayer("dense", units=4096, activation="relu"),
    HeadLayer("dropout", rate=0.5),
    HeadLayer("dense", units=4096, activation="relu"),
    HeadLayer("dropout", rate=0.5),
)


def squeezenet(batch: Tensor, source: None) -> Tensor:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 512)."""
    return build_rows(batch, SQUEEZENET)


def googlenet(batch: Tensor, source: None) -> Tensor:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 1024)."""
    return build_rows(batch, GOOGLENET)


def ms_ctc(batch: Tensor, source: None) -> Tensor:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 12800)."""
    return build_rows(batch, MS_CTC)


def build_rows(batch: Tensor, rows: Sequence[Row]) -> Tensor:
    """Build a network row by row, and return the last row's output."""
    x = batch
    for row in rows:
        x = _BUILDERS[type(row)](x, row)
    return x


def _conv(x: Tensor, row: Conv) -> Tensor:
    from keras import layers

    same = row.stride == 1 and row.kernel == 2 * row.pad + 1
    if row.pad and not same:
        x = layers.ZeroPadding2D(row.pad, name=f"pad_{row.name}", **IMAGE)(x)
    x = layers.Conv2D(
        row.filters,
        row.kernel,
        strides=row.stride,
        padding="same" if same else "valid",
        name=row.name,
        **IMAGE,
    )(x)
    return layers.ReLU(name=f"relu_{row.name}", **EXACT)(x)


def _max_pool(x: Tensor, row: MaxPool) -> Tensor:
    from keras import layers

    pads = [_caffe_pads(size, row) for size in x.shape[1:3]]
    same = pads == [_same_pads(size, row) for size in x.shape[1:3]]
    if not same and pads != [(0, 0), (0, 0)]:
        # Zeros change no maximum: what is pooled comes from a ReLU.
        x = layers.ZeroPadding2D(tuple(pads), name=f"pad_{row.name}", **IMAGE)(x)
    padding = "same" if same else "valid"
    return layers.MaxPooling2D(
        row.kernel, row.stride, padding=padding, name=row.name, **IMAGE
    )(x)


def _caffe_pads(size: int, row: MaxPool) -> tuple[int, int]:
    """Pads before and after a side, so that the windows cover every pixel."""
    rest = (size + 2 * row.pad - row.kernel) % row.stride
    return row.pad, row.pad + (row.stride - rest if rest else 0)


def _same_pads(size: int, row: MaxPool) -> tuple[int, int]:
    """The pads that TensorFlow calls SAME."""
    windows = -(-size // row.stride)
    pad = max((windows - 1) * row.stride + row.kernel - size, 0)
    return pad // 2, pad - pad // 2


def _normalize(x: Tensor, row: Normalize) -> Tensor:
    import keras

    tf = import_tensorflow()

    class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]
        """Divides by the energy of the neighbouring channels."""

        def call(self, x: Tensor) -> Tensor:
            # In float32 always: on processors TensorFlow has it not in bfloat16.
            # Caffe divides alpha by the five channels, TensorFlow does not.
            y = tf.nn.local_response_normalization(
                tf.cast(x, tf.float32),
                depth_radius=2,
                bias=1.0,
                alpha=1e-4 / 5,
                beta=0.75,
            )
            return tf.cast(y, x.dtype)

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    return LocalResponseNormalization(name=row.name, **EXACT)(x)


def _fire(x: Tensor, row: Fire) -> Tensor:
    x = _conv(x, Conv(f"{row.name}_squeeze1x1", row.squeeze, 1))
    ones = _conv(x, Conv(f"{row.name}_expand1x1", row.expand, 1))
    threes = _conv(x, Conv(f"{row.name}_expand3x3", row.expand, 3, pad=1))
    return _concatenate([ones, threes], f"{row.name}_concat")


def _inception(x: Tensor, row: Inception) -> Tensor:
    name = row.name
    ones = _conv(x, Conv(f"{name}_1x1", row.ones, 1))
    threes = _conv(x, Conv(f"{name}_3x3_reduce", row.threes_reduce, 1))
    threes = _conv(threes, Conv(f"{name}_3x3", row.threes, 3, pad=1))
    fives = _conv(x, Conv(f"{name}_5x5_reduce", row.fives_reduce, 1))
    fives = _conv(fives, Conv(f"{name}_5x5", row.fives, 5, pad=2))
    pool = _max_pool(x, MaxPool(f"{name}_pool", 3, 1, pad=1))
    pool = _conv(pool, Conv(f"{name}_pool_proj", row.pool, 1))
    return _concatenate([ones, threes, fives, pool], f"{name}_output")


def _concatenate(branches: list[Tensor], name: str) -> Tensor:
    from keras import layers

    return layers.Concatenate(axis=-1, name=name, **EXACT)(branches)


def _mean_pool(x: Tensor, row: MeanPool) -> Tensor:
    from keras import layers

    return layers.GlobalAveragePooling2D(name=row.name, **IMAGE)(x)


def _pyramid_pool(x: Tensor, row: PyramidPool) -> Tensor:
    """The paper's bins: equal windows, which overlap where the side is no multiple."""
    from keras import layers

    side = x.shape[1]
    levels = []
    for bins in row.levels:
        stride = side // bins
        window = side - (bins - 1) * stride
        name = f"spp_{bins}x{bins}"
        level = layers.MaxPooling2D(window, stride, name=name, **IMAGE)(x)
        flat = layers.Flatten(name=f"{name}_flat", data_format="channels_last", **EXACT)
        levels.append(flat(level))
    return _concatenate(levels, row.name)


_BUILDERS: dict[type, Callable[[Tensor, Any], Tensor]] = {
    Conv: _conv,
    MaxPool: _max_pool,
    Normalize: _normalize,
    Fire: _fire,
    Inception: _inception,
    MeanPool: _mean_pool,
    PyramidPool: _pyramid_pool,
}
