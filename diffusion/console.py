"""The one console of the program, and its progress bars. On a terminal bars move; elsewhere only lines are printed."""

import os
from collections.abc import Iterable, Iterator
from typing import TypeVar

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
from rich.table import Column
from rich.text import Text

Item = TypeVar("Item")
console = Console(highlight=False, soft_wrap=True)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 140  # a log has no edge at which to cut tables


class RateColumn(ProgressColumn):
    """Steps a second, of the task's `unit`."""

    def render(self, task: Task) -> Text:
        speed = task.finished_speed or task.speed
        unit = task.fields.get("unit", "it")
        return Text("" if speed is None else f"{speed:.3g} {unit}/s", style="progress.data.speed")


def progress_bar(enabled: bool = True) -> Progress:
    """A bar with count, rate, elapsed and remaining time; `add_task(description, total=…, unit="image", note="")`."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=10),
        MofNCompleteColumn(table_column=Column(no_wrap=True)),
        RateColumn(table_column=Column(no_wrap=True)),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[note]}", table_column=Column(no_wrap=True)),
        console=console,
        refresh_per_second=4,
        disable=not enabled,
    )


def track(items: Iterable[Item], label: str, total: int, unit: str = "image") -> Iterator[Item]:
    """`items`, with a bar that shows how many of `total` are done."""
    with progress_bar() as bar:
        task = bar.add_task(label, total=total, unit=unit, note="")
        for item in items:
            yield item
            bar.advance(task)


def duration(seconds: float) -> str:
    """`3 h 20 min`, `4 min 10 s`, `12 s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours >= 48:
        return f"{hours / 24:.1f} days"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"
