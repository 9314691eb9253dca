"""Pictures to measure with: the user's, or made up with the statistics of photos."""

from dataclasses import dataclass
from itertools import cycle, islice
from pathlib import Path

import numpy as np
from PIL import Image

from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.image import CROP, tensor
from open_nsfw_tf.quantize.samples import generated_pictures

# Width and height: 0.2 to 2 million pixels, wide and tall, as phones and sites have
# them.
SIZES = ((600, 400), (720, 960), (1024, 768), (1280, 960), (1600, 1200))
QUALITIES = (85, 88, 90, 92)  # of JPEG


@dataclass(frozen=True)
class PhotoSet:
    """Made-up photos of one kind.

    Attributes:
        sizes: width and height, pixels; taken in turn.
        qualities: of JPEG, taken in turn.
        share: of the number of pictures that a benchmark asks for.
    """

    sizes: tuple[tuple[int, int], ...] = SIZES
    qualities: tuple[int, ...] = QUALITIES
    share: float = 1.0


SETS = {
    "mixed": PhotoSet(),
    # Web pages' pictures, 0.1 to 0.5 million pixels.
    "small": PhotoSet(((400, 300), (480, 640), (640, 480), (800, 600))),
    # 12 million pixels, files of 3 to 5 MB. What is enlarged to that size has no
    # detail, so the grain of each pixel stands for it.
    "phone": PhotoSet(((4000, 3000), (3000, 4000)), (92, 93, 94, 95), 0.25),
}


def write_photos(
    folder: Path,
    count: int,
    sizes: tuple[tuple[int, int], ...] = SIZES,
    qualities: tuple[int, ...] = QUALITIES,
) -> list[Path]:
    """Write made-up photos: noise with the spectrum of natural scenes, and grain.

    Args:
        folder: that exists.
        count: how many.
        sizes: width and height, pixels; taken in turn.
        qualities: of JPEG, taken in turn.

    Returns:
        Their paths, ``photo_0000.jpg`` and on; the same pictures at every call.
    """
    random = np.random.default_rng(0)
    grain = random.integers(-6, 7, (max(h for _, h in sizes), max(w for w, _ in sizes)))
    paths = []
    for index, made in enumerate(generated_pictures(count)):
        width, height = sizes[index % len(sizes)]
        pixels = np.asarray(made.resize((width, height), Image.Resampling.BICUBIC))
        pixels = pixels + grain[:height, :width, np.newaxis]
        path = folder / f"photo_{index:04}.jpg"
        Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8)).save(
            path, quality=qualities[index % len(qualities)]
        )
        paths.append(path)
    return paths


def readable(folder: Path, count: int) -> list[Path]:
    """The first pictures of a folder that can be read.

    Args:
        folder: of the user's.
        count: how many at most.

    Raises:
        ValueError: there is none.
        OSError: the folder cannot be read.
    """
    found = islice(filter(_can_be_read, sorted(folder.iterdir())), count)
    paths = [path.absolute() for path in found]
    if not paths:
        raise ValueError(f"{folder}: expected a folder with pictures, found none")
    return paths


def repeated(paths: list[Path], count: int) -> list[Path]:
    """So many paths, taken from the list over and over."""
    return list(islice(cycle(paths), count))


def soft_fields(count: int) -> np.ndarray:
    """Network inputs of soft colours, some of which have scores far from 0 and 1.

    Args:
        count: how many.

    Returns:
        float32 (count, 224, 224, 3), BGR minus mean: sums of a few cosines, up to 20.
    """
    side = np.linspace(0, np.pi, CROP)
    waves = np.stack([np.cos(number * side) for number in range(3)])
    colours = np.random.default_rng(0).normal(size=(count, 3, 3, 3))
    fields = np.einsum("ih,jw,nijc->nhwc", waves, waves, colours)
    fields *= 20 / np.abs(fields).max(axis=(1, 2, 3), keepdims=True)
    return np.asarray(fields, np.float32)


def _can_be_read(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        tensor(path)
    except ImageError:
        return False
    return True
