"""The figure of the table of networks: what accuracy costs."""

from collections.abc import Sequence
from typing import Any

from open_nsfw_tf.backbones.facts import Fact
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.plots import FAINT, INK, SERIES, as_file, figure, import_matplotlib

GIGA = 1e9


def trade_off(facts: Sequence[Fact]) -> str:
    """Published ImageNet accuracy over multiply-adds, as an SVG file.

    Networks of which no accuracy is known are ticks at the bottom.

    Raises:
        ImportError: matplotlib is not installed.
    """
    import_matplotlib()
    with figure("models", "ImageNet accuracy against multiply-adds") as (axes, done):
        known = [fact for fact in facts if fact.top1 is not None]
        for fact in known:
            _point(axes, fact)
        axes.set_xscale("log")
        low = min((100 * (fact.top1 or 0) for fact in known), default=50)
        axes.set_ylim(low - 8, 84)
        madds = [fact.madds / GIGA for fact in facts] or [1.0]
        axes.set_xlim(min(madds) / 2, max(madds) * 3)
        unknown = [fact for fact in facts if fact.top1 is None]
        for fact in sorted(unknown, key=lambda fact: fact.madds):
            _tick(axes, fact, left=fact.madds < max(one.madds for one in unknown))
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.set_xlabel("multiply-adds for one picture, × 10⁹")
        axes.set_ylabel("ImageNet top-1 accuracy, %")
    return as_file(done[0])


def _point(axes: Any, fact: Fact) -> None:
    colour, marker = (SERIES[0], "o") if fact.built else (SERIES[1], "s")
    x, y = fact.madds / GIGA, 100 * (fact.top1 or 0)
    axes.plot([x], [y], marker=marker, linestyle="none", color=colour)
    axes.annotate(
        sanitize(fact.name, 40),
        (x, y),
        xytext=(6, 3 if fact.built else -9),
        textcoords="offset points",
        fontsize=8,
        color=INK,
    )


def _tick(axes: Any, fact: Fact, left: bool) -> None:
    """A network of unknown accuracy; its name left of its tick, or right."""
    x = fact.madds / GIGA
    axes.axvline(x, ymax=0.04, color=FAINT, linewidth=1.4)
    axes.annotate(
        sanitize(fact.name, 40),
        (x, axes.get_ylim()[0]),
        xytext=(-4 if left else 4, 4),
        textcoords="offset points",
        fontsize=8,
        ha="right" if left else "left",
        color=INK,
    )
