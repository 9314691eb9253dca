"""The HTTP service: `create_app` makes it, `open-nsfw serve` runs it."""

from open_nsfw_tf.serve.limits import RequestError, Settings

__all__ = ["RequestError", "Settings"]
