"""`open-nsfw models`: the networks that can be trained, and what each costs."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from open_nsfw_tf.backbones.trained import MAX_CLASSES
from open_nsfw_tf.cli.options import JsonFileOption, JsonOption
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.files import replacing

if TYPE_CHECKING:
    from open_nsfw_tf.backbones.model_stats import ModelStats

commands = typer.Typer()

HEADINGS = ("network", "input", "parameters", "multiply-adds", "MB", "ms", "top-1", "")


@commands.command("models")
def models_command(
    classes: Annotated[
        int,
        typer.Option(min=2, max=MAX_CLASSES, help="Outputs that are counted too."),
    ] = 2,
    measure: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Build every network and measure one picture on this machine.",
        ),
    ] = True,
    json_lines: JsonOption = False,
    json_file: JsonFileOption = None,
    svg: Annotated[
        Path | None,
        typer.Option(
            help="Write a figure: ImageNet accuracy against multiply-adds. Needs the "
            "extra `evaluate`."
        ),
    ] = None,
) -> None:
    """List the networks to train: size, cost, speed here, published accuracy."""
    from open_nsfw_tf.backbones.model_stats import model_stats

    if json_file or svg:
        from open_nsfw_tf.report import check_outputs

        check_outputs({"JSON file": json_file, "figure": svg}, inputs=())
    if svg is not None:
        from open_nsfw_tf.report.plots import import_matplotlib

        import_matplotlib()  # before the work
    rows = model_stats(classes, measure=measure)
    records = list(map(asdict, rows))
    for line in map(json.dumps, records) if json_lines else _lines(rows):
        print(line)
    if json_file is not None:
        _write(json_file, json.dumps(records, indent=1) + "\n")
    if svg is not None:
        from open_nsfw_tf.report.plots import trade_off

        _write(svg, trade_off(rows))


def _lines(rows: Sequence["ModelStats"]) -> list[str]:
    """The table with aligned columns, and the sources under it."""
    sources = list(dict.fromkeys(row.source for row in rows if row.source))
    table = [HEADINGS, *(_cells(row, sources) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = []
    for cells in table:
        first, *rest = (
            cell.rjust(width) if index else cell.ljust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        lines.append("  ".join([first, *rest]).rstrip())
    notes = [f"[{number}] {source}" for number, source in enumerate(sources, 1)]
    counted = (
        f"Counted with {rows[0].classes} classes, {rows[-1].name} with "
        f"{rows[-1].classes}; ms: one picture, here; top-1: ImageNet, one crop."
    )
    return [*lines, "", counted, *notes]


def _cells(row: "ModelStats", sources: Sequence[str]) -> tuple[str, ...]:
    return (
        row.name if row.built else f"{row.name} ({row.title})",
        str(row.size),
        f"{row.parameters:,}",
        f"{row.madds:,}",
        f"{row.megabytes:.1f}",
        "" if row.milliseconds is None else f"{row.milliseconds:.1f}",
        "" if row.top1 is None else f"{row.top1:.4g}".removeprefix("0"),
        f"[{sources.index(row.source) + 1}]" if row.source else "",
    )


def _write(path: Path, text: str) -> None:
    with replacing(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    print(f"written: {sanitize(path)}")
