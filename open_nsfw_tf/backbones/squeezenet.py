"""SqueezeNet 1.0 as a table: Iandola et al., arXiv 1602.07360, table 1.

Yahoo's comparison of 2016 says "SqueezeNet" without a version; 1.0 is the paper's. In the
paper a convolution with a ReLU, ``conv10``, gives a map for each class and the mean
comes last. Here, as in all backbones, the mean comes first and a dense layer of as many
parameters last: the same function but for that ReLU. With 1000 classes there are
1,248,424 parameters, as in the authors' model.
"""

from typing import Any

from open_nsfw_tf.backbones.tables import Conv, Fire, MaxPool, MeanPool, Row, walk

ROWS: tuple[Row, ...] = (
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


def body(batch: Any, source: None) -> Any:
    """From float32 (N, H, W, 3), BGR minus the mean, to ``pool``, (N, 512)."""
    return walk(batch, ROWS)
