"""Small made-up pictures in class folders, for the tests of training."""

from pathlib import Path

import numpy as np
from PIL import Image

NAMES = {2: ("sfw", "nsfw"), 3: ("a", "b", "c"), 5: ("a", "b", "c", "d", "e")}


def make_pictures(
    root: Path, classes: int = 2, train: int = 22, test: int = 6, side: int = 40
) -> Path:
    """Noise with a tint for each class; with test/ where there are pictures for it."""
    random = np.random.default_rng(classes)
    for folder, count in (("train", train), ("test", test)):
        for number, name in enumerate(NAMES[classes]):
            place = root / folder / name
            if count:
                place.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 140, (side, side, 3))
                pixels[..., number % 3] += 50 + 65 * (number // 3)
                Image.fromarray(pixels.astype(np.uint8)).save(place / f"{index}.png")
    return root


def make_bands(root: Path, train: int, test: int = 0, side: int = 64) -> Path:
    """Level and upright bands, dark and bright: no mean of pixels tells them apart."""
    random = np.random.default_rng(0)
    for folder, count in (("train", train), ("test", test)):
        for axis, name in enumerate(("level", "upright")):
            if count:
                (root / folder / name).mkdir(parents=True)
            for index in range(count):
                turns = random.uniform(2, 6) * np.linspace(0, 1, side) + random.random()
                band = np.expand_dims(np.sin(2 * np.pi * turns) > 0, 1 - axis)
                dark, bright = random.uniform(20, 90, 3), random.uniform(165, 235, 3)
                pixels = np.where(band[..., np.newaxis], dark, bright)
                pixels = pixels + random.normal(0, 20, (side, side, 3))
                image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
                image.save(root / folder / name / f"{index}.png")
    return root
