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


class Advance:
    """Told of finished steps, and of what is to be said beside the bar.

    Parameters
    ----------
    move, say
        What is called with a number of steps, and with a text.
    """

    def __init__(self, move: Callable[[int], None], say: Callable[[str], None]) -> None:
        self._move, self.say = move, say

    def __call__(self, steps: int) -> None:
        """Move the bar."""
        self._move(steps)


def say_beside(progress: Callable[[int], None], text: str) -> None:
    """Write a text, such as a speed, beside a progress bar, where it is one."""
    if isinstance(progress, Advance):
        progress.say(text)


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
        yield Advance(
            lambda n: bar.update(task, advance=n),
            lambda text: bar.update(task, description=f"{what}, {text}"),
        )
