"""The plots of an evaluation, as SVG that takes its colours from the page around it.

matplotlib draws with stand-in colours, which are replaced by CSS variables, so that a
plot fits a dark page, a light one and paper. Text stays text. Invisible detail of
curves is removed, so a plot of a million pictures is as small as one of a thousand.
"""

import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from html import escape
from importlib import import_module
from io import StringIO
from typing import TYPE_CHECKING, Any

import numpy as np

from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.evaluate import Evaluation
from open_nsfw_tf.evaluate.thresholds import thinned
from open_nsfw_tf.libraries import need

if TYPE_CHECKING:
    from open_nsfw_tf.backbones.model_stats import ModelStats

# Stand-in colours and the CSS variables that they become.
COLOURS = {
    "#010101": "var(--ink)",
    "#020202": "var(--faint)",
    "#030303": "var(--line)",
    "#040404": "var(--paper)",
    "#050505": "var(--positive)",
    "#060606": "var(--negative)",
    "#070707": "var(--review)",
    **{f"#1{n}1{n}1{n}": f"var(--series-{n})" for n in range(6)},
}
THEMES = {  # light and dark, as in the report's style.css, for plots without a page
    "--ink": ("#1d2129", "#e8ebf0"),
    "--faint": ("#667080", "#9aa4b2"),
    "--line": ("#d8dde5", "#353c47"),
    "--paper": ("#ffffff", "#1b1f26"),
    "--positive": ("#c8401f", "#ff8a66"),
    "--negative": ("#1f6fb2", "#6cb6f5"),
    "--review": ("#b98900", "#e5bb4a"),
    "--series-0": ("#1f6fb2", "#6cb6f5"),
    "--series-1": ("#c8401f", "#ff8a66"),
    "--series-2": ("#1b8a6b", "#55cfa9"),
    "--series-3": ("#8a4fbf", "#c39bf0"),
    "--series-4": ("#9a6a00", "#e5bb4a"),
    "--series-5": ("#5a6270", "#aab3c0"),
}
INK, FAINT, LINE, PAPER, POSITIVE, NEGATIVE, REVIEW, *SERIES = COLOURS
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))  # for readers without colours
GIGA = 1e9
LONGEST = 28  # characters of a name in a legend
SIZE = (4.6, 3.6)  # inches; CSS scales the plot
RATES = (0.001, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 0.99)  # DET's ticks
ENDS = np.array([0.0005, 0.995])  # and its axes
SETTINGS = {
    "axes.edgecolor": FAINT,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 10,
    "figure.facecolor": "none",
    "font.size": 10,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "legend.edgecolor": "none",
    "legend.facecolor": PAPER,
    "legend.fontsize": 9,
    "savefig.facecolor": "none",
    "svg.fonttype": "none",
    "svg.hashsalt": "open_nsfw_tf",
    "text.color": INK,
    "text.parse_math": False,  # a name may contain dollar signs
    "xtick.color": FAINT,
    "xtick.labelcolor": INK,
    "ytick.color": FAINT,
    "ytick.labelcolor": INK,
}


def roc(evaluations: Sequence[Evaluation]) -> str:
    """ROC curves: recall over false positive rate, as SVG."""
    with figure("roc", "ROC curve") as (axes, done):
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for style, one in _styles(evaluations):
            x, y = _curve(one.ranking.fpr, one.ranking.tpr)
            axes.plot(x, y, **style, label=_named(one, "roc_auc", "AUC"))
            _mark(axes, style, one, "fpr", "recall")
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("recall")
        _legend(axes)
    return done[0]


def precision_recall(evaluations: Sequence[Evaluation]) -> str:
    """Precision over recall, as SVG."""
    with figure("pr", "Precision-recall curve") as (axes, done):
        for style, one in _styles(evaluations):
            x, y = _curve(one.ranking.tpr, one.ranking.precision)
            axes.plot(x, y, **style, label=_named(one, "average_precision", "AP"))
            _mark(axes, style, one, "recall", "precision")
        base = evaluations[0].figures["base_rate"]
        axes.axhline(base, color=LINE, linewidth=1)
        axes.set_xlabel("recall")
        axes.set_ylabel("precision")
        axes.set_ylim(-0.02, 1.05)
        _legend(axes)
    return done[0]


def det(evaluations: Sequence[Evaluation]) -> str:
    """Detection error tradeoff: both error rates on normal deviate axes, as SVG."""
    deviate = import_module("scipy.special").ndtri
    with figure("det", "Detection error tradeoff") as (axes, done):
        for style, one in _styles(evaluations):
            rates = np.stack([one.ranking.fpr, one.ranking.fnr])
            inside = rates[:, ((rates > 0) & (rates < 1)).all(axis=0)]
            if inside.size:  # none where the classes do not overlap
                x, y = _curve(*deviate(inside))
                axes.plot(x, y, **style, label=_cut(one.name))
        for set_ticks in (axes.set_xticks, axes.set_yticks):
            set_ticks(deviate(RATES), [f"{100 * rate:g} %" for rate in RATES])
        axes.set(xlim=deviate(ENDS), ylim=deviate(ENDS))
        axes.tick_params(labelsize=8)
        axes.set_xlabel("false positive rate")
        axes.set_ylabel("false negative rate")
        _legend(axes)
    return done[0]


def calibration(evaluations: Sequence[Evaluation]) -> str:
    """Calibration: the share of positives over the mean score of each bin, as SVG."""
    with figure("calibration", "Calibration curve") as (axes, done):
        axes.plot([0, 1], [0, 1], color=LINE, linewidth=1)
        for style, one in _styles(evaluations):
            filled = one.calibration.counts > 0
            label = _named(one, "expected_calibration_error", "ECE")
            axes.plot(
                one.calibration.scores[filled],
                one.calibration.shares[filled],
                **style,
                marker="o",
                markersize=3,
                label=label,
            )
        axes.set_xlabel("mean score")
        axes.set_ylabel("share of positives")
        _legend(axes)
    return done[0]


def histogram(evaluation: Evaluation, prefix: str = "histogram") -> str:
    """The scores of both classes, with the band and the threshold, as SVG.

    Bars are the share of their class on a logarithmic axis: most scores lie at the
    ends, and the decisions are made in between.
    """
    title = f"Scores by class: {evaluation.name}"
    with figure(prefix, title) as (axes, done):
        low, high = evaluation.bands[0].low, evaluation.bands[0].high
        axes.axvspan(low, high, color=REVIEW, alpha=0.15, linewidth=0)
        classes = (
            (
                evaluation.histogram.negatives,
                NEGATIVE,
                f"not {_cut(evaluation.positive)}",
            ),
            (evaluation.histogram.positives, POSITIVE, _cut(evaluation.positive)),
        )
        for counts, colour, label in classes:
            if counts.sum():
                axes.stairs(
                    counts / counts.sum(),
                    evaluation.histogram.edges,
                    fill=True,
                    alpha=0.35,
                    color=colour,
                )
                axes.stairs(
                    counts / counts.sum(),
                    evaluation.histogram.edges,
                    color=colour,
                    linewidth=1.4,
                    label=label,
                )
        axes.axvline(evaluation.threshold, color=INK, linewidth=1, linestyle="--")
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(_ticker().LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(lambda share, _: f"{100 * share:g} %")
        axes.yaxis.set_minor_locator(_ticker().NullLocator())
        axes.set_xlim(0, 1)
        axes.set_xlabel("score")
        axes.set_ylabel("share of the class")
        shares = [counts / max(counts.sum(), 1) for counts, _, _ in classes]
        axes.set_ylim(
            bottom=min(share[share > 0].min(initial=1) for share in shares) / 2
        )
        _legend(axes, columns=2)
    return done[0]


CURVES: dict[str, Callable[[Sequence[Evaluation]], str]] = {
    "ROC": roc,
    "Precision and recall": precision_recall,
    "Detection error tradeoff": det,
    "Calibration": calibration,
}


def import_matplotlib() -> tuple[Any, Any]:
    """Import matplotlib and its Figure, when they are first needed.

    Raises:
        ImportError: it is not installed; the message says how to.
    """
    need("evaluate", "matplotlib")
    figure = import_module("matplotlib.figure").Figure
    return import_module("matplotlib"), figure


def _ticker() -> Any:
    return import_module("matplotlib.ticker")


@contextmanager
def figure(prefix: str, title: str) -> Iterator[tuple[Any, list[str]]]:
    """Axes to draw on, and a list that contains the SVG after the block.

    Args:
        prefix: of the SVG's ids, different in each plot of a page.
        title: for screen readers.
    """
    matplotlib, figure_of = import_matplotlib()
    done: list[str] = []
    with matplotlib.rc_context(SETTINGS), warnings.catch_warnings():
        # The reader's fonts draw the text, not matplotlib's, which lacks many scripts.
        warnings.filterwarnings("ignore", "Glyph")
        drawing = figure_of(figsize=SIZE, layout="constrained")
        axes = drawing.add_subplot()
        axes.set_axisbelow(True)
        yield axes, done
        text = StringIO()
        drawing.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    done.append(_for_page(text.getvalue(), prefix, title))


def _for_page(svg: str, prefix: str, title: str) -> str:
    """Make matplotlib's file a part of a page, which may contain several of them."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    view = re.search(r'viewBox="([^"]+)"', svg)
    box = view[1] if view else "0 0 1 1"
    label = escape(sanitize(title))
    svg = re.sub(
        r"<svg[^>]*>",
        lambda _: f'<svg viewBox="{box}" role="img" aria-label="{label}">',
        svg,
        count=1,
    )
    svg = svg.replace("xlink:href", "href")
    svg = re.sub(r'\bid="', f'id="{prefix}-', svg)
    svg = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}-", svg)
    svg = re.sub(r"font: ([\d.]+px)[^;\"]*", r"font-size: \1", svg)
    for stand_in, variable in COLOURS.items():
        svg = svg.replace(stand_in, variable)
    return svg


def as_file(svg: str) -> str:
    """A plot of this module as a complete SVG file, with its colours."""
    light = ";".join(f"{name}:{colour}" for name, (colour, _) in THEMES.items())
    dark = ";".join(f"{name}:{colour}" for name, (_, colour) in THEMES.items())
    style = (
        f"<style>:root{{{light};font-family:sans-serif}}"
        f"@media (prefers-color-scheme:dark){{:root{{{dark}}}}}</style>"
    )
    head, rest = svg.split(">", 1)
    head = head.replace("<svg", '<svg xmlns="http://www.w3.org/2000/svg"', 1)
    return f"{head}>{style}{rest}"


def _styles(
    evaluations: Sequence[Evaluation],
) -> Iterator[tuple[dict[str, Any], Evaluation]]:
    for index, one in enumerate(evaluations):
        colour = SERIES[index % len(SERIES)]
        dash = DASHES[index % len(DASHES)]
        yield {"color": colour, "linestyle": dash, "linewidth": 1.6}, one


def _curve(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    indices = thinned(x, y)
    return x[indices], y[indices]


def _cut(name: str) -> str:
    name = sanitize(name)
    return name if len(name) <= LONGEST else f"...{name[3 - LONGEST :]}"


def _named(one: Evaluation, figure: str, short: str) -> str:
    value = one.figures[figure]
    return _cut(one.name) if value is None else f"{_cut(one.name)}, {short} {value:.4f}"


def _legend(axes: Any, columns: int = 1) -> None:
    """A legend above the axes, where no curve crosses it."""
    handles, labels = axes.get_legend_handles_labels()
    if labels:
        axes.figure.legend(handles, labels, loc="outside upper left", ncols=columns)


def _mark(axes: Any, style: dict[str, Any], one: Evaluation, x: str, y: str) -> None:
    """Mark the chosen threshold on a curve."""
    if one.chosen is None:
        return
    point = getattr(one.chosen, x), getattr(one.chosen, y)
    if None not in point:
        axes.plot(
            [point[0]],
            [point[1]],
            marker="o",
            markersize=6,
            color=style["color"],
            markeredgecolor=PAPER,
        )


def trade_off(rows: "Sequence[ModelStats]") -> str:
    """Published ImageNet accuracy over multiply-adds, as an SVG file.

    Networks of which no accuracy is known are ticks at the bottom.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import_matplotlib()
    with figure("models", "ImageNet accuracy against multiply-adds") as (axes, done):
        known = [row for row in rows if row.top1 is not None]
        for row in known:
            _point(axes, row)
        axes.set_xscale("log")
        low = min((100 * (row.top1 or 0) for row in known), default=50)
        axes.set_ylim(low - 8, 84)
        madds = [row.madds / GIGA for row in rows] or [1.0]
        axes.set_xlim(min(madds) / 2, max(madds) * 3)
        unknown = [row for row in rows if row.top1 is None]
        for row in sorted(unknown, key=lambda row: row.madds):
            _tick(axes, row, left=row.madds < max(one.madds for one in unknown))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("multiply-adds for one picture, × 10⁹")
        axes.set_ylabel("ImageNet top-1 accuracy, %")
    return as_file(done[0])


def _point(axes: Any, row: "ModelStats") -> None:
    colour, marker = (SERIES[0], "o") if row.built else (SERIES[1], "s")
    x, y = row.madds / GIGA, 100 * (row.top1 or 0)
    axes.plot([x], [y], marker=marker, linestyle="none", color=colour)
    axes.annotate(
        sanitize(row.name, 40),
        (x, y),
        xytext=(6, 3 if row.built else -9),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )


def _tick(axes: Any, row: "ModelStats", left: bool) -> None:
    """Draw a network of unknown accuracy; its name is left or right of its tick."""
    x = row.madds / GIGA
    axes.axvline(x, ymax=0.04, color=FAINT, linewidth=1.4)
    axes.annotate(
        sanitize(row.name, 40),
        (x, axes.get_ylim()[0]),
        xytext=(-4 if left else 4, 4),
        textcoords="offset points",
        fontsize=8,
        ha="right" if left else "left",
        color=INK,
    )
