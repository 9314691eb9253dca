"""`Classifier.explain` beside `Classifier.classify` of the same pictures, in turns.

python -m benchmarks.explain [--rounds 200]
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.photos import write_photos
from open_nsfw_tf import Classifier

PHOTOS, SIZES = 8, ((640, 427), (427, 640))


def seconds(function: Callable[[Any], Any], picture: bytes) -> float:
    """Of one call."""
    start = time.perf_counter()
    function(picture)
    return time.perf_counter() - start


def main() -> None:
    """Print the medians, and the median of the ratios of the pairs."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=200)
    rounds = parser.parse_args().rounds
    classifier = Classifier("onnxruntime", threads=1)
    with tempfile.TemporaryDirectory() as folder:
        photos = write_photos(Path(folder), PHOTOS, SIZES)
        files = [path.read_bytes() for path in photos]
    for file in files:
        classifier.classify(file), classifier.explain(file)
    pairs = [
        (seconds(classifier.classify, file), seconds(classifier.explain, file))
        for file in (files[index % PHOTOS] for index in range(rounds))
    ]
    plain, explained = (1000 * median(times) for times in zip(*pairs, strict=True))
    ratio = median(second / first for first, second in pairs)
    print(f"classify {plain:.2f} ms, explain {explained:.2f} ms, ratio {ratio:.3f}")


if __name__ == "__main__":
    main()
