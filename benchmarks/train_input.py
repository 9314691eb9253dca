"""How long training waits for its batches: mobilenet_v2 with its recipe's augmentation.

python -m benchmarks.train_input [--pictures 512] [--epochs 3] [--json train_input.json]

Pictures are made up (examples/make_dataset.py), weights are random, steps are real. Of
every step the wait is what the loop spends in asking for the next batch. In the first
epoch pictures are decoded, from then on they come from memory. The first step is left
out: it compiles the network and fills what is made ahead.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.machine import Others, machine
from open_nsfw_tf.backbones import BACKBONES, build
from open_nsfw_tf.libraries import import_tensorflow
from open_nsfw_tf.train.augment import Augmentation
from open_nsfw_tf.train.data import Data, read_data
from open_nsfw_tf.train.inputs import Inputs

AUGMENTATION = Augmentation(
    crop=False, rotation=30, shift=0.2, shear=0.2, zoom=0.2, channel_shift=20
)
WANTED = 0.10  # of the time of cached epochs, at most
MAKER = Path(__file__).parent.parent / "examples" / "make_dataset.py"


def make_data(folder: Path, pictures: int, size: int) -> Data:
    """Made-up pictures of three classes, all of them to train on."""
    options = ["--classes", "3", "--pictures", str(pictures), "--size", str(size)]
    command = [sys.executable, str(MAKER), str(folder), *options, "--test", "0"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return read_data(folder, validation=0)


def waits_and_steps(model: Any, batches: Any) -> Iterator[tuple[float, float]]:
    """Seconds that each batch was waited for, and that its step then took."""
    iterator = iter(batches)
    while True:
        start = time.perf_counter()
        batch = next(iterator, None)
        middle = time.perf_counter()
        if batch is None:
            return
        model.train_on_batch(*batch)
        yield middle - start, time.perf_counter() - middle


def input_alone(inputs: Inputs) -> float:
    """Pictures a second where nobody trains."""
    start = time.perf_counter()
    count = sum(int(labels.shape[0]) for _, labels in inputs.epochs(99))
    return count / (time.perf_counter() - start)


def row(name: str, times: list[tuple[float, float]], batch_size: int) -> dict[str, Any]:
    """A line of the table."""
    waited, trained = (sum(column) for column in zip(*times, strict=True))
    return {
        "epoch": name,
        "wait_ms": round(1000 * statistics.mean(wait for wait, _ in times), 2),
        "step_ms": round(1000 * statistics.mean(step for _, step in times), 1),
        "wait_share": round(waited / (waited + trained), 4),
        "pictures_per_second": round(batch_size * len(times) / (waited + trained), 1),
    }


def measure(data: Data, arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """Train for some epochs; a row for the first, and one for all that follow."""
    preprocessing = BACKBONES[arguments.backbone].preprocessing
    inputs = Inputs(
        data.train,
        preprocessing,
        batch_size=arguments.batch,
        augmentation=AUGMENTATION,
        shuffle=True,
        cache=True,
        drop_remainder=True,
    )
    if inputs.steps < 2:
        raise SystemExit("expected pictures for 2 batches or more: raise --pictures")
    model = build(arguments.backbone, len(data.classes), init="random", seed=0)
    model.compile("sgd", "sparse_categorical_crossentropy")
    epochs = inputs.epochs(0, arguments.epochs)
    times = list(waits_and_steps(model, epochs))
    first, later = times[1 : inputs.steps], times[inputs.steps :]
    rows = [row("first (decodes)", first, arguments.batch)]
    if later:
        rows.append(row("cached", later, arguments.batch))
    alone = {"epoch": "cached, nobody trains", "wait_ms": None, "step_ms": None}
    rate = round(input_alone(inputs), 1)
    return [*rows, {**alone, "wait_share": None, "pictures_per_second": rate}]


def main() -> None:
    """Measure, print a table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--backbone", default="mobilenet_v2", choices=BACKBONES)
    parser.add_argument("--pictures", type=int, default=512)
    parser.add_argument("--size", type=int, default=256, help="pixels of a picture")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--json", default="train_input.json")
    arguments = parser.parse_args()
    import_tensorflow()
    others = Others()
    with tempfile.TemporaryDirectory() as folder:
        data = make_data(Path(folder) / "data", arguments.pictures, arguments.size)
        rows = measure(data, arguments)
    print("| epoch | wait ms a step | step ms | wait share | pictures/s |")
    print("|---|---|---|---|---|")
    for one in rows:
        share = one["wait_share"]
        cells = [*one.values()]
        cells[3] = None if share is None else f"{100 * share:.1f} %"
        print("| " + " | ".join("" if c is None else str(c) for c in cells) + " |")
    found = {
        "machine": machine(),
        "others": others.share(),
        "backbone": arguments.backbone,
        "batch": arguments.batch,
        "pictures": arguments.pictures,
        "wanted_wait_share": WANTED,
        "rows": rows,
    }
    Path(arguments.json).write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
