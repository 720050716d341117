"""The table of scores on the console."""

from collections.abc import Sequence

from rich import box
from rich.table import Table

from diffusion.console import console
from diffusion.metric.record import Score
from diffusion.report.formatting import MISSING, half_width, interval_text, number

COLUMNS = ("samples", "images", "floor", "real", "untrained", "noise")

LEAST = 80  # characters that every table fits into; on narrower consoles, it would lose names and digits


def print_scores(scores: Sequence[Score]) -> None:
    """Print the scores with their intervals and baselines. (If a baseline has another n, its column shows it.)"""
    first = scores[0]
    assert first.reference is not None
    table = Table(
        box=box.SIMPLE_HEAD,
        title=f"{first.n} images against {first.reference.n} of {first.reference.split}",
        title_justify="left",
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
    )
    sizes = {score.what: score.n for score in scores}
    columns = [what for what in COLUMNS if what in sizes]
    table.add_column("score", overflow="fold")  # wrapped if the numbers need the space
    others = [what if sizes[what] == first.n else f"{what} (n={sizes[what]})" for what in columns[1:]]
    for name in (columns[0], "interval", *others):
        table.add_column(name, justify="left" if name == "interval" else "right", no_wrap=True)
    for metric in dict.fromkeys(score.metric for score in scores):
        row = {score.what: score for score in scores if score.metric == metric}
        values = [number(s.value, half_width(s)) if (s := row.get(what)) else MISSING for what in columns]
        table.add_row(metric, values[0], interval_text(row.get(columns[0])), *values[1:])
    if console.width < LEAST:  # no name and no number is left out; the terminal wraps the lines
        table.width = console.measure(table, options=console.options.update(width=LEAST)).maximum
    console.print(table, soft_wrap=False, crop=False)


def print_by_class(scores: Sequence[Score]) -> None:
    """Print the scores of the samples of each class, one row per class."""
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), pad_edge=False, show_edge=False)
    metrics = [*dict.fromkeys(score.metric for score in scores)]
    for i, name in enumerate(("class", "samples", *metrics)):
        table.add_column(name, justify="right" if i else "left", overflow="fold")
    for what in dict.fromkeys(score.what for score in scores):
        row = {score.metric: score for score in scores if score.what == what}
        values = [number(s.value, half_width(s)) if (s := row.get(metric)) else MISSING for metric in metrics]
        table.add_row(what.removeprefix("class "), str(next(iter(row.values())).n), *values)
    if scores:
        console.print(table, soft_wrap=False)
