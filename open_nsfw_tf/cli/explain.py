"""`open-nsfw explain` and `open-nsfw blur`."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

from open_nsfw_tf.cli.options import (
    JsonOption,
    OverwriteOption,
    PixelsOption,
    Scoring,
    choice,
    grouped,
    picture_at,
)
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.explain import HOW, SHARE, Explanation, blur, boxes, overlay, svg
from open_nsfw_tf.explain.cover import BELOW
from open_nsfw_tf.files import Names, refuse_existing, replacing
from open_nsfw_tf.image import MAX_PIXELS, Picture, describe, load_rgb, read_file

commands = typer.Typer()

Pictures = Annotated[
    list[str],
    typer.Argument(
        metavar="PICTURE...", help="Picture files; - reads one from standard input."
    ),
]
ClassOption = Annotated[
    str | None,
    typer.Option(
        "--of",
        metavar="CLASS",
        help="The class whose score is meant. Without it: nsfw, or of a model without "
        "it the class with the highest score.",
    ),
]
SUFFIXES = (".png", ".svg")


@dataclass(frozen=True)
class Drawing:
    """What is drawn, and where it goes."""

    output: Annotated[
        Path | None,
        typer.Option(
            "--output",
            "-o",
            metavar="DIR|FILE",
            help="A folder for the drawings, or a file for that of one picture.",
        ),
    ] = None
    format: Annotated[
        str,
        choice(
            [suffix[1:] for suffix in SUFFIXES],
            "--format",
            help="Of drawings in a folder; a file's name tells it itself.",
        ),
    ] = "png"
    overwrite: OverwriteOption = False


@commands.command("explain")
@grouped
def explain_command(
    pictures: Pictures,
    scoring: Scoring,
    drawing: Drawing,
    of: ClassOption = None,
    share: Annotated[
        float,
        typer.Option(
            min=0.01,
            max=1.0,
            help="The boxes surround the fewest cells that together add this share of "
            "all that raises the score.",
        ),
    ] = SHARE,
    json_lines: JsonOption = False,
    max_pixels: PixelsOption = MAX_PIXELS,
) -> None:
    """Show which part of a picture its score comes from.

    The network ends in an average over 7 x 7 places, so the score is a sum, exactly:
    what each place adds to its log-odds, and a constant. Drawn over the picture, orange
    raises the score and blue lowers it, on the same scale for all pictures; gray is the
    border, which the network does not see. Boxes surround the cells that add most; they
    are coarse, as nothing is detected. Lines of JSON have path, the scores, of, bias,
    cells (rows from the top), boxes (shares of width and height, 0..1, of the picture
    as it is stored) and error.
    """
    if drawing.output is None and not json_lines:
        raise typer.BadParameter("expected --output DIR or FILE, or --json.")
    one_file = drawing.output is not None and drawing.output.suffix in SUFFIXES
    if one_file and len(pictures) > 1:
        raise typer.BadParameter(
            f"expected a folder for {len(pictures)} pictures, got the file "
            f"{sanitize(drawing.output)}."
        )
    if one_file:
        assert drawing.output is not None
        refuse_existing(drawing.output, drawing.overwrite)
    classifier = scoring.classifier(max_pixels)
    names = Names()

    def explained(path: str) -> dict[str, Any]:
        picture = picture_at(path)
        image = load_rgb(picture, max_pixels)
        found = classifier.explain(image, of)
        row: dict[str, Any] = dict(zip(classifier.classes, found.scores, strict=True))
        row |= {"of": found.of, "bias": found.bias, "cells": found.cells.tolist()}
        row["boxes"] = [box._asdict() for box in boxes(found, share)]
        if drawing.output is not None:
            target = drawing.output
            if not one_file:
                target = _in_folder(
                    target, path, f".{drawing.format}", names, drawing.overwrite
                )
            _draw(target, image, found)
            row["output"] = str(target)
        return row

    def line(row: dict[str, Any]) -> str:
        return f"{sanitize(row['of'])} {row[row['of']]:.6f}  {sanitize(row['output'])}"

    _each(pictures, explained, line, json_lines)


def _draw(target: Path, image: Any, found: Explanation) -> None:
    with replacing(target) as unfinished:
        if target.suffix == ".svg":
            unfinished.write_text(svg(image, found), encoding="utf-8")
        else:
            overlay(image, found).save(unfinished, "PNG")


def _in_folder(
    folder: Path, path: str, suffix: str, names: Names, overwrite: bool = False
) -> Path:
    """The file for a picture in the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    source = Path("stdin" if path == "-" else path)
    target = folder / f"{source.stem}{suffix}"
    return target if overwrite else Path(names.free(str(target)))


def _each(
    pictures: list[str],
    work: Callable[[str], dict[str, Any]],
    line: Callable[[dict[str, Any]], str],
    json_lines: bool,
) -> None:
    """Do it with each picture; one that fails is a line, and then exit status 1."""
    failed = False
    for path in pictures:
        row: dict[str, Any] = {"path": path, "error": None}
        try:
            row |= work(path)
        except ImageError as error:
            failed = True
            row["error"] = str(error)
        if json_lines:
            print(json.dumps(row, allow_nan=False), flush=True)
        elif row["error"]:
            print(f"error: {row['error']}", flush=True)
        else:
            print(f"{line(row)}  {describe(path)}", flush=True)
    if failed:
        raise typer.Exit(1)


@dataclass(frozen=True)
class Covering:
    """How a picture is covered: the keywords of `open_nsfw_tf.explain.blur`."""

    below: Annotated[
        float,
        typer.Option(min=0.0001, max=1.0, help="Go on until the score is below this."),
    ] = BELOW
    how: Annotated[
        str,
        choice(HOW, "--how", help="Blurred, in large blocks, or plain gray."),
    ] = HOW[0]
    whole: Annotated[
        bool, typer.Option("--whole", help="Cover the whole picture at once.")
    ] = False
    of: ClassOption = None
    keep_metadata: Annotated[
        bool,
        typer.Option(
            "--keep-metadata",
            help="Keep EXIF too, without its thumbnail and the maker's notes, which "
            "can hold the picture as it was.",
        ),
    ] = False


@commands.command("blur")
@grouped
def blur_command(
    pictures: Pictures,
    output: Annotated[
        Path,
        typer.Option(
            "--output", "-o", metavar="DIR", help="A folder for the new pictures."
        ),
    ],
    scoring: Scoring,
    covering: Covering,
    json_lines: JsonOption = False,
    max_pixels: PixelsOption = MAX_PIXELS,
) -> None:
    """Cover the parts of pictures that raise their score, and prove it by a new score.

    The cells that add most are covered, the new file is scored, and so on until the
    score is below --below or everything is covered. The files have the names and
    formats of the originals; nothing is overwritten, a name that is taken gets a
    number. Orientation and colour profile are kept. Each line has the score before and
    after and how many of the 49 cells are covered. The exit status is 1 if a picture
    could not be read, or is still not below. Lines of JSON have path, of, before,
    after, cells, below, output and error.
    """
    classifier = scoring.classifier(max_pixels)
    names = Names()
    missed: list[str] = []

    def covered(path: str) -> dict[str, Any]:
        picture: Picture = read_file(picture_at(path)) if path == "-" else path
        found = blur(picture, classifier, **vars(covering))
        target = _in_folder(output, path, Path(path).suffix, names)
        with replacing(target) as unfinished:
            unfinished.write_bytes(found.data)
        if not found.below:
            missed.append(path)
        return {
            "of": found.before.of,
            "before": found.before.score,
            "after": found.after.score,
            "cells": found.cells,
            "below": found.below,
            "output": str(target),
        }

    def line(row: dict[str, Any]) -> str:
        still = "" if row["below"] else f"  not below {covering.below:g}"
        return (
            f"{sanitize(row['of'])} {row['before']:.6f} -> {row['after']:.6f}  "
            f"{row['cells']} cells{still}  {sanitize(row['output'])}"
        )

    _each(pictures, covered, line, json_lines)
    if missed:
        raise typer.Exit(1)
