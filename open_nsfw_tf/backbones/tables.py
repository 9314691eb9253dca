"""Networks as tables of rows, and the one builder that walks them.

The rows are what Caffe's layers were: every convolution has a bias and a ReLU after it,
pads are zeros on all four sides, and a pooling's output size is rounded up. Layers have
the names of the networks' prototxts, with ``_`` for ``/``, which Keras does not allow.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from open_nsfw_tf.backend import import_tensorflow

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
    """Local response normalisation over 5 channels (AlexNet's), alpha 1e-4, beta .75."""

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


def walk(batch: Tensor, rows: Sequence[Row]) -> Tensor:
    """Build a network row by row; returns the last row's output."""
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
    """Pads before and after a side, with which no pixel is left over."""
    rest = (size + 2 * row.pad - row.kernel) % row.stride
    return row.pad, row.pad + (row.stride - rest if rest else 0)


def _same_pads(size: int, row: MaxPool) -> tuple[int, int]:
    """The pads that TensorFlow calls SAME."""
    places = -(-size // row.stride)
    pad = max((places - 1) * row.stride + row.kernel - size, 0)
    return pad // 2, pad - pad // 2


def _normalize(x: Tensor, row: Normalize) -> Tensor:
    import keras

    tf = import_tensorflow()

    class LocalResponseNormalization(keras.layers.Layer):  # type: ignore[misc]
        """Divides by the energy of the neighbouring channels."""

        def call(self, x: Tensor) -> Tensor:
            # Caffe divides alpha by the five channels, TensorFlow does not.
            return tf.nn.local_response_normalization(
                x, depth_radius=2, bias=1.0, alpha=1e-4 / 5, beta=0.75
            )

        def compute_output_shape(self, shape: Any) -> Any:
            return shape

    return LocalResponseNormalization(name=row.name, **EXACT)(x)


def _fire(x: Tensor, row: Fire) -> Tensor:
    x = _conv(x, Conv(f"{row.name}_squeeze1x1", row.squeeze, 1))
    ones = _conv(x, Conv(f"{row.name}_expand1x1", row.expand, 1))
    threes = _conv(x, Conv(f"{row.name}_expand3x3", row.expand, 3, pad=1))
    return _side_by_side([ones, threes], f"{row.name}_concat")


def _inception(x: Tensor, row: Inception) -> Tensor:
    name = row.name
    ones = _conv(x, Conv(f"{name}_1x1", row.ones, 1))
    threes = _conv(x, Conv(f"{name}_3x3_reduce", row.threes_reduce, 1))
    threes = _conv(threes, Conv(f"{name}_3x3", row.threes, 3, pad=1))
    fives = _conv(x, Conv(f"{name}_5x5_reduce", row.fives_reduce, 1))
    fives = _conv(fives, Conv(f"{name}_5x5", row.fives, 5, pad=2))
    pool = _max_pool(x, MaxPool(f"{name}_pool", 3, 1, pad=1))
    pool = _conv(pool, Conv(f"{name}_pool_proj", row.pool, 1))
    return _side_by_side([ones, threes, fives, pool], f"{name}_output")


def _side_by_side(branches: list[Tensor], name: str) -> Tensor:
    from keras import layers

    return layers.Concatenate(axis=-1, name=name, **EXACT)(branches)


def _mean_pool(x: Tensor, row: MeanPool) -> Tensor:
    from keras import layers

    return layers.GlobalAveragePooling2D(name=row.name, **IMAGE)(x)


def _pyramid_pool(x: Tensor, row: PyramidPool) -> Tensor:
    """Bins as the paper's: windows of a size, which overlap where bins do not fit."""
    from keras import layers

    side = x.shape[1]
    found = []
    for bins in row.levels:
        stride = side // bins
        window = side - (bins - 1) * stride
        name = f"spp_{bins}x{bins}"
        level = layers.MaxPooling2D(window, stride, name=name, **IMAGE)(x)
        flat = layers.Flatten(name=f"{name}_flat", data_format="channels_last", **EXACT)
        found.append(flat(level))
    return _side_by_side(found, row.name)


_BUILDERS: dict[type, Callable[[Tensor, Any], Tensor]] = {
    Conv: _conv,
    MaxPool: _max_pool,
    Normalize: _normalize,
    Fire: _fire,
    Inception: _inception,
    MeanPool: _mean_pool,
    PyramidPool: _pyramid_pool,
}
