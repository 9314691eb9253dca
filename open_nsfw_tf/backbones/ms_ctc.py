"""He and Sun's network of constrained time cost as a table: arXiv 1412.1710, model J'.

Model J of the paper's table 1 is (7, 64)/2, pool 3, (2, 128) four times, pool 2, (2,
256) four times, pool 3, (2, 2304), (2, 256), spatial pyramid pooling, two dense layers
of 4096. In J' each of the poolings has stride 1 and the convolution after it has the
stride that the pooling had ("delayed subsampling").

The paper was not at hand: filters and strides were checked against the HeNet of
ducha-aiki/caffenet-benchmark, which follows it (for 128 pixels, without the pyramid).
What could not be read up, and is chosen here: the pads, so that the stages' maps have
the 36, 18 and 6 pixels a side that the table's caption gives (an even kernel pads none
and one pixel by turns); the levels of the pyramid, which are those of SPP-net (arXiv
1406.4729), of the same authors. The two dense layers are `HEAD`, which `build` adds if
it is given.
"""

from typing import Any

from open_nsfw_tf.backbones.tables import Conv, MaxPool, PyramidPool, Row, walk
from open_nsfw_tf.trained import HeadLayer

ROWS: tuple[Row, ...] = (
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
HEAD = (
    HeadLayer("dense", units=4096, activation="relu"),
    HeadLayer("dropout", rate=0.5),
    HeadLayer("dense", units=4096, activation="relu"),
    HeadLayer("dropout", rate=0.5),
)


def body(batch: Any, source: None) -> Any:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 12800)."""
    return walk(batch, ROWS)
