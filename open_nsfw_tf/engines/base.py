"""What the engines share that open a serialized network, and a pool for their parts."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import LifoQueue
from typing import Any, Generic, Self, TypeVar

import numpy as np

from open_nsfw_tf.engines import Source
from open_nsfw_tf.engines.cache import SerializedNetwork
from open_nsfw_tf.forks import PerProcess

Thing = TypeVar("Thing")


@dataclass(frozen=True)
class Settings:
    """How an engine computes: see `open_nsfw_tf.engines.create`."""

    precision: str = "float32"
    threads: int | None = None
    device: str | None = None
    workers: int = 1


class SerializedEngine(ABC):
    """An engine that opens a serialized network.

    It is a value: once made, it reads neither weights nor the cache again. A forked
    child opens the network anew at its first batch, where the library can do that, and
    so does a process to which the engine was sent as a pickle.
    """

    def __init__(
        self,
        weights: Source | SerializedNetwork,
        precision: str = "float32",
        threads: int | None = None,
        device: str | None = None,
        workers: int = 1,
    ) -> None:
        settings = Settings(precision, threads, device, workers)
        self.check_device(settings)
        if not isinstance(weights, SerializedNetwork):
            weights = SerializedNetwork(self.serialize(weights, precision))
        self.__setstate__((weights, settings))
        self._opened.get()

    def __getstate__(self) -> tuple[SerializedNetwork, Settings]:
        return self._network, self._settings

    def __setstate__(self, state: tuple[SerializedNetwork, Settings]) -> None:
        self._network, self._settings = state
        self._opened = PerProcess(partial(self.open, *state))

    def divided(self, threads: int, workers: int) -> Self:
        """Another engine of the same network: `workers`, each with `threads` threads."""
        settings = self._settings
        return type(self)(
            self._network, settings.precision, threads, settings.device, workers
        )

    @staticmethod
    def check_device(settings: Settings) -> None:
        """Refuse a device that is not there, before the network is serialized.

        Raises:
            ValueError: there is no such device.
        """

    @staticmethod
    @abstractmethod
    def serialize(weights: Source, precision: str) -> bytes:
        """The network as the library reads it."""

    @staticmethod
    @abstractmethod
    def open(network: SerializedNetwork, settings: Settings) -> Any:
        """What computes; made once a process."""

    @abstractmethod
    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""


class Pool(Generic[Thing]):
    """Things that one thread at a time may use; who finds none left waits.

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
