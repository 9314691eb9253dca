"""The figure of a run: loss, accuracy and learning rate by epoch."""

import itertools
from collections.abc import Sequence

from open_nsfw_tf.report.plots import FAINT, INK, LINE, SERIES, as_file, figure
from open_nsfw_tf.train.schedule import Row, best

PANELS = {  # title, and of each line: column, name, dash
    "loss": (("loss", "training", "--"), ("val_loss", "validation", "-")),
    "accuracy": (("accuracy", "training", "--"), ("val_accuracy", "validation", "-")),
    "learning rate": (("learning_rate", "", "-"),),
}
SIZE = (6.0, 7.0)  # inches


def curves(history: Sequence[Row]) -> str:
    """Draw the history.

    Args:
        history: a row or more.

    Returns:
        An SVG file; the best epoch is marked, stages are divided by lines.

    Raises:
        ImportError: matplotlib is not installed.
    """
    epochs = [row["epoch"] for row in history]
    chosen = best(history)
    with figure("curves", "Training: loss, accuracy, learning rate") as (axes, done):
        drawing = axes.figure
        axes.remove()
        drawing.set_size_inches(*SIZE)
        for place, (title, lines) in zip(
            drawing.subplots(len(PANELS), sharex=True), PANELS.items(), strict=True
        ):
            for number, (column, name, dash) in enumerate(lines):
                values = [row[column] for row in history]
                style = {"linestyle": dash, "color": SERIES[number], "label": name}
                place.plot(epochs, values, marker=".", linewidth=1.6, **style)
            for before, after in itertools.pairwise(history):
                if before["stage"] != after["stage"]:
                    place.axvline(before["epoch"] + 0.5, color=FAINT, linewidth=1)
            if chosen is not None:
                place.axvline(chosen["epoch"], color=INK, linewidth=1, linestyle=":")
            place.set_ylabel(title)
            place.grid(color=LINE)
            if len(lines) > 1:
                place.legend()
        place.set_yscale("log")
        place.set_xlabel("epoch; dotted: the best one")
        place.xaxis.get_major_locator().set_params(integer=True)
    return as_file(done[0])
