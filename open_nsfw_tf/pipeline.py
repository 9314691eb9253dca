"""Work on a stream by several threads: lazily, in order, and with bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import islice
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # chunks that wait for each worker, so that none waits for the caller


def chunks(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Lists of `size` items in their order; the last one may be shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def in_order(
    work: Callable[[Item, Event], Result], items: Iterable[Item], workers: int
) -> Generator[Result, None, None]:
    """The results of some work on each item, in the order of the items.

    The items are taken in the thread that takes the results, `AHEAD` for each worker and
    no more before the next result is taken. An error in the work is raised in its place.
    Closing the iterator, or losing it, drops what has not begun and waits for the rest.

    Args:
        work: called in the workers' threads with an item, and with an event that is set
            once nobody wants the result any more.
        items: any iterable.
        workers: threads.
    """
    waiting: deque[Future[Result]] = deque()
    stopped = Event()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="open_nsfw_tf")
    try:
        for item in items:
            waiting.append(executor.submit(work, item, stopped))
            if len(waiting) > AHEAD * workers:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        stopped.set()
        executor.shutdown(wait=True, cancel_futures=True)
