"""The report of a comparison: compare.md, runs.csv, compare.png, report.html, a table on the console."""

import math
import os
import textwrap
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffusion.console import console, count
from diffusion.files import replace
from diffusion.report import images, style
from diffusion.report.compare import Comparison, compare, label
from diffusion.report.page import MISSING, NAME, Cell, Chart, Section, Table, linked, listed, write_files
from diffusion.report.scores import alike, number

SHOWN = 24  # runs with curves and pictures; the table contains all runs
IMAGES, COLUMNS = 8, 4  # of each picture
Link = Callable[[Path], str | None]  # a run's folder -> the address of its page, if it has one
LEGEND = (
    "One row per recipe: only settings that differ are shown, and runs that differ only in the seed share a row. "
    "Mean ± half of the 95% t-interval over training seeds; samplings of one model are averaged first. Bold: the best "
    "mean of a column; ≈: a mean that is not shown to differ from it, by Welch's tests at 5% for the whole column "
    "(Holm's correction), or for lack of a second seed."
)


def write(folders: Iterable[Path], out: Path, printed: bool = True) -> None:
    """Compare the runs and sweeps, write the report to `out`, and print its table and the paths of its files."""
    comparison = compare(folders)
    title = f"{out.resolve().name}: {count(len(comparison.runs), 'run')}, {count(len(comparison.rows), 'recipe')}"
    out.mkdir(parents=True, exist_ok=True)
    replace(out / "runs.csv", runs_table(comparison, out).csv())
    written = write_files(out, "compare.md", title, comparison_sections(comparison, out, partial(link_of, folder=out)))
    if printed:
        console.print(f"\n{title}")
        recipes_table(comparison, brief=True).print(console)
        console.print("±: 95% t-interval over training seeds; *best*; ≈ not shown to differ (Welch, 5% by Holm)")
        for line in [*comparison.notes, *written, out / "runs.csv"]:
            console.print(line)


def comparison_sections(comparison: Comparison, folder: Path, link: Link) -> list[Section]:
    """The sections of the report in `folder`."""
    means = "A dot for each training seed, and the mean with its 95% interval; the best mean has another colour."
    curves = f"The validation error, of at most {SHOWN} runs; the runs of a recipe have one colour."
    words = listed(f"{each}." for each in alike((column.name, column.words) for column in comparison.columns))
    chart = Chart(means, figure(comparison), "compare.png") if comparison.columns else None
    validated = any("val/mse" in run.metrics for _, run in comparison.runs)
    pictures = {}
    for row, run in comparison.runs[:SHOWN]:
        if (picture := images.latest(run, IMAGES, COLUMNS)) is not None:
            pictures[f"{label(row.settings)} ({os.path.relpath(run.folder, folder)})"] = picture
    return [
        Section("Recipes", [listed(comparison.notes), recipes_table(comparison), LEGEND, words, chart]),
        Section("Validation error", [Chart(curves, errors(comparison))] if validated else []),
        Section("Samples", images.side_by_side(pictures) if len(pictures) > 1 else []),
        Section("Runs", [runs_table(comparison, folder, link)]),
    ]


def recipes_table(comparison: Comparison, brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains."""
    head = ["recipe"] if brief else comparison.settings
    lines = list[list[str | Cell]]()
    for i, row in enumerate(comparison.rows):
        seeds = {run.seeds[0] for run in row.runs}
        line: list[str | Cell] = [*([label(row.settings)] if brief else row.settings.values()), str(len(seeds))]
        for column in comparison.columns:
            first, similar = column.best
            line.append(Cell(f"{column.means[i] or MISSING}{' ≈' * (i in similar)}", bold=i == first))
        lines.append(line)
    names = [*head, "seeds", *(column.name for column in comparison.columns)]
    return Table(names, lines, range(len(head), len(names)))


def runs_table(comparison: Comparison, folder: Path, link: Link = lambda path: None) -> Table:
    """The compared runs: the settings that differ, the seed of training (and of the samples), and the numbers."""
    rows: list[list[str | Cell]] = []
    for row, run in comparison.runs:
        found = [column.values.get(run) for column in comparison.columns]
        numbers = [Cell(MISSING) if value is None else Cell(number(value), value) for value in found]
        name = linked(os.path.relpath(run.folder, folder), link(run.folder))
        rows.append([name, *row.settings.values(), "/".join(map(str, run.seeds)), *numbers])
    head = ["run", *comparison.settings, "seed", *(column.name for column in comparison.columns)]
    return Table(head, rows, range(2 + len(comparison.settings), len(head)))


def link_of(path: Path, folder: Path) -> str | None:
    """The URL of a run's page, relative to `folder`; None if there is no page."""
    return quote(os.path.relpath(path / NAME, folder)) if (path / NAME).is_file() else None


@style.styled
def figure(comparison: Comparison) -> Figure:
    """A panel per column, a line per recipe: a dot per training seed, and the mean with its interval."""
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [textwrap.fill(label(row.settings), 26, max_lines=3, placeholder=" …") for row in comparison.rows]
    lines = sum(max(2, 1 + name.count("\n")) for name in names)
    drawn = Figure(figsize=(1.8 + 1.9 * across, down * (0.6 + 0.2 * lines)), layout="constrained")
    for i, column in enumerate(columns):
        ax = drawn.add_subplot(down, across, i + 1)
        for y, mean in enumerate(column.means):
            if mean:
                colour = style.VERMILION if y == column.best[0] else style.BLUE
                ax.plot(mean.of_seeds, [y] * len(mean.of_seeds), "o", color=style.LIGHT, markersize=3, zorder=1)
                ax.errorbar(mean.mean, y, None, mean.half, "o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
        ax.set_yticks(range(len(names)), names if i % across == 0 else [""] * len(names), parse_math=False)
        ax.set_ylim(len(names) - 0.5, -0.5)
        better = "" if column.higher is None else f" ({'higher' if column.higher else 'lower'} is better)"
        ax.set_xlabel(style.plain(column.name) + better)
        ax.xaxis.set_major_locator(MaxNLocator(nbins=4))
    return drawn


@style.styled
def errors(comparison: Comparison) -> Figure:
    """The validation error by step of the first runs."""
    drawn, ax = style.axes((style.TEXT_WIDTH, 3.5))
    for row, run in comparison.runs[:SHOWN]:
        if "val/mse" in run.metrics:
            look: Any = style.LOOKS[comparison.rows.index(row) % len(style.LOOKS)]
            name = style.plain(textwrap.shorten(label(row.settings), 60, placeholder=" …"))
            ax.plot(*run.metrics["val/mse"], label=name if run == row.runs[0] else None, markersize=3, **look)
    style.log_axis(ax)
    style.count_axis(ax)
    ax.set(xlabel="training step", ylabel="val/mse")
    style.legend_below(drawn, ax)
    return drawn
