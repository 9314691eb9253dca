"""The parts of the report: what stands in each section, as HTML.

Everything that comes from outside - paths, names, errors - goes through `text`.
"""

from collections.abc import Iterable, Sequence
from html import escape

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate import Classes, Evaluation, OperatingPoint, Problem
from open_nsfw_tf.evaluate.cases import PROBLEMS
from open_nsfw_tf.evaluate.compare import Comparison
from open_nsfw_tf.evaluate.text import FIGURES, RATES
from open_nsfw_tf.evaluate.thresholds import Band

UNDEFINED = "–"
HEADS = {  # of columns, which have little room
    "fpr": "FPR",
    "fnr": "FNR",
    "flagged": "flagged",
    "precision": "precision",
    "recall": "recall",
    "f1": "F1",
    "accuracy": "accuracy",
}
POINTS = {
    "max_fnr": "at most {} missed",
    "max_fpr": "at most {} wrongly flagged",
    "min_precision": "precision of at least {}",
    "min_recall": "recall of at least {}",
}


def text(words: object, longest: int = 200) -> str:
    """Words from outside as HTML: escaped, printable, and cut if long."""
    return escape(sanitize(words, longest))


def percent(share: float | None) -> str:
    """A share in per cent, with as many digits as tell it apart from 0 and 100."""
    if share is None:
        return UNDEFINED
    value = 100 * share
    digits = 1 if 1 <= value <= 99 or value in (0, 100) else 2
    return f"{value:.{digits}f}\N{NO-BREAK SPACE}%"


def number(value: float | None, digits: int = 4) -> str:
    """A figure with this many digits."""
    return UNDEFINED if value is None else f"{value:.{digits}f}"


def exact(threshold: float) -> str:
    """A threshold with all its digits: fewer might decide otherwise."""
    return f"{threshold!r}".removesuffix(".0") if threshold else "0"


def table(
    head: Sequence[str],
    rows: Iterable[Sequence[str]],
    caption: str = "",
    kind: str = "",
) -> str:
    """A table whose cells are HTML; the first of each row is its heading."""
    title = f"<caption>{caption}</caption>" if caption else ""
    columns = "".join(f'<th scope="col">{cell}</th>' for cell in head)
    body = "".join(f"<tr>{_row(cells)}</tr>" for cells in rows)
    return (
        f'<div class="scroll"><table class="{kind}">{title}<thead><tr>{columns}</tr>'
        f"</thead><tbody>{body}</tbody></table></div>"
    )


def _row(cells: Sequence[str]) -> str:
    first, *rest = cells
    return f'<th scope="row">{first}</th>' + "".join(
        f"<td>{cell}</td>" for cell in rest
    )


def section(title: str, *parts: str, kind: str = "") -> str:
    """A section of the page."""
    return f'<section class="{kind}"><h2>{title}</h2>{"".join(parts)}</section>'


def cards(one: Evaluation) -> str:
    """The summary of one table, with intervals."""
    chosen = one.chosen
    threshold = UNDEFINED if chosen is None else exact(chosen.threshold)
    found = [_card("threshold", threshold, text(one.criterion), kind="main card")]
    for name, title in RATES.items():
        value = None if chosen is None else getattr(chosen, name)
        found.append(_card(title, percent(value), _ends(one, name)))
    for name, title in FIGURES.items():
        ends = one.intervals.get(name)
        among = f"{ends[0]:.4f} to {ends[1]:.4f}" if ends else ""
        found.append(_card(title, number(one.figures[name]), among))
    return f'<div class="cards">{"".join(found)}</div>'


def _ends(one: Evaluation, name: str) -> str:
    ends = one.intervals.get(name)
    return f"{percent(ends[0])} to {percent(ends[1])}" if ends else ""


def _card(title: str, value: str, among: str = "", kind: str = "card") -> str:
    more = f"<span>{among}</span>" if among else ""
    return f'<div class="{kind}"><span>{title}</span><b>{value}</b>{more}</div>'


def side_by_side(evaluations: Sequence[Evaluation]) -> str:
    """The figures of several tables of scores, a column each."""
    rows = [
        [title, *(number(one.figures[name]) for one in evaluations)]
        for name, title in FIGURES.items()
    ]
    chosen = [one.chosen for one in evaluations]
    rows.append(
        ["threshold", *(exact(c.threshold) if c else UNDEFINED for c in chosen)]
    )
    for name, title in RATES.items():
        values = (percent(getattr(c, name)) if c else UNDEFINED for c in chosen)
        rows.append([title, *values])
    return table(["", *(text(one.name, 40) for one in evaluations)], rows)


def confusion(one: Evaluation) -> str:
    """The confusion matrix of the chosen threshold."""
    point = one.chosen
    if point is None:
        return ""
    positive = text(one.positive, 40)
    return _matrix(
        [f"not {positive}", positive],
        np.array(
            [
                [point.true_negatives, point.false_positives],
                [point.false_negatives, point.true_positives],
            ]
        ),
        f"Confusion at {exact(point.threshold)}",
    )


def _matrix(names: Sequence[str], counts: np.ndarray, caption: str) -> str:
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    rows = ""
    for row, name in enumerate(names):
        total = max(int(counts[row].sum()), 1)
        cells = "".join(
            f'<td class="{"right" if row == column else "wrong"}" '
            f'style="--share:{count / total:.4f}">{int(count):,}</td>'
            for column, count in enumerate(counts[row])
        )
        rows += f'<tr><th scope="row">{name}</th>{cells}</tr>'
    return (
        f'<div class="scroll"><table class="confusion"><caption>{caption}</caption>'
        f"<thead><tr><th>label \\ decision</th>{head}</tr></thead><tbody>{rows}</tbody>"
        "</table></div>"
    )


def thresholds(one: Evaluation) -> str:
    """What thresholds in steps do."""
    head = ["threshold", *HEADS.values()]
    return table(
        head,
        ([exact(point.threshold), *_rates(point)] for point in one.thresholds),
    )


def operating_points(one: Evaluation) -> str:
    """The thresholds that people ask for."""
    rows = []
    for name, point in one.operating_points.items():
        kind, _, wanted = name.rpartition("_")
        title = (
            POINTS[kind].format(f"{100 * float(wanted):g} %")
            if kind in POINTS
            else "highest F1"
        )
        if point is None:
            rows.append([title, "none", *[UNDEFINED] * len(HEADS)])
        else:
            rows.append([title, exact(point.threshold), *_rates(point)])
    return table(["wanted", "threshold", *HEADS.values()], rows)


def _rates(point: OperatingPoint) -> list[str]:
    return [percent(getattr(point, name)) for name in HEADS]


def band(found: Band) -> str:
    """A band as a bar: how many pictures are safe, reviewed, blocked."""
    zones = {"safe": found.safe, "review": found.review, "block": found.block}
    bar = "".join(
        f'<div class="{zone}" style="flex-grow:{max(share, 0):.6f}"></div>'
        for zone, share in zones.items()
    )
    low, high = exact(found.low), exact(found.high)
    words = {
        "safe": f"safe, below {low}: {percent(found.safe)}; of the positives "
        f"{percent(found.missed)} are missed here",
        "review": f"seen by a human, {low} to below {high}: {percent(found.review)}",
        "block": f"blocked, from {high} on: {percent(found.block)}; of the negatives "
        f"{percent(found.wrongly_blocked)} are wrongly blocked",
    }
    legend = "".join(
        f'<span><i class="{zone}"></i>{line}</span>' for zone, line in words.items()
    )
    return (
        f'<div class="band"><h3>{low} and {high}: {text(found.title)}</h3>'
        f'<div class="zones">{bar}</div><div class="legend">{legend}</div></div>'
    )


def classes(found: Classes) -> str:
    """Figures of every class, and who is taken for whom."""
    rows = [
        [
            text(one.name, 40),
            f"{one.rows:,}",
            percent(one.precision),
            percent(one.recall),
            percent(one.f1),
            number(one.roc_auc),
            number(one.average_precision),
        ]
        for one in found.each
    ]
    head = ["class", "pictures", "precision", "recall", "F1", "ROC AUC", "AP"]
    names = [text(name, 40) for name in found.names]
    return (
        f"<p>Accuracy {percent(found.accuracy)}, macro F1 {percent(found.macro_f1)}, "
        f"log loss {number(found.log_loss)}, Brier score {number(found.brier_score)}; "
        "the class of the highest score is decided for.</p>"
        + table(head, rows)
        + "<h3>Confusion</h3>"
        + _matrix(names, found.confusion, "")
    )


def comparison(found: Comparison) -> str:
    """Whether a second table of scores is better than the first."""
    rows = []
    for name, difference in found.differences.items():
        ends = found.intervals.get(name)
        among = f"{ends[0]:+.4f} to {ends[1]:+.4f}" if ends else UNDEFINED
        sure = "" if not ends else "yes" if ends[0] > 0 or ends[1] < 0 else "no"
        rows.append([FIGURES[name], f"{difference:+.4f}", among, sure])
    test = found.mcnemar
    head = ["figure", "difference", "95 % interval", "more than chance"]
    return (
        f"<h3>{text(found.second)} against {text(found.first)}</h3>"
        + (table(head, rows) if rows else "")
        + f"<p>Decisions: {test.only_second:,} pictures only {text(found.second)} decides "
        f"rightly, {test.only_first:,} only {text(found.first)}; McNemar's exact test "
        f"p = {test.p_value:.3g}.</p>"
    )


def problems(found: Sequence[Problem]) -> str:
    """What is wrong with the data, with examples."""
    if not found:
        return "<p>None: every score has a label, every label a score.</p>"
    items = ""
    for one in found:
        where = f"{text(one.table, 60)}: " if one.table else ""
        examples = "".join(f"<li><code>{text(e)}</code></li>" for e in one.examples)
        more = one.count - len(one.examples)
        rest = f"<li>and {more:,} more</li>" if more > 0 else ""
        items += (
            f"<li><details><summary>{where}{escape(PROBLEMS[one.kind])}: {one.count:,}"
            f"</summary><ul>{examples}{rest}</ul></details></li>"
        )
    return f'<ul class="problems">{items}</ul>'


def rows(lines: Iterable[tuple[str, str]]) -> str:
    """A long list of figures and paths; what is out of sight costs no layout."""
    items = "".join(
        f"<li><b>{words}</b><code>{text(path)}</code></li>" for words, path in lines
    )
    return f'<ol class="rows">{items}</ol>'
