"""The networks that can be trained, and trained models on disk.

`registry` is the table of them, `builder` builds one; `trained` reads and writes the
folders of trained models. Names are imported when they are first asked for, so that
reading a trained model loads no more than `trained`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from open_nsfw_tf.backbones.arrays import set_weights, weights_of
    from open_nsfw_tf.backbones.builder import (
        POOL,
        body_of,
        build,
        network_of,
        with_dtype,
    )
    from open_nsfw_tf.backbones.registry import BACKBONES, Backbone

_HOMES = {
    "BACKBONES": "registry",
    "Backbone": "registry",
    "POOL": "builder",
    "body_of": "builder",
    "build": "builder",
    "network_of": "builder",
    "set_weights": "arrays",
    "weights_of": "arrays",
    "with_dtype": "builder",
}

__all__ = [
    "BACKBONES",
    "POOL",
    "Backbone",
    "body_of",
    "build",
    "network_of",
    "set_weights",
    "weights_of",
    "with_dtype",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
