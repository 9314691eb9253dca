"""Yahoo's Open-NSFW classifier: the same scores as Caffe, from every loader and engine.

>>> from open_nsfw_tf import classify
>>> classify("photo.jpg").nsfw  # doctest: +SKIP
0.0021
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from open_nsfw_tf.classifier import Classifier, classify
    from open_nsfw_tf.errors import ImageError, WeightsError
    from open_nsfw_tf.image import create_yahoo_image_loader
    from open_nsfw_tf.model import InputType, OpenNsfwModel
    from open_nsfw_tf.scores import ClassScores, Scores
    from open_nsfw_tf.tf_image import create_tensorflow_image_loader, load_base64_tensor
    from open_nsfw_tf.weights import load_weights, save_weights

# Each name is imported when it is first asked for, so that nobody waits for what they
# do not use.
_HOMES = {
    "ClassScores": "scores",
    "Classifier": "classifier",
    "ImageError": "errors",
    "InputType": "model",
    "OpenNsfwModel": "model",
    "Scores": "scores",
    "WeightsError": "errors",
    "classify": "classifier",
    "create_tensorflow_image_loader": "tf_image",
    "create_yahoo_image_loader": "image",
    "load_base64_tensor": "tf_image",
    "load_weights": "weights",
    "save_weights": "weights",
}

__all__ = [
    "ClassScores",
    "Classifier",
    "ImageError",
    "InputType",
    "OpenNsfwModel",
    "Scores",
    "WeightsError",
    "classify",
    "create_tensorflow_image_loader",
    "create_yahoo_image_loader",
    "load_base64_tensor",
    "load_weights",
    "save_weights",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from open_nsfw_tf.forks import loading

    with loading:
        value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
