"""Our engines and the peers side by side: speed, memory, first score, differences.

python -m benchmarks.peers [--rounds 5] [--json peers.json] [--readme]
    [--set small] [FOLDER]

Without a folder there are three sets of generated photos, one after the other: mixed
ones, small ones, and a phone's of 12 megapixels.

Each contender has a process of its own. They take turns, so that drift of the machine
hits all alike; compare within a run, and read the ratios.
"""

import argparse
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from benchmarks import results
from benchmarks.bench import BATCH_SIZE, Bench
from benchmarks.contenders import (
    ALONE,
    NET,
    PICTURES,
    STAGES,
    ContenderSpec,
    contenders,
    parts,
)
from benchmarks.machine import Others, cores, machine
from benchmarks.matmul import MEASURE as MULTIPLY
from benchmarks.matmul import multipliers
from benchmarks.peers_table import markdown
from benchmarks.photos import SETS, readable, repeated, soft_fields, write_photos
from benchmarks.turns import Plan, Workers
from open_nsfw_tf import Classifier, load_weights, save_weights
from open_nsfw_tf.engines.onnxruntime import graph
from open_nsfw_tf.formats.caffemodel import prototxt
from open_nsfw_tf.image import tensor
from open_nsfw_tf.weights import find_weights

README = Path(__file__).parent / "README.md"
MARKS = ("<!-- peers: begin -->\n", "<!-- peers: end -->\n")
CANDIDATES = 64  # colour fields, of which those with scores nearest to .5 are taken
Run = dict[str, Any]


def prepare(bench: Bench, pictures: list[Path], listed: int) -> dict[str, np.ndarray]:
    """Fill the bench's folder, and score the pictures exactly.

    Args:
        bench: to be filled.
        pictures: to score.
        listed: how many of them, over and over, are one list.

    Returns:
        The exact NSFW scores by measure: ours by ONNX Runtime in float32.
    """
    weights = find_weights().absolute()
    bench.write(pictures, repeated(pictures, listed), weights)
    loaded = load_weights(weights)
    save_weights(loaded, bench.h5, format="opennsfw2")
    save_weights(loaded, bench.caffemodel, format="caffemodel")
    bench.caffemodel.with_suffix(".prototxt").write_text(prototxt())
    bench.onnx.write_bytes(graph(weights))
    exact = Classifier("onnxruntime", weights)
    np.save(bench.folder / "batch.npy", make_batch(pictures, exact))
    scores = [exact.classify(path).nsfw for path in pictures]
    net = exact.predict(bench.batch)[:, 1]
    return results.expected_scores(scores, listed, net)


def make_batch(pictures: list[Path], exact: Classifier) -> np.ndarray:
    """A batch, half of pictures and half of what the network is unsure of.

    Most pictures score near 0 or 1, where differences between engines hardly show.

    Args:
        pictures: to take the first half from.
        exact: scores the candidates for the other.

    Returns:
        float32 (16, 224, 224, 3), BGR minus mean.
    """
    half = BATCH_SIZE // 2
    fields = soft_fields(CANDIDATES)
    doubt = -np.abs(exact.predict(fields)[:, 1] - 0.5)
    photos = [tensor(path) for path in repeated(pictures, half)]
    return np.stack([*photos, *fields[np.argsort(doubt)[-half:]]])


def choose(only: list[str] | None) -> dict[str, ContenderSpec]:
    """The contenders to measure, by name.

    Args:
        only: some of their names; None for all that are installed.

    Raises:
        ValueError: nobody has this name, or is not installed.
    """
    known = contenders()
    for name in only or ():
        if name not in known:
            raise ValueError(f"no contender {name!r}: choose of {', '.join(known)}")
    return {name: known[name] for name in only or known}


def measure(
    bench: Bench,
    chosen: dict[str, ContenderSpec],
    expected: dict[str, np.ndarray],
    rounds: int,
    starts: int,
    photos: str = "mixed",
) -> Run:
    """Measure, and put all numbers in one dict, which JSON can hold.

    Args:
        bench: that is prepared.
        chosen: the contenders.
        expected: exact scores by measure.
        rounds: that are counted.
        starts: of each contender's process.
        photos: the set of pictures. The network alone, which is the same whatever is
            scored, is measured with the mixed ones only.
    """
    nets = (*NET, MULTIPLY) if photos == "mixed" else ()
    matmuls = multipliers({kind.precision for kind in chosen.values()})
    explaining = parts(chosen)
    everybody = {**chosen, **explaining, **matmuls}
    others = Others()
    with Workers(bench) as workers:
        first = workers.start(chosen, starts)
        workers.start({**explaining, **matmuls})
        pictures = plan({**chosen, **explaining}, (*PICTURES, STAGES, ALONE))
        answers = workers.measure(pictures, rounds)
        # Before the batches, which some networks hold more memory for.
        memory = workers.measure({"memory": list(chosen)}, rounds=1, warm_ups=0)
        network = plan({**chosen, **matmuls}, nets)
        answers |= workers.measure(network, rounds)
        failed = workers.failed
    kept = {name: kind for name, kind in chosen.items() if name not in failed}
    table = results.rows(kept, answers, first, memory["memory"])
    for name, row in table.items():
        row["score_difference"] = results.differences(name, answers, expected)
    rates = results.matmul_rates(answers, everybody)
    results.add_roofline(table, rates)
    return {
        "machine": machine(),
        "others": others.share(),
        "rounds": rounds,
        "contenders": table,
        "matmul": rates,
        "overhead": results.overheads(table, answers, cores()),
        "targets": results.targets(table, photos),
        "failed": failed,
    }


def plan(kinds: dict[str, ContenderSpec], measures: tuple[str, ...]) -> Plan:
    """Who has which of some measures."""
    return {
        measure: [name for name, kind in kinds.items() if measure in kind.measures]
        for measure in measures
    }


def measure_set(
    name: str, chosen: dict[str, ContenderSpec], asked: argparse.Namespace
) -> Run:
    """Measure with one set of pictures, and say which."""
    kind = SETS.get(name)
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder))
        if kind is None:
            count, listed = asked.pictures, asked.listed
            pictures = readable(asked.folder, count)
        else:
            count, listed = (
                max(1, round(kind.share * number))
                for number in (asked.pictures, asked.listed)
            )
            pictures = write_photos(bench.folder, count, kind.sizes, kind.qualities)
        expected = prepare(bench, pictures, listed)
        photos = name if kind else "mixed"
        run = measure(bench, chosen, expected, asked.rounds, asked.starts, photos)
        title = f"{name} photos, generated" if kind else "pictures"
        run["pictures"] = describe(pictures, title, listed)
    return run


def describe(pictures: list[Path], kind: str, listed: int) -> Run:
    """The kind, number and sizes of the pictures, as JSON holds them."""
    sizes = []
    for path in pictures:
        with Image.open(path) as image:
            sizes.append(image.width * image.height / 1e6)
    return {
        "kind": kind,
        "count": len(pictures),
        "listed": listed,
        "megapixels": [min(sizes), max(sizes)],
    }


def keep(text: str, readme: Path = README) -> None:
    """Put the tables into the README, in the place of the last ones.

    Raises:
        ValueError: the README has no place for them.
    """
    begin, end = MARKS
    before, found, rest = readme.read_text(encoding="utf-8").partition(begin)
    _, closed, after = rest.partition(end)
    if not (found and closed):
        raise ValueError(f"{readme}: expected the lines {begin.strip()}, {end.strip()}")
    readme.write_text(f"{before}{begin}\n{text}\n{end}{after}", encoding="utf-8")


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    made.add_argument("folder", nargs="?", type=Path, help="else generated photos")
    made.add_argument("--pictures", type=int, default=20, help="at most, of the folder")
    made.add_argument("--listed", type=int, default=100, help="in one list, repeated")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--starts", type=int, default=4, help="the first is not counted")
    made.add_argument(
        "--set", action="append", choices=SETS, help="of generated photos; all"
    )
    made.add_argument("--only", action="append", metavar="NAME", help="a contender")
    made.add_argument("--json", type=Path, help="file to write")
    made.add_argument("--readme", action="store_true", help="keep the tables there")
    return made


def main() -> None:
    """Print the tables, and write them as JSON and into the README if asked."""
    asked = parser().parse_args()
    counts = ("pictures", "listed", "rounds", "starts")
    if any(getattr(asked, name) < 1 for name in counts):
        parser().error(f"expected at least 1 of {', '.join(counts)}")
    if asked.json and not asked.json.parent.is_dir():  # not after minutes
        parser().error(f"{asked.json}: no such folder")
    try:
        chosen = choose(asked.only)
        sets = ["of the folder"] if asked.folder else asked.set or list(SETS)
        runs = [measure_set(name, chosen, asked) for name in sets]
    except (ValueError, OSError) as error:
        sys.exit(f"error: {error}")
    text = markdown(runs)
    print(text, end="")
    if asked.json:
        asked.json.write_text(json.dumps(runs, indent=1) + "\n")
    if asked.readme:
        keep(text)


if __name__ == "__main__":
    main()
