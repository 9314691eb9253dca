"""The figure of the table of networks: what accuracy costs."""

from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.backbones.model_stats import ModelStats
from open_nsfw_tf.messages import shown
from open_nsfw_tf.plots import FAINT, INK, SERIES, as_file, figure, import_matplotlib

GIGA = 1e9


def trade_off(rows: Sequence[ModelStats]) -> str:
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


def _point(axes: Any, row: ModelStats) -> None:
    colour, marker = (SERIES[0], "o") if row.built else (SERIES[1], "s")
    x, y = row.madds / GIGA, 100 * (row.top1 or 0)
    axes.plot([x], [y], marker=marker, linestyle="none", color=colour)
    axes.annotate(
        shown(row.name, 40),
        (x, y),
        xytext=(6, 3 if row.built else -9),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )


def _tick(axes: Any, row: ModelStats, left: bool) -> None:
    """A network of unknown accuracy; its name left of its tick, or right."""
    x = row.madds / GIGA
    axes.axvline(x, ymax=0.04, color=FAINT, linewidth=1.4)
    axes.annotate(
        shown(row.name, 40),
        (x, axes.get_ylim()[0]),
        xytext=(-4 if left else 4, 4),
        textcoords="offset points",
        fontsize=8,
        ha="right" if left else "left",
        color=INK,
    )
