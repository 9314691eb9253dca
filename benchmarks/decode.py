"""What `decode="scaled"` costs and gains: change of scores, and processor time.

python -m benchmarks.decode FOLDER [--json decode.json]

The folder has large photographs as JPEG files. Each is scored as it is, and cropped,
turned and mirrored (and saved again, quality 92), decoded to the smallest size whose
both sides have at least so many pixels. The library's number is `SCALED` times 256.
"""

import argparse
import json
import time
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from benchmarks.photos import readable
from open_nsfw_tf import Classifier
from open_nsfw_tf.image import MAX_PIXELS, YAHOO, load_rgb, tensor

LEAST = (None, 256, 384, 512, 768)  # pixels of both sides; None is exact
SMALLEST = 2_000_000  # pixels of a photograph that is taken
LARGE = 8_000_000  # pixels
QUALITY = 92


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--json", type=Path, help="file to write")
    asked = parser.parse_args()
    classifier = Classifier("onnxruntime", threads=1)
    photos, others, milliseconds, pixels = [], [], [], []
    for path in readable(asked.folder, 1000):
        with Image.open(path) as image:
            size = image.width * image.height
        if image.format not in ("JPEG", "MPO") or size < SMALLEST:
            continue
        pixels.append(size)
        scores, taken = scored(classifier, path.read_bytes())
        photos.append(scores)
        milliseconds.append(taken)
        others += [scored(classifier, data)[0] for data in changed(path)]
    found = table(np.array(photos), np.array(others), np.array(milliseconds), pixels)
    print(markdown(found, len(photos), len(others)))
    if asked.json:
        asked.json.write_text(json.dumps(found, indent=1) + "\n")


def scored(classifier: Classifier, data: bytes) -> tuple[list[float], list[float]]:
    """The NSFW score, and processor milliseconds of the preparing, by each `LEAST`."""
    scores, taken = [], []
    for least in LEAST:
        start = time.process_time()
        batch = tensor(load_rgb(data, MAX_PIXELS, least), YAHOO)[np.newaxis]
        taken.append(1000 * (time.process_time() - start))
        scores.append(float(classifier.predict(batch)[0, 1]))
    return scores, taken


def changed(path: Path) -> Iterator[bytes]:
    """A photograph's middle, turned on its side, and in the mirror, as JPEG files."""
    whole = load_rgb(path)
    edges = [round(0.1 * side) for side in whole.size]
    middle = ImageOps.crop(whole, (*edges, *edges))
    turned = whole.transpose(Image.Transpose.ROTATE_90)
    for image in (middle, turned, ImageOps.mirror(whole)):
        file = BytesIO()
        image.save(file, "JPEG", quality=QUALITY)
        yield file.getvalue()


def table(
    photos: np.ndarray,
    others: np.ndarray,
    milliseconds: np.ndarray,
    pixels: list[int],
) -> dict[str, dict[str, float]]:
    """The figures of each `LEAST`, by its name.

    Args:
        photos: NSFW scores (N, len(LEAST)) of the photographs.
        others: (M, len(LEAST)) of what was made of them.
        milliseconds: (N, len(LEAST)) of the photographs.
        pixels: N, of the photographs.
    """
    large = np.array(pixels) >= LARGE
    found: dict[str, dict[str, float]] = {}
    for index, least in enumerate(LEAST):
        row = found[f"at least {least}" if least else "exact"] = {}
        for name, scores in (
            ("first half", photos[::2]),
            ("second half", photos[1::2]),
            ("made of them", others),
        ):
            change = np.abs(scores[:, index] - scores[:, 0])
            row[f"{name}, largest"] = float(change.max())
            row[f"{name}, mean"] = float(change.mean())
        for name, chosen in (("2 to 8 Mpx", ~large), ("8 Mpx and more", large)):
            taken = milliseconds[chosen]
            row[f"{name}, ms"] = float(taken[:, index].mean())
            row[f"{name}, times as fast"] = float(
                np.median(taken[:, 0] / taken[:, index])
            )
    return found


def markdown(found: dict[str, dict[str, float]], photos: int, others: int) -> str:
    """The table of the figures."""
    titles = list(next(iter(found.values())))
    lines = [f"{photos} photographs, {others} pictures made of them.\n"]
    lines.append("| | " + " | ".join(titles) + " |")
    lines.append("|---" * (len(titles) + 1) + "|")
    for name, row in found.items():
        values = (
            f"{value:.2g}" if value < 10 else f"{value:.0f}" for value in row.values()
        )
        lines.append(f"| {name} | " + " | ".join(values) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
