"""How long `open-nsfw evaluate` takes for many rows, and how much memory.

python -m benchmarks.evaluate [--rows 1000000] [--json evaluate.json]

Made-up scores and labels, as CSV and as Parquet; each run is a process of its own that
reads, joins, evaluates, and writes report and JSON. Compare processor seconds rather
than seconds where others use the machine too.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
from pyarrow import csv, parquet

COMMAND = "from open_nsfw_tf.cli import main; main()"


def write(folder: Path, rows: int) -> None:
    """Tables of overlapping scores, and their labels."""
    rng = np.random.default_rng(0)
    labels = rng.random(rows) < 0.3
    scores = 1 / (1 + np.exp(-rng.normal(np.where(labels, 1.5, -1.5), 1.5)))
    paths = [f"pictures/{i // 1000:04}/{i:07}.jpg" for i in range(rows)]
    table = pyarrow.table(
        {
            "path": paths,
            "sfw": 1 - scores,
            "nsfw": scores,
            "error": pyarrow.nulls(rows, pyarrow.string()),
        }
    )
    csv.write_csv(table, folder / "scores.csv")
    parquet.write_table(table, folder / "scores.parquet")
    names = np.where(labels, "nsfw", "sfw")
    csv.write_csv(pyarrow.table({"path": paths, "label": names}), folder / "labels.csv")


def measure(folder: Path, name: str) -> dict[str, Any]:
    """Seconds, processor seconds and the peak of memory of one command."""
    options = ["--max-fnr", "0.05", "--output", "r.html", "--json-file", "r.json"]
    command = [sys.executable, "-c", COMMAND, "evaluate", name, "--labels"]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    start = time.perf_counter()
    subprocess.run(
        [*command, "labels.csv", *options],
        cwd=folder,
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "seconds": seconds,
        "processor_s": used,
        "peak_gb": after.ru_maxrss * 1024 / 1e9,  # of the largest child so far; Linux
        "report_kb": (folder / "r.html").stat().st_size / 1e3,
    }


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    found: dict[str, Any] = {"rows": arguments.rows}
    print(f"{'scores':16} {'s':>6} {'cpu s':>6} {'GB':>5} {'report kB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        write(Path(folder), arguments.rows)
        for name in ("scores.csv", "scores.parquet"):
            row = found[name] = measure(Path(folder), name)
            print(
                f"{name:16} {row['seconds']:6.1f} {row['processor_s']:6.1f} "
                f"{row['peak_gb']:5.2f} {row['report_kb']:9.0f}"
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
