"""The preprocessing of pictures as ONNX operations, in front of a network's graph.

`with_picture` makes a file that takes decoded pictures of any size and answers what
Caffe's pipeline did: every runtime of ONNX, in any language, computes Pillow's resizing
and libjpeg's round trip from the same standard operations, in float32 and int32. All
sums of float32 are of whole numbers below 2**24, or of them times a power of two, so
they are exact in any order. float64, int64 arithmetic and 8-bit matrix products are
avoided: some runtimes lack them, or compute them inexactly.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.architecture import CHANNELS
from open_nsfw_tf.formats.onnx_graph import INPUT, Writer
from open_nsfw_tf.image import Preprocessing

if TYPE_CHECKING:
    import onnx

IMAGE = "image"

# -- the arithmetic, as data

# Pillow's Resample.c: weights are rounded to 22 fractional bits (32 - 8 - 2).
WEIGHT_BITS = 22
# Longer sides overflow int32 in the resize weights to 256 pixels; the first wrong ones
# seen were of 131,000. Other sizes: see `longest_side`.
LONGEST_SIDE, YAHOO_SIZE = 99_999, 256
# libjpeg's jfdctint.c, "islow", with 13 fractional bits: what its butterflies add up to
# for each output, which is not always the rounded cosine. jidctint.c is the transpose.
DCT = np.array(
    [
        [8192, 8192, 8192, 8192, 8192, 8192, 8192, 8192],
        [11363, 9633, 6437, 2260, -2260, -6437, -9633, -11363],
        [10703, 4433, -4433, -10703, -10703, -4433, 4433, 10703],
        [9633, -2259, -11362, -6436, 6436, 11362, 2259, -9633],
        [8192, -8192, -8192, 8192, 8192, -8192, -8192, 8192],
        [6437, -11362, 2261, 9633, -9633, -2261, 11362, -6437],
        [4433, -10704, 10704, -4433, -4433, 10704, -10704, 4433],
        [2260, -6436, 9633, -11363, 11363, -9633, 6436, -2260],
    ],
    np.float32,
)
# Annex K of ITU-T T.81, at libjpeg's quality 75, which is Pillow's default: half of
# each value, rounded up from a half.
LUMINANCE = np.array(
    [
        [8, 6, 5, 8, 12, 20, 26, 31],
        [6, 6, 7, 10, 13, 29, 30, 28],
        [7, 7, 8, 12, 20, 29, 35, 28],
        [7, 9, 11, 15, 26, 44, 40, 31],
        [9, 11, 19, 28, 34, 55, 52, 39],
        [12, 18, 28, 32, 41, 52, 57, 46],
        [25, 32, 39, 44, 52, 61, 60, 51],
        [36, 46, 48, 49, 56, 50, 52, 50],
    ],
    np.float32,
)
CHROMINANCE = np.full((8, 8), 50, np.float32)
CHROMINANCE[:4, :4] = [
    [9, 9, 12, 24],
    [9, 11, 13, 33],
    [12, 13, 28, 50],
    [24, 33, 50, 50],
]
# libjpeg's jccolor.c and jdcolor.c, 16 fractional bits.
COLOUR_BITS = 16
TO_YCC = np.array(
    [[19595, 38470, 7471], [-11059, -21709, 32768], [32768, -27439, -5329]], np.float32
)
TO_YCC_OFFSETS = np.array(
    [1 << 15, (128 << 16) + (1 << 15) - 1, (128 << 16) + (1 << 15) - 1], np.float32
)
FROM_YCC = np.array(  # from Cb and Cr, to what is added to Y
    [[0, 91881], [-22554, -46802], [116130, 0]], np.float32
)
MCU = 16  # pixels a side of what a JPEG with 4:2:0 consists of
# Sums of products with larger factors than this many bits are split into two.
LOW_BITS = 7
ACROSS, DOWN = 8, 8  # columns, and rows, of the result that share a slice of the source


def longest_side(size: int) -> int:
    """The longest side, in pixels, that can be resized exactly to `size` pixels.

    The sums of the weights' shares, int32, grow as side**2 / size; the sums of the
    weights' low parts, below 2**24, as side / size.
    """
    relative = size / YAHOO_SIZE
    return int(LONGEST_SIDE * min(relative, relative**0.5))


def split(factors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """High and low part of whole numbers: high * 2**7 + low, low from -64 to 63."""
    step = 1 << LOW_BITS
    high = np.floor((factors + step // 2) / step)
    return high, factors - high * step


def check_picture(preprocessing: Preprocessing) -> None:
    """Refuse a preprocessing that `with_picture` cannot write.

    Raises:
        ValueError: it resizes with aligned corners, or sends a size through JPEG that
            is no multiple of `MCU`.
    """
    if preprocessing.aligned:
        raise ValueError(
            "this model resizes pictures with aligned corners, which the input picture "
            "does not offer: export it with the input tensor"
        )
    if preprocessing.jpeg and preprocessing.resize % MCU:
        raise ValueError(
            f"this model sends pictures of {preprocessing.resize} pixels a side "
            f"through JPEG, and the input picture needs a multiple of {MCU}: export it "
            "with the input tensor"
        )


def with_picture(
    model: "onnx.ModelProto", preprocessing: Preprocessing
) -> "onnx.ModelProto":
    """The model with its preprocessing in front of it.

    Args:
        model: of layout "nchw", with the input `INPUT`.
        preprocessing: of the network; see `check_picture`.

    Returns:
        The model with the input ``image`` instead: uint8 (batch, height, width,
        channels) with 3 channels, RGB, or 4, whose fourth is dropped; all sizes are
        dynamic. A side above `longest_side`, or another number of channels, makes the
        runtime fail. The tensor `INPUT` in it is the preprocessed batch.

    Raises:
        ValueError: as `check_picture`.
    """
    from onnx import TensorProto, helper

    check_picture(preprocessing)
    writer = _Picture()
    writer.preprocess(preprocessing)
    old = model.graph
    image = helper.make_tensor_value_info(
        IMAGE, TensorProto.UINT8, ["batch", "height", "width", "channels"]
    )
    graph = helper.make_graph(
        [*writer.nodes, *old.node],
        old.name,
        [image],
        old.output,
        [*writer.constants, *old.initializer],
    )
    made = helper.make_model(
        graph,
        producer_name=model.producer_name,
        ir_version=model.ir_version,
        opset_imports=model.opset_import,
    )
    made.metadata_props.extend(model.metadata_props)
    return made


class _Picture(Writer):
    """Writes operations; a result that has no name of its own gets a number."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[tuple[Any, ...], str] = {}

    def op(self, kind: str, *inputs: str, **attributes: Any) -> str:
        """A node; returns the name of its result."""
        result = self.node(kind, list(inputs), f"pre.{len(self.nodes)}", **attributes)
        self.nodes[-1].name = ""  # a twelfth of all that is added to the file
        return result

    def floats(self, values: Any) -> str:
        """A constant of float32."""
        return self._value(np.asarray(values, np.float32))

    def ints(self, values: Any, dtype: type = np.int32) -> str:
        """A constant of int32; shapes are int64."""
        return self._value(np.asarray(values, dtype))

    def shape(self, *sides: int) -> str:
        """A shape, or axes: int64."""
        return self.ints(sides, np.int64)

    def _value(self, array: np.ndarray) -> str:
        key = (array.dtype.str, array.shape, array.tobytes())
        if key not in self._known:
            name = f"pre.c{len(self._known)}"
            self._known[key] = self.constant(name, array)
        return self._known[key]

    def slice(self, source: str, start: int, end: int, axis: int) -> str:
        """A part of one axis; an end of 0 is the last."""
        last = np.iinfo(np.int64).max if end == 0 else end
        return self.op(
            "Slice", source, self.shape(start), self.shape(last), self.shape(axis)
        )

    def parts(self, source: str, count: int, axis: int = 0) -> list[str]:
        """Equal parts of one axis."""
        from onnx import helper

        names = [f"pre.{len(self.nodes)}.{part}" for part in range(count)]
        self.nodes.append(helper.make_node("Split", [source], names, axis=axis))
        return names

    # -- the whole

    def preprocess(self, preprocessing: Preprocessing) -> None:
        """From `IMAGE` to `INPUT`; in between, planes (N, 3, side, side)."""
        size, crop = preprocessing.resize, preprocessing.crop
        order = [preprocessing.order.index(name) for name in "RGB"]
        planes = self._resized(self._rows(size), size)
        if preprocessing.jpeg:
            planes = self._through_jpeg(planes, size, order)
        elif preprocessing.order != "RGB":
            planes = self.op("Gather", planes, self.ints(order), axis=1)
        edge = (size - crop) // 2
        if crop != size:
            starts, ends = self.shape(edge, edge), self.shape(edge + crop, edge + crop)
            planes = self.op("Slice", planes, starts, ends, self.shape(2, 3))
        mean = self.floats(np.reshape(preprocessing.mean, (CHANNELS, 1, 1)))
        if preprocessing.scale == 1:
            self.node("Sub", [planes, mean], INPUT)
        else:
            centred = self.op("Sub", planes, mean)
            self.node("Mul", [centred, self.floats(preprocessing.scale)], INPUT)

    def _rows(self, size: int) -> str:
        """The picture's rows, (N, H, W C), once its sizes are checked."""
        shape = self.op("Cast", self.op("Shape", IMAGE), to=_INT32)
        self.height, self.width, channels = (
            self.op("Gather", shape, self.ints([axis])) for axis in (1, 2, 3)
        )
        shortest = self.op("Min", self.height, self.width)
        longest = self.op("Max", self.height, self.width)
        empty = self.op("Less", shortest, self.ints(1))
        too_long = self.op("Greater", longest, self.ints(longest_side(size)))
        rgb = self.op("Equal", channels, self.ints(CHANNELS))
        rgba = self.op("Equal", channels, self.ints(CHANNELS + 1))
        other = self.op("Not", self.op("Or", rgb, rgba))
        refused = self.op("Or", self.op("Or", empty, too_long), other)
        # A row of two numbers times one number makes the runtimes fail. (OpenVINO lets
        # a wrong Reshape pass.)
        count = self.op("Add", self.op("Cast", refused, to=_INT64), self.shape(1))
        row = self.op(
            "Slice", self.floats([[1, 0]]), self.shape(0), count, self.shape(1)
        )
        column = self.op("Cast", channels, to=_FLOAT)
        column = self.op("Reshape", column, self.shape(1, 1))
        name = f"sides_of_1_to_{longest_side(size)}_and_3_or_4_channels"
        checked = self.node("MatMul", [row, column], name)
        checked = self.op("Reshape", checked, self.shape(1))
        self.channels = self.op("Cast", checked, to=_INT32)
        return self.op("Reshape", IMAGE, self.shape(0, 0, -1))

    # -- Pillow's bilinear resize

    def _resized(self, rows: str, size: int) -> str:
        """Planes of whole numbers, (N, 3, size, size): first across, then down."""
        starts, length, across = self._weights(self.width, size, ACROSS)
        rows_of, down = self._down(size)
        blocks = -(-size // ACROSS)
        starts = self.op("Mul", starts, self.channels)
        ends = self.op("Add", starts, self.op("Mul", length, self.channels))
        parts = []
        for start, end, factors in zip(
            self.parts(starts, blocks),
            self.parts(ends, blocks),
            self.parts(self._spread(across, blocks), blocks),
            strict=True,
        ):
            block = self.op("Slice", rows, start, end, self.ints([2]))
            sums = self.op("MatMul", self.op("Cast", block, to=_FLOAT), factors)
            parts.append(self._rounded(sums, axis=2))
        columns = self.op("Concat", *parts, axis=2)
        source = self.op("Gather", columns, rows_of, axis=1)
        sums = self.op("MatMul", down, self.op("Cast", source, to=_FLOAT))
        square = self._rounded(sums, axis=2)  # (N, blocks, DOWN, columns)
        square = self.op("Reshape", square, self.shape(0, -1, blocks, CHANNELS, ACROSS))
        square = self._cut(square, size, DOWN, axis=1)
        planes = self.op("Transpose", square, perm=[0, 3, 1, 2, 4])
        planes = self.op("Reshape", planes, self.shape(0, 0, 0, -1))
        planes = self._cut(planes, size, ACROSS, axis=3)
        return self.op("Cast", planes, to=_FLOAT)

    def _down(self, size: int) -> tuple[str, str]:
        """The rows that each block of rows is computed from, and their weights.

        Returns:
            int32 (blocks, L) and float32 (blocks, 2 DOWN, L).
        """
        starts, length, weights = self._weights(self.height, size, DOWN)
        taps = self.op("Range", self.ints(0), length, self.ints(1))
        rows = self.op("Add", self.op("Reshape", starts, self.shape(-1, 1)), taps)
        weights = self.op("Reshape", weights, self.shape(0, 0, 2 * DOWN))
        return rows, self.op("Transpose", weights, perm=[0, 2, 1])

    def _spread(self, weights: str, blocks: int) -> str:
        """Each weight for its channel alone; alpha has none.

        (blocks, L, 2, ACROSS) to (blocks L C, 2 x 3 x ACROSS).
        """
        both = np.eye(2 * ACROSS, dtype=np.float32).reshape(-1, 1, 2, 1, ACROSS)
        one = np.eye(CHANNELS + 1, CHANNELS).reshape(1, -1, 1, CHANNELS, 1)
        channels = self.op("Cast", self.channels, to=_INT64)
        spread = self.op(
            "Slice", self.floats(both * one), self.shape(0), channels, self.shape(1)
        )
        spread = self.op("Reshape", spread, self.shape(2 * ACROSS, -1))
        weights = self.op("Reshape", weights, self.shape(-1, 2 * ACROSS))
        weights = self.op("MatMul", weights, spread)
        return self.op("Reshape", weights, self.shape(-1, 2 * CHANNELS * ACROSS))

    def _cut(self, at: str, size: int, outputs: int, axis: int) -> str:
        """Without what the last block has too many."""
        return self.slice(at, 0, size, axis) if size % outputs else at

    def _rounded(self, sums: str, axis: int) -> str:
        """From sums with high and low factors to pixels, uint8, as Pillow rounds.

        (128 high + low + 2**21) >> 22; the factors are divided by 2**15 and 2**7. No
        weight is negative, so the cast, which drops the fraction, rounds down.
        """
        high, low = self.parts(sums, 2, axis)
        low = self.op("Floor", low)
        low = self.op("Mul", low, self.floats(2.0 ** (LOW_BITS - WEIGHT_BITS)))
        total = self.op("Add", self.op("Add", high, low), self.floats(0.5))
        return self.op("Cast", total, to=_UINT8)

    def _weights(self, side: str, size: int, outputs: int) -> tuple[str, str, str]:
        """The weights of a resize from `side` pixels to `size`, by whole numbers.

        For output i, source pixel x: n = max(0, 2 S' - |size (2 x + 1) - (2 i + 1) S|)
        with S' = max(S, size), divided by the sum of n over x. This is the triangle
        that Pillow computes in float64, and rounds to the same.

        Returns:
            The first source pixel of each block of outputs, int32 (blocks,); how many
            a block has, int32 (); and their weights, float32 (blocks, L, 2, outputs):
            high parts divided by 2**15, and low parts divided by 2**7.
        """
        blocks = -(-size // outputs)
        doubled = self.op("Mul", self.op("Max", side, self.ints(size)), self.ints(2))
        first = np.arange(0, blocks * outputs, outputs)
        # The first pixel with a weight: (2 i + 1) S - 2 S' < size (2 x + 1).
        reach = self.op("Mul", self.ints(2 * first + 1), side)
        reach = self.op("Sub", self.op("Sub", reach, doubled), self.ints(size))
        starts = self.op("Max", reach, self.ints(0))
        starts = self.op("Div", starts, self.ints(2 * size))
        span = self.op("Mul", side, self.ints(outputs - 1))
        span = self.op("Div", self.op("Add", span, doubled), self.ints(size))
        length = self.op("Min", self.op("Add", span, self.ints(3)), side)
        starts = self.op("Min", starts, self.op("Sub", side, length))
        taps = self.op("Range", self.ints(0), length, self.ints(1))
        x = self.op("Add", self.op("Reshape", starts, self.shape(-1, 1)), taps)
        x = self.op("Add", self.op("Mul", x, self.ints(2 * size)), self.ints(size))
        i = (2 * np.arange(blocks * outputs) + 1).reshape(blocks, 1, outputs)
        centres = self.op("Mul", self.ints(i), side)
        apart = self.op(
            "Abs",
            self.op("Sub", self.op("Reshape", x, self.shape(blocks, -1, 1)), centres),
        )
        shares = self.op("Max", self.op("Sub", doubled, apart), self.ints(0))
        total = self.op("ReduceSum", shares, self.shape(1))  # (blocks, 1, outputs)
        if size % outputs:  # what the last block has too many may have no pixel
            total = self.op("Max", total, self.ints(1))
        weights = self.op("Cast", self._divided(shares, total), to=_FLOAT)
        step = 1 << LOW_BITS
        high = self.op(
            "Mul",
            self.op("Add", weights, self.floats(step // 2)),
            self.floats(1 / step),
        )
        high = self.op("Floor", high)
        low = self.op("Sub", weights, self.op("Mul", high, self.floats(step)))
        high = self.op("Mul", high, self.floats(2.0 ** (LOW_BITS - WEIGHT_BITS)))
        low = self.op("Mul", low, self.floats(2.0**-LOW_BITS))
        both = [self.op("Unsqueeze", one, self.shape(2)) for one in (high, low)]
        return starts, length, self.op("Concat", *both, axis=2)

    def _divided(self, shares: str, total: str) -> str:
        """floor(shares * 2**22 / total + 1/2), by long division to stay in int32."""
        quotient = self.ints(0)
        rest = shares
        digits = (6, 4, 4, 4, 4)
        for index, bits in enumerate(digits):
            rest = self.op("Mul", rest, self.ints(1 << bits))
            if index == len(digits) - 1:
                half = self.op("Div", total, self.ints(2))
                rest = self.op("Add", rest, half)
            digit = self.op("Div", rest, total)
            rest = self.op("Sub", rest, self.op("Mul", digit, total))
            quotient = self.op("Mul", quotient, self.ints(1 << bits))
            quotient = self.op("Add", quotient, digit)
        return quotient

    # -- libjpeg's round trip

    def _through_jpeg(self, planes: str, size: int, order: list[int]) -> str:
        """As after saving as JPEG, quality 75 and 4:2:0, and reading that again.

        Args:
            planes: R, G, B.
            size: of them, a multiple of `MCU`.
            order: of the result: the place of R, G and B.
        """
        ycc = self._mixed(planes, size, TO_YCC, TO_YCC_OFFSETS)
        luma = self._transformed(self.slice(ycc, 0, 1, 1), size, LUMINANCE)
        # The mean of squares of 2 x 2 pixels, rounded down and up in turn.
        chroma = self.op(
            "AveragePool",
            self.slice(ycc, 1, CHANNELS, 1),
            kernel_shape=[2, 2],
            strides=[2, 2],
        )
        biases = np.tile([1 / 4, 2 / 4], size // 4)
        chroma = self.op("Floor", self.op("Add", chroma, self.floats(biases)))
        chroma = self._transformed(chroma, size // 2, CHROMINANCE)
        # libjpeg's "fancy" upsampling: 3/4 of a pixel and 1/4 of its neighbour.
        chroma = self.op(
            "Resize",
            chroma,
            "",
            self.floats([1, 1, 2, 2]),
            mode="linear",
            coordinate_transformation_mode="half_pixel",
        )
        biases = np.tile([8 / 16, 7 / 16], size // 2)
        chroma = self.op("Floor", self.op("Add", chroma, self.floats(biases)))
        factors = FROM_YCC[order]
        # Cb and Cr are 128 too large.
        offsets = (1 << (COLOUR_BITS - 1)) - 128 * factors.sum(axis=1)
        added = self._mixed(chroma, size, factors, offsets)
        return self._clipped(self.op("Add", luma, added), 0, 255)

    def _mixed(
        self, planes: str, size: int, factors: np.ndarray, offsets: np.ndarray
    ) -> str:
        """Sums of planes times factors, plus offsets, shifted and rounded down."""
        shift = 2.0**-COLOUR_BITS
        flat = self.op("Reshape", planes, self.shape(0, 0, -1))
        sums = self.op("MatMul", self.floats(shift * factors), flat)
        offset = self.floats(shift * np.reshape(offsets, (-1, 1)))
        sums = self.op("Floor", self.op("Add", sums, offset))
        return self.op("Reshape", sums, self.shape(0, 0, size, size))

    def _transformed(self, planes: str, side: int, table: np.ndarray) -> str:
        """Planes through the cosine transform, its quantisation and back.

        Args:
            planes: (N, channels, side, side), 0..255.
            side: of them.
            table: of quantisation; rows are vertical frequencies.
        """
        # Blocks of 8 x 8 pixels: (N, channels, rows, 8, columns, 8).
        in_blocks = self.shape(0, -1, side // 8, 8, side // 8, 8)
        blocks = self.op("Sub", planes, self.floats(128))
        blocks = self.op("Reshape", blocks, in_blocks)
        at = self.op("MatMul", blocks, self.floats(DCT.T))  # sums below 2**24
        at = self._floor_of(self.op("Add", at, self.floats(1 << 10)), 11)
        turn = [0, 1, 2, 4, 5, 3]  # the other direction becomes the last axis
        at = self._product(self.op("Transpose", at, perm=turn), DCT.T, 15)
        # The half keeps the quotient off whole numbers: some runtimes multiply by the
        # rounded reciprocal instead of dividing, so here all do.
        size = self.op("Add", self.op("Abs", at), self.floats(4 * table.T + 0.5))
        size = self.op("Floor", self.op("Mul", size, self.floats(1 / (8 * table.T))))
        at = self.op("Mul", self.op("Sign", at), size)
        at = self._product(self.op("Mul", at, self.floats(table.T)), DCT, 11)
        back = [0, 1, 2, 5, 3, 4]
        at = self._product(self.op("Transpose", at, perm=back), DCT, 18)
        at = self.op("Add", self._clipped(at, -128, 127), self.floats(128))
        return self.op("Reshape", at, self.shape(0, -1, side, side))

    def _product(self, at: str, matrix: np.ndarray, bits: int) -> str:
        """The product with a matrix, rounded and divided by 2**bits."""
        high, low = (self.op("MatMul", at, self.floats(part)) for part in split(matrix))
        half = self.floats(1 << (bits - LOW_BITS - 1))
        total = self.op(
            "Add", self.op("Add", high, self._floor_of(low, LOW_BITS)), half
        )
        return self._floor_of(total, bits - LOW_BITS)

    def _floor_of(self, sums: str, bits: int) -> str:
        return self.op("Floor", self.op("Mul", sums, self.floats(2.0**-bits)))

    def _clipped(self, at: str, least: int, most: int) -> str:
        return self.op("Clip", at, self.floats(least), self.floats(most))


_FLOAT, _UINT8, _INT32, _INT64 = 1, 2, 6, 7  # onnx.TensorProto's numbers of dtypes
