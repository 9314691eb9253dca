"""The same for many files, in threads: Pillow and hashlib let others run meanwhile."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

AHEAD = 4  # files a thread that are begun before the first result is taken

Given = TypeVar("Given")
Made = TypeVar("Made")


def in_order(
    work: Callable[[Given], Made], items: Iterable[Given], threads: int | None = None
) -> Iterator[Made]:
    """The results of `work`, in the order of the items; few are held at a time.

    Args:
        work: called in threads.
        items: what it is called with.
        threads: None: as many as there are processors.

    Raises:
        ValueError: `threads` is below 1.
    """
    if threads is not None and threads < 1:
        raise ValueError(f"expected at least 1 thread, got {threads}")
    return _in_order(work, items, threads or os.cpu_count() or 1)


def _in_order(
    work: Callable[[Given], Made], items: Iterable[Given], threads: int
) -> Iterator[Made]:
    with ThreadPoolExecutor(threads) as pool:
        begun: deque[Future[Made]] = deque()
        try:
            for item in items:
                begun.append(pool.submit(work, item))
                if len(begun) > AHEAD * threads:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            pool.shutdown(wait=True, cancel_futures=True)
