"""Yahoo's Open-NSFW classifier: the same scores as Caffe, from every loader and engine.

Examples:
    >>> from open_nsfw_tf import classify
    >>> classify("photo.jpg").nsfw  # doctest: +SKIP
    0.0021
"""

from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

# Imported here, not when it is first needed: a process that forked while a thread
# imports it would have an import in the child that never ends.
from open_nsfw_tf.forks import loading

__version__ = "0.1.0"

if TYPE_CHECKING:
    from open_nsfw_tf.classifier import (
        Classifier,
        ClassScores,
        Explanation,
        Scores,
        classify,
    )
    from open_nsfw_tf.convert import convert
    from open_nsfw_tf.errors import (
        ExportError,
        ImageError,
        OpenNsfwError,
        TrainingError,
        WeightsError,
    )
    from open_nsfw_tf.explain import explain
    from open_nsfw_tf.export import export
    from open_nsfw_tf.image import create_yahoo_image_loader
    from open_nsfw_tf.model import InputType, OpenNsfwModel
    from open_nsfw_tf.tf_image import create_tensorflow_image_loader, load_base64_tensor
    from open_nsfw_tf.weights import load_weights, save_weights

# Each name is imported when it is first used, so that `import open_nsfw_tf` is fast.
_MODULES = {
    "ClassScores": "classifier",
    "Classifier": "classifier",
    "Explanation": "classifier",
    "ExportError": "errors",
    "ImageError": "errors",
    "InputType": "model",
    "OpenNsfwError": "errors",
    "OpenNsfwModel": "model",
    "Scores": "classifier",
    "TrainingError": "errors",
    "WeightsError": "errors",
    "classify": "classifier",
    "convert": "convert",
    "create_tensorflow_image_loader": "tf_image",
    "create_yahoo_image_loader": "image",
    "explain": "explain",
    "export": "export",
    "load_base64_tensor": "tf_image",
    "load_weights": "weights",
    "save_weights": "weights",
}

__all__ = [
    "ClassScores",
    "Classifier",
    "Explanation",
    "ExportError",
    "ImageError",
    "InputType",
    "OpenNsfwError",
    "OpenNsfwModel",
    "Scores",
    "TrainingError",
    "WeightsError",
    "classify",
    "convert",
    "create_tensorflow_image_loader",
    "create_yahoo_image_loader",
    "explain",
    "export",
    "load_base64_tensor",
    "load_weights",
    "save_weights",
]


class CallableModule(ModuleType):
    """A module that can also be called, as the function in it of the same name.

    `open_nsfw_tf.export` is a sub-package and also a public function: Python replaces
    the function by the module as soon as the module is imported.
    """

    def __call__(self, *args: Any, **options: Any) -> Any:
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **options)


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    with loading:
        module = import_module(f"{__name__}.{_MODULES[name]}")
    value = module if isinstance(module, CallableModule) else getattr(module, name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
