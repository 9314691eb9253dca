"""Make up pictures to train on: classes that differ by texture, shape and a little hue.

Every picture has a natural-looking background, a pattern of its class in a patch of it,
clutter that means nothing, and grain. Only the pattern is certain; its colours, size,
direction, place and contrast differ from picture to picture. Half of the pictures have
a hue that is likelier in their class. A share of the training pictures can be put in a
wrong class on purpose; OUT/errors.csv lists those.

python examples/make_dataset.py OUT [--classes 2] [--pictures 2000] [--size 256]
    [--test .2] [--errors .05] [--seed 0] [--names sfw,nsfw]
"""

import argparse
import colorsys
import csv
import os
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Field = Any  # np.ndarray, float32 (height, width)


def stripes(x: Field, y: Field) -> Field:
    """Parallel bands."""
    return np.cos(x)


def dots(x: Field, y: Field) -> Field:
    """Round spots in a square grid."""
    return 1.4 * (np.cos(x) + np.cos(y)) - 0.8


def rings(x: Field, y: Field) -> Field:
    """Bands around a point."""
    return np.cos(np.hypot(x, y))


def checks(x: Field, y: Field) -> Field:
    """A checkerboard."""
    return 4 * np.sin(x) * np.sin(y)


def waves(x: Field, y: Field) -> Field:
    """Bands that wind."""
    return np.cos(x + 1.8 * np.sin(y / 2))


PATTERNS: dict[str, Callable[[Field, Field], Field]] = {
    "stripes": stripes,
    "dots": dots,
    "rings": rings,
    "checks": checks,
    "waves": waves,
}
PERIODS = (0.06, 0.18)  # of a pattern, in sides of the picture
CONTRAST = (0.09, 0.45)  # of a pattern, in 0..1
PATCH = (0.25, 0.60)  # half-axes of the ellipse that shows it, in sides
CLUTTER = 4  # shapes at most
GRAIN = 0.07  # standard deviation, in 0..1
HUE_CUE = 0.5  # of the pictures have their class's hue
ASPECT = (0.8, 1.25)  # of width to height


@dataclass(frozen=True)
class Planted:
    """A picture that was put in a wrong class.

    Attributes:
        path: below the folder.
        label: the class that it was put in.
        truth: the class that it is of.
    """

    path: str
    label: str
    truth: str


@dataclass(frozen=True)
class DatasetOptions:
    """What is made.

    Attributes:
        classes: how many of `PATTERNS`.
        pictures: of all classes together.
        size: pixels of the shorter sides, about.
        test: share of the pictures that go to ``test/``; 0: no such folder.
        errors: share of the training pictures that go to a wrong class.
        seed: another one gives other pictures.
        names: of the classes; none: those of their patterns.
    """

    classes: int = 2
    pictures: int = 2000
    size: int = 256
    test: float = 0.2
    errors: float = 0.0
    seed: int = 0
    names: Sequence[str] = ()


def make_dataset(
    folder: Path, options: DatasetOptions, threads: int | None = None
) -> list[Planted]:
    """Write ``train/<class>/`` and ``test/<class>/`` with about as many of every class.

    Args:
        folder: that is not there yet, or empty.
        options: what is made.
        threads: None: as many as there are processors.

    Returns:
        The pictures in wrong classes, as ``errors.csv`` lists them.

    Raises:
        OSError: the folder cannot be written to.
        ValueError: the folder holds something, or a number makes no sense.
    """
    classes, pictures = options.classes, options.pictures
    names = list(options.names) or list(PATTERNS)[:classes]
    _check(folder, options, names)
    chance = np.random.default_rng(options.seed)
    truths = chance.permutation(np.arange(pictures) % classes)
    first = round(pictures * (1 - options.test))  # of the test pictures
    labels = truths.copy()
    wrong = chance.permutation(first)[: round(options.errors * first)]
    labels[wrong] = (truths[wrong] + chance.integers(1, classes, len(wrong))) % classes
    splits = np.where(np.arange(pictures) < first, "train", "test")
    paths = [
        f"{split}/{names[label]}/{number:06}.jpg"
        for number, (split, label) in enumerate(zip(splits, labels, strict=True))
    ]
    for split in set(splits):
        for name in names:
            (folder / split / name).mkdir(parents=True, exist_ok=True)

    def write(number: int) -> None:
        own = np.random.default_rng((options.seed, number))
        image = picture(list(PATTERNS)[truths[number]], own, options.size)
        image.save(folder / paths[number], quality=int(own.integers(70, 96)))

    with ThreadPoolExecutor(threads or os.cpu_count()) as pool:
        list(pool.map(write, range(pictures)))
    planted = [
        Planted(paths[number], names[labels[number]], names[truths[number]])
        for number in sorted(wrong)
    ]
    _write_errors(folder / "errors.csv", planted)
    return planted


def picture(pattern: str, chance: np.random.Generator, size: int) -> Image.Image:
    """One picture of a class.

    Args:
        pattern: a key of `PATTERNS`.
        chance: decides about everything else.
        size: pixels of the shorter side, about.
    """
    aspect = np.sqrt(chance.uniform(*ASPECT))
    width, height = (max(8, round(size * side)) for side in (aspect, 1 / aspect))
    y, x = np.mgrid[:height, :width].astype(np.float32) / size
    pixels = _background(chance, height, width)
    for _ in range(chance.integers(CLUTTER + 1)):
        _paint(pixels, _ellipse(x, y, chance, (0.03, 0.2)), _colour(chance), 0.8)
    period = 2 * np.pi / chance.uniform(*PERIODS)
    turned_x, turned_y = _turned(x - chance.uniform(), y - chance.uniform(), chance)
    field = PATTERNS[pattern](period * turned_x, period * turned_y)
    strength = np.clip(2 * field, -1, 1) * _ellipse(x, y, chance, PATCH)
    hue = list(PATTERNS).index(pattern) / len(PATTERNS)
    own = chance.random() < HUE_CUE
    colour = _colour(chance, hue + chance.normal(0, 0.07) if own else None) - 0.5
    pixels += chance.uniform(*CONTRAST) * strength[..., np.newaxis] * (0.6 + colour)
    grain = chance.standard_normal((height, width), np.float32) * GRAIN
    pixels += grain[..., np.newaxis]
    return Image.fromarray((np.clip(pixels, 0, 1) * 255).astype(np.uint8))


def _background(chance: np.random.Generator, height: int, width: int) -> np.ndarray:
    """Soft blotches of several sizes around a colour: float32 (height, width, 3)."""
    pixels = np.full((height, width, 3), _colour(chance), np.float32)
    for cells, strength in ((2, 0.16), (5, 0.09), (13, 0.06), (40, 0.04)):
        coarse = chance.standard_normal((cells, cells, 3), np.float32)
        coarse = 0.6 * coarse[..., :1] + 0.4 * coarse
        layers = [
            np.asarray(
                Image.fromarray(coarse[..., channel]).resize(
                    (width, height), Image.Resampling.BICUBIC
                )
            )
            for channel in range(3)
        ]
        pixels += strength * np.stack(layers, axis=-1)
    return pixels


def _colour(chance: np.random.Generator, hue: float | None = None) -> np.ndarray:
    """float32 (3,), RGB, 0..1."""
    hue = chance.random() if hue is None else hue
    saturation, value = chance.uniform(0.1, 0.7), chance.uniform(0.3, 0.8)
    return np.array(colorsys.hsv_to_rgb(hue % 1, saturation, value), np.float32)


def _turned(x: Field, y: Field, chance: np.random.Generator) -> tuple[Field, Field]:
    angle = chance.uniform(0, np.pi)
    cos, sin = np.float32(np.cos(angle)), np.float32(np.sin(angle))
    return cos * x + sin * y, cos * y - sin * x


def _ellipse(
    x: Field, y: Field, chance: np.random.Generator, radii: tuple[float, float]
) -> Field:
    """1 in an ellipse anywhere in the picture, 0 outside, soft between."""
    turned = _turned(x - chance.uniform(0.2, 0.8), y - chance.uniform(0.2, 0.8), chance)
    across, along = chance.uniform(*radii, 2)
    return np.clip(6 * (1 - np.hypot(turned[0] / across, turned[1] / along)), 0, 1)


def _paint(
    pixels: np.ndarray, where: Field, colour: np.ndarray, opacity: float
) -> None:
    cover = (opacity * where)[..., np.newaxis]
    pixels += cover * (colour - pixels)


def _check(folder: Path, options: DatasetOptions, names: Sequence[str]) -> None:
    classes, test = options.classes, options.test
    if not 2 <= classes <= len(PATTERNS) or len(set(names)) != classes:
        raise ValueError(
            f"expected 2 to {len(PATTERNS)} classes and a name for each, got {classes} "
            f"and {len(set(names))}"
        )
    shares = 0 <= test < 1 and 0 <= options.errors < 1
    if not shares or options.pictures * (1 - test) < classes:
        raise ValueError(
            "expected shares of 0 to below 1, and a training picture a class"
        )
    if folder.exists() and any(folder.iterdir()):
        raise ValueError(f"{folder}: expected an empty folder, or none")


def _write_errors(table: Path, planted: list[Planted]) -> None:
    with table.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["path", "label", "truth"])
        rows.writerows([one.path, one.label, one.truth] for one in planted)


def main() -> None:
    """Make pictures as the command line asks for them."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path, metavar="OUT")
    parser.add_argument("--classes", type=int, default=2, choices=(2, 3, 4, 5))
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--size", type=int, default=256, help="pixels a side, about")
    parser.add_argument("--test", type=float, default=0.2, help="share in test/")
    parser.add_argument(
        "--errors", type=float, default=0.0, help="share in wrong class"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--names", default="", help="of the classes: sfw,nsfw")
    args = vars(parser.parse_args())
    names = [name.strip() for name in args.pop("names").split(",") if name.strip()]
    folder = args.pop("out")
    try:
        planted = make_dataset(folder, DatasetOptions(names=names, **args))
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    print(f"{args['pictures']} pictures in {folder}, {len(planted)} in a wrong class")


if __name__ == "__main__":
    main()
