"""GoogLeNet as a table: Szegedy et al., arXiv 1409.4842, as BVLC's ``bvlc_googlenet``.

The two auxiliary classifiers are left out: they help training only. With 1000 classes
there are 6,998,552 parameters.
"""

from typing import Any

from open_nsfw_tf.backbones.tables import (
    Conv,
    Inception,
    MaxPool,
    MeanPool,
    Normalize,
    Row,
    walk,
)

ROWS: tuple[Row, ...] = (
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


def body(batch: Any, source: None) -> Any:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 1024)."""
    return walk(batch, ROWS)
