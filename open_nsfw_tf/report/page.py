"""The report as a page of HTML: the values for the template page.html."""

import base64
import os
from collections.abc import Callable, Iterator
from functools import partial
from importlib.resources import files
from io import BytesIO
from typing import Any

from PIL import Image

from open_nsfw_tf import __version__
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.evaluate import Evaluation, EvaluationReport, OperatingPoint
from open_nsfw_tf.evaluate.join import PROBLEMS
from open_nsfw_tf.image import load_rgb
from open_nsfw_tf.libraries import need
from open_nsfw_tf.report import plots
from open_nsfw_tf.report.text import FIGURES, RATES

THUMBNAILS = 12  # pictures in each list, by default
MAX_THUMBNAILS = 100
LISTED = 2000  # mistakes of a kind that are listed by path
SIDE = 176  # pixels, of a thumbnail's longer side
QUALITY = 60  # of its JPEG: about 5 kB
MAX_PIXELS = 50_000_000  # larger pictures get no thumbnail
PATH_END = 45  # characters at the end of a path that are always shown
UNDEFINED = "–"
COLUMNS = {  # short headings
    "fpr": "FPR",
    "fnr": "FNR",
    "flagged": "flagged",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "accuracy",
}
WANTED = {
    "max_fnr": "at most {} missed",
    "max_fpr": "at most {} wrongly flagged",
    "min_precision": "precision of at least {}",
    "min_recall": "recall of at least {}",
}
METHOD = (
    "A picture is flagged if its score is at or above the threshold. A threshold is "
    "written as the shortest number that decides these pictures alike. Shares, "
    "precision and accuracy hold for the share of positives in this data. Intervals, "
    "95 %: of rates exact (Clopper-Pearson) for the threshold as it stands; of other "
    "figures percentile bootstrap, classes drawn apart; above 4,096 distinct scores, "
    "neighbouring ones are drawn together. Calibration error: 15 bins of equal width."
)


Drawing = Callable[[Image.Image], Image.Image]


def html(
    report: EvaluationReport,
    thumbnails: int = THUMBNAILS,
    explained: Drawing | None = None,
) -> str:
    """The report as one page of HTML.

    Args:
        report: what to report.
        thumbnails: how many pictures each list shows at most, 0 to `MAX_THUMBNAILS`.
        explained: what the lists show instead of an RGB picture, such as the map of
            `open_nsfw_tf.explain.heatmap`; None: the picture.

    Raises:
        ValueError: too many thumbnails.
        ImportError: jinja2 or matplotlib is not installed; the message says how to.
    """
    if not 0 <= thumbnails <= MAX_THUMBNAILS:
        raise ValueError(f"expected 0 to {MAX_THUMBNAILS} thumbnails, got {thumbnails}")
    need("evaluate", "jinja2")
    from jinja2 import Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(autoescape=True, undefined=StrictUndefined)
    environment.filters.update(
        exact=exact,
        number=number,
        path_end=path_end,
        percent=percent,
        thousands=lambda number: f"{number:,}",
        wanted_points=lambda one: list(_wanted_points(one)),
        words=sanitize,
    )
    folder = files(__package__)
    missed, wrong = report.mistakes()
    template = environment.from_string(
        folder.joinpath("page.html").read_text(encoding="utf-8")
    )
    page: str = template.render(
        report=report,
        joined=report.joined,
        scores=report.scores[report.evaluations[0].name],
        missed=missed.tolist(),
        wrong=wrong.tolist(),
        notes=[(one, line) for one in report.evaluations for line in one.notes],
        curves=[(title, Markup(svg)) for title, svg in _curves(report)],
        style=Markup(folder.joinpath("style.css").read_text(encoding="utf-8")),
        thumbnail_of=partial(thumbnail, root=report.joined.root, explained=explained),
        explained=explained,
        thumbnails=thumbnails,
        listed=LISTED,
        columns=COLUMNS,
        figures=FIGURES,
        rates=RATES,
        problem_titles=PROBLEMS,
        percent_range=lambda ends: (
            f"{percent(ends[0])} to {percent(ends[1])}" if ends else ""
        ),
        number_range=lambda ends: "{:.4f} to {:.4f}".format(*ends) if ends else "",
        undefined=UNDEFINED,
        method=METHOD,
        version=__version__,
    )
    return page + "\n"


def percent(share: float | None) -> str:
    """A share in per cent, with one more digit near 0 and 100."""
    if share is None:
        return UNDEFINED
    value = 100 * share
    digits = 1 if 1 <= value <= 99 or value in (0, 100) else 2
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float | None, digits: int = 4) -> str:
    """A figure with this many digits."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def exact(threshold: float) -> str:
    """A threshold with all its digits: rounding it could change decisions."""
    return f"{threshold!r}".removesuffix(".0") if threshold else "0"


def path_end(path: str) -> str:
    """The last characters of a long path, which are the most useful ones."""
    return path if len(path) <= PATH_END else f"…{path[-PATH_END:]}"


def thumbnail(path: str, root: str, explained: Drawing | None = None) -> dict[str, Any]:
    """A small copy of a picture, embedded in the page.

    Args:
        path: of the picture; the file may be missing, or not a picture.
        root: the folder that a relative path may start from, beside the working
            directory.
        explained: as for `html`.

    Returns:
        `url`, a data URL, with `width` and `height` in pixels, or `error`, the reason
        why there is none.
    """
    below = os.path.join(root, path)
    source = path if os.path.isabs(path) or os.path.exists(path) else below
    try:
        picture = load_rgb(source, MAX_PIXELS)
    except ImageError as error:
        return {"error": str(error).removeprefix(f"{sanitize(source)}: ")}
    if explained:
        picture = explained(picture)
    picture.thumbnail((SIDE, SIDE))
    width, height = picture.size
    return {"error": None, "url": data_url(picture), "width": width, "height": height}


def data_url(picture: Image.Image) -> str:
    """A small RGB picture as a data URL, to be embedded in a page."""
    file = BytesIO()
    picture.save(file, format="JPEG", quality=QUALITY)
    data = base64.b64encode(file.getvalue()).decode("ascii")
    return f"data:image/jpeg;base64,{data}"


def _curves(report: EvaluationReport) -> Iterator[tuple[str, str]]:
    """The figures of the page, as SVG, by their titles."""
    evaluations = report.evaluations
    both = evaluations[0].ranking.both()
    for title, draw in plots.CURVES.items():
        if both or title == "Calibration":
            yield title, draw(evaluations)
    for index, one in enumerate(evaluations):
        title = f"Scores by class: {sanitize(one.name, 60)}"
        yield title, plots.histogram(one, f"histogram{index}")


def _wanted_points(one: Evaluation) -> Iterator[tuple[str, OperatingPoint | None]]:
    """The operating points of the evaluation, with titles."""
    for name, point in one.operating_points.items():
        kind, _, wanted = name.rpartition("_")
        if kind in WANTED:
            yield WANTED[kind].format(f"{100 * float(wanted):g} %"), point
        else:
            yield "highest F1", point
