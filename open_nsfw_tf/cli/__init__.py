"""The command line: `open-nsfw ...`, and the original's scripts.

Thin: each command parses, calls one function of the library with the same argument
names, and prints. Errors are one line on standard error and exit status 1; wrong usage
is exit status 2. A command's module is imported when it runs.
"""

from open_nsfw_tf.cli import interrupt as _interrupt  # isort: skip - before the others

from importlib import import_module

from open_nsfw_tf.cli.app import app, errors_in_one_line, open_standard_output

_interrupt.modules_loaded()


def main() -> None:
    """Run `open-nsfw`."""
    with errors_in_one_line():
        open_standard_output()
        app(prog_name=app.info.name)


def _run(name: str) -> None:
    """Run a script of `open_nsfw_tf.cli.legacy`."""
    with _interrupt.ending_silently():
        script = getattr(import_module("open_nsfw_tf.cli.legacy"), name)
    with errors_in_one_line():
        open_standard_output()
        script(prog_name=script.info.name)


def classify_nsfw() -> None:
    """Run `classify_nsfw.py`."""
    _run("classify")


def export_savedmodel() -> None:
    """Run `export_savedmodel.py`."""
    _run("savedmodel")


def export_graph() -> None:
    """Run `export_graph.py`."""
    _run("graph")


def export_tflite() -> None:
    """Run `export_tflite.py`."""
    _run("tflite")


def create_predict_request() -> None:
    """Run `create_predict_request.py`."""
    _run("request")


def convert_caffe() -> None:
    """Run `convert_caffe.py`."""
    _run("caffe")


def batch_classify() -> None:
    """Run `batch_classify.py`."""
    _run("batch")


def eval_scores() -> None:
    """Run `eval.py`."""
    _run("compare")
