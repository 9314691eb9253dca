"""The table of backbones: where each comes from, what it takes, and what it costs.

Parameters and multiply-adds are those of the body as it is built here, up to ``pool``,
at the crop of its preprocessing; the tests compare them with the built networks.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from open_nsfw_tf.architecture import DENSE, Weights
from open_nsfw_tf.backbones import caffe_nets, keras_apps, resnet50_thin
from open_nsfw_tf.backbones.trained import OPEN_NSFW, HeadLayer
from open_nsfw_tf.errors import WeightsError
from open_nsfw_tf.image import YAHOO, Preprocessing

KERAS = "keras.io/api/applications"
# keras.applications' own preprocessing: `imagenet_utils.preprocess_input`.
CAFFE_MEAN = (103.939, 116.779, 123.68)  # BGR, of 0..255: mode "caffe"
HALF = (127.5, 127.5, 127.5)  # mode "tf": from -1 to 1


Pretrained = Callable[[str, Weights | str | os.PathLike[str] | None], Any]


def no_weights(name: str, weights: object) -> Any:
    """Of a network that begins at random: refuse to find pretrained values."""
    raise WeightsError(
        f"{name} has no pretrained weights: choose --init random, or another backbone"
    )


@dataclass(frozen=True)
class Backbone:
    """A network without its last layer.

    Attributes:
        title: for people.
        source: the paper or the file that defines it.
        preprocessing: of pictures; its crop is the usual input size.
        features: values of ``pool``.
        parameters: trainable values of the body.
        madds: multiply-adds of the body for one picture.
        body: from a symbolic batch, and pretrained values or None, to ``pool``.
        pretrained: finds the pretrained values that `body` takes.
        statistics: running means and variances of the body's batch norms.
        least: pixels a side of the smallest input that it can take.
        last: the name of the last dense layer.
        head: what its paper puts between ``pool`` and the last layer; `build` adds only
            the head that it is given.
        top1: published accuracy on ImageNet's validation set, one crop; None: unknown.
        top1_source: where that is published.
    """

    title: str
    source: str
    preprocessing: Preprocessing
    features: int
    parameters: int
    madds: int
    body: Callable[[Any, Any], Any]
    pretrained: Pretrained = no_weights
    statistics: int = 0
    least: int = 32
    last: str = "logits"
    head: tuple[HeadLayer, ...] = ()
    top1: float | None = None
    top1_source: str = ""

    @property
    def canonical(self) -> bool:
        """Whether it is Yahoo's network, whose weights have canonical names."""
        return self.last == DENSE


BACKBONES = {
    OPEN_NSFW: Backbone(
        title="ResNet-50-thin (Open-NSFW)",
        source="yahoo/open_nsfw, nsfw_model/deploy.prototxt",
        preprocessing=YAHOO,
        features=1024,
        parameters=5_915_840,
        statistics=26_624,
        madds=1_068_548_096,
        body=resnet50_thin.body,
        pretrained=resnet50_thin.pretrained,
        last=DENSE,
    ),
    "resnet50": Backbone(
        title="ResNet-50",
        source="He et al., arXiv 1512.03385; keras.applications",
        preprocessing=Preprocessing(256, 224, False, "BGR", CAFFE_MEAN, 1.0),
        features=2048,
        parameters=23_534_592,
        statistics=53_120,
        madds=3_855_925_248,
        body=keras_apps.resnet50,
        pretrained=keras_apps.pretrained,
        top1=0.749,
        top1_source=KERAS,
    ),
    "mobilenet_v2": Backbone(
        title="MobileNetV2",
        source="Sandler et al., arXiv 1801.04381; keras.applications",
        preprocessing=Preprocessing(224, 224, False, "RGB", HALF, 1 / 127.5),
        features=1280,
        parameters=2_223_872,
        statistics=34_112,
        madds=299_494_272,
        body=keras_apps.mobilenet_v2,
        pretrained=keras_apps.pretrained,
        top1=0.713,
        top1_source=KERAS,
    ),
    "inception_v3": Backbone(
        title="Inception v3",
        source="Szegedy et al., arXiv 1512.00567; keras.applications",
        preprocessing=Preprocessing(299, 299, False, "RGB", HALF, 1 / 127.5),
        features=2048,
        least=75,
        parameters=21_768_352,
        statistics=34_432,
        madds=5_711_168_096,
        body=keras_apps.inception_v3,
        pretrained=keras_apps.pretrained,
        top1=0.779,
        top1_source=KERAS,
    ),
    "vgg16": Backbone(
        title="VGG-16",
        source="Simonyan and Zisserman, arXiv 1409.1556; keras.applications",
        preprocessing=Preprocessing(256, 224, False, "BGR", CAFFE_MEAN, 1.0),
        features=512,
        parameters=14_714_688,
        madds=15_346_630_656,
        body=keras_apps.vgg16,
        pretrained=keras_apps.pretrained,
        top1=0.713,
        top1_source=KERAS,
    ),
    "squeezenet": Backbone(
        title="SqueezeNet 1.0",
        source="Iandola et al., arXiv 1602.07360",
        preprocessing=Preprocessing(256, 227, False, "BGR", YAHOO.mean, 1.0),
        features=512,
        parameters=735_424,
        madds=746_139_936,
        body=caffe_nets.squeezenet,
        head=(HeadLayer("dropout", rate=0.5),),
        top1=0.575,
        top1_source="arXiv 1602.07360",
    ),
    "googlenet": Backbone(
        title="GoogLeNet",
        source="Szegedy et al., arXiv 1409.4842; BVLC's",
        preprocessing=Preprocessing(256, 224, False, "BGR", YAHOO.mean, 1.0),
        features=1024,
        parameters=5_973_552,
        madds=1_581_647_872,
        body=caffe_nets.googlenet,
        head=(HeadLayer("dropout", rate=0.4),),
        top1=0.687,
        top1_source="BVLC/caffe, models/bvlc_googlenet",
    ),
    "ms_ctc": Backbone(
        title="Constrained time cost, J'",
        source="He and Sun, arXiv 1412.1710",
        preprocessing=Preprocessing(256, 224, False, "BGR", YAHOO.mean, 1.0),
        features=12_800,
        least=187,
        parameters=5_879_040,
        madds=935_826_112,
        body=caffe_nets.ms_ctc,
        head=caffe_nets.MS_CTC_HEAD,
    ),
}
