"""`open-nsfw batch --ray` beside `open-nsfw batch`: pictures a second after the start.

python -m benchmarks.ray_batches [--counts 500 5500] [--rounds 2]
    [--json ray_batches.json]

Each is run over few pictures and over many; what the first run takes, starting
included, is taken off the second. The pictures are photos under many names (hard
links).
"""

import argparse
import json
import statistics
import tempfile
from pathlib import Path

from benchmarks.memory import link_photos, measure
from benchmarks.photos import write_photos

PHOTOS = 20  # different ones
WAYS = {"local": (), "ray": ("--ray",)}


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs=2, default=[500, 5500])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--json", type=Path, help="file to write")
    asked = parser.parse_args()
    rates: dict[str, list[float]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos = write_photos(root, PHOTOS)
        trees = [root / f"tree{count}" for count in asked.counts]
        for tree, count in zip(trees, asked.counts, strict=True):
            link_photos(tree, photos, count)
        for turn in range(asked.rounds):
            for way, options in WAYS.items():
                seconds = [
                    measure(tree, _output(root, way, tree, turn), *options)["seconds"]
                    for tree in trees
                ]
                more = asked.counts[1] - asked.counts[0]
                rates[way].append(more / (seconds[1] - seconds[0]))
    medians = {way: statistics.median(found) for way, found in rates.items()}
    print("| | pictures a second after the start | / local |\n| --- | --- | --- |")
    for way, rate in medians.items():
        print(f"| {way} | {rate:.1f} | {rate / medians['local']:.2f} |")
    if asked.json:
        asked.json.write_text(json.dumps(rates, indent=1) + "\n")


def _output(root: Path, way: str, tree: Path, turn: int) -> Path:
    suffix = "" if way == "ray" else ".csv"  # with Ray a folder
    return root / f"{way}-{tree.name}-{turn}{suffix}"


if __name__ == "__main__":
    main()
