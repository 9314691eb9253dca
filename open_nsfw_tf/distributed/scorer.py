"""What scores a block of pictures, and what is remembered of those that died at it.

A picture can end the process that works on it: a decoder crashes, memory runs out. Ray
then gives the block to another process, and would do so for ever. So each says in a
journal what it begins and ends. Who gets a block that was begun and not ended takes its
pictures one at a time; the one that ends its worker twice, alone, gets a row that says
so, and the others get their scores.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pyarrow
import ray

from open_nsfw_tf.batch import hashed, row_of
from open_nsfw_tf.batch.item import Item, failed, stamped
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.distributed import blocks
from open_nsfw_tf.distributed.blocks import Row
from open_nsfw_tf.distributed.remote import RemoteItem, fetched
from open_nsfw_tf.tables import digest

DEATHS = 2  # of workers that had one picture alone: then it is the picture
STARTS = 3  # of a worker in a row that may fail, for each worker there is
FETCHED = 8  # remote pictures that a worker reads at once, each of 64 MiB at most
QUARANTINED = (
    f"this picture ended its worker {DEATHS} times (a crash of the decoder, or no memory "
    "left): it was left out"
)


class Journal:
    """What was begun and has not ended. One for a run, as an actor.

    Args:
        workers: that there may be.
    """

    def __init__(self, workers: int) -> None:
        self._patience = STARTS * workers
        self._starts = 0
        self._open: set[bytes] = set()
        self._alone: dict[bytes, int] = {}
        self._rows: dict[bytes, Row] = {}
        self._skipped: tuple[int, set[bytes], dict[str, int]] = (0, set(), {})

    def start(self) -> bool:
        """Note that a worker begins to load its network; whether it should."""
        self._starts += 1
        return self._starts <= self._patience

    def ready(self) -> None:
        """Note that a worker has loaded its network."""
        self._starts = 0

    def begin(self, keys: list[bytes]) -> bool:
        """Note that a block is worked on; whether another died at one of it."""
        suspect = not self._open.isdisjoint(keys)
        self._open.update(keys)
        return suspect

    def begin_alone(self, key: bytes) -> tuple[int, Row | None]:
        """Note that a picture is worked on alone; how many died so, and its row."""
        died = self._alone.get(key, 0)
        row = self._rows.get(key)
        if row is None:
            self._alone[key] = died + 1
        return died, row

    def end_alone(self, key: bytes, row: Row) -> None:
        """Keep a picture's row, should another picture of its block be deadly."""
        self._alone.pop(key, None)
        self._rows[key] = row

    def end(self, keys: list[bytes]) -> None:
        """Note that a block is done."""
        self._open.difference_update(keys)
        for key in keys:
            self._alone.pop(key, None)
            self._rows.pop(key, None)

    def skip(
        self, count: int, had_rows: set[bytes], passed_over: dict[str, int]
    ) -> None:
        """Note how many pictures were left out, and the digests of what had rows.

        Args:
            count: of pictures.
            had_rows: digests of their paths.
            passed_over: how many files were no pictures, by kind.
        """
        self._skipped = count, had_rows, passed_over

    def skipped(self) -> tuple[int, set[bytes], dict[str, int]]:
        """What `skip` noted."""
        return self._skipped


class Scorer:
    """A worker: a classifier that turns blocks of pictures into blocks of rows.

    Args:
        make_classifier: called once in each worker.
        journal: the actor of a `Journal`.
        hashes: whether rows have the SHA-256 of the picture's file.

    Raises:
        RuntimeError: workers died again and again before they were ready.
    """

    def __init__(
        self, make_classifier: Callable[[], Classifier], journal: Any, hashes: bool
    ) -> None:
        self._journal, self._hashes = journal, hashes
        if not self._ask("start"):
            raise RuntimeError(
                "workers die while they load the network: is there memory enough for "
                "so many, and does it load on one machine?"
            )
        self._classifier = make_classifier()
        self._ask("ready")

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Score a block.

        Args:
            block: of `blocks.PICTURES`.

        Returns:
            A row for each picture, of `blocks.schema`.
        """
        found = blocks.to_items(block)
        keys = [digest(item.path) for item in found]
        if self._ask("begin", keys):
            rows = [self._alone(*pair) for pair in zip(found, keys, strict=True)]
        else:
            rows = list(self._score(found))
        self._ask("end", keys)
        return blocks.of_rows(rows, self._classifier.classes)

    def _ask(self, what: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._journal, what).remote(*arguments))

    def _alone(self, item: Item, key: bytes) -> Row:
        died, row = self._ask("begin_alone", key)
        if row is None:
            if died >= DEATHS:
                item = replace(
                    failed(item.path, QUARANTINED), stamp=stamped(item).stamp
                )
            (row,) = self._score([item])
            self._ask("end_alone", key, row)
        return dict(row)

    def _score(self, found: list[Item]) -> Iterator[Row]:
        in_flight: deque[tuple[Item, str | None]] = deque()

        def feed() -> Iterator[str | bytes]:
            for item in _ahead(found):
                sha256 = None
                item = stamped(item)
                if self._hashes and item.error is None:
                    item, sha256 = hashed(item)
                in_flight.append((item, sha256))
                yield item.picture

        for result in self._classifier.classify_many(feed(), errors="yield"):
            item, sha256 = in_flight.popleft()
            row = row_of(item, result, self._classifier.classes)
            yield {**row, "sha256": sha256}


def _ahead(found: Iterable[Item]) -> Iterator[Item]:
    """The pictures, those on remote storage read some ahead."""
    waiting: deque[Item | Future[Item]] = deque()
    with ThreadPoolExecutor(FETCHED) as pool:  # its threads begin when they are needed
        for item in found:
            remote = isinstance(item, RemoteItem)
            waiting.append(pool.submit(fetched, item) if remote else item)
            if len(waiting) > FETCHED:
                yield _got(waiting.popleft())
        while waiting:
            yield _got(waiting.popleft())


def _got(item: Item | Future[Item]) -> Item:
    return item if isinstance(item, Item) else item.result()
