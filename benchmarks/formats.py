"""How long each format of weights takes to write and to read, and how much memory.

python -m benchmarks.formats [--runs 5] [--json formats.json]

Each reading is a process of its own; the file is in the system's cache by then.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from open_nsfw_tf.architecture import unfold_batch_norm
from open_nsfw_tf.formats import FORMATS, module
from open_nsfw_tf.weights import load_weights

READ = """
import sys, time
from pathlib import Path
from open_nsfw_tf.formats import module

def bytes_of(key):  # Linux: resident now, and the most it ever was
    status = Path("/proc/self/status").read_text()
    return 1024 * int(status.split(key + ":")[1].split()[0])

reader = module(sys.argv[1])
before = bytes_of("VmRSS")
start = time.perf_counter()
weights = reader.read(Path(sys.argv[2]))
print(time.perf_counter() - start, bytes_of("VmHWM") - before)
"""


def measure(name: str, folder: str, runs: int) -> dict[str, float]:
    """Median seconds to write and to read, and memory over the file's size."""
    path = Path(folder) / f"weights{FORMATS[name].suffixes[0]}"
    weights = unfold_batch_norm(load_weights(), seed=1)
    write, read, memory = [], [], []
    for _ in range(runs):
        start = time.perf_counter()
        module(name).write(path, weights)
        write.append(time.perf_counter() - start)
        command = [sys.executable, "-c", READ, name, str(path)]
        taken, peak = map(float, subprocess.check_output(command).split())
        read.append(taken)
        memory.append(peak / path.stat().st_size)
    return {
        "megabytes": path.stat().st_size / 1e6,
        "write_s": statistics.median(write),
        "read_s": statistics.median(read),
        "memory_per_byte": statistics.median(memory),
    }


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", help="file to write")
    arguments = parser.parse_args()
    print(f"{'format':12} {'MB':>6} {'write s':>8} {'read s':>8} {'memory / file':>14}")
    rows = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in FORMATS:
            row = rows[name] = measure(name, folder, arguments.runs)
            print(
                f"{name:12} {row['megabytes']:6.1f} {row['write_s']:8.3f} "
                f"{row['read_s']:8.3f} {row['memory_per_byte']:14.2f}"
            )
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
