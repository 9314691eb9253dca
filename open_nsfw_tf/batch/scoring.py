"""Scoring pictures into a table, in memory that hardly grows with their number.

Of each picture two digests are remembered, of its path and of its file by whatever
path, and its file's size and time: 60 to 130 bytes in all. So none gets two rows in one
run, a path gets none in the runs that go on with its table, and a file that has changed
is scored again. While an archive is read, some 100 bytes of each of its members are
remembered too.
"""

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import IO, Self

from open_nsfw_tf.batch.item import (
    Containers,
    Item,
    Row,
    columns_of,
    file_key,
    row_of,
    with_hash,
    with_stamp,
)
from open_nsfw_tf.batch.moving import frames_of, is_moving
from open_nsfw_tf.batch.sources import check_sources, items
from open_nsfw_tf.classifier import BATCH_SIZE, Classifier
from open_nsfw_tf.files import STDIN, PassedOver, Stamp, canonical, stamp_of
from open_nsfw_tf.image import Picture
from open_nsfw_tf.libraries import need
from open_nsfw_tf.tables import DigestMap, digest, pack_stamp
from open_nsfw_tf.tables.append import Mode, TableWriter
from open_nsfw_tf.tables.parquet_folder import PartsWriter
from open_nsfw_tf.video import Sampling

MAX_WAIT = 1.0  # seconds that a row waits for others to be written with


@dataclass(frozen=True)
class BatchOptions:
    """How pictures are chosen and scored.

    Attributes:
        hashes: whether rows have the SHA-256 of the picture's file, in hexadecimal.
        select: what is a picture in folders and archives: a key of `item.SELECT`.
        batch_size: pictures that the engine gets at once.
        videos: which frames of videos and animations have rows; None: an animation is
            its first picture, and a video is none.
    """

    hashes: bool = False
    select: str = "either"
    batch_size: int = BATCH_SIZE
    videos: Sampling | None = None


DEFAULTS = BatchOptions()


@dataclass(frozen=True)
class Summary:
    """What a run did.

    Attributes:
        rows: how many it wrote.
        failed: how many of them have an error instead of scores.
        again: how many of them replace a row: the file had changed, or was not read.
        skipped: pictures that had their row before, or that were named twice.
        seconds: how long it took.
        finished: whether the table is complete; False after `stop`.
        passed_over: files in folders and archives that are no pictures, by kind.
        named: the pictures that its sources name, by their `item.file_key`.
    """

    rows: int = 0
    failed: int = 0
    again: int = 0
    skipped: int = 0
    seconds: float = 0.0
    finished: bool = False
    passed_over: PassedOver = field(default_factory=PassedOver)
    named: Collection[bytes] = field(default=(), repr=False)


def score_batch(
    classifier: Classifier,
    sources: Iterable[str],
    output: str | os.PathLike[str],
    *,
    mode: Mode = "new",
    options: BatchOptions = DEFAULTS,
    stdin: IO[bytes] | None = None,
    progress: Callable[[int], None] = lambda count: None,
    stop: Callable[[], bool] = lambda: False,
) -> Summary:
    """Score pictures into a table: path, sfw, nsfw, error, (sha256,) size, mtime_ns.

    With a classifier of other classes their scores are the columns in the middle. The
    last two are the file's, or the archive's, when it was read.

    Whatever ends the run - a kill, a full disk - leaves a table that `mode` "resume"
    completes: no row is lost, none is there twice.

    Args:
        classifier: gives the scores.
        sources: folders, globs, lists, archives, files, "-"; see `sources.items`.
        output: the table, .csv, .jsonl or .parquet.
        mode: "new" refuses a table that exists, "overwrite" starts it anew, "resume"
            skips pictures that have a row of their present file: see `Unscored`.
        options: how pictures are chosen and scored.
        stdin: binary; for the source "-".
        progress: called with numbers of pictures that are done, or skipped.
        stop: asked before each picture; True ends the run after those in flight.

    Returns:
        What was done.

    Raises:
        FileExistsError: the table exists and `mode` is "new".
        OSError: the table cannot be written.
        ValueError: a source that does not exist; a table with other columns, or one
            that another run writes to; see `TableWriter`.
        ImportError: a .parquet needs the extra `parquet`.
    """
    sources = check_sources(sources, options.select)
    videos = options.videos is not None
    columns = columns_of(classifier.classes, options.hashes, videos)
    if videos:
        need("video", "av")
    with TableWriter(output, columns, mode) as table:
        unscored = Unscored(table.done, progress=progress)
        found = items(
            sources,
            unscored,
            options.select,
            stdin,
            unscored.passed_over,
            unscored.containers,
            videos,
            {canonical(os.fspath(file)) for file in table.files},
        )
        until = _Until(stop, found)
        with RowWriter(table, options.batch_size, MAX_WAIT, progress) as writer:
            for row in score_items(classifier, until, options, until.asked):
                writer.add([row])
        if not until.stopped:
            table.forget(unscored.readable())
            table.finish()
        else:
            table.drop_stale()
        return writer.summary(
            unscored.skipped,
            unscored.passed_over,
            unscored.named,
            not until.stopped,
        )


def score_items(
    classifier: Classifier,
    found: Iterable[Item],
    options: BatchOptions,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[Row]:
    """The rows of some pictures, in their order, as they are ready.

    Args:
        classifier: gives the scores.
        found: the pictures; read lazily, some ahead of the rows.
        options: whether rows have a hash, the size of the batches, and which frames of
            videos are scored; these go through the batches one by one, as many of them
            would be in memory.
        stop: asked before each frame of a video; True leaves the rest out.
    """
    in_flight: deque[Item] = deque()
    columns = columns_of(classifier.classes, options.hashes, options.videos is not None)

    def pictures() -> Iterator[Picture]:
        for item in found:
            stamped = with_stamp(item)
            stamped = with_hash(stamped) if options.hashes else stamped
            if options.videos is not None and is_moving(item):
                limit = classifier.max_pixels
                frames = frames_of(stamped, options.videos, limit, stop)
            else:
                # What has failed goes in as no bytes, and comes out as an error.
                frames = iter([(stamped, stamped.picture)])
            for each, picture in frames:
                in_flight.append(each)
                yield picture

    size = options.batch_size if options.videos is None else 1
    for result in classifier.classify_many(pictures(), batch_size=size, errors="yield"):
        yield row_of(in_flight.popleft(), result, classifier.classes, columns)


class _Until:
    """Items, until a function says that no more are wanted."""

    def __init__(self, stop: Callable[[], bool], found: Iterator[Item]) -> None:
        self._stop, self._found = stop, found
        self.stopped = False

    def asked(self) -> bool:
        """Whether no more are wanted."""
        self.stopped = self.stopped or self._stop()
        return self.stopped

    def __iter__(self) -> Iterator[Item]:
        for item in self._found:
            if self.asked():
                return
            yield item


# -- which pictures need a row


class Unscored:
    """Tells which pictures need a row, and remembers which ones the sources named.

    A picture has its row if the table has one that was made of the file that is there
    now: of its size and modification time. A row of a file that could not be read has
    neither, so that it is tried again; a picture that is broken counts as done. A file
    that was removed keeps its row. What comes from standard input has neither size nor
    time, and is scored each time.

    Args:
        done: the attribute of that name of the table's writer.
        progress: called with the number of pictures that are skipped.
        find_stamp: gives size and time of what is at a path; None if it is no file.

    Attributes:
        named: the `item.file_key` of each picture, with no values.
        skipped: how many pictures had their row before, or were named twice.
        passed_over: for `sources.items` to count what is no picture.
        containers: for `sources.items` to read folders and archives once.
    """

    def __init__(
        self,
        done: Mapping[bytes, bytes],
        progress: Callable[[int], None] = lambda count: None,
        find_stamp: Callable[[str], Stamp | None] = stamp_of,
    ) -> None:
        self._done, self._progress, self._find_stamp = done, progress, find_stamp
        self.named = DigestMap()
        self.skipped = 0
        self.passed_over = PassedOver()
        self.containers = Containers()

    def __call__(self, path: str, stamp: Stamp | None = None) -> bool:
        """Whether a path needs a row; asked again about the same file, it says no.

        The first path of a file is the one that gets the row.
        """
        file = file_key(path)
        if file not in self.named:
            self.named[file] = b""
            if not self._is_done(path, digest(path), stamp):
                return True
        self.skipped += 1
        self._progress(1)
        return False

    def readable(self) -> set[bytes]:
        """The digests of the folders, archives and lists with which nothing is wrong.

        A row of theirs says what was wrong in an earlier run. To be called at the end.
        """
        paths = self.containers.paths.items()
        return {path for key, path in paths if key not in self.named}

    def _is_done(self, path: str, key: bytes, stamp: Stamp | None) -> bool:
        known = self._done.get(key)
        if known is None or path == STDIN or path.startswith(f"{STDIN}/"):
            return False
        stamp = stamp or self._find_stamp(path)
        if stamp is None and not os.path.exists(path):
            return True
        return pack_stamp(stamp) == known


# -- writing


class RowWriter:
    """Writes rows to a table, some at a time, and counts them.

    As a context manager it writes what is left at the end, also after an error.

    Args:
        table: that is written to.
        size: rows that are written at once.
        seconds: that a row waits at most for others.
        progress: called with numbers of pictures that are done.
    """

    def __init__(
        self,
        table: TableWriter | PartsWriter,
        size: int,
        seconds: float,
        progress: Callable[[int], None],
    ) -> None:
        self._table, self._size, self._seconds = table, size, seconds
        self._progress = progress
        self._waiting: list[Row] = []
        self._start = self._written = time.monotonic()
        self._count = Summary()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._write()

    def add(self, rows: Iterable[Row]) -> None:
        """Take some rows, and write all that wait if they are many or have waited long.

        Raises:
            OSError: the disk is full, or the like.
        """
        before = len(self._waiting)
        self._waiting.extend(rows)
        self._progress(len(self._waiting) - before)
        waited = time.monotonic() - self._written
        if len(self._waiting) >= self._size or waited > self._seconds:
            self._write()

    def _write(self) -> None:
        rows, self._waiting = self._waiting, []
        self._written = time.monotonic()
        if not rows:
            return
        replaced = self._table.replaced
        self._table.write(rows)
        again = self._table.replaced - replaced
        self._count = replace(
            self._count,
            rows=self._count.rows + len(rows),
            failed=self._count.failed + sum(row["error"] is not None for row in rows),
            again=self._count.again + again,
        )

    def summary(
        self,
        skipped: int,
        passed_over: PassedOver,
        named: Collection[bytes],
        finished: bool,
    ) -> Summary:
        """What was done until now; the arguments are attributes of `Summary`."""
        return replace(
            self._count,
            skipped=skipped,
            passed_over=passed_over,
            seconds=time.monotonic() - self._start,
            finished=finished,
            named=named,
        )
