"""Progress bars: shown on a terminal, quiet elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

#: Told of each stage by name and number of steps; returns what is told of finished steps.
OnStage = Callable[[str, int], Callable[[int], None]]


def no_progress(name: str, total: int) -> Callable[[int], None]:
    """Show nothing of a stage."""
    del name, total

    def ignore(steps: int) -> None:
        del steps

    return ignore


@contextmanager
def progress_bar(what: str, total: int, unit: str = "cells") -> Iterator[Callable[[int], None]]:
    """Yield a function that is told how many more units are done; draws a bar with rate and time left.

    Nothing is drawn where standard error is not a terminal.
    """
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
            speed = task.finished_speed or task.speed
            return Text("" if not speed else f"{speed:,.1f} {unit}/s", style="dim")

    console = Console(stderr=True)
    bar = Progress(
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), Rate(), TimeElapsedColumn(),
        TimeRemainingColumn(), console=console, disable=not sys.stderr.isatty(), transient=False,
    )  # fmt: skip
    with bar:
        task = bar.add_task(what, total=total)
        yield lambda n: bar.update(task, advance=n)
