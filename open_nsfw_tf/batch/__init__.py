"""Any number of pictures to a table of scores, in memory that does not grow with them.

What is remembered is 16 bytes a picture, so that none gets two rows, in one run or in
the runs that go on with its table.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import IO, Any

from open_nsfw_tf.batch.item import Item
from open_nsfw_tf.batch.sources import check_sources, items
from open_nsfw_tf.classifier import BATCH_SIZE, Classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.filetype import open_regular
from open_nsfw_tf.image import describe
from open_nsfw_tf.scores import AnyScores
from open_nsfw_tf.tables import digest
from open_nsfw_tf.tables.append import Mode, TableWriter

WAIT = 1.0  # seconds that a row waits at most for others to be written with


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        rows: that it wrote.
        failed: how many of them have an error instead of scores.
        skipped: pictures that had their row before, or came twice.
        seconds: that it took.
        finished: whether the table is complete; False after `stop`.
    """

    rows: int = 0
    failed: int = 0
    skipped: int = 0
    seconds: float = 0.0
    finished: bool = False


def score_batch(
    classifier: Classifier,
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    mode: Mode = "new",
    hashes: bool = False,
    select: str = "either",
    batch_size: int = BATCH_SIZE,
    stdin: IO[bytes] | None = None,
    progress: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score pictures into a table with the columns path, sfw, nsfw, error (sha256).

    With a classifier of other classes their scores are the columns in the middle.

    Whatever ends it - a kill, a full disk - leaves a table that `mode` "resume" goes
    on with: no row lost, none twice.

    Args:
        classifier: that scores.
        sources: folders, globs, lists, archives, files, "-"; see `sources.items`.
        output: the table, .csv, .jsonl or .parquet.
        mode: "new" refuses a table that exists, "resume" skips what has a row in it,
            "overwrite" begins anew.
        hashes: whether rows have the SHA-256 of the picture's file, in hexadecimal.
        select: what is a picture in folders and archives: a key of `item.SELECT`.
        batch_size: pictures that the engine gets at once.
        stdin: binary; for the source "-".
        progress: called with numbers of pictures that are done, or skipped.
        stop: asked before each picture; True ends the run after those in flight.

    Returns:
        What was done.

    Raises:
        FileExistsError: the table exists and `mode` is "new".
        OSError: the table cannot be written.
        ValueError: a source that does not exist; a table with other columns, or that
            another run writes to; see `TableWriter`.
        ImportError: a .parquet needs the extra `parquet`.
    """
    sources = check_sources(sources, select)
    columns = columns_of(classifier.classes, hashes)
    with TableWriter(output, columns, mode) as table:
        run = _Run(table, classifier.classes, hashes, progress, stop)
        found = items(sources, run.wanted, select, stdin)
        results = classifier.classify_many(
            run.feed(found), batch_size=batch_size, errors="yield"
        )
        run.collect(results, batch_size)
        if not run.stopped:
            table.finish()
        return run.summary()


class _Run:
    """The pictures in flight, and the rows that wait to be written."""

    def __init__(
        self,
        table: TableWriter,
        classes: Sequence[str],
        hashes: bool,
        progress: Callable[[int], None],
        stop: Callable[[], bool],
    ) -> None:
        self.table, self.classes, self.hashes = table, classes, hashes
        self.progress, self.stop = progress, stop
        self.stopped = False
        self.seen = table.done
        self.in_flight: deque[tuple[Item, str | None]] = deque()
        self.count = Summary()
        self.start = time.monotonic()

    def wanted(self, path: str) -> bool:
        """Whether a path needs a row; asked twice for one, the answer is no."""
        key = digest(path)
        if key in self.seen:
            self.count = replace(self.count, skipped=self.count.skipped + 1)
            self.progress(1)
            return False
        self.seen.add(key)
        return True

    def feed(self, found: Iterator[Item]) -> Iterator[str | bytes]:
        """The pictures, as the classifier pulls them.

        What has failed already goes in as no bytes, and comes out in its place.
        """
        for item in found:
            if self.stop():
                self.stopped = True
                return
            sha256 = None
            if self.hashes and item.error is None:
                item, sha256 = hashed(item)
            self.in_flight.append((item, sha256))
            yield item.picture

    def collect(
        self, results: Iterable[AnyScores | ImageError], batch_size: int
    ) -> None:
        """Write the rows of results, some at a time."""
        rows: list[dict[str, Any]] = []
        written = time.monotonic()
        for result in results:
            item, sha256 = self.in_flight.popleft()
            row = row_of(item, result, self.classes)
            rows.append({**row, "sha256": sha256} if self.hashes else row)
            if len(rows) >= batch_size or time.monotonic() - written > WAIT:
                self._write(rows)
                written = time.monotonic()
        self._write(rows)

    def _write(self, rows: list[dict[str, Any]]) -> None:
        if not rows:
            return
        self.table.write(rows)
        failures = sum(row["error"] is not None for row in rows)
        self.count = replace(
            self.count,
            rows=self.count.rows + len(rows),
            failed=self.count.failed + failures,
        )
        self.progress(len(rows))
        rows.clear()

    def summary(self) -> Summary:
        return replace(
            self.count,
            seconds=time.monotonic() - self.start,
            finished=not self.stopped,
        )


def columns_of(classes: Iterable[str], hashes: bool) -> list[str]:
    """The columns of a table of scores."""
    return ["path", *classes, "error", *(["sha256"] if hashes else [])]


def row_of(
    item: Item, result: AnyScores | ImageError, classes: Sequence[str]
) -> dict[str, Any]:
    """The row of a picture, without its hash."""
    row = {"path": item.path, **dict.fromkeys(classes), "error": None}
    if isinstance(result, ImageError):
        # The row has the name; the error need not repeat it.
        reason = str(result).removeprefix(f"{describe(item.picture)}: ")
        return {**row, "error": item.error or reason}
    return {**row, **dict(zip(classes, result, strict=True))}


def hashed(item: Item) -> tuple[Item, str | None]:
    """A picture with the SHA-256 of its file, in hexadecimal; None if unreadable."""
    if isinstance(item.picture, bytes):
        return item, hashlib.sha256(item.picture).hexdigest()
    try:
        with open_regular(item.picture) as file:
            return item, hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]
    except (OSError, ValueError):
        return item, None  # the classifier says what is wrong with it
