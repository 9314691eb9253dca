"""Things that one thread at a time may use, lent to the threads that come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from queue import LifoQueue
from typing import Generic, TypeVar

Thing = TypeVar("Thing")


class Pool(Generic[Thing]):
    """Lends each calling thread a thing of its own; who finds none left waits.

    Args:
        make: makes a thing; called when it is needed and no made one is free.
        size: how many there are at most.
    """

    def __init__(self, make: Callable[[], Thing], size: int) -> None:
        self.make = make
        self.free: LifoQueue[Thing | None] = LifoQueue()  # made ones come first
        for _ in range(size):
            self.free.put(None)

    @contextmanager
    def lent(self) -> Iterator[Thing]:
        """One thing, to this thread alone."""
        thing = self.free.get()
        try:
            if thing is None:
                thing = self.make()
            yield thing
        finally:
            self.free.put(thing)
