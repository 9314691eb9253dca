"""Processes that take turns: all are alive, and one computes at a time.

A machine's speed drifts while other work runs on it. So nobody is measured to the end
before the next begins: in each round everybody has one turn.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self

from benchmarks.bench import Bench

# Threads of ONNX Runtime and of OpenMP look for work for a while after a call, and
# would take the core from whoever comes next.
PAUSE = 0.05  # seconds between turns
ENVIRONMENT = {
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "ORT_DISABLE_TELEMETRY": "1",
    "PYTHONWARNINGS": "ignore",  # of other people's packages
}
ROOT = Path(__file__).parent.parent

Answer = dict[str, Any]
Answers = dict[str, dict[str, list[Answer]]]  # {measure: {name: one a round}}
Plan = dict[str, list[str]]  # {measure: names}


def say(text: str) -> None:
    """Tell who is waited for in one line, which the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="\r", file=sys.stderr, flush=True)


class WorkerError(RuntimeError):
    """A contender's process ended before its answer."""


class Worker:
    """One contender's process.

    Args:
        name: of the contender.
        bench: what is measured with.

    Attributes:
        first_seconds: from the process's start to its first score.

    Raises:
        WorkerError: it ended before that.
    """

    def __init__(self, name: str, bench: Bench) -> None:
        self.name = name
        self.errors = bench.folder / f"{name}.log"
        start = time.perf_counter()
        with self.errors.open("wb") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "benchmarks.worker", name, str(bench.folder)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env={**ENVIRONMENT, **os.environ},
            )
        try:
            self._answer()
        except BaseException:
            self.close()
            raise
        self.first_seconds = time.perf_counter() - start

    def ask(self, measure: str) -> Answer:
        """Let it have its turn.

        Args:
            measure: a key of `worker.Turn.measures`.

        Raises:
            WorkerError: it ended before its answer.
        """
        time.sleep(PAUSE)
        assert self.process.stdin is not None
        try:
            print(measure, file=self.process.stdin, flush=True)
        except BrokenPipeError as error:
            raise WorkerError(self._reason()) from error
        return self._answer()

    def close(self) -> None:
        """End the process; what it still computes is not waited for."""
        self.process.kill()
        self.process.communicate()

    def _answer(self) -> Answer:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            raise WorkerError(self._reason())
        answer: Answer = json.loads(line)
        return answer

    def _reason(self) -> str:
        code = self.process.wait()
        lines = self.errors.read_text(errors="replace").strip().splitlines()
        return f"{lines[-1] if lines else 'no word'} (exit status {code})"


class Workers:
    """All the processes of one run; who fails drops out, and is remembered.

    A context manager, which ends them.

    Args:
        bench: what is measured with.

    Attributes:
        failed: the reasons, by name.
    """

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.alive: dict[str, Worker] = {}
        self.failed: dict[str, str] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        for worker in self.alive.values():
            worker.close()

    def start(self, names: Iterable[str], times: int = 1) -> dict[str, list[float]]:
        """Start contenders, several times in turn; those of the last time stay.

        Args:
            names: of the contenders.
            times: one more than is counted, unless it is one: the first start writes
                bytecode, and networks that are kept.

        Returns:
            Seconds from the start of each process to its first score, by name.
        """
        seconds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(times):
            for name, found in seconds.items():
                say(f"start {turn + 1} of {times}: {name}")
                taken = self._start(name)
                if taken is not None and (turn or times == 1):
                    found.append(taken)
        return seconds

    def _start(self, name: str) -> float | None:
        if name in self.failed:
            return None
        if name in self.alive:
            self.alive.pop(name).close()
        time.sleep(PAUSE)
        try:
            self.alive[name] = Worker(name, self.bench)
        except WorkerError as error:
            self.failed[name] = f"start: {error}"
            return None
        return self.alive[name].first_seconds

    def measure(self, plan: Plan, rounds: int, warm_ups: int = 1) -> Answers:
        """Let them take turns: in each round, all those of a measure, then the next.

        Args:
            plan: keys of `worker.Turn.measures`, each with the names of those measured.
            rounds: that are counted.
            warm_ups: rounds before them.

        Returns:
            The answers by measure and name, one a round.
        """
        answers: Answers = {
            measure: {name: [] for name in names} for measure, names in plan.items()
        }
        for turn in range(warm_ups + rounds):
            for measure, names in plan.items():
                for name in names:
                    say(f"round {turn + 1} of {warm_ups + rounds}: {measure}, {name}")
                    answer = self._ask(name, measure)
                    if answer is not None and turn >= warm_ups:
                        answers[measure][name].append(answer)
        return answers

    def _ask(self, name: str, measure: str) -> Answer | None:
        """An answer; None of those that failed, now or before."""
        if name not in self.alive:
            return None
        try:
            return self.alive[name].ask(measure)
        except WorkerError as error:
            self.failed[name] = f"{measure}: {error}"
            self.alive.pop(name).close()
            return None
