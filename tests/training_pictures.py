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
