"""Any number of pictures to a table of scores, in memory that does not grow with them.

What is remembered is 16 bytes a picture, and 16 of its file's size and time, so that
none gets two rows, in one run or in the runs that go on with its table, and that a file
that has changed is scored again; and 16 for each member of the archive at hand.
"""

import hashlib
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import IO, Any

from open_nsfw_tf.batch.item import Item, stamped
from open_nsfw_tf.batch.sources import STDIN, check_sources, items
from open_nsfw_tf.classifier import BATCH_SIZE, Classifier
from open_nsfw_tf.errors import ImageError
from open_nsfw_tf.files import PassedOver, open_regular, stamp_of
from open_nsfw_tf.image import describe
from open_nsfw_tf.scores import AnyScores
from open_nsfw_tf.tables import STAMP, digest, pack_stamp
from open_nsfw_tf.tables.append import Mode, TableWriter

WAIT = 1.0  # seconds that a row waits at most for others to be written with


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        rows: that it wrote.
        failed: how many of them have an error instead of scores.
        again: how many of them took the place of a row, of a file that has changed.
        skipped: pictures that had their row before, or came twice.
        seconds: that it took.
        finished: whether the table is complete; False after `stop`.
        passed_over: files in folders and archives that were no pictures, by kind.
        named: the digests of the paths that its sources name and that have a row, and
            perhaps of some that have none.
    """

    rows: int = 0
    failed: int = 0
    again: int = 0
    skipped: int = 0
    seconds: float = 0.0
    finished: bool = False
    passed_over: PassedOver = field(default_factory=PassedOver)
    named: set[bytes] = field(default_factory=set, repr=False)


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
    """Score pictures into a table: path, sfw, nsfw, error, (sha256,) size, mtime_ns.

    With a classifier of other classes their scores are the columns in the middle. The
    last two are the file's, or the archive's, when it was read.

    Whatever ends it - a kill, a full disk - leaves a table that `mode` "resume" goes
    on with: no row lost, none twice.

    Args:
        classifier: that scores.
        sources: folders, globs, lists, archives, files, "-"; see `sources.items`.
        output: the table, .csv, .jsonl or .parquet.
        mode: "new" refuses a table that exists, "overwrite" begins anew, "resume" skips
            what has a row in it: see `is_done`.
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
        found = items(sources, run.wanted, select, stdin, run.count.passed_over)
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
        self.named: set[bytes] = set()
        self.in_flight: deque[tuple[Item, str | None]] = deque()
        self.count = Summary()
        self.start = time.monotonic()

    def wanted(self, path: str) -> bool:
        """Whether a path needs a row; asked twice for one, the answer is no."""
        key = digest(path)
        if key in self.named or is_done(self.table.done, path):
            self.count = replace(self.count, skipped=self.count.skipped + 1)
            self.progress(1)
            self.named.add(key)
            return False
        self.named.add(key)
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
            item = stamped(item)
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
        again = sum(digest(row["path"]) in self.table.done for row in rows)
        self.table.write(rows)
        self.count = counted(self.count, rows, again)
        self.progress(len(rows))
        rows.clear()

    def summary(self) -> Summary:
        return replace(
            self.count,
            seconds=time.monotonic() - self.start,
            finished=not self.stopped,
            named=self.named,
        )


def is_done(done: Mapping[bytes, bytes], path: str) -> bool:
    """Whether a path has a row of the file that is there now: of its size and time.

    A file that has gone keeps its row. What comes from standard input has neither size
    nor time, and is scored each time.

    Args:
        done: of a table that is written.
        path: of a file, or of a member of an archive.
    """
    known = done.get(digest(path))
    if known is None or path == STDIN or path.startswith(f"{STDIN}/"):
        return False
    stamp = stamp_of(path)
    return stamp is None or pack_stamp(stamp) == known


def counted(count: Summary, rows: Sequence[dict[str, Any]], again: int) -> Summary:
    """A count with some more rows, of which some took another's place."""
    failures = sum(row["error"] is not None for row in rows)
    return replace(
        count,
        rows=count.rows + len(rows),
        failed=count.failed + failures,
        again=count.again + again,
    )


def columns_of(classes: Iterable[str], hashes: bool) -> list[str]:
    """The columns of a table of scores."""
    return ["path", *classes, "error", *(["sha256"] if hashes else []), *STAMP]


def row_of(
    item: Item, result: AnyScores | ImageError, classes: Sequence[str]
) -> dict[str, Any]:
    """The row of a picture, without its hash."""
    stamp = zip(STAMP, item.stamp or (None, None), strict=True)
    row = {"path": item.path, **dict.fromkeys(classes), "error": None, **dict(stamp)}
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
