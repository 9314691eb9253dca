"""Forked processes, and the parent's locks, modules and libraries in them.

A fork copies the memory of a process, but of its threads only the one that forks. In
the child a lock that another thread held stays locked for ever, a module that was being
imported stays incomplete, and a library that gives work to its threads waits for ever.
"""

# Some of these register hooks at forks, which must happen before ours: if a module
# registered hooks while a fork waits in ours, only its hooks after the fork would run.
import concurrent.futures.thread  # noqa: F401
import ctypes
import logging  # noqa: F401
import os
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, RLock
from typing import Any, Generic, TypeVar
from weakref import WeakSet

Thing = TypeVar("Thing")


# Held while modules are imported and engines are opened. Standard error, which is
# redirected meanwhile, is shared by all threads.
loading = RLock()
_waited_for: list[Any] = [loading]
_held: list[Any] = []


def fork_waits_for(lock: Any) -> None:
    """Make forks wait until no other thread holds the lock, so the child finds it free.

    If one lock is taken while another is held, the outer one must be registered later.
    """
    _waited_for.append(lock)


class PerProcess(Generic[Thing]):
    """An object that a forked child makes anew when it first needs it.

    The child's copy of the parent's object is neither used nor freed: both may wait for
    threads that do not exist in the child.

    Args:
        make: makes the object. It must not refer to the owner of this one, or the two
            are freed only by the garbage collector.
    """

    def __init__(self, make: Callable[[], Thing]) -> None:
        self._make = make
        self._lock = Lock()
        self._thing: Thing | None = None
        _inherited.add(self)

    def get(self) -> Thing:
        """The object; all threads of a process get the same one."""
        thing = self._thing
        if thing is None:
            with self._lock:
                if self._thing is None:
                    self._thing = self._make()
                return self._thing
        return thing

    def after_fork(self) -> None:
        """Begin anew in the child."""
        if self._thing is not None:
            never_free(self._thing)
        self._lock = Lock()
        self._thing = None


class OneProcess:
    """A library that does not work in processes forked from one that has used it.

    Args:
        name: of the library, for the error.
        runtime: what it computes in, or None while this process has not used it,
            through this package or not. The child never frees it: that would wait for
            threads that the child does not have, or crash.
    """

    def __init__(self, name: str, runtime: Callable[[], object] = lambda: None) -> None:
        self.name = name
        self.used = False
        self.lost = False
        self._runtime = runtime
        _inherited.add(self)

    def use(self) -> None:
        """Note that this process uses the library.

        Raises:
            RuntimeError: its parent has used it before the fork.
        """
        if self.lost:
            raise RuntimeError(
                f"{self.name} was used before this process was forked, and does not "
                "work in the child: use it only after the fork (make the Classifier in "
                "each process; gunicorn without --preload), or start processes with "
                "'spawn'"
            )
        self.used = True

    def after_fork(self) -> None:
        """Note in the child whether the parent has used the library."""
        runtime = self._runtime()
        if runtime is not None:
            never_free(runtime)
        self.lost = self.lost or self.used or runtime is not None


def never_free(thing: object) -> None:
    """Keep an object alive for ever: not even the end of the process destroys it."""
    ctypes.pythonapi.Py_IncRef(ctypes.py_object(thing))


_inherited: WeakSet[PerProcess[Any] | OneProcess] = WeakSet()


def _before_fork() -> None:
    # It is looked for once, under a lock that nothing frees in a child.
    with suppress(OSError):
        tempfile.gettempdir()
    before = _h5py_lock()
    _take_locks()
    # What is imported while the fork waits has its hooks called after the fork, but not
    # before it: h5py's would release a lock that nobody has taken.
    if before is None and _h5py_lock() is not None:
        _h5py_lock().acquire()


def _h5py_lock() -> Any:
    return getattr(sys.modules.get("h5py._objects"), "phil", None)


def _take_locks() -> None:
    while True:
        locks = _waited_for[::-1]
        for lock in locks:
            lock.acquire()
        if len(locks) == len(_waited_for):
            _held[:] = locks
            return
        # Meanwhile a module was imported that registered another lock.
        for lock in locks:
            lock.release()


def _after_in_parent() -> None:
    locks = _held[:]
    _held.clear()
    for lock in locks:
        lock.release()


def _after_in_child() -> None:
    _after_in_parent()
    for resource in list(_inherited):
        resource.after_fork()


if hasattr(os, "register_at_fork"):  # not on Windows, which has no fork
    os.register_at_fork(
        before=_before_fork,
        after_in_parent=_after_in_parent,
        after_in_child=_after_in_child,
    )
