"""The console, progress bars and log messages. Bars are animated on a terminal only; elsewhere, lines are printed."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

Item = TypeVar("Item")
PAUSE = 300.0  # seconds between two progress lines of a task in a log file


class _Console(Console):
    """Text is printed unchanged. A closed pipe, as of `| head` or `| tee`, does not end a run."""

    bars = True  # whether progress bars are shown

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 140  # a log file has no width at which to cut tables


class Speed(ProgressColumn):
    """`12.5 step/s 12 s, 3 min 5 s left` while running; `12.5 step/s in 3 min 17 s` at the end."""

    def render(self, task: Task) -> Text:
        speed, unit = task.finished_speed or task.speed, task.fields["unit"]
        rate = "" if speed is None else f"{speed:,.0f} {unit}/s " if speed >= 1000 else f"{speed:.3g} {unit}/s "
        if task.finished:
            return Text(f"{rate}in {duration(task.finished_time or 0)}")
        left = "" if task.time_remaining is None else f", {duration(task.time_remaining)} left"
        return Text(f"{rate}{duration(task.elapsed or 0)}{left}")


class Bar(Progress):
    """Animated bars on a terminal. Elsewhere, as in a log file, a line every `PAUSE` seconds, and one at the end."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        """See `Progress`."""
        super().update(task_id, **changes)
        task, now = self._tasks[task_id], self.get_time()
        due = now - task.fields.setdefault("logged", now) >= PAUSE and not task.finished
        if due and not self.disable and not self.console.is_terminal:
            task.fields["logged"] = now
            words = (column(task) for column in self.columns if not isinstance(column, BarColumn | str))
            self.console.print(" ".join(str(word) for word in words if str(word)))


@contextmanager
def hiding_bars(hidden: bool = True) -> Iterator[None]:
    """Context without progress bars, if `hidden`."""
    before, console.bars = console.bars, not hidden
    try:
        yield
    finally:
        console.bars = before


def progress_bar(enabled: bool = True) -> Progress:
    """A bar with count, rate, elapsed and remaining time; `add_task(description, total=…, unit="image", note="")`."""
    one_line = Column(no_wrap=True)
    return Bar(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=10),
        MofNCompleteColumn(table_column=one_line),
        Speed(table_column=one_line),
        TextColumn("{task.fields[note]}", markup=False, table_column=one_line),
        console=console,
        refresh_per_second=4,
        speed_estimate_period=30.0 if console.is_terminal else 2 * PAUSE,
        disable=not (enabled and console.bars),
    )


def track(items: Iterable[Item], label: str, total: int, unit: str = "image") -> Iterator[Item]:
    """Yield `items`, with a progress bar of `total` steps."""
    with progress_bar() as bar:
        task = bar.add_task(label, total=total, unit=unit, note="")
        for item in items:
            yield item
            bar.update(task, advance=1)


def count(n: int, word: str) -> str:
    """`1 image`, `2 images`, `2 batches`."""
    return f"{n:,} {word}" + ("" if n == 1 else "es" if word.endswith("tch") else "s")


def duration(seconds: float) -> str:
    """`3 h 20 min`, `4 min 10 s`, `12 s`."""
    minutes, s = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {s} s" if minutes else f"{s} s"


IRRELEVANT = (  # warnings of libraries about deliberate choices
    ".*isinstance.treespec, LeafSpec.*",
    ".*Found .* module.* in eval mode.*",
    ".*does not have many workers.*",  # the images are in memory
    ".*Experiment logs directory.*",
    ".*Checkpoint directory .* exists and is not empty.*",
    ".*is smaller than the logging interval.*",
    ".*recommended to use .self.log.*sync_dist=True.*",  # torchmetrics has already reduced it
    ".*distributed.nn.functional.all_gather is deprecated.*",  # Lightning's own call
    ".*lr_scheduler.step.*before.*optimizer.step.*",
    ".*your dataloader is not resumable.*",  # it starts at the right place
)


def quiet_libraries() -> None:
    """Print log messages as they are, without those of libraries that are irrelevant here."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    for name in ("lightning.pytorch", "lightning.fabric", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for message in IRRELEVANT:
        warnings.filterwarnings("ignore", message)
