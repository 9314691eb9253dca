"""The base class of engines that open a serialized network, and a pool of objects."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import LifoQueue
from typing import Any, Generic, Self, TypeVar

import numpy as np

from open_nsfw_tf.engines import Contributions, Source
from open_nsfw_tf.engines.cache import SerializedNetwork
from open_nsfw_tf.engines.device import DEFAULT
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

    Once made, it reads neither the weights nor the cache again. A forked child opens
    the network anew at its first batch, if the library can do that, and so does a
    process that unpickles the engine.
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
        """Another engine of the network: `workers`, each with `threads` threads."""
        settings = self._settings
        return type(self)(
            self._network, settings.precision, threads, settings.device, workers
        )

    @staticmethod
    def devices() -> list[str]:
        """The names that `device` may have on this machine."""
        return [DEFAULT]

    @staticmethod
    def check_device(settings: Settings) -> None:
        """Refuse a device that does not exist, before the network is serialized.

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
        """Open the network for computing; called once in each process."""

    @abstractmethod
    def __call__(self, batch: np.ndarray) -> np.ndarray:
        """Scores, float32 (N, classes), of a batch, float32 (N, 224, 224, 3)."""

    @abstractmethod
    def contributions(self, batch: np.ndarray) -> Contributions:
        """Scores of a batch, and what each place adds to them."""


class Pool(Generic[Thing]):
    """Objects that one thread at a time may use; if all are in use, a thread waits.

    Args:
        make: makes an object; called when one is needed and none is free.
        size: the largest number of objects.
    """

    def __init__(self, make: Callable[[], Thing], size: int) -> None:
        self.make = make
        # None stands for an object that is not made yet; those that are come out first.
        self.free: LifoQueue[Thing | None] = LifoQueue()
        for _ in range(size):
            self.free.put(None)

    @contextmanager
    def lent(self) -> Iterator[Thing]:
        """An object for this thread alone, until the block ends."""
        thing = self.free.get()
        try:
            if thing is None:
                thing = self.make()
            yield thing
        finally:
            self.free.put(thing)
