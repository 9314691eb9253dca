"""The report of an evaluation: one HTML file that needs nothing else, or JSON.

The page uses no network and no script. It can be mailed, archived and printed, follows
the reader's dark or light setting, and blurs pictures until the pointer is over them.
"""

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate import EvaluationReport
from open_nsfw_tf.files import is_picture, replacing
from open_nsfw_tf.report.page import THUMBNAILS, Drawing, html
from open_nsfw_tf.report.plots import import_matplotlib

__all__ = [
    "THUMBNAILS",
    "check_outputs",
    "html",
    "import_matplotlib",
    "write_json",
    "write_report",
]


def check_outputs(
    outputs: Mapping[str, str | os.PathLike[str] | None],
    inputs: Iterable[str | os.PathLike[str]],
) -> None:
    """Refuse, before any work, outputs that destroy something or cannot be written.

    Args:
        outputs: files to be written, by their names in messages; None is ignored.
        inputs: files that are read.

    Raises:
        ValueError: an output would overwrite an input, a picture or another output, or
            has the suffix of a picture.
        OSError: it is a folder, or its folder does not exist.
    """
    taken = {os.path.realpath(os.fsdecode(name)): "an input" for name in inputs}
    for title, output in outputs.items():
        if output is None:
            continue
        name = os.fsdecode(output)
        real = os.path.realpath(name)
        if is_picture(real):
            taken.setdefault(real, "a picture, or have the name of one")
        if real in taken:
            raise ValueError(
                f"{sanitize(name)}: the {title} would overwrite {taken[real]}: "
                "give it another name"
            )
        if os.path.isdir(real):
            raise IsADirectoryError(
                f"{sanitize(name)}: expected the name of a file for the {title}, got a "
                "folder"
            )
        if not os.path.isdir(os.path.dirname(real)):
            raise FileNotFoundError(
                f"{sanitize(name)}: there is no folder for the {title}: create "
                f"{sanitize(os.path.dirname(name))} first"
            )
        taken[real] = f"the {title}"


def write_report(
    path: str | os.PathLike[str],
    report: EvaluationReport,
    thumbnails: int = THUMBNAILS,
    explained: Drawing | None = None,
) -> None:
    """Write the report as a page.

    Args:
        path: of the HTML file, which is replaced when the new one is complete.
        report: what to report.
        thumbnails: how many pictures each list shows at most, 0 to
            `open_nsfw_tf.report.page.MAX_THUMBNAILS`.
        explained: what the lists show instead of an RGB picture, such as the map of
            `open_nsfw_tf.explain.heatmap`; None: the picture.

    Raises:
        ValueError: too many thumbnails.
        OSError: the file cannot be written.
        ImportError: jinja2 or matplotlib is not installed; the message says how to.
    """
    page = html(report, thumbnails, explained)
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def write_json(path: str | os.PathLike[str], report: EvaluationReport) -> None:
    """Write every figure of the report as JSON, see `EvaluationReport.to_dict`.

    Raises:
        OSError: the file cannot be written.
    """
    text = json.dumps(report.to_dict(), indent=1, allow_nan=False)
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(text + "\n", encoding="utf-8")
