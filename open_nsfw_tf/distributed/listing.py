"""What there is to score, as a source of Ray Data.

One task lists it all, lazily, and needs no CPU of its own: it can neither take one from
those that score, nor wait for one while they wait for it.
"""

import os
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

import pyarrow
import ray
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from open_nsfw_tf.batch import is_done
from open_nsfw_tf.batch.item import Item, Wanted, counting, failed
from open_nsfw_tf.batch.sources import items
from open_nsfw_tf.distributed import blocks
from open_nsfw_tf.distributed.remote import RemoteItem, is_remote, remote_items
from open_nsfw_tf.errors import one_line
from open_nsfw_tf.files import PassedOver
from open_nsfw_tf.tables import digest

ROWS = 16  # pictures of a table that is handed to Ray, which joins some


class Listing(Datasource):  # type: ignore[misc]
    """The pictures of some sources that have no row yet.

    Args:
        sources: as `open_nsfw_tf.batch.sources.items` takes them, but for "-"; and URIs.
        select: a key of `SELECT`.
        done: a reference to what the table has: see `open_nsfw_tf.batch.is_done`.
        journal: the actor that is told which were left out, how many, and what was no
            picture.
    """

    def __init__(
        self, sources: Iterable[str], select: str, done: Any, journal: Any
    ) -> None:
        super().__init__()
        self._arguments = (list(sources), select, done, journal, os.getcwd())

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
    sources: list[str], select: str, done: Any, journal: Any, folder: str
) -> Iterator[pyarrow.Table]:
    if os.path.isdir(folder):  # relative paths mean what they mean to the user
        os.chdir(folder)
    known = ray.get(done)
    seen: set[bytes] = set()
    skipped = 0
    had_rows: set[bytes] = set()

    def wanted(path: str) -> bool:
        nonlocal skipped
        key = digest(path)
        if key in seen:
            skipped += 1
            return False
        seen.add(key)
        if is_done(known, path):
            skipped += 1
            had_rows.add(key)
            return False
        return True

    passed_over = PassedOver()
    found = _items(sources, select, wanted, passed_over)
    while some := list(islice(found, ROWS)):
        yield blocks.of_items(some)
    ray.get(journal.skip.remote(skipped, had_rows, dict(passed_over)))
    yield blocks.of_items([])  # Ray wants a table, even of nothing


def _items(
    sources: list[str], select: str, wanted: Wanted, passed_over: PassedOver
) -> Iterator[Item]:
    for source in sources:
        try:
            if is_remote(source):
                chosen = counting(select, passed_over)
                yield from remote_items(source, wanted, chosen)
            else:
                for item in items([source], wanted, select, None, passed_over):
                    yield _named(item)
        except (OSError, ValueError) as error:  # it went away since it was checked
            if wanted(source):
                yield failed(source, one_line(error))


def _named(item: Item) -> Item:
    """An item of a list, which may name remote pictures too."""
    if is_remote(item.path) and item.path == item.picture:
        return RemoteItem(item.path, "", None, source=item.path)
    return item
