"""Numbers and times on the console."""

import io

from rich.console import Console

from diffusion.console import count, progress_bar


def test_counts_use_singular_and_plural_forms() -> None:
    assert [count(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]


def lines_in_a_log(seconds_per_step: float, steps: int = 100, terminal: bool = False) -> list[str]:
    """The lines of progress in a log file, before the final line."""
    now, file, bar = [0.0], io.StringIO(), progress_bar()
    bar.get_time = lambda: now[0]
    bar.live.console = Console(file=file, force_terminal=terminal, width=140, markup=False)
    task = bar.add_task("drawing [/x]", total=steps, unit="image", note="")
    for step in range(1, steps + 1):
        now[0] += seconds_per_step
        if step % 2:
            bar.advance(task)
        else:
            bar.update(task, completed=step)
    return file.getvalue().splitlines()


def test_progress_in_a_log_file_is_reported_per_tenth_every_1_to_10_minutes() -> None:
    assert lines_in_a_log(0.1) == []
    assert lines_in_a_log(3600, terminal=True) == []
    fast = lines_in_a_log(2.0)  # a tenth takes 20 s
    assert [line.split()[2] for line in fast] == ["31/100", "61/100", "91/100"]
    slow = lines_in_a_log(45.0)  # a tenth takes 7 min 30 s
    assert [line.split()[2] for line in slow] == [f"{tenth}1/100" for tenth in range(1, 10)]
    slower = lines_in_a_log(360.0)
    assert slower[24] == "drawing [/x]  51/100 0.00278 image/s 5 h 6 min, 4 h 54 min left"
