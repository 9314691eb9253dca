"""`open-nsfw explain` and `open-nsfw blur`."""

import json
import os
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
)
from open_nsfw_tf.cli.pictures import picture_at
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.explain import HOW, SHARE, Explanation, blur, boxes, overlay, svg
from open_nsfw_tf.explain.cover import BELOW
from open_nsfw_tf.files import (
    HEAD,
    PICTURE_TYPES,
    STDIN,
    Names,
    canonical,
    refuse_existing,
    replacing,
    type_by_content,
    type_by_suffix,
)
from open_nsfw_tf.image import MAX_PIXELS, describe, load_rgb

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
    one_file = drawing.output is not None and _is_drawing(drawing.output)
    if one_file and len(pictures) > 1:
        raise typer.BadParameter(
            f"expected a folder for {len(pictures)} pictures, got the file "
            f"{sanitize(drawing.output)}."
        )
    if drawing.output is not None and one_file:
        if canonical(str(drawing.output)) in map(canonical, pictures):
            raise typer.BadParameter("expected another file than the picture itself.")
        refuse_existing(drawing.output, drawing.overwrite)
    elif drawing.output is not None:
        _check_folder(drawing.output, " or a name that ends in .png or .svg")
    classifier = scoring.classifier(max_pixels)
    names = Names(drawing.overwrite, pictures)

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
                target = _in_folder(target, path, f".{drawing.format}", names)
            _draw(target, image, found)
            row["output"] = str(target)
        return row

    def line(row: dict[str, Any]) -> str:
        return f"{sanitize(row['of'])} {row[row['of']]:.6f}  {sanitize(row['output'])}"

    _each(pictures, explained, line, json_lines)


def _is_drawing(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES


def _check_folder(path: Path, instead: str = "") -> None:
    """Refuse what is no folder, and the name of a picture that was meant as a file."""
    if not path.is_dir() and (os.path.lexists(path) or type_by_suffix(path.name)):
        raise typer.BadParameter(
            f"--output: expected a folder{instead}, got {sanitize(path)}."
        )


def _draw(target: Path, image: Any, found: Explanation) -> None:
    with replacing(target) as unfinished:
        if target.suffix.lower() == ".svg":
            unfinished.write_text(svg(image, found), encoding="utf-8")
        else:
            overlay(image, found).save(unfinished, "PNG")


def _in_folder(folder: Path, path: str, suffix: str, names: Names) -> Path:
    """The file for a picture in the folder, which is made."""
    folder.mkdir(parents=True, exist_ok=True)
    stem = "stdin" if path == STDIN else Path(path).stem
    return Path(names.free(str(folder / f"{stem}{suffix}")))


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


def _suffix(data: bytes) -> str:
    kind = type_by_content(data[:HEAD])
    return PICTURE_TYPES[kind].suffixes[0] if kind else ""


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
            help="Keep EXIF too: camera, author, times and position. Its thumbnail and "
            "notes, which can hold the picture as it was, are never kept.",
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
    _check_folder(output)
    classifier = scoring.classifier(max_pixels)
    names = Names()
    missed: list[str] = []

    def covered(path: str) -> dict[str, Any]:
        found = blur(picture_at(path), classifier, **vars(covering))
        suffix = _suffix(found.data) if path == STDIN else Path(path).suffix
        target = _in_folder(output, path, suffix, names)
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
