"""Time the Pillow and the TensorFlow loader side by side; measure peak memory.

python -m benchmarks.loaders [--repeat 15] [--json loaders.json]

Each loader runs in a process of its own for the memory, and both in one process, turn
about, for the time: other work on the machine then slows both alike.
"""

import argparse
import io
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks.machine import peak_megabytes
from open_nsfw_tf.image import create_yahoo_image_loader
from open_nsfw_tf.quantize.samples import generated_pictures
from open_nsfw_tf.tf_image import create_tensorflow_image_loader

SIZES = {"0.3 Mpx": (640, 480), "2 Mpx": (1600, 1200), "12 Mpx": (4000, 3000)}
LOADERS = {
    "pillow": create_yahoo_image_loader,
    "tensorflow": create_tensorflow_image_loader,
}


def photo(size: tuple[int, int], progressive: bool) -> bytes:
    """Return a JPEG of quality 88 with some grain, as a camera would write it."""
    pixels = np.asarray(generated_pictures(1)[0].resize(size))
    grain = np.random.default_rng(0).integers(-6, 7, pixels.shape)
    image = Image.fromarray(np.clip(pixels + grain, 0, 255).astype(np.uint8))
    stream = io.BytesIO()
    image.save(stream, format="JPEG", quality=88, progressive=progressive)
    return stream.getvalue()


def milliseconds(data: bytes, repeat: int) -> dict[str, float]:
    """Return each loader's median, and check that their answers are the same."""
    loaders = {name: make() for name, make in LOADERS.items()}
    expected, answer = (load(data) for load in loaders.values())
    np.testing.assert_array_equal(answer, expected)
    times: dict[str, list[float]] = {name: [] for name in loaders}
    for _ in range(repeat):
        for name, load in loaders.items():
            start = time.perf_counter()
            load(data)
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: statistics.median(values) for name, values in times.items()}


def raised_megabytes(name: str, size: str) -> float:
    """Return by how much one picture raises a fresh process's peak memory."""
    command = [sys.executable, "-m", "benchmarks.loaders", "--peak", name, size]
    output = subprocess.run(command, check=True, capture_output=True, text=True)
    return float(output.stdout)


def print_peak(name: str, size: str) -> None:
    load = LOADERS[name]()
    load(photo((64, 64), progressive=False))
    data = photo(SIZES[size], progressive=False)
    # Linux: 5 resets the high water mark, so that making the photo does not count.
    Path("/proc/self/clear_refs").write_text("5")
    before = peak_megabytes()
    for _ in range(3):
        load(data)
    print(peak_megabytes() - before)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeat", type=int, default=15)
    parser.add_argument("--json", default="loaders.json")
    parser.add_argument("--peak", nargs=2, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak:
        return print_peak(*arguments.peak)
    rows = []
    print("| JPEG | Pillow ms | TensorFlow ms | ratio | Pillow MB | TensorFlow MB |")
    print("|---|---|---|---|---|---|")
    for name, size in SIZES.items():
        for progressive in (False, True):
            times = milliseconds(photo(size, progressive), arguments.repeat)
            row: dict[str, Any] = {
                "picture": name + (" progressive" if progressive else "")
            }
            row |= {f"{key}_ms": round(value, 2) for key, value in times.items()}
            row["ratio"] = round(times["tensorflow"] / times["pillow"], 2)
            for loader in LOADERS if not progressive else ():
                row[f"{loader}_peak_mb"] = round(raised_megabytes(loader, name), 1)
            print("| " + " | ".join(str(value) for value in row.values()) + " |")
            rows.append(row)
    Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
