"""`open-nsfw serve` beside `Classifier.classify` and `open-nsfw batch`, in one run.

python -m benchmarks.serve [--rounds 5] [--pictures 200] [--requests 50000]
    [--json serve.json] [FOLDER]

The clients run on the same machine in a process of their own, and take processor time
from the server. How much they took is measured too.
"""

import argparse
import asyncio
import json
import multiprocessing
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from pathlib import Path
from typing import Any, Self

from benchmarks.machine import machine
from benchmarks.photos import readable, write_photos
from open_nsfw_tf import Classifier

SCRIPT = Path(sys.executable).parent / "open-nsfw"
PAUSE = 0.05  # seconds between turns: threads of ONNX Runtime still look for work
CLIENTS = 32
PHOTOS = 20
TRICKLING, BUSY = 200, 64  # connections beside which /health/live is asked


class Server:
    """A server process."""

    def __init__(self) -> None:
        command = [str(SCRIPT), "serve", "--port", "0", "--queue", "256"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.process.stdout is not None
        found = re.search(r"127\.0\.0\.1:(\d+)", self.process.stdout.readline())
        if found is None:
            raise RuntimeError("the server did not start: see its error above")
        self.port = int(found[1])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.process.terminate()
        self.process.communicate()

    @property
    def memory(self) -> float:
        """MB that it holds."""
        text = Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii")
        return int(text.split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6


# -- a client that costs little


class Client:
    """One connection that asks again and again."""

    def __init__(self, port: int) -> None:
        self.port = port

    async def __aenter__(self) -> Self:
        self.reader, self.writer = await asyncio.open_connection(
            "127.0.0.1", self.port, limit=1 << 22
        )
        return self

    async def __aexit__(self, *error: object) -> None:
        self.writer.close()

    async def ask(self, picture: bytes | None) -> float:
        """Seconds until a picture is scored; None: until /health/live answers."""
        start = time.perf_counter()
        if picture is None:
            self.writer.write(b"GET /health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        else:
            length = str(len(picture)).encode()
            head = b"POST /v1/classify HTTP/1.1\r\nHost: x\r\nContent-Length: "
            self.writer.write(head + length + b"\r\n\r\n" + picture)
        answer = await self.reader.readuntil(b"\r\n\r\n")
        if not answer.startswith((b"HTTP/1.1 200 ", b"HTTP/1.1 422 ")):
            raise RuntimeError(f"unexpected answer {answer[:40]!r}")
        found = re.search(rb"content-length: (\d+)", answer)
        assert found is not None
        await self.reader.readexactly(int(found[1]))
        return time.perf_counter() - start


async def load(port: int, pictures: Sequence[bytes], clients: int) -> list[float]:
    """The seconds of each picture, when some clients ask for all of them."""
    waiting = iter(pictures)
    seconds: list[float] = []

    async def one() -> None:
        async with Client(port) as client:
            for picture in waiting:
                seconds.append(await client.ask(picture))

    await asyncio.gather(*(one() for _ in range(clients)))
    return seconds


def loading(
    port: int, pictures: Sequence[bytes], clients: int, results: Any = None
) -> None:
    """`load`, in a process of its own; with how long it took, all and of processors."""
    start, used = time.perf_counter(), time.process_time()
    seconds = asyncio.run(load(port, pictures, clients))
    if results is not None:
        taken = time.perf_counter() - start
        results.put((seconds, taken, time.process_time() - used))


def loaded(port: int, pictures: Sequence[bytes], clients: int) -> Any:
    """The results of `loading`."""
    context = multiprocessing.get_context("spawn")
    results = context.Queue()
    arguments = (port, pictures, clients, results)
    process = context.Process(target=loading, args=arguments)
    process.start()
    result = results.get()
    process.join()
    return result


# -- what is measured


def one_client(
    server: Server, classifier: Classifier, pictures: Sequence[bytes]
) -> Any:
    """Milliseconds of each picture by HTTP, and by a call in this process.

    Once with a pause before each, after which all is slower: caches are cold. And once
    in rows, one request after the other, and one call after the other.
    """

    async def measure() -> Any:
        async with Client(server.port) as client:
            return {
                "with pauses": await in_turn(client, 1),
                "in rows": await in_turn(client, PHOTOS),
            }

    async def in_turn(client: Client, row: int) -> Any:
        served: list[float] = []
        called: list[float] = []
        for first in range(0, len(pictures), row):
            await asyncio.sleep(PAUSE)
            for picture in pictures[first : first + row]:
                served.append(1000 * await client.ask(picture))
            await asyncio.sleep(PAUSE)
            for picture in pictures[first : first + row]:
                start = time.perf_counter()
                classifier.classify(picture)
                called.append(1000 * (time.perf_counter() - start))
        return more(served, called)

    return asyncio.run(measure())


def more(served: Sequence[float], called: Sequence[float]) -> Any:
    """How much longer the requests took than the calls, milliseconds."""
    # The least of each photo's turns: what other work on the machine did not disturb.
    best = [
        min(served[first::PHOTOS]) - min(called[first::PHOTOS])
        for first in range(min(PHOTOS, len(served)))
    ]
    differences = [a - b for a, b in zip(served, called, strict=True)]
    return {
        "http_ms": statistics.median(served),
        "call_ms": statistics.median(called),
        "more_ms": statistics.median(differences),
        "more_ms_of_best": statistics.median(best),
    }


def batch_seconds(sources: Sequence[Path], table: Path) -> float:
    """How long `open-nsfw batch` takes, with its start."""
    command = [str(SCRIPT), "batch", *map(str, sources), "-o", str(table)]
    start = time.perf_counter()
    subprocess.run([*command, "--overwrite"], check=True, capture_output=True)
    return time.perf_counter() - start


def many_clients(
    server: Server, folder: Path, pictures: Sequence[bytes], rounds: int
) -> Any:
    """Pictures a second of 32 clients, beside `open-nsfw batch` on the same pictures.

    Its start is left out, as the server's is: a run on one picture, of the smallest
    file, is subtracted.
    """
    files = [folder / f"{number}.jpg" for number in range(len(pictures))]
    for file, picture in zip(files, pictures, strict=True):
        file.write_bytes(picture)
    least = min(files, key=lambda file: file.stat().st_size)
    table = folder / "scores.csv"
    ratios, shares, latencies, rates = [], [], [], []
    for _ in range(rounds):
        began = batch_seconds([least], table)
        batch = (batch_seconds(files, table) - began) / (len(files) - 1)
        time.sleep(PAUSE)
        seconds, taken, used = loaded(server.port, pictures, CLIENTS)
        ratios.append(batch / (taken / len(pictures)))
        shares.append(used / taken / (os.cpu_count() or 1))
        rates.append(len(pictures) / taken)
        latencies += seconds[CLIENTS:]  # the first ones all came at once
        time.sleep(PAUSE)
    cuts = statistics.quantiles(latencies, n=100)
    return {
        "pictures_a_second": statistics.median(rates),
        "share_of_batch": statistics.median(ratios),
        "shares": ratios,
        "processors_used_by_clients": statistics.median(shares),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "p99_over_p50": cuts[98] / cuts[49],
    }


def memory(server: Server, picture: bytes, requests: int) -> Any:
    """MB after 1,000 requests and after all of them.

    One in five is scored, so that it takes minutes; the others' bytes are no picture.
    """
    thousand = 200 * [picture, *4 * [b"no picture" * 1000]]
    loaded(server.port, thousand, CLIENTS)
    first = server.memory
    for _ in range(requests // 1000 - 1):
        loaded(server.port, thousand, CLIENTS)
    return {
        "requests": requests,
        "mb_after_1000": first,
        "mb_at_the_end": server.memory,
        "growth": server.memory / first - 1,
    }


@contextmanager
def trickling(port: int) -> Any:
    """Connections that have sent a part of a request."""
    import socket

    connections = [
        socket.create_connection(("127.0.0.1", port)) for _ in range(TRICKLING)
    ]
    for connection in connections:
        connection.sendall(b"POST /v1/classify HTTP/1.1\r\nHost: x\r\n")
    try:
        yield
    finally:
        for connection in connections:
            connection.close()


def health(server: Server, pictures: Sequence[bytes]) -> Any:
    """Milliseconds of /health/live beside trickling connections and real clients."""
    context = multiprocessing.get_context("spawn")
    process = context.Process(target=loading, args=(server.port, pictures, BUSY))

    async def ask() -> list[float]:
        async with Client(server.port) as client:
            seconds = []
            while process.is_alive():
                seconds.append(await client.ask(None))
                await asyncio.sleep(0.02)
            return seconds

    with trickling(server.port):
        process.start()
        time.sleep(2)  # it starts
        seconds = asyncio.run(ask())
    process.join()
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "asked": len(seconds),
        "p50_ms": 1000 * cuts[49],
        "p99_ms": 1000 * cuts[98],
        "most_ms": 1000 * max(seconds),
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=200, help="of each round")
    parser.add_argument("--requests", type=int, default=0, help="to see memory grow")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, Server() as server:
        if options.folder:
            paths = readable(options.folder, PHOTOS)
        else:
            paths = write_photos(Path(folder), PHOTOS)
        photos = [path.read_bytes() for path in paths]
        pictures = list(islice(cycle(photos), options.pictures))
        classifier = Classifier()
        found = {"machine": machine(), "load": os.getloadavg()[0]}
        found["one client"] = one_client(server, classifier, pictures)
        copies = Path(folder) / "copies"
        copies.mkdir()
        found["32 clients"] = many_clients(server, copies, pictures, options.rounds)
        found["health"] = health(server, 4 * pictures)
        if options.requests:
            found["memory"] = memory(server, min(photos, key=len), options.requests)
    print(json.dumps(found, indent=1))
    if options.json:
        options.json.write_text(json.dumps(found) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
