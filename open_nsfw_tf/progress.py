"""The progress bar, on standard error if that is a terminal."""

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

TITLE = 30  # columns of the terminal that a title has at most


@contextmanager
def progress_bar(
    count: Callable[[], int | None] = lambda: None,
    title: str = "",
    in_bytes: bool = False,
    in_seconds: bool = False,
) -> Iterator[Callable[..., None]]:
    """Show a bar with rate and remaining time while the block runs.

    Args:
        count: gives the number of steps, or None; called in a thread of its own, as
            counting many files takes long.
        title: stands before the bar.
        in_bytes: whether a step is a byte; megabytes are shown.
        in_seconds: whether a step is a second of a video; minutes are shown.

    Yields:
        A function to call with the number of steps that were finished since the last
        call, or with `completed` and `total`, of all.
    """
    if sys.stderr is None or not sys.stderr.isatty():
        yield lambda *steps, **changes: None
        return
    bar = _bar(title, in_bytes, in_seconds)
    task = bar.add_task(title, total=None)

    def total() -> None:
        try:
            bar.update(task, total=count())
        except (OSError, ValueError):
            return  # the run itself reports errors of the sources

    def update(steps: int | None = None, **changes: int | None) -> None:
        bar.update(task, advance=steps, **changes)

    with bar:
        threading.Thread(target=total, daemon=True).start()
        yield update


def _clock(seconds: int) -> str:
    """Hours, minutes and seconds; of any length, as a hostile video may claim it."""
    return f"{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}"


def _bar(title: str, in_bytes: bool, in_seconds: bool) -> Any:
    """A progress bar of rich, which is imported only when a bar is shown."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
        TransferSpeedColumn,
    )
    from rich.table import Column
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            return Text("" if task.speed is None else f"{task.speed:.1f}/s")

    class Clock(ProgressColumn):
        def render(self, task: Task) -> Text:
            total = "?" if task.total is None else _clock(int(task.total))
            return Text(f"{_clock(int(task.completed))} of {total}")

    steps = (Clock(),) if in_seconds else (MofNCompleteColumn(), Rate())
    # A file's name may have any length, and brackets, which are no markup.
    column = Column(no_wrap=True, overflow="ellipsis", max_width=TITLE)
    name = TextColumn("{task.description}", markup=False, table_column=column)
    return Progress(
        *(name,) * bool(title),
        BarColumn(),
        *((DownloadColumn(), TransferSpeedColumn()) if in_bytes else steps),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=in_seconds,  # of many videos, each is followed by its verdict
    )
