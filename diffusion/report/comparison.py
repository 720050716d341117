"""The report of a comparison: compare.md, runs.csv, compare.png, report.html, a table on the console."""

import math
import os
import textwrap
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from rich.console import Console

from diffusion.console import console as standard
from diffusion.files import replace
from diffusion.report import images, style
from diffusion.report.compare import Comparison
from diffusion.report.page import MISSING, NAME, Cell, Chart, Section, Table, escaped, linked, listed, write_files
from diffusion.report.scores import alike, number
from diffusion.report.style import spread

SHOWN = 24  # runs with curves and pictures; the table contains all runs
IMAGES, COLUMNS, POINTS = 8, 4, 200
LEGEND = (
    "One row per recipe: only settings that differ are shown, and runs that differ only in the seed share a row. "
    "Mean ± half of the 95% t-interval over training seeds; samplings of one model are averaged first. Bold: the best "
    "mean of a column; ≈: a mean that is not shown to differ from it, by Welch's tests at 5% for the whole column "
    "(Holm's correction), or for lack of a second seed."
)


def write(comparison: Comparison, folder: Path, title: str, console: Console | None = standard) -> list[Path]:
    """Write the comparison to `folder`, print its table on `console`, and return the paths of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    replace(folder / "runs.csv", runs_table(comparison, folder).csv())
    written = write_files(folder, "compare.md", title, comparison_sections(comparison, folder))
    if console:
        console.print(f"\n{title}")
        if comparison.rows:
            recipes_table(comparison, brief=True).print(console)
            console.print("±: 95% t-interval over training seeds; *best*; ≈ not shown to differ (Welch, 5% by Holm)")
        for run, reason in comparison.left_out:
            console.print(f"left out: {run.folder}: {reason}")
        for warning in comparison.warnings:
            console.print(f"warning: {warning}")
    return [*written, folder / "runs.csv"]


def comparison_sections(
    comparison: Comparison, folder: Path, link: Callable[[Path], str | None] | None = None
) -> list[Section]:
    """The sections of the report. `link` is the address of a run's page, by default its file, if there is one."""
    link = link or partial(link_of, folder=folder)
    left_out = listed(f"left out: {shown_path(run.folder, folder)}: {reason}" for run, reason in comparison.left_out)
    words = listed(f"{each}." for each in alike((column.name, column.words) for column in comparison.columns))
    means = "A dot for each training seed, and the mean with its 95% interval; the best mean has another colour."
    curves = "The validation error of each run; the runs of a recipe have one colour."
    chart = Chart(means, figure(comparison), "compare.png") if comparison.columns else None
    table = [recipes_table(comparison), LEGEND, words, chart] if comparison.rows else ["No run is complete."]
    validated = any("val/mse" in run.metrics for _, run in comparison.runs)
    return [
        Section("", [escaped(f"Warning: {each}.") for each in comparison.warnings]),
        Section("Recipes", table),
        Section("Validation error", [Chart(curves, errors(comparison))] if validated else []),
        Section("Samples", samples(comparison)),
        Section("Runs", [runs_table(comparison, folder, link), left_out]),
    ]


def recipes_table(comparison: Comparison, brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains."""
    rows, columns = comparison.rows, comparison.columns
    best = [comparison.best(column) for column in columns]
    numbered = comparison.names != [row.label for row in rows] and not brief
    head, lines = ["recipe"] if brief else [*["row"] * numbered, *rows[0].settings], []
    for i, row in enumerate(rows):
        line: list[str | Cell] = [row.label] if brief else [*[str(i + 1)] * numbered, *row.settings.values()]
        line.append(str(row.seeds))
        for column, (first, similar) in zip(columns, best, strict=True):
            mean = row.mean(column.name)
            line.append(Cell(MISSING) if mean is None else Cell(f"{mean}{' ≈' * (i in similar)}", bold=i == first))
        lines.append(line)
    names = [*head, "seeds", *(column.name for column in columns)]
    return Table(names, lines, range(len(head), len(names)))


def runs_table(comparison: Comparison, folder: Path, link: Callable[[Path], str | None] = lambda path: None) -> Table:
    """The compared runs: the settings that differ, the seed of training (and of the samples), and the numbers."""
    names, rows = [column.name for column in comparison.columns], list[list[str | Cell]]()
    for row in comparison.rows:
        for run, values in row.values.items():
            numbers = [Cell(number(values[name]), values[name]) if name in values else Cell(MISSING) for name in names]
            name = linked(shown_path(run.folder, folder), link(run.folder))
            rows.append([name, *row.settings.values(), "/".join(map(str, run.seeds)), *numbers])
    head = ["run", *(comparison.rows[0].settings if comparison.rows else ()), "seed", *names]
    return Table(head, rows, range(len(head) - len(names), len(head)))


def shown_path(path: Path, folder: Path) -> str:
    """The path of a run relative to the comparison's folder, or as given if that is shorter."""
    return min(os.path.relpath(path, folder), str(path), key=len)


def link_of(path: Path, folder: Path) -> str | None:
    """The URL of a run's page, relative to the comparison's; None if there is no page."""
    return quote(os.path.relpath(path / NAME, folder)) if (path / NAME).is_file() else None


@style.styled
def figure(comparison: Comparison) -> Figure:
    """A panel per column, a line per recipe: a dot per training seed, and the mean with its interval."""
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [textwrap.fill(name, 26) for name in comparison.names]
    lines = sum(max(2, 1 + name.count("\n")) for name in names)
    drawn = Figure(figsize=(1.8 + 1.9 * across, down * (0.6 + 0.2 * lines)), layout="constrained")
    for i, column in enumerate(columns):
        ax = drawn.add_subplot(down, across, i + 1)
        first, _ = comparison.best(column)
        for y, row in enumerate(comparison.rows):
            if (mean := row.mean(column.name)) is not None:
                values, colour = row.numbers(column.name), style.VERMILION if y == first else style.BLUE
                ax.plot(values, [y] * len(values), "o", color=style.LIGHT, markersize=3, zorder=1)
                half = None if math.isnan(mean.half) else mean.half
                ax.errorbar(mean.mean, y, xerr=half, fmt="o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
        ax.set_yticks(range(len(names)), names if i % across == 0 else [""] * len(names), parse_math=False)
        ax.set_ylim(len(names) - 0.5, -0.5)
        better = "" if column.lower is None else f" ({'lower' if column.lower else 'higher'} is better)"
        ax.set_xlabel(style.plain(column.name) + better)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return drawn


@style.styled
def errors(comparison: Comparison) -> Figure:
    """The validation error by step of each run."""
    drawn, ax = style.axes((style.TEXT_WIDTH, 3.5))
    labels = dict(enumerate(map(style.plain, comparison.names)))
    for place, run in comparison.runs[:SHOWN]:
        if "val/mse" in run.metrics:
            step, value = run.metrics["val/mse"]
            kept = spread(len(step), POINTS)
            look: Any = style.LOOKS[place % len(style.LOOKS)]
            ax.plot(step[kept], value[kept], label=labels.pop(place, None), markersize=3, linewidth=1.2, **look)
    style.log_mse(ax)
    style.count_axis(ax)
    ax.set(xlabel="training step", ylabel="val/mse")
    style.legend_below(drawn, ax)
    return drawn


def samples(comparison: Comparison) -> list[str]:
    """The first samples of the runs, next to each other."""
    found = {}
    for place, run in comparison.runs[:SHOWN]:
        if (picture := images.latest(run, IMAGES, COLUMNS)) is not None:
            found[f"{comparison.names[place]} ({run.folder.name})"] = picture
    return images.side_by_side(found) if len(found) > 1 else []
