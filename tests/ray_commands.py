"""One process with a Ray of its own, in which tests run what they ask it to.

Starting a Ray costs more than most of what the tests do with it. This file is both
sides: the class for the tests, and, as a script, the process. It reads lines of JSON:
a folder to work in, and either words of a command line or Python code. It answers each
with a line of JSON: the exit status, and what went to standard output and error.
"""

import json
import os
import subprocess
import sys
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from tempfile import TemporaryFile
from types import SimpleNamespace
from typing import Any, Self

ROOT = Path(__file__).parent.parent


class RayCommands:
    """The process, for as long as the context lasts.

    Args:
        home: its home folder: Ray leaves a secret there.
    """

    def __init__(self, home: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "HOME": str(home), "PYTHONPATH": str(ROOT)},
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # the end of its input ends it
        assert self._process.returncode == 0

    def command(self, *words: str | Path) -> Any:
        """Run `open-nsfw` with some words: `returncode`, `stdout` and `stderr`."""
        return self._ask({"words": list(map(str, words))})

    def driver(self, code: str) -> str:
        """Run Python code; the last line that it prints."""
        done = self._ask({"code": code})
        assert done.returncode == 0, done.stderr
        return str(done.stdout.splitlines()[-1])

    def _ask(self, request: dict[str, Any]) -> Any:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(
            json.dumps({"folder": os.getcwd(), **request}),
            file=self._process.stdin,
            flush=True,
        )
        return SimpleNamespace(**json.loads(self._process.stdout.readline()))


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Do what is asked for; its standard output and error are files meanwhile."""
    os.chdir(request["folder"])
    with TemporaryFile("w+") as out, TemporaryFile("w+") as err:
        with redirect_stdout(out), redirect_stderr(err):
            status = command(request["words"]) if "words" in request else run(request)
        for file in (out, err):
            file.seek(0)
        return {"returncode": status, "stdout": out.read(), "stderr": err.read()}


def command(words: list[str]) -> int:
    """Run `open-nsfw`; its exit status."""
    from open_nsfw_tf.cli import main as open_nsfw

    sys.argv = ["open-nsfw", *words]
    try:
        open_nsfw()
    except SystemExit as ended:
        return int(ended.code or 0)
    return 0


def run(request: dict[str, Any]) -> int:
    """Run Python code, and put the settings of the package back that it changes."""
    from open_nsfw_tf.batch import ray

    before = {name: getattr(ray, name) for name in ("BLOCK_BYTES", "PART_SECONDS")}
    try:
        exec(request["code"], {"__name__": "__main__"})  # noqa: S102 - a test's own
    except Exception:  # noqa: BLE001 - the test tells
        traceback.print_exc()
        return 1
    finally:
        for name, value in before.items():
            setattr(ray, name, value)
    return 0


def main() -> None:
    """Answer until the input ends. Nothing but answers goes to standard output."""
    from open_nsfw_tf.batch import RayCluster
    from open_nsfw_tf.batch.ray import connected

    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    with connected(RayCluster(actors=2)):
        for line in sys.stdin:
            print(json.dumps(answer(json.loads(line))), file=answers, flush=True)


if __name__ == "__main__":
    main()
