"""Pictures to compare and to calibrate with: the user's, or sample pictures."""

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import Picture, load_rgb

MAX_NAMED = 64  # pictures, in memory at the same time; large ones have 40 MB each
SIZES = ((640, 480), (333, 500), (1200, 800), (224, 224), (90, 1000))  # width, height

# Photographs that other packages install, by package and its folder of them; no
# drawings, logos or plots.
_INSTALLED = {
    ("skimage", "data"): (
        "astronaut.png",
        "coffee.png",
        "chelsea.png",
        "rocket.jpg",
        "motorcycle_left.png",
        "camera.png",
        "coins.png",
        "hubble_deep_field.jpg",
        "ihc.png",
        "retina.jpg",
        "grass.png",
        "gravel.png",
        "brick.png",
        "cell.png",
        "clock_motion.png",
        "microaneurysms.png",
        "moon.png",
        "multipage.tif",
        "no_time_for_that_tiny.gif",
    ),
    ("sklearn", "datasets/images"): ("china.jpg", "flower.jpg"),
    ("matplotlib", "mpl-data/sample_data"): ("grace_hopper.jpg",),
}


def installed_pictures() -> list[Path]:
    """The photographs in scikit-image, scikit-learn and matplotlib, if installed."""
    paths = []
    for (package, folder), names in _INSTALLED.items():
        spec = find_spec(package)
        if spec is not None and spec.origin is not None:
            paths += [Path(spec.origin).parent / folder / name for name in names]
    return [path for path in paths if path.is_file()]


def generated_pictures(count: int, seed: int = 0) -> list[Image.Image]:
    """Made-up pictures with the statistics of photographs, the same at every call.

    Args:
        count: how many.
        seed: another seed gives others.

    Returns:
        PIL images of mode RGB and several sizes: noise whose power falls with the
        square of the frequency, as that of natural scenes does (Field, 1987), tinted.
    """
    random = np.random.default_rng(seed)
    images = []
    for index in range(count):
        width, height = SIZES[index % len(SIZES)]
        y = np.fft.fftfreq(height)[:, np.newaxis]
        x = np.fft.rfftfreq(width)
        amplitude = 1 / np.maximum(np.hypot(x, y), 1 / max(width, height))
        phases = np.exp(2j * np.pi * random.random((*amplitude.shape, 3)))
        waves = np.fft.irfft2(
            amplitude[..., np.newaxis] * phases, (height, width), axes=(0, 1)
        )
        tint = random.uniform(60, 200, 3)
        pixels = tint + 45 * (0.7 * waves[..., :1] + 0.3 * waves) / waves.std()
        images.append(Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)))
    return images


def readable_pictures(
    pictures: Iterable[Picture], most: int = MAX_NAMED
) -> tuple[list[Image.Image], list[str]]:
    """Decode the pictures that a user names; unreadable ones are left out.

    Args:
        pictures: as for `open_nsfw_tf.image.load_rgb`.
        most: the largest number to use; of more, some are chosen, evenly spread.

    Returns:
        PIL images of mode RGB, and notes for the user, one line each.

    Raises:
        ImageError: some are named, and none can be read.
    """
    named = list(pictures)
    chosen, notes = named, []
    if len(named) > most:
        chosen = [named[index * len(named) // most] for index in range(most)]
        notes.append(f"{most} pictures were taken of {len(named)}, spread over them")
    images, reasons = [], []
    for picture in chosen:
        try:
            images.append(load_rgb(picture))
        except ImageError as error:
            reasons.append(str(error))
    if chosen and not images:
        raise ImageError(
            f"cannot compare with {reasons[0]}"
            + (f", nor with {len(reasons) - 1} others" if len(reasons) > 1 else "")
        )
    if reasons:
        notes.append(f"{len(reasons)} pictures were left out, as {reasons[0]}")
    return images, notes


def sample_pictures(count: int) -> list[Path | Image.Image]:
    """Installed photographs first, then generated pictures, `count` in all."""
    installed: list[Path | Image.Image] = list(installed_pictures()[:count])
    return installed + generated_pictures(count - len(installed))
