"""The report: one HTML file that needs nothing else - no network, no script.

It can be mailed, archived and printed, follows the reader's dark or light setting, and
shows pictures blurred until they are pointed at, for the eyes of those who must look.
"""

import os
from importlib.resources import files
from pathlib import Path

import numpy as np

from open_nsfw_tf import __version__, plots
from open_nsfw_tf.evaluate import Evaluation
from open_nsfw_tf.evaluate.judgement import Judgement
from open_nsfw_tf.formats import replacing
from open_nsfw_tf.report import parts
from open_nsfw_tf.report.thumbnails import card

THUMBNAILS = 12  # pictures in each list, where nothing else is asked for
MOST_THUMBNAILS = 100
LISTED = 2000  # mistakes of a kind that are listed by path
METHOD = (
    "A picture is flagged if its score is at or above the threshold. A threshold is "
    "written as the shortest number that decides these pictures alike. Shares, "
    "precision and accuracy hold for the share of positives in this data. Intervals, "
    "95 %: of rates exact (Clopper-Pearson) for the threshold as it stands; of other "
    "figures percentile bootstrap, classes drawn apart; above 4,096 distinct scores, "
    "neighbouring ones are drawn together. Calibration error: 15 bins of equal width."
)


def write_report(
    path: str | os.PathLike[str], judgement: Judgement, thumbnails: int = THUMBNAILS
) -> None:
    """Write the report.

    Args:
        path: of the HTML file, which is replaced when the new one is whole.
        judgement: what to report.
        thumbnails: how many pictures each list shows at most, 0 to `MOST_THUMBNAILS`.

    Raises:
        ValueError: too many thumbnails.
        OSError: the file cannot be written.
        ImportError: matplotlib is not installed; the message says how to.
    """
    page = html(judgement, thumbnails)
    with replacing(Path(path)) as unfinished:
        unfinished.write_text(page, encoding="utf-8")


def html(judgement: Judgement, thumbnails: int = THUMBNAILS) -> str:
    """The report as one page of HTML; the arguments are those of `write_report`."""
    if not 0 <= thumbnails <= MOST_THUMBNAILS:
        raise ValueError(
            f"expected 0 to {MOST_THUMBNAILS} thumbnails, got {thumbnails}"
        )
    first = judgement.evaluations[0]
    title = f"Threshold report: {parts.text(', '.join(judgement.scores), 120)}"
    style = files(__package__).joinpath("style.css").read_text(encoding="utf-8")
    sections = [
        _summary(judgement),
        _notes(judgement),
        parts.section("Problems of the data", parts.problems(judgement.cases.problems)),
        _curves(judgement),
        _bands(judgement.evaluations),
        *(_thresholds(one, judgement) for one in judgement.evaluations),
        _classes(judgement.evaluations),
        _comparisons(judgement, thumbnails),
        _mistakes(judgement, thumbnails),
    ]
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        '<meta http-equiv="Content-Security-Policy" content="default-src \'none\'; '
        "img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{style}</style></head><body><main>"
        f"<h1>{title}</h1>"
        f'<p class="faint">{first.rows:,} pictures: {first.positives:,} '
        f"{parts.text(first.positive)}, {first.negatives:,} not</p>"
        f"{''.join(sections)}"
        f"<footer><p>{METHOD}</p><p>open_nsfw_tf {__version__}</p></footer>"
        "</main></body></html>\n"
    )


def _summary(judgement: Judgement) -> str:
    first, *others = judgement.evaluations
    if others:
        body = parts.side_by_side(judgement.evaluations)
    else:
        body = parts.cards(first)
    return parts.section("Summary", body)


def _notes(judgement: Judgement) -> str:
    several = len(judgement.evaluations) > 1
    lines = [
        f"<li>{parts.text(one.name) + ': ' if several else ''}{parts.text(line, 400)}</li>"
        for one in judgement.evaluations
        for line in one.said
    ]
    body = f"<ul>{''.join(lines)}</ul>"
    return parts.section("Mind", body, kind="notes") if lines else ""


def _curves(judgement: Judgement) -> str:
    evaluations = judgement.evaluations
    both = evaluations[0].ranking.both()
    figures = [
        f"<figure><figcaption>{name}</figcaption>{draw(evaluations)}</figure>"
        for name, draw in plots.CURVES.items()
        if both or name == "Calibration"
    ]
    figures += [
        f"<figure><figcaption>Scores by class: {parts.text(one.name, 60)}</figcaption>"
        f"{plots.histogram(one, f'histogram{index}')}</figure>"
        for index, one in enumerate(evaluations)
    ]
    grid = f'<div class="grid">{"".join(figures)}</div>'
    words = (
        '<p class="faint">A dot on a curve is the chosen threshold. Among the scores it '
        "is the dashed line, and the shaded range is the band of review; their scale is "
        "logarithmic.</p>"
    )
    return parts.section("Curves", words, grid)


def _bands(evaluations: list[Evaluation]) -> str:
    several = len(evaluations) > 1
    bodies = []
    for one in evaluations:
        if several:
            bodies.append(f"<h3>{parts.text(one.name)}</h3>")
        bodies += [parts.band(band) for band in one.bands]
    return parts.section("Safe, review, block", *bodies)


def _thresholds(one: Evaluation, judgement: Judgement) -> str:
    several = len(judgement.evaluations) > 1
    title = f"Thresholds{f': {parts.text(one.name)}' if several else ''}"
    return parts.section(
        title,
        parts.confusion(one),
        '<p class="faint">FPR: share of the others that is wrongly flagged. FNR: share '
        f"of {parts.text(one.positive)} that is missed. Flagged: share of all pictures "
        "at or above the threshold, which are blocked or sent to review.</p>",
        "<h3>What people ask for</h3>",
        parts.operating_points(one),
        "<h3>In steps</h3>",
        parts.thresholds(one),
    )


def _classes(evaluations: list[Evaluation]) -> str:
    bodies = []
    for one in evaluations:
        if one.classes is not None:
            if len(evaluations) > 1:
                bodies.append(f"<h3>{parts.text(one.name)}</h3>")
            bodies.append(parts.classes(one.classes))
    return parts.section("Every class", *bodies) if bodies else ""


def _comparisons(judgement: Judgement, thumbnails: int) -> str:
    bodies = []
    cases = judgement.cases
    for one in judgement.comparisons:
        bodies.append(parts.comparison(one))
        cards = ""
        for i in one.disagreements[:thumbnails]:
            scores = (
                f"{name}: {judgement.scores[name][i]:.4f}"
                for name in (one.first, one.second)
            )
            label = f"label: {cases.classes[cases.labels[i]]}"
            cards += card(cases.paths[i], cases.root, *scores, label)
        if cards:
            bodies.append(
                f'<h3>They differ most on</h3><div class="thumbs">{cards}</div>'
            )
    return parts.section("Comparison", *bodies) if bodies else ""


def _mistakes(judgement: Judgement, thumbnails: int) -> str:
    first = judgement.evaluations[0]
    missed, wrong = judgement.mistakes()
    of = f" of {parts.text(first.name)}" if judgement.comparisons else ""
    positive = parts.text(first.positive)
    return parts.section(
        f"Worst mistakes{of}",
        '<p class="faint">Pictures are blurred until pointed at. A sure mistake is '
        "often a wrong label.</p>",
        _list(judgement, f"Missed {positive}, lowest score first", missed, thumbnails),
        _list(
            judgement,
            f"Wrongly flagged as {positive}, highest score first",
            wrong,
            thumbnails,
        ),
    )


def _list(judgement: Judgement, title: str, which: np.ndarray, thumbnails: int) -> str:
    cases = judgement.cases
    scores = judgement.scores[judgement.evaluations[0].name]
    heading = f"<h3>{title}: {len(which):,}</h3>"
    if not len(which):
        return heading + "<p>None.</p>"

    def words(i: int) -> tuple[str, str]:
        return f"{scores[i]:.4f}", cases.classes[cases.labels[i]]

    cards = "".join(
        card(cases.paths[i], cases.root, f"{words(i)[0]}, label {words(i)[1]}")
        for i in which[:thumbnails]
    )
    lines = (
        (f"{words(i)[0]} {parts.text(words(i)[1], 40)}", cases.paths[i])
        for i in which[:LISTED]
    )
    rest = len(which) - LISTED
    more = f"<p>and {rest:,} more</p>" if rest > 0 else ""
    listed = min(len(which), LISTED)
    return (
        f'{heading}<div class="thumbs">{cards}</div><details><summary>the paths of '
        f"{listed:,}</summary>{parts.rows(lines)}{more}</details>"
    )
