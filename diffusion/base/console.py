"""The console, progress bars and log messages. Bars are animated on a terminal only; elsewhere, lines are printed."""

import logging
import os
import sys
import warnings
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

Item = TypeVar("Item")
PAUSE = 300.0  # seconds between two progress lines of a task in a log file


class _Console(Console):
    """Text is printed unchanged. A closed pipe, as of `| head` or `| tee`, does not end a run."""

    def on_broken_pipe(self) -> None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


notebook = None if find_spec("ipywidgets") else False  # without them, a notebook gets the text of a terminal
console = _Console(highlight=False, markup=False, emoji=False, soft_wrap=True, force_jupyter=notebook)
if not console.is_terminal and "COLUMNS" not in os.environ:
    console.width = 140  # a log file has no width at which to cut tables


class Numbers(ProgressColumn):
    """`31/100 12.5 step/s 12 s, 3 min 5 s left loss 0.1`: count, rate, elapsed and remaining time, and a note."""

    def render(self, task: Task) -> Text:
        total = "" if task.total is None else f"/{task.total:.0f}"
        words, speed = [f"{task.completed:.0f}{total}"], task.finished_speed or task.speed
        if speed and (task.elapsed or 0) >= 1:  # over less time, it means nothing
            words.append((f"{speed:,.0f}" if speed >= 1000 else f"{speed:.3g}") + f" {task.fields['unit']}/s")
        left = f", {duration(task.time_remaining)} left" if task.time_remaining else ""
        words += [duration(task.finished_time or task.elapsed or 0) + left, task.fields["note"]]
        return Text(" ".join(words).rstrip())


class Bar(Progress):
    """Animated bars on a terminal. Elsewhere, as in a log file, a line every `PAUSE` seconds, and one at the end."""

    def update(self, task_id: TaskID, **changes: Any) -> None:
        super().update(task_id, **changes)
        task, now = self._tasks[task_id], self.get_time()
        due = now - task.fields.setdefault("logged", now) >= PAUSE and not task.finished
        if due and not self.disable and not self.console.is_terminal:
            task.fields["logged"] = now
            self.console.print(task.description, Numbers()(task))


def progress_bar(enabled: bool = True) -> Progress:
    """A bar; `add_task(description, total=…, unit="image", note="")`, then `update(task, advance=1, note="…")`."""
    period = 30.0 if console.is_terminal else 2 * PAUSE
    columns = TextColumn("{task.description}", markup=False), BarColumn(bar_width=10), Numbers(Column(no_wrap=True))
    return Bar(*columns, console=console, refresh_per_second=4, speed_estimate_period=period, disable=not enabled)


def track(items: Iterable[Item], label: str, total: int | None, unit: str = "image") -> Iterator[Item]:
    """Yield `items`, with a progress bar of `total` steps; None if their number is not known."""
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
