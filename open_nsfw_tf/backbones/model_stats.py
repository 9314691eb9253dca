"""What the networks cost and how accurate they are: counted, measured, published."""

import time
from dataclasses import dataclass
from statistics import median

from open_nsfw_tf.backbones.builder import build
from open_nsfw_tf.backbones.registry import BACKBONES
from open_nsfw_tf.backbones.trained import MAX_CLASSES
from open_nsfw_tf.libraries import import_tensorflow

RUNS = 5  # timed; the median counts
FLOAT32 = 4  # bytes
IMAGENET_CLASSES = 1000


@dataclass(frozen=True)
class ModelStats:
    """A row of the table of networks.

    Attributes:
        name: a key of `BACKBONES`; of a network that is only published, its name there.
        title: for people.
        built: whether it can be built here.
        size: pixels a side of the input.
        classes: outputs of the last layer, which is counted.
        parameters: trainable values.
        madds: multiply-adds for one picture.
        megabytes: of all values in float32, running statistics among them; 1 MB has
            1,000,000 bytes.
        milliseconds: for one picture on this machine; None: not measured.
        top1: published accuracy on ImageNet, one crop; None: there is no source.
        source: of `top1` and, of what is only published, of the other numbers too.
    """

    name: str
    title: str
    built: bool
    size: int
    classes: int
    parameters: int
    madds: int
    megabytes: float
    milliseconds: float | None
    top1: float | None
    source: str


_PYNETBUILDER = "jay-mahadeokar/pynetbuilder, models/imagenet"


def _published(
    name: str, title: str, top1: float, madds: int, values: int
) -> ModelStats:
    return ModelStats(
        name=name,
        title=title,
        built=False,
        size=224,
        classes=IMAGENET_CLASSES,
        parameters=values,
        madds=madds,
        megabytes=FLOAT32 * values / 1e6,
        milliseconds=None,
        top1=top1,
        source=_PYNETBUILDER,
    )


# What Yahoo's authors published of their ImageNet models; Open-NSFW began as the
# second.
PUBLISHED_STATS = (
    _published("ResNet-50", "pynetbuilder's", 0.7175, 3_858_000_000, 25_550_000),
    _published("ResNet-50 1by2", "pynetbuilder's", 0.6679, 1_069_600_000, 6_920_000),
)


def model_stats(classes: int = 2, *, measure: bool = True) -> list[ModelStats]:
    """The table of networks: the backbones and what Yahoo's authors published.

    Args:
        classes: outputs of the last layer of each backbone.
        measure: whether to build each and measure its time here.

    Raises:
        ValueError: there are not 2 classes or more, or too many.
    """
    if not 2 <= classes <= MAX_CLASSES:
        raise ValueError(f"expected 2 to {MAX_CLASSES} classes, got {classes}")
    rows = []
    for name, backbone in BACKBONES.items():
        last = backbone.features * classes
        parameters = backbone.parameters + last + classes
        values = parameters + backbone.statistics
        rows.append(
            ModelStats(
                name=name,
                title=backbone.title,
                built=True,
                size=backbone.preprocessing.crop,
                classes=classes,
                parameters=parameters,
                madds=backbone.madds + last,
                megabytes=FLOAT32 * values / 1e6,
                milliseconds=milliseconds_of(name, classes) if measure else None,
                top1=backbone.top1,
                source=backbone.top1_source,
            )
        )
    return [*rows, *PUBLISHED_STATS]


def milliseconds_of(name: str, classes: int = 2, runs: int = RUNS) -> float:
    """The median time of one picture through a backbone on this machine.

    Random weights, which take as long as any; one compiled function, batch 1, float32.
    """
    tf = import_tensorflow()
    model = build(name, classes, init="random", seed=0)
    side = model.inputs[0].shape[1]
    picture = tf.zeros((1, side, side, 3))
    function = tf.function(lambda batch: model(batch, training=False))
    forward = function.get_concrete_function(picture)
    times = []
    for _ in range(1 + runs):
        start = time.perf_counter()
        forward(picture)[0].numpy()
        times.append(1000 * (time.perf_counter() - start))
    return median(times[1:])
