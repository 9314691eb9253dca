"""An ordered map over threads: lazy, in order, and with bounded memory."""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

AHEAD = 2  # items that wait for each worker, so that none waits for the caller


def cores() -> int:
    """How many of the machine's cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_count(count: int | None, what: str) -> None:
    """Refuse a number of threads or workers below 1; None leaves it open.

    Raises:
        ValueError: it is below 1, or no whole number.
    """
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ValueError(f"expected at least 1 {what}, got {count!r:.80}")


def chunks(items: Iterable[Item], size: int, workers: int = 1) -> Iterator[list[Item]]:
    """Lists of at most `size` items in their order.

    The last ones are shorter, so that the workers who share the lists end together; for
    that, `size` items a worker are read ahead. Where the items end in an error, those
    before it come first.

    Args:
        items: any iterable.
        size: items of a list.
        workers: how many share the lists; for one, only the last list may be shorter.
    """
    ahead: deque[Item] = deque()
    error = None
    try:
        for item in items:
            ahead.append(item)
            if len(ahead) == size * workers + (workers > 1):
                yield [ahead.popleft() for _ in range(size)]
    except Exception as raised:  # noqa: BLE001 - raised after the items
        error = raised
    while ahead:
        share = -(-len(ahead) // (2 * workers)) if workers > 1 else size
        yield [ahead.popleft() for _ in range(min(share, size, len(ahead)))]
    if error is not None:
        raise error


def in_order(
    work: Callable[[Item], Result],
    items: Iterable[Item],
    workers: int | None = None,
    stopped: Event | None = None,
) -> Generator[Result, None, None]:
    """The results of some work on each item, in the order of the items.

    The items are taken in the thread that takes the results, `AHEAD` for each worker
    and no more before the next result is taken. An error in the work is raised in its
    place, and so is one of the items. Closing the iterator, or losing it, drops what
    has not begun and waits for the rest.

    Args:
        work: called in the workers' threads with an item.
        items: any iterable.
        workers: threads; None: one for each core.
        stopped: set once nobody wants the results any more, so that long work can end
            early.

    Raises:
        ValueError: `workers` is below 1.
        RuntimeError: the process forked; its threads stayed in the other one.
    """
    check_count(workers, "thread")
    workers = workers or cores()
    owner = os.getpid()
    waiting: deque[Future[Result]] = deque()
    executor = ThreadPoolExecutor(workers, thread_name_prefix="open_nsfw_tf")
    try:
        error = None
        iterator = iter(items)
        while error is None:
            try:
                item = next(iterator)
            except StopIteration:
                break
            except Exception as raised:  # noqa: BLE001 - raised after the results
                error = raised
            else:
                waiting.append(_begun(executor, work, item))
                if len(waiting) > AHEAD * workers:
                    yield _taken(waiting, owner)
        while waiting:
            yield _taken(waiting, owner)
        if error is not None:
            raise error
    finally:
        if stopped is not None:
            stopped.set()
        executor.shutdown(wait=owner == os.getpid(), cancel_futures=True)


def _begun(
    executor: ThreadPoolExecutor, work: Callable[[Item], Result], item: Item
) -> Future[Result]:
    try:
        return executor.submit(work, item)
    except RuntimeError:
        # The main thread has ended, and with it all executors; this one still works.
        done: Future[Result] = Future()
        done.set_result(work(item))
        return done


def _taken(waiting: deque[Future[Result]], owner: int) -> Result:
    if os.getpid() != owner:
        raise RuntimeError(
            "a stream cannot go on in a forked process: begin it after the fork"
        )
    return waiting.popleft().result()
