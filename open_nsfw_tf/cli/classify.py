"""`open-nsfw classify`."""

import json
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.cli.options import (
    JsonOption,
    PixelsOption,
    Scoring,
    grouped,
)
from open_nsfw_tf.cli.pictures import picture_at
from open_nsfw_tf.errors import ImageError, sanitize
from open_nsfw_tf.image import MAX_PIXELS, describe

commands = typer.Typer()


@commands.command()
@grouped
def classify(
    images: Annotated[
        list[str],
        typer.Argument(
            metavar="IMAGE...", help="Picture files; - reads one from standard input."
        ),
    ],
    scoring: Scoring,
    json_lines: JsonOption = False,
    threshold: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=1.0,
            help="Say nsfw at this NSFW score and above, sfw below it. Yahoo gives no "
            "threshold: choose it on your own pictures.",
        ),
    ] = None,
    max_pixels: PixelsOption = MAX_PIXELS,
) -> None:
    """Score pictures: the probability, 0 to 1, that each one is pornographic.

    With --model the probability of each of the model's classes. A picture that cannot
    be read is a line with its error; the others are scored all the same, and the exit
    status is 1. Lines of JSON have path, sfw, nsfw, error (and label).
    """
    classifier = scoring.classifier(max_pixels)
    classes = classifier.classes
    if threshold is not None and "nsfw" not in classes:
        raise ValueError(
            f"--threshold is of a class nsfw: this model has {', '.join(classes)}"
        )
    results = classifier.classify_many(list(map(picture_at, images)), errors="yield")
    failed = False
    for path, result in zip(images, results, strict=True):
        row: dict[str, Any] = {"path": path, **dict.fromkeys(classes), "error": None}
        if isinstance(result, ImageError):
            failed = True
            row["error"] = str(result)
        else:
            row.update(zip(classes, result, strict=True))
            if threshold is not None:
                row["label"] = "nsfw" if row["nsfw"] >= threshold else "sfw"
        line = json.dumps(row, allow_nan=False) if json_lines else _line(row, classes)
        print(line, flush=True)
    if failed:
        raise typer.Exit(1)


def _line(row: dict[str, Any], classes: Sequence[str]) -> str:
    """The line of a picture: NSFW before SFW; other classes by their scores."""
    if row["error"]:
        return f"error: {row['error']}"
    label = f"  {row['label']}" if "label" in row else ""
    names = sorted(classes, key=lambda name: -row[name])
    if tuple(classes) == LABELS:
        names = list(reversed(LABELS))
    scores = "  ".join(f"{sanitize(name)} {row[name]:.6f}" for name in names)
    return f"{scores}{label}  {describe(row['path'])}"
