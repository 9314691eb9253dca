"""Uses one engine or loader in one kind of child process, and prints what came of it.

    python fork_cases.py ENGINE_OR_LOADER SITUATION PICTURE SCORE

prints a line for each child: "right", "RuntimeError: ...", or what else happened.
"""

import base64
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import open_nsfw_tf

LIMIT = 100  # seconds until a child that hangs is ended
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


def before(what: str, path: str, expected: float) -> list[str]:
    """Made by the parent, and not used by it."""
    use = make(what)
    return [forked(lambda: outcome(use, path, expected)) for _ in range(2)]


def after(what: str, path: str, expected: float) -> list[str]:
    """Made and used by the parent, which goes on; the child ends as a program does."""
    use = make(what)
    found = [outcome(use, path, expected)]
    found.append(forked(lambda: outcome(use, path, expected), sys.exit))
    found.append(outcome(use, path, expected))
    return [found[1]] if found[0] == found[2] == "right" else found


def twice(what: str, path: str, expected: float) -> list[str]:
    """A child of a child, both of which use what the first process used."""
    use = make(what)
    use(path)

    def both() -> str:
        first = outcome(use, path, expected)
        second = forked(lambda: outcome(use, path, expected))
        return first if first == second else f"{first}, then {second}"

    return [forked(both)]


def unused(what: str, path: str, expected: float) -> list[str]:
    """The parent has used it; the child does not, and must be able to end."""
    use = make(what)
    use(path)
    return [forked(lambda: "right", sys.exit)]


def busy(what: str, path: str, expected: float) -> list[str]:
    """Other threads use it while the process forks."""
    use = make(what)
    stop = threading.Event()

    def work() -> None:
        while not stop.is_set():
            use(path)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    found = []
    for delay in DELAYS:
        time.sleep(delay)
        found.append(forked(lambda: outcome(use, path, expected)))
    stop.set()
    for thread in threads:
        thread.join()
    return found


def during(what: str, path: str, expected: float) -> list[str]:
    """Another thread is making it, or uses it for the first time."""
    thread = threading.Thread(target=lambda: make(what)(path))
    thread.start()
    found = []
    for delay in DELAYS:
        time.sleep(delay)
        found.append(forked(lambda: outcome(lambda p: make(what)(p), path, expected)))
    thread.join()
    return found


def pool(what: str, path: str, expected: float) -> list[str]:
    """The bound method of a classifier as the work of forked processes."""
    classifier = open_nsfw_tf.Classifier(what)
    context = multiprocessing.get_context("fork")
    with ProcessPoolExecutor(2, mp_context=context) as executor:
        try:
            found = list(executor.map(classifier.classify, [path] * 2, timeout=LIMIT))
        except Exception as error:  # noqa: BLE001 - all of it is printed
            return [f"{type(error).__name__}: {error}"]
    return [
        "right" if abs(one.nsfw - expected) <= TOLERANCE else "wrong" for one in found
    ]


def sent(method: str, what: str, path: str, expected: float) -> list[str]:
    """A process that begins anew; a classifier is sent to it, a loader made in it."""
    use = None if what in LOADERS or what == "default" else make(what)
    context = multiprocessing.get_context(method)
    reader, writer = context.Pipe(duplex=False)
    child = context.Process(target=receive, args=(writer, what, use, path, expected))
    child.start()
    writer.close()
    said = reader.recv() if reader.poll(LIMIT) else "hangs"
    child.join(LIMIT)
    return [said]


def receive(pipe: Any, what: str, use: Any, path: str, expected: float) -> None:
    pipe.send(outcome(use or (lambda p: make(what)(p)), path, expected))


SITUATIONS: dict[str, Callable[[str, str, float], list[str]]] = {
    "before": before,
    "after": after,
    "twice": twice,
    "unused": unused,
    "busy": busy,
    "during": during,
    "pool": pool,
    "spawn": lambda *rest: sent("spawn", *rest),
    "forkserver": lambda *rest: sent("forkserver", *rest),
}

if __name__ == "__main__":
    for line in SITUATIONS[sys.argv[2]](sys.argv[1], sys.argv[3], float(sys.argv[4])):
        print(line, flush=True)
