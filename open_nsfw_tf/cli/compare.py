"""`open-nsfw rank` and `open-nsfw compare`: on tables of scores."""

import json
import math
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from open_nsfw_tf.cli.options import CommonOption, JsonOption, TopOption
from open_nsfw_tf.errors import sanitize
from open_nsfw_tf.tables import in_range, rank, read_table
from open_nsfw_tf.tables.compare import Difference, compare

commands = typer.Typer()


@commands.command("rank")
def rank_command(
    scores: Annotated[Path, typer.Argument(help="A table of scores.")],
    top: Annotated[int, typer.Option(min=1, help="How many pictures.")] = 100,
    column: Annotated[str, typer.Option(help="Whose scores.")] = "nsfw",
    json_lines: JsonOption = False,
) -> None:
    """Print the pictures with the highest scores, the highest first."""
    table = read_table(scores, any_number=True)
    for path, score in rank(table, top, column):
        if json_lines:
            print(json.dumps({"path": path, column: score}))
        else:
            print(f"{score:.6f}  {sanitize(path)}")
    odd = [
        path
        for path, fit, error in zip(
            table.paths, in_range(table.columns[column]), table.errors, strict=True
        )
        if not fit and error is None
    ]
    if odd:
        print(
            f"left out: {len(odd)} rows without a score of 0 to 1, such as "
            f"{sanitize(odd[0])}",
            file=sys.stderr,
        )


@commands.command("compare")
def compare_command(
    original: Annotated[Path, typer.Argument(help="A table of scores.")],
    other: Annotated[Path, typer.Argument(help="Another, of the same pictures.")],
    common: CommonOption = False,
    top: TopOption = 10,
    json_lines: JsonOption = False,
) -> None:
    """Say how far two tables of scores of the same pictures are apart."""
    first, second = read_table(original), read_table(other)
    found = compare(first, second, common=common, top=top)
    for name, difference in found.items():
        if json_lines:
            print(_json_line(name, difference))
            continue
        print(f"{sanitize(name)}: {difference.count} pictures")
        for figure in ("min", "max", "mean", "median", "std", "correlation"):
            print(f"  {figure:<12}{getattr(difference, figure):.9f}")
        print("  largest differences:")
        for path, one, another in difference.largest:
            print(f"    {one:.6f}  {another:.6f}  {sanitize(path)}")


def _json_line(name: str, difference: Difference) -> str:
    row = {"column": name, **asdict(difference)}
    if math.isnan(difference.correlation):  # JSON has no NaN
        row["correlation"] = None
    return json.dumps(row, allow_nan=False)
