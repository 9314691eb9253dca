"""The command line: `open-nsfw ...`, and the original's scripts.

Thin: each command parses, calls one function of the library with the same argument
names, and prints. Errors are one line on standard error and exit status 1; wrong usage
is exit status 2. A command's module is imported when it runs.
"""

from open_nsfw_tf.cli import interrupt as _interrupt  # isort: skip - before the others

from functools import partial

from open_nsfw_tf.cli.process import (
    errors_in_one_line,
    import_command,
    open_standard_output,
)

_interrupt.modules_loaded()


def main() -> None:
    """Run `open-nsfw`."""
    with _interrupt.ending_silently():
        from open_nsfw_tf.cli.app import app
    with errors_in_one_line():
        open_standard_output()
        app(prog_name=app.info.name)


def _run(name: str, module: str = "legacy") -> None:
    """Run a script of `open_nsfw_tf.cli.legacy`, or of another module."""
    script = getattr(import_command(module), name)
    with errors_in_one_line():
        open_standard_output()
        script()


# The scripts of `tools/`.
classify_nsfw = partial(_run, "main", "legacy_classify")
export_savedmodel = partial(_run, "savedmodel")
export_graph = partial(_run, "graph")
export_tflite = partial(_run, "tflite")
create_predict_request = partial(_run, "request")
convert_caffe = partial(_run, "caffe")
batch_classify = partial(_run, "batch")
eval_scores = partial(_run, "compare")
