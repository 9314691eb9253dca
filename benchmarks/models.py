"""Yahoo's network and trained models side by side, by ONNX Runtime and by TensorFlow.

python -m benchmarks.models RUN [RUN ...] [--rounds 5] [--json models.json]
    [--photos FOLDER]

Each model and engine has a process of its own; they take turns on the same pictures,
each prepared as its model wants them. Compare within a run, and read the ratios.
"""

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.bench import BATCH_SIZE, Bench
from benchmarks.contenders import BY
from benchmarks.machine import Others, machine
from benchmarks.photos import readable, write_photos
from benchmarks.results import statistic
from benchmarks.turns import Answers, Workers
from open_nsfw_tf.architecture import LABELS
from open_nsfw_tf.backbones.registry import BACKBONES
from open_nsfw_tf.backbones.trained import (
    OPEN_NSFW,
    HeadLayer,
    TrainedModel,
    read_trained,
)
from open_nsfw_tf.errors import OpenNsfwError
from open_nsfw_tf.image import YAHOO
from open_nsfw_tf.weights import find_weights

NAME = "open_nsfw"  # Yahoo's network in the table
ENGINES = ("onnxruntime", "tensorflow")
MEASURES = ("net 1", "one by one")


@dataclass(frozen=True)
class Counted:
    """What is known of a model without running it.

    Attributes:
        input: pixels a side.
        classes: of the scores, in order.
        parameters: trainable values.
        madds: multiply-adds for one picture; None for an input of another size than
            the backbone's usual one.
    """

    input: int
    classes: tuple[str, ...]
    parameters: int
    madds: int | None


def count(folder: Path | None) -> Counted:
    """Count a trained model, or Yahoo's network.

    Raises:
        OSError: the model cannot be read.
        WeightsError: it is damaged.
    """
    model = TrainedModel(OPEN_NSFW, LABELS, YAHOO, (), {})
    if folder is not None:
        model = read_trained(folder)
    backbone, size = BACKBONES[model.backbone], model.preprocessing.crop
    head = (*model.head, HeadLayer("dense", units=len(model.classes)))
    parameters, madds = head_costs(backbone.features, head)
    usual = size == backbone.preprocessing.crop
    return Counted(
        size,
        model.classes,
        backbone.parameters + parameters,
        backbone.madds + madds if usual else None,
    )


def head_costs(features: int, head: tuple[HeadLayer, ...]) -> tuple[int, int]:
    """Trainable values and multiply-adds of dense layers and batch norms."""
    parameters = madds = 0
    for layer in head:
        if layer.kind == "dense":
            madds += features * layer.units
            parameters += (features + 1) * layer.units
            features = layer.units
        elif layer.kind == "batch_norm":
            parameters += 2 * features
    return parameters, madds


def measure(bench: Bench, models: dict[str, Counted], rounds: int) -> dict[str, Any]:
    """Measure, and put all numbers in one dict, which JSON can hold."""
    names = [f"{model}{BY}{engine}" for model in models for engine in ENGINES]
    others = Others()
    with Workers(bench) as workers:
        workers.start(names)
        answers = workers.measure({name: names for name in MEASURES}, rounds)
        failed = workers.failed
    if failed:
        raise RuntimeError("; ".join(f"{n}: {reason}" for n, reason in failed.items()))
    return {
        "machine": machine(),
        "rounds": rounds,
        "models": {name: row(name, known, answers) for name, known in models.items()},
        "others": others.share(),
    }


def row(name: str, known: Counted, answers: Answers) -> dict[str, Any]:
    """A model's numbers."""
    walls, scores = {}, {}
    for engine in ENGINES:
        who = f"{name}{BY}{engine}"
        walls[engine] = {
            measure: [answer["wall"] for answer in answers[measure][who]]
            for measure in MEASURES
        }
        scores[engine] = np.asarray(answers["one by one"][who][0]["scores"])
    first, second = ENGINES
    return {
        "input": known.input,
        "classes": list(known.classes),
        "parameters": known.parameters,
        "multiply_adds": known.madds,
        "milliseconds": {
            engine: {measure: statistic(found, 1000) for measure, found in all.items()}
            for engine, all in walls.items()
        },
        "times_as_fast": {
            measure: statistics.median(
                slow / fast
                for fast, slow in zip(
                    walls[first][measure], walls[second][measure], strict=True
                )
            )
            for measure in MEASURES
        },
        "score_difference": float(np.abs(scores[first] - scores[second]).max()),
    }


def markdown(run: dict[str, Any]) -> str:
    """The table."""
    head = ["model", "input", "classes", "parameters", "multiply-adds"]
    for measure in MEASURES:
        head += [f"{measure}: {engine}, ms" for engine in ENGINES] + ["times as fast"]
    lines = [head, ["---"] * len(head)]
    for name, found in run["models"].items():
        madds = found["multiply_adds"]
        cells = [name, str(found["input"]), ", ".join(found["classes"])]
        cells += [f"{found['parameters']:,}", "" if madds is None else f"{madds:,}"]
        for measure in MEASURES:
            for engine in ENGINES:
                one = found["milliseconds"][engine][measure]
                cells.append(f"{one['median']:.1f} ({one['min']:.1f}-{one['max']:.1f})")
            cells.append(f"{found['times_as_fast'][measure]:.1f}")
        lines.append(cells)
    table = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    share = run["others"]
    busy = "" if share is None else f"; other work took {100 * share:.0f} % of it"
    about = run["machine"]
    return (
        f"{about['processor']}, {about['cores']} cores{busy}; medians of "
        f"{run['rounds']} rounds, lowest and highest in parentheses.\n\n{table}\n"
    )


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    made.add_argument("--photos", type=Path, help="a folder; else generated photos")
    made.add_argument("--pictures", type=int, default=20, help="at most, of the folder")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--json", type=Path, help="file to write")
    return made


def main() -> None:
    """Print the table, and write it as JSON if asked."""
    asked = parser().parse_args()
    if min(asked.rounds, asked.pictures) < 1:
        parser().error("expected at least 1 of rounds and pictures")
    folders = {run.absolute().name: run.absolute() for run in asked.runs}
    if len(folders) < len(asked.runs) or NAME in folders:
        parser().error(f"expected folders of different names, none of them {NAME}")
    try:
        models = {NAME: count(None), **{n: count(f) for n, f in folders.items()}}
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder))
            pictures = (
                readable(asked.photos, asked.pictures)
                if asked.photos
                else write_photos(bench.folder, asked.pictures)
            )
            bench.write(pictures, pictures, find_weights().absolute(), folders)
            # Only its length counts: each model prepares the pictures in its own way.
            np.save(bench.folder / "batch.npy", np.zeros(BATCH_SIZE, np.float32))
            run = measure(bench, models, asked.rounds)
    except (OpenNsfwError, ValueError, OSError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    print(markdown(run), end="")
    if asked.json:
        asked.json.write_text(json.dumps(run, indent=1) + "\n")


if __name__ == "__main__":
    main()
