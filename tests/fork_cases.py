"""Uses one engine or loader in child processes, and prints what came of it.

    python fork_cases.py ENGINE_OR_LOADER used|loading|started PICTURE SCORE

prints a line for each child: the situation, a tab, and "right", "RuntimeError: ...", or
what else happened.
"""

import base64
import faulthandler
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import open_nsfw_tf
from open_nsfw_tf.libraries import start_tensorflow_fast

start_tensorflow_fast()  # for time
LIMIT = 300  # seconds until a child that hangs says where it does, and is ended
TOLERANCE = 5e-6
DELAYS = (0.01, 0.1, 0.4)  # seconds after which a process forks that is loading
PICTURES = 9  # of `classify_many`: enough to share between workers


def make(what: str) -> Callable[[str], float]:
    """What is used: from a picture's path to its NSFW score."""
    if what == "default":
        return lambda path: open_nsfw_tf.classify(path).nsfw
    if what in LOADERS:
        return LOADERS[what]()
    return Scorer(open_nsfw_tf.Classifier(what))


class Scorer:
    """The score of one picture; both ways to it must agree."""

    def __init__(self, classifier: Any) -> None:
        self.classifier = classifier

    def __call__(self, path: str) -> float:
        """The NSFW score of a picture."""
        score = self.classifier.classify(path).nsfw
        found = [one.nsfw for one in self.classifier.classify_many([path] * PICTURES)]
        if len(found) != PICTURES or max(abs(one - score) for one in found) > 1e-6:
            raise AssertionError(f"{score} alone, {found} together")
        return score


def graph_loader() -> Callable[[str], float]:
    load = open_nsfw_tf.create_tensorflow_image_loader()
    return lambda path: score(load(path))


def base64_loader() -> Callable[[str], float]:
    def load(path: str) -> float:
        with open(path, "rb") as file:
            text = base64.b64encode(file.read())
        return score(open_nsfw_tf.load_base64_tensor([text]).numpy())

    return load


def pillow_loader() -> Callable[[str], float]:
    load = open_nsfw_tf.create_yahoo_image_loader()
    return lambda path: score(load(path))


def model() -> Callable[[str], float]:
    network = open_nsfw_tf.OpenNsfwModel()
    network.build()
    load = open_nsfw_tf.create_yahoo_image_loader()
    return lambda path: float(network.predict(load(path))[0, 1])


def score(batch: Any) -> float:
    return float(open_nsfw_tf.Classifier("onnxruntime").predict(batch)[0, 1])


LOADERS = {
    "graph loader": graph_loader,
    "base64 loader": base64_loader,
    "pillow loader": pillow_loader,
    "OpenNsfwModel": model,
}


def outcome(use: Callable[[str], float], path: str, expected: float) -> str:
    try:
        found = use(path)
    except Exception as error:  # noqa: BLE001 - all of it is printed
        return f"{type(error).__name__}: {error}"
    return "right" if abs(found - expected) <= TOLERANCE else f"wrong: {found}"


def forked(work: Callable[[], str], leave: Callable[[int], Any] = os._exit) -> str:
    """What some work in a forked child gives."""
    reader, writer = os.pipe()
    child = os.fork()
    if not child:
        signal.alarm(LIMIT)
        os.close(reader)
        os.write(writer, work().encode())
        os.close(writer)
        leave(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    status = os.waitpid(child, 0)[1]
    return said if status == 0 and said else f"status {status}: {said}"


def used(what: str, path: str, expected: float) -> Iterator[tuple[str, str]]:
    """One parent makes it, uses it and goes on, and forks at each step."""
    use = make(what)

    def child() -> str:
        return outcome(use, path, expected)

    def grandchild() -> str:
        first, second = child(), forked(child)
        return first if first == second else f"{first}, then {second}"

    for _ in range(2):
        yield "before", forked(child)
    yield "parent", child()
    yield "after", forked(child, sys.exit)  # ends as a program does
    yield "parent", child()
    yield "twice", forked(grandchild)
    yield "unused", forked(lambda: "right", sys.exit)
    for found in busy(lambda: use(path), child):
        yield "busy", found
    yield "parent", child()


def busy(use: Callable[[], Any], child: Callable[[], str]) -> Iterator[str]:
    """Other threads use it while the process forks."""
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for delay in DELAYS:
        time.sleep(delay)
        yield forked(child)
    stop.set()
    for thread in threads:
        thread.join()


def loading(what: str, path: str, expected: float) -> Iterator[tuple[str, str]]:
    """Another thread is making it, or uses it for the first time."""
    thread = threading.Thread(target=lambda: make(what)(path))
    thread.start()
    for delay in DELAYS:
        time.sleep(delay)
        found = forked(lambda: outcome(lambda p: make(what)(p), path, expected))
        yield "during", found
    thread.join()


def started(what: str, path: str, expected: float) -> Iterator[tuple[str, str]]:
    """Processes that `multiprocessing` starts in its three ways.

    A classifier is sent to them, as its bound method to those of a pool; a loader is
    made there.
    """
    use = None if what in LOADERS or what == "default" else make(what)
    if isinstance(use, Scorer):
        yield "pool", pool(use.classifier.classify, path, expected)
    for method in ("spawn", "forkserver"):
        context = multiprocessing.get_context(method)
        reader, writer = context.Pipe(duplex=False)
        arguments = (writer, what, use, path, expected)
        child = context.Process(target=receive, args=arguments)
        child.start()
        writer.close()
        yield method, reader.recv() if reader.poll(LIMIT) else "hangs"
        child.join(LIMIT)


def pool(work: Callable[[str], Any], path: str, expected: float) -> str:
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        try:
            found = list(executor.map(work, [path] * 2, timeout=LIMIT))
        except Exception as error:  # noqa: BLE001 - all of it is printed
            return f"{type(error).__name__}: {error}"
    right = all(abs(one.nsfw - expected) <= TOLERANCE for one in found)
    return "right" if right else f"wrong: {found}"


def receive(pipe: Any, what: str, use: Any, path: str, expected: float) -> None:
    pipe.send(outcome(use or (lambda p: make(what)(p)), path, expected))


# Not `dump_traceback_later`, for whose thread a grandchild would wait for ever.
faulthandler.register(signal.SIGALRM, chain=True)
PARENTS = {"used": used, "loading": loading, "started": started}

if __name__ == "__main__":
    what, parent, path, golden = sys.argv[1:]
    for situation, found in PARENTS[parent](what, path, float(golden)):
        print(situation, found, sep="\t", flush=True)
