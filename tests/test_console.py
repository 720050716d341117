"""What the console says of numbers and times."""

import io

from rich.console import Console
from rich.progress import Progress

from diffusion.console import TimeColumn, count


def test_one_is_singular() -> None:
    assert [count(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]


def test_times_say_which_is_which() -> None:
    now = [0.0]
    console = Console(file=io.StringIO(), force_terminal=True, width=80)
    with Progress(TimeColumn(), console=console, get_time=lambda: now[0], auto_refresh=False) as bar:
        task = bar.add_task("", total=4)
        said = [TimeColumn().render(bar.tasks[0]).plain]
        for seconds in (6.0, 12.0):
            now[0] = seconds
            bar.advance(task)
        said.append(TimeColumn().render(bar.tasks[0]).plain)
        now[0] = 72.0
        bar.advance(task, 2)
        said.append(TimeColumn().render(bar.tasks[0]).plain)
    assert said == ["0 s", "12 s, 12 s left", "in 1 min 12 s"]
