"""What runs in Ray's processes: listing pictures, and scoring blocks of them.

A picture can end the process that works on it: a decoder crashes, memory runs out. Ray
then gives the block to another process, and would do so for ever. So each worker tells
a tracker what it begins and ends. A worker that gets a block that was begun and not
ended takes its pictures one at a time; a picture that ends its worker twice, alone,
gets a row that says so, and the others get their scores.
"""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import pyarrow
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from open_nsfw_tf.batch import remote
from open_nsfw_tf.batch.item import (
    Item,
    Row,
    columns_of,
    counting,
    failed,
    with_stamp,
)
from open_nsfw_tf.batch.remote import RemoteItem, fetched, is_remote, remote_items
from open_nsfw_tf.batch.scoring import BatchOptions, Unscored, score_items
from open_nsfw_tf.batch.sources import items
from open_nsfw_tf.classifier import Classifier
from open_nsfw_tf.files import PassedOver, Stamp, stamp_of
from open_nsfw_tf.tables import STAMP, DigestMap, digest, read_stamp

TABLE_ROWS = 16  # pictures of a table that is handed to Ray, which joins some
DEATHS = 2  # of workers that had one picture alone: then it is the picture
STARTS = 3  # of workers in a row that may fail, for each worker there is
FETCHED = 8  # remote pictures that a worker reads at once, each of 64 MiB at most
KILLED_WORKERS = (
    f"this picture ended its worker {DEATHS} times (a crash of the decoder, or no "
    "memory left): it was left out"
)


# -- pictures and rows as Arrow tables, which Ray hands from process to process

PICTURES = pyarrow.schema(
    [
        ("path", pyarrow.binary()),  # paths may be no UTF-8
        ("picture", pyarrow.binary()),  # a path, absolute or in the source's filesystem
        ("data", pyarrow.binary()),  # or the picture itself, out of an archive
        ("error", pyarrow.string()),
        ("source", pyarrow.string()),  # of remote pictures: their filesystem
        *((name, pyarrow.int64()) for name in STAMP),  # of archives and remote files
    ]
)
_TYPES = {
    "path": pyarrow.binary(),
    "error": pyarrow.string(),
    "sha256": pyarrow.string(),
    "frame": pyarrow.int64(),
    **dict.fromkeys(STAMP, pyarrow.int64()),
}


def from_items(found: list[Item]) -> pyarrow.Table:
    """Items as a table of `PICTURES`."""
    return pyarrow.Table.from_pylist([_packed(item) for item in found], PICTURES)


def _packed(item: Item) -> Row:
    row: Row = {"path": os.fsencode(item.path), "error": _utf8(item.error)}
    row |= zip(STAMP, item.stamp or (), strict=False)
    if isinstance(item.picture, bytes):
        return {**row, "data": item.picture}
    if isinstance(item, RemoteItem):
        return {**row, "picture": os.fsencode(item.picture), "source": item.source}
    # Workers have other working directories.
    return {**row, "picture": os.fsencode(os.path.join(os.getcwd(), item.picture))}


def to_items(table: pyarrow.Table) -> list[Item]:
    """What `from_items` was given."""
    return [_unpacked(row) for row in table.to_pylist()]


def _unpacked(row: Row) -> Item:
    path, data = os.fsdecode(row["path"]), row["data"]
    picture = os.fsdecode(row["picture"]) if data is None else data
    stamp = read_stamp(*(row[name] for name in STAMP))
    if row["source"] is not None:
        return RemoteItem(path, picture, row["error"], stamp, source=row["source"])
    return Item(path, picture, row["error"], stamp)


def from_rows(rows: list[Row], columns: Sequence[str]) -> pyarrow.Table:
    """Rows as a table with these columns, of which those of scores are float64."""
    types = [(name, _TYPES.get(name, pyarrow.float64())) for name in columns]
    packed = [
        {**row, "path": os.fsencode(row["path"]), "error": _utf8(row["error"])}
        for row in rows
    ]
    return pyarrow.Table.from_pylist(packed, pyarrow.schema(types))


def to_rows(table: pyarrow.Table) -> Iterator[Row]:
    """What `from_rows` was given."""
    for row in table.to_pylist():
        yield {**row, "path": os.fsdecode(row["path"])}


def _utf8(error: str | None) -> str | None:
    # What came from a name may be no Unicode.
    return error and error.encode("utf-8", "backslashreplace").decode()


# -- listing


@dataclass(frozen=True)
class Listed:
    """What was found beside the pictures that need a row.

    Attributes:
        skipped: pictures that had their row before, or were named twice.
        named: as `Unscored.named`.
        readable: as `Unscored.readable`.
        passed_over: files that are no pictures, by kind.
    """

    skipped: int = 0
    named: DigestMap = field(default_factory=DigestMap)
    readable: set[bytes] = field(default_factory=set)
    passed_over: PassedOver = field(default_factory=PassedOver)


class Listing(Datasource):  # type: ignore[misc]
    """The pictures of some sources that have no row yet, as a source of Ray Data.

    One task lists them all, lazily, and needs no CPU of its own: it can neither take
    one from those that score, nor wait for one while they wait for it.

    Args:
        sources: as `open_nsfw_tf.batch.sources.items` takes them, but for "-"; and
            URIs.
        options: what is a picture, and whether videos are taken.
        done: a reference to the attribute of that name of the table's writer.
        tracker: the actor that gets the numbers of what was skipped and passed over.
    """

    def __init__(
        self, sources: Iterable[str], options: BatchOptions, done: Any, tracker: Any
    ) -> None:
        super().__init__()
        self._arguments = (list(sources), options, done, tracker, os.getcwd())

    def get_name(self) -> str:
        """What Ray calls it in its logs."""
        return "Pictures"

    def estimate_inmemory_data_size(self) -> int | None:
        """Bytes of all blocks: unknown."""
        return None

    def get_read_tasks(
        self,
        parallelism: int,
        per_task_row_limit: int | None = None,
        data_context: Any = None,
    ) -> list[Any]:
        """The one task."""
        arguments = self._arguments  # and not self, which Ray would send along
        unknown = BlockMetadata(
            num_rows=None, size_bytes=None, input_files=None, exec_stats=None
        )
        return [ReadTask(lambda: _listed(*arguments), unknown)]


def _listed(
    sources: list[str], options: BatchOptions, done: Any, tracker: Any, folder: str
) -> Iterator[pyarrow.Table]:
    if os.path.isdir(folder):  # relative paths mean what they mean to the user
        os.chdir(folder)
    unscored = Unscored(ray.get(done), find_stamp=_find_stamp)
    found = _items(sources, options, unscored)
    while some := list(islice(found, TABLE_ROWS)):
        yield from_items(some)
    ray.get(
        tracker.note_listed.remote(
            Listed(
                unscored.skipped,
                unscored.named,
                unscored.readable(),
                unscored.passed_over,
            )
        )
    )
    yield from_items([])  # Ray wants a table, even of nothing


def _find_stamp(path: str) -> Stamp | None:
    return remote.find_stamp(path) if is_remote(path) else stamp_of(path)


def _items(
    sources: list[str], options: BatchOptions, unscored: Unscored
) -> Iterator[Item]:
    passed_over = unscored.passed_over
    select, videos = options.select, options.videos is not None
    for source in sources:
        try:
            if is_remote(source):
                chosen = counting(select, passed_over, videos)
                yield from remote_items(source, unscored, chosen)
            else:
                found = items(
                    [source],
                    unscored,
                    select,
                    None,
                    passed_over,
                    unscored.containers,
                    videos,
                )
                yield from map(_remote_if_uri, found)
        except (OSError, ValueError) as error:  # it was removed since it was checked
            if unscored(source):
                yield failed(source, error)


def _remote_if_uri(item: Item) -> Item:
    """An item of a list, which may name remote pictures too."""
    if is_remote(item.path) and item.path == item.picture:
        return RemoteItem(item.path, "", source=item.path)
    return item


# -- scoring


class Tracker:
    """What was begun and has not ended. One for a run, as an actor.

    Args:
        workers: that there may be.
    """

    def __init__(self, workers: int) -> None:
        self._max_starts = STARTS * workers
        self._starts = 0
        self._open: set[bytes] = set()
        self._alone: dict[bytes, int] = {}
        self._rows: dict[bytes, list[Row]] = {}
        self._listed = Listed()

    def start(self) -> bool:
        """Note that a worker begins to load its network; whether it should."""
        self._starts += 1
        return self._starts <= self._max_starts

    def ready(self) -> None:
        """Note that a worker has loaded its network."""
        self._starts = 0

    def begin(self, keys: list[bytes]) -> bool:
        """Note that a block is worked on; whether a worker died at one of its pictures.

        Args:
            keys: digests of the pictures' paths.
        """
        suspect = not self._open.isdisjoint(keys)
        self._open.update(keys)
        return suspect

    def begin_alone(self, key: bytes) -> tuple[int, list[Row] | None]:
        """Note that a picture is worked on alone; how many died so, and its rows."""
        died = self._alone.get(key, 0)
        rows = self._rows.get(key)
        if rows is None:
            self._alone[key] = died + 1
        return died, rows

    def end_alone(self, key: bytes, rows: list[Row]) -> None:
        """Keep a picture's rows, should another picture of its block be deadly."""
        self._alone.pop(key, None)
        self._rows[key] = rows

    def end(self, keys: list[bytes]) -> None:
        """Note that a block is done."""
        self._open.difference_update(keys)
        for key in keys:
            self._alone.pop(key, None)
            self._rows.pop(key, None)

    def note_listed(self, listed: Listed) -> None:
        """Note what the listing has found, beside the pictures."""
        self._listed = listed

    def listed(self) -> Listed:
        """What `note_listed` noted."""
        return self._listed


class Scorer:
    """A worker: a classifier that turns blocks of pictures into blocks of rows.

    Args:
        make_classifier: called once in each worker.
        tracker: the actor of a `Tracker`.
        options: whether rows have a hash, and the size of the batches.

    Raises:
        RuntimeError: workers died again and again before they were ready.
    """

    def __init__(
        self,
        make_classifier: Callable[[], Classifier],
        tracker: Any,
        options: BatchOptions,
    ) -> None:
        self._tracker, self._options = tracker, options
        if not self._call("start"):
            raise RuntimeError(
                "workers die while they load the network: is there memory enough for "
                "so many, and does it load on one machine?"
            )
        self._classifier = make_classifier()
        self._call("ready")

    def __call__(self, block: pyarrow.Table) -> pyarrow.Table:
        """Score a block.

        Args:
            block: of `PICTURES`.

        Returns:
            A row for each picture, and for each chosen frame of a video, with the
            columns of `columns_of`.
        """
        found = to_items(block)
        keys = [digest(item.path) for item in found]
        if self._call("begin", keys):
            pairs = zip(found, keys, strict=True)
            rows = [row for pair in pairs for row in self._alone(*pair)]
        else:
            rows = list(self._score(found))
        self._call("end", keys)
        columns = columns_of(
            self._classifier.classes,
            self._options.hashes,
            self._options.videos is not None,
        )
        return from_rows(rows, columns)

    def _call(self, method: str, *arguments: Any) -> Any:
        return ray.get(getattr(self._tracker, method).remote(*arguments))

    def _alone(self, item: Item, key: bytes) -> list[Row]:
        died, rows = self._call("begin_alone", key)
        if rows is None:
            if died >= DEATHS:
                local = not isinstance(item, RemoteItem)
                stamp = with_stamp(item).stamp if local else item.stamp
                item = failed(item.path, KILLED_WORKERS, stamp)
            rows = list(self._score([item]))
            self._call("end_alone", key, rows)
        return [dict(row) for row in rows]

    def _score(self, found: list[Item]) -> Iterator[Row]:
        return score_items(self._classifier, _read_ahead(found), self._options)


def _read_ahead(found: Iterable[Item]) -> Iterator[Item]:
    """The pictures, those on remote storage read some ahead."""
    waiting: deque[Item | Future[Item]] = deque()
    with ThreadPoolExecutor(FETCHED) as pool:  # its threads begin when they are needed
        for item in found:
            if isinstance(item, RemoteItem):
                waiting.append(pool.submit(fetched, item))
            else:
                waiting.append(item)
            if len(waiting) > FETCHED:
                yield _result(waiting.popleft())
        while waiting:
            yield _result(waiting.popleft())


def _result(item: Item | Future[Item]) -> Item:
    return item if isinstance(item, Item) else item.result()
