"""Numbers and times on the console."""

import io

from rich.console import Console

from diffusion.base.console import count, progress_bar


def test_counts_use_singular_and_plural_forms() -> None:
    assert [count(n, "image") for n in (0, 1, 2, 1000)] == ["0 images", "1 image", "2 images", "1,000 images"]


def lines_in_a_log(seconds_per_step: float, terminal: bool = False) -> list[str]:
    """The lines of progress in a log file, before the final line."""
    now, file, bar = [0.0], io.StringIO(), progress_bar()
    bar.get_time = lambda: now[0]
    bar.live.console = Console(file=file, force_terminal=terminal, width=140, markup=False)
    task = bar.add_task("drawing [/x]", total=100, unit="image", note="")
    for _ in range(100):
        now[0] += seconds_per_step
        bar.update(task, advance=1)
    return file.getvalue().splitlines()


def test_progress_in_a_log_file_is_reported_every_5_minutes() -> None:
    assert lines_in_a_log(2.0) == []
    assert lines_in_a_log(3600, terminal=True) == []
    assert [line.split()[2] for line in lines_in_a_log(10.0)] == ["31/100", "61/100", "91/100"]
    assert lines_in_a_log(360.0)[49] == "drawing [/x] 51/100 0.00278 image/s 5 h 6 min, 4 h 54 min left"
