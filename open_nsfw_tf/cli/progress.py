"""The progress bar, on standard error if that is a terminal."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress_bar(count: Callable[[], int | None]) -> Iterator[Callable[[int], None]]:
    """Show a bar with rate and remaining time while the block runs.

    Args:
        count: gives the number of steps, or None; called in a thread of its own, as
            counting many files takes long.

    Yields:
        A function to call with the number of finished steps.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda steps: None
        return
    bar = _bar()
    task = bar.add_task("", total=None)

    def total() -> None:
        try:
            bar.update(task, total=count())
        except (OSError, ValueError):
            return  # the run itself reports errors of the sources

    with bar:
        threading.Thread(target=total, daemon=True).start()
        yield lambda steps: bar.advance(task, steps)


def _bar() -> Any:
    """A progress bar of rich, which is imported only when a bar is shown."""
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

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s")

    return Progress(
        BarColumn(),
        MofNCompleteColumn(),
        Rate(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
    )
