"""Threads on a stream: order, bounds, errors and ends."""

import gc
import subprocess
import sys
import threading
from collections.abc import Iterator
from threading import Event

import pytest

from open_nsfw_tf.parallel import AHEAD, chunks, in_order


def square(number: int) -> int:
    return number * number


def test_chunks_hold_everything_once() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []
    assert list(chunks([], 3, 2)) == []


@pytest.mark.parametrize("count", [1, 5, 6, 7, 40, 41])
def test_the_last_chunks_are_shorter_so_that_workers_end_together(count: int) -> None:
    parts = list(chunks(range(count), 3, 2))
    assert [item for part in parts for item in part] == list(range(count))
    assert all(1 <= len(part) <= 3 for part in parts)
    assert [len(part) for part in parts[-2:]] == [1] * min(2, count)


def test_no_more_is_read_ahead_than_a_chunk_a_worker() -> None:
    taken: list[int] = []
    stream = chunks((taken.append(i) or i for i in range(1000)), 3, 2)
    for number in range(1, 100):
        next(stream)
        assert len(taken) <= 3 * number + 3 * 2


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_order(workers: int) -> None:
    turn = threading.Barrier(workers) if workers > 1 else None

    def work(number: int) -> int:
        if turn and number < workers:
            turn.wait(30)  # so many work at the same time
        return number * number

    found = list(in_order(work, range(100), workers))
    assert found == [number * number for number in range(100)]


def test_no_more_is_taken_than_the_bound() -> None:
    taken: list[int] = []

    def endless() -> Iterator[int]:
        while True:
            taken.append(len(taken))
            yield taken[-1]

    stream = in_order(square, endless(), 2)
    for wanted in range(50):
        assert next(stream) == wanted**2
        assert len(taken) <= wanted + 2 + AHEAD * 2
    stream.close()


def test_closing_drops_what_has_not_begun() -> None:
    begun: list[int] = []
    free, stopped = Event(), Event()

    def work(number: int) -> int:
        begun.append(number)
        if number:
            free.wait(30)
            assert stopped.wait(30)
        return number

    stream = in_order(work, range(1000), 2, stopped)
    assert next(stream) == 0
    free.set()
    before = threading.active_count()
    stream.close()
    assert len(begun) <= 4
    assert threading.active_count() == before - 2


def test_a_lost_stream_ends_its_threads() -> None:
    before = threading.active_count()
    stream = in_order(square, range(1000), 3)
    assert next(stream) == 0
    del stream
    gc.collect()
    assert threading.active_count() == before


def test_an_error_stands_in_its_place() -> None:
    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    stream = in_order(work, range(100), 2)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(stream)
    with pytest.raises(StopIteration, match="^$"):
        next(stream)
    with pytest.raises(ZeroDivisionError, match="division by zero"):
        list(in_order(lambda number: 1 / number, [1, 0, 1], workers=2))
    with pytest.raises(ValueError, match="at least 1 thread, got 0"):
        list(in_order(str, [], workers=0))


def test_an_error_of_the_items_comes_after_the_results() -> None:
    def broken() -> Iterator[int]:
        yield from range(10)
        raise OSError("the disk is gone")

    found: list[int] = []
    with pytest.raises(OSError, match="the disk is gone"):
        found.extend(in_order(square, broken(), 2))
    assert found == [number * number for number in range(10)]
    parts: list[list[int]] = []
    with pytest.raises(OSError, match="the disk is gone"):
        parts.extend(chunks(broken(), 4))
    assert parts == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]


FORKED = """
import os
from open_nsfw_tf.parallel import in_order

stream = in_order(lambda number: number, range(100), 2)
next(stream)
child = os.fork()
if not child:
    try:
        next(stream)
    except RuntimeError as error:
        os._exit(7 if "forked" in str(error) else 1)
    os._exit(2)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""

THREADED = """
import threading
from open_nsfw_tf.parallel import in_order

def work():
    main.join()
    print(sum(in_order(lambda number: number, range(100), 2)))

main = threading.main_thread()
threading.Thread(target=work).start()
"""


@pytest.mark.parametrize(("code", "printed"), [(FORKED, "7"), (THREADED, "4950")])
def test_processes_and_threads_that_outlive(code: str, printed: str) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=300,
    )
    assert (done.stdout.strip(), done.stderr) == (printed, "")
