"""The HTTP service: `create_app` makes it, `serve` and `open-nsfw serve` run it."""

from open_nsfw_tf.libraries import need

need("serve", "fastapi", "uvicorn", "python_multipart", "prometheus_client")

from open_nsfw_tf.serve.app import create_app
from open_nsfw_tf.serve.limits import Settings
from open_nsfw_tf.serve.server import is_loopback, serve

__all__ = ["Settings", "create_app", "is_loopback", "serve"]
