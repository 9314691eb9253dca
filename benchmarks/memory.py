"""Peak memory of `open-nsfw batch` over few and over many pictures, and their ratio.

python -m benchmarks.memory [--counts 1000 20000] [--json memory.json]

The pictures are small photos under many names (hard links), so that it ends soon.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.photos import write_photos

OPEN_NSFW = Path(sys.executable).parent / "open-nsfw"
PHOTOS = 20  # different ones
SIZES = ((320, 240), (240, 320), (400, 300))  # width, height
A_FOLDER = 1000  # names in one


def link_photos(folder: Path, photos: list[Path], count: int) -> None:
    """Make a tree of so many names of some photos.

    Args:
        folder: to be made.
        photos: on the same disk.
        count: of names.
    """
    for index in range(count):
        parent = folder / f"{index // A_FOLDER:03}"
        if index % A_FOLDER == 0:
            parent.mkdir(parents=True)
        os.link(photos[index % len(photos)], parent / f"{index:06}.jpg")


def measure(folder: Path, output: Path, *options: str) -> dict[str, float]:
    """Seconds and peak MiB of one run over a folder.

    Args:
        folder: of pictures.
        output: the table.
        options: more of the command's.

    Raises:
        RuntimeError: it failed.
    """
    start = time.perf_counter()
    process = subprocess.Popen(
        [OPEN_NSFW, "batch", folder, "--output", output, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise RuntimeError(f"open-nsfw batch ended with {process.returncode}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes on macOS
    return {
        "seconds": time.perf_counter() - start,
        "peak_megabytes": used.ru_maxrss * unit / 2**20,
    }


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--counts", type=int, nargs="+", default=[1000, 20_000])
    parser.add_argument("--json", type=Path, help="file to write")
    asked = parser.parse_args()
    rows = []
    print("| pictures | seconds | peak MB | / first |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        photos = write_photos(root, PHOTOS, SIZES)
        for number, count in enumerate(asked.counts):
            tree = root / f"tree{number}"
            link_photos(tree, photos, count)
            found = measure(tree, root / f"scores{number}.csv")
            rows.append({"pictures": count, **found})
            peak, first = found["peak_megabytes"], rows[0]["peak_megabytes"]
            print(
                f"| {count} | {found['seconds']:.0f} | {peak:.0f} "
                f"| {peak / first:.2f} |",
                flush=True,
            )
    if asked.json:
        asked.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
