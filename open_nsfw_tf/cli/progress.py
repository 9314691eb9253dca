"""A bar with rate and remaining time, for a terminal. Loads rich."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text


class _Rate(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:.1f}/s")


@contextmanager
def progress_bar(
    terminal: TextIO, count: Callable[[], int | None]
) -> Iterator[Callable[[int], None]]:
    """Show a bar while the block runs.

    Args:
        terminal: where it is drawn.
        count: how many steps there are, or None; asked in a thread of its own, as
            counting many files takes its time.

    Yields:
        What is called with the number of steps that were taken.
    """
    bar = Progress(
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=terminal),
    )
    task = bar.add_task("", total=None)

    def total() -> None:
        try:
            bar.update(task, total=count())
        except (OSError, ValueError):
            return  # the run itself says what is wrong with the sources

    with bar:
        threading.Thread(target=total, daemon=True).start()
        yield lambda steps: bar.advance(task, steps)
