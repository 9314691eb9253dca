"""The command line: `open-nsfw ...`, and the original's scripts.

Thin: each command parses, calls one function of the library with the same argument
names, and prints. Errors are one line on standard error and exit status 1; wrong usage
is exit status 2.
"""

from open_nsfw_tf.cli import loading as _loading  # isort: skip - before the others

import typer

from open_nsfw_tf.cli import batch as _batch
from open_nsfw_tf.cli import classify as _classify
from open_nsfw_tf.cli import compare as _compare
from open_nsfw_tf.cli import convert as _convert
from open_nsfw_tf.cli import dataset as _dataset  # noqa: F401 - adds its commands
from open_nsfw_tf.cli import evaluate as _evaluate  # noqa: F401 - adds its command
from open_nsfw_tf.cli import export as _export
from open_nsfw_tf.cli import mistakes as _mistakes  # noqa: F401 - adds its commands
from open_nsfw_tf.cli import models as _models  # noqa: F401 - adds its command
from open_nsfw_tf.cli import request as _request
from open_nsfw_tf.cli import train as _train  # noqa: F401 - adds its command
from open_nsfw_tf.cli import weights as _weights  # noqa: F401 - adds its commands
from open_nsfw_tf.cli.app import app, errors_in_one_line, open_standard_output

_loading.loaded()


def main() -> None:
    """Run `open-nsfw`."""
    _run(app)


def _run(script: typer.Typer) -> None:
    with errors_in_one_line():
        open_standard_output()
        script(prog_name=script.info.name)


def classify_nsfw() -> None:
    """Run `classify_nsfw.py`."""
    _run(_classify.original)


def export_savedmodel() -> None:
    """Run `export_savedmodel.py`."""
    _run(_export.savedmodel)


def export_graph() -> None:
    """Run `export_graph.py`."""
    _run(_export.graph)


def export_tflite() -> None:
    """Run `export_tflite.py`."""
    _run(_export.tflite)


def create_predict_request() -> None:
    """Run `create_predict_request.py`."""
    _run(_request.original)


def convert_caffe() -> None:
    """Run `convert_caffe.py`."""
    _run(_convert.caffe)


def convert_mmdnn() -> None:
    """Run `convert_mmdnn.py`."""
    _run(_convert.mmdnn)


def batch_classify() -> None:
    """Run `batch_classify.py`."""
    _run(_batch.original)


def eval_scores() -> None:
    """Run `eval.py`."""
    _run(_compare.original)
