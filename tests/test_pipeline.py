"""Threads on a stream: order, bounds, errors and ends."""

import gc
import threading
from collections.abc import Iterator
from threading import Event

import pytest

from open_nsfw_tf.pipeline import AHEAD, chunks, in_order


def square(number: int, stopped: Event) -> int:
    return number * number


def test_chunks_hold_everything_once() -> None:
    assert list(chunks(range(7), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(chunks([], 3)) == []


@pytest.mark.parametrize("workers", [1, 2, 7])
def test_results_come_in_order(workers: int) -> None:
    turn = threading.Barrier(workers) if workers > 1 else None

    def work(number: int, stopped: Event) -> int:
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
    free = Event()

    def work(number: int, stopped: Event) -> int:
        begun.append(number)
        if number:
            free.wait(30)
            assert stopped.wait(30)
        return number

    stream = in_order(work, range(1000), 2)
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
    def work(number: int, stopped: Event) -> int:
        if number == 5:
            raise ValueError("five")
        return number

    stream = in_order(work, range(100), 2)
    assert [next(stream) for _ in range(5)] == [0, 1, 2, 3, 4]
    with pytest.raises(ValueError, match="five"):
        next(stream)
    with pytest.raises(StopIteration):
        next(stream)
