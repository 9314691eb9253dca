"""One contender in a process of its own, measured when its turn comes.

python -m benchmarks.worker NAME FOLDER

It is started by `benchmarks.turns`. Lines come in on standard input, each the name of a
measure, and one line of JSON goes out for each; the first goes out unasked, with the
first score.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

from benchmarks.bench import Bench
from benchmarks.contenders import ALONE, BY, PEERS, STAGES, Decoding, Model, Ours
from benchmarks.machine import peak_megabytes

Answer = dict[str, Any]
SECONDS = 0.25  # that calls of the network are repeated for in one turn


def made(name: str, bench: Bench) -> Any:
    """The contender of a name; without importing what the others need."""
    if BY in name:
        return Model(bench, name)
    if name in PEERS:
        return PEERS[name].make(bench, name)
    if name.startswith("matmul "):
        from benchmarks.matmul import Multiplier

        return Multiplier(bench, name)
    if name.startswith("decoding"):
        return Decoding(bench, name)
    return Ours(bench, name)


class Turn:
    """The measures of one contender.

    Args:
        contender: an object with some of the methods of `contenders.Contender`.
        bench: what is measured with.
    """

    def __init__(self, contender: Any, bench: Bench) -> None:
        self.contender, self.bench = contender, bench
        self.measures: dict[str, Callable[[], Answer]] = {
            "first": self.first,
            "one by one": self.one_by_one,
            "list": self.whole_list,
            "net 1": lambda: self.net(1),
            "net 16": lambda: self.net(16),
            STAGES: self.stages,
            ALONE: lambda: self.net(16),
            "multiply": self.multiply,
            "memory": lambda: {"megabytes": peak_megabytes()},
        }

    def first(self) -> Answer:
        """The first score, of a picture if the contender reads pictures."""
        if hasattr(self.contender, "one"):
            return {"score": self.contender.one(self.bench.pictures[0])}
        if hasattr(self.contender, "net"):
            inputs = self.contender.net_input(self.bench.batch[:1])
            return {"score": float(self.contender.net(inputs)[0, 1])}
        return {}

    def one_by_one(self) -> Answer:
        """Each picture by a call of its own."""
        paths = self.bench.pictures
        return timed(lambda: [self.contender.one(path) for path in paths], len(paths))

    def whole_list(self) -> Answer:
        """All pictures of the list by one call."""
        paths = self.bench.listed
        return timed(lambda: self.contender.many(paths), len(paths))

    def stages(self) -> Answer:
        """Processor seconds a picture of each step of decoding the list."""
        paths = self.bench.listed
        seconds = self.contender.stages(paths)
        return {name: taken / len(paths) for name, taken in seconds.items()}

    def net(self, size: int) -> Answer:
        """The network alone, called for a while; the first call is not counted."""
        inputs = self.contender.net_input(self.bench.batch[:size])
        scores = self.contender.net(inputs)
        answer = repeated(lambda: self.contender.net(inputs), size)
        return {**answer, "scores": scores[:, 1].tolist()}

    def multiply(self) -> Answer:
        """One multiplication of matrices, for a while; the first is not counted."""
        self.contender.multiply()
        return repeated(self.contender.multiply, 1)


def timed(call: Callable[[], list[float]], count: int) -> Answer:
    """Wall and processor seconds a picture of one call, and its scores."""
    wall, cpu = time.perf_counter(), time.process_time()
    scores = call()
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    return {"wall": wall / count, "cpu": cpu / count, "scores": scores}


def repeated(call: Callable[[], object], count: int) -> Answer:
    """Median wall and mean processor seconds a picture of several calls."""
    start, cpu = time.perf_counter(), time.process_time()
    walls: list[float] = []
    while time.perf_counter() - start < SECONDS or len(walls) < 3:
        before = time.perf_counter()
        call()
        walls.append(time.perf_counter() - before)
    cpu = (time.process_time() - cpu) / len(walls)
    return {"wall": sorted(walls)[len(walls) // 2] / count, "cpu": cpu / count}


def own_output() -> TextIO:
    """Standard output for the answers alone: what libraries print goes elsewhere."""
    output = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)
    return output


def main() -> None:
    """Answer until standard input ends."""
    name, folder = sys.argv[1:]
    output = own_output()
    bench = Bench(Path(folder))
    turn = Turn(made(name, bench), bench)
    print(json.dumps(turn.first()), file=output, flush=True)
    for line in sys.stdin:
        print(json.dumps(turn.measures[line.strip()]()), file=output, flush=True)


if __name__ == "__main__":
    main()
