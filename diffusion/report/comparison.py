"""The report of a comparison: compare.md, compare.csv, runs.csv, compare.png, report.html, a table on the console."""

import math
import os
import textwrap
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from rich.console import Console

from diffusion.console import console as standard
from diffusion.files import replace
from diffusion.report import blocks, pictures, style
from diffusion.report.blocks import Block, Cell, Chart, Charts, Section, Table, bullets, either, paragraph, tag
from diffusion.report.compare import Column, Comparison
from diffusion.report.formatting import MISSING, alike, csv_text, number
from diffusion.report.images import spread
from diffusion.report.page import NAME, write_page
from diffusion.report.style import readable
from diffusion.runs.folder import Run

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
    sections = comparison_sections(comparison, folder)
    replace(folder / "compare.md", blocks.markdown(title, sections))
    replace(folder / "compare.csv", csv_text(by_recipe(comparison)))
    replace(folder / "runs.csv", runs_table(comparison, folder).csv())
    written = [folder / name for name in ("compare.md", "compare.csv", "runs.csv")]
    written += [*blocks.save_charts(sections, folder), write_page(folder, title, sections)]
    if console:
        print_comparison(comparison, title, console)
    return written


def print_comparison(comparison: Comparison, title: str, console: Console) -> None:
    """Print the table of recipes and the warnings."""
    console.print(f"\n{title}")
    if comparison.rows:
        table = recipes_table(comparison, brief=True)
        for part in table.printed(console.width):
            console.print(part)
    several = any(row.seeds > 1 for row in comparison.rows)
    console.print(
        "±: 95% t-interval over training seeds; *best*; ≈ not shown to differ (Welch, 5% per column by Holm)"
        if several
        else "one seed each: no interval, no test; *best*; ≈ not shown to differ from it"
    )
    for run, reason in comparison.left_out:
        console.print(f"left out: {run.folder}: {reason}")
    for warning in comparison.warnings:
        console.print(f"warning: {warning}")


def comparison_sections(
    comparison: Comparison, folder: Path, link: Callable[[Path], str | None] | None = None
) -> list[Section]:
    """The sections of the report. `link` is the address of a run's page, by default its file, if there is one."""
    link = link or partial(link_of, folder=folder)
    left_out = [f"left out: {shown_path(run.folder, folder)}: {reason}" for run, reason in comparison.left_out]
    return [
        Section("", lambda: [paragraph(f"Warning: {each}.", "notice") for each in comparison.warnings]),
        Section("Recipes", lambda: recipes(comparison)),
        Section("Scores by recipe", lambda: means(comparison)),
        Section("Settings and results", lambda: parallel_blocks(comparison)),
        Section("Validation error", lambda: curves(comparison)),
        Section("Samples", lambda: samples(comparison)),
        Section("Two runs", lambda: [either(tag("div", class_="swipes"))]),
        Section("Runs", lambda: [runs_table(comparison, folder, link), bullets(left_out)]),
    ]


def recipes(comparison: Comparison) -> list[Block]:
    """The table of recipes, and what it shows."""
    if not comparison.rows:
        return [paragraph("No run is complete.")]
    words = ((column.name, column.words.removeprefix(f"{column.name}: ")) for column in comparison.columns)
    return [recipes_table(comparison), paragraph(LEGEND), bullets([f"{each}." for each in alike(words)])]


def recipes_table(comparison: Comparison, brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains.

    If the recipes are numbered, the first column contains the numbers.
    """
    rows, columns = comparison.rows, comparison.columns
    best = {column.name: comparison.best(column) for column in columns}

    def cell(i: int, column: Column) -> Cell:
        mean = rows[i].mean(column.name)
        if mean is None:
            return Cell(MISSING)
        first, similar = best[column.name]
        fewer = "" if mean.n == rows[i].seeds else f" (of {mean.n})"
        return Cell(f"{mean}{fewer}{' ≈' * (i in similar)}", mean.mean, bold=i == first)

    numbered = comparison.is_numbered and not brief
    head = ["recipe"] if brief else [*["row"] * numbered, *rows[0].settings]
    lines: list[Any] = []
    for i, row in enumerate(rows):
        settings = [row.label] if brief else [*[str(i + 1)] * numbered, *row.settings.values()]
        lines.append([*settings, str(row.seeds), *(cell(i, column) for column in columns)])
    about = {column.name: column.words for column in columns}
    names = [*head, "seeds", *about]
    return Table(names, lines, "Recipes", range(len(head), len(names)), about)


def by_recipe(comparison: Comparison) -> list[list[object]]:
    """The lines of compare.csv: each recipe's settings, the mean, half interval and n per column, and its runs."""
    head = [f"{column.name}{suffix}" for column in comparison.columns for suffix in ("", " ±", " n")]
    lines: list[list[object]] = [[*(comparison.rows[0].settings if comparison.rows else ()), "seeds", *head, "runs"]]
    for row in comparison.rows:
        means = [row.mean(column.name) or (None, None, 0) for column in comparison.columns]
        values = [None if isinstance(x, float) and math.isnan(x) else x for mean in means for x in mean[:3]]
        lines.append([*row.settings.values(), row.seeds, *values, " ".join(str(run.folder) for run in row.values)])
    return lines


def runs_table(comparison: Comparison, folder: Path, link: Callable[[Path], str | None] = lambda path: None) -> Table:
    """All runs: state, the settings that differ, and the numbers."""
    names = [column.name for column in comparison.columns]
    rows: list[Any] = []
    for i, run in enumerate(comparison.runs):
        row = comparison.rows[comparison.places[run]] if run in comparison.places else None
        values = {} if row is None else row.values[run]
        numbers = [
            Cell(number(*values[name]), values[name].value) if name in values else Cell(MISSING) for name in names
        ]
        first = Cell(shown_path(run.folder, folder), link=link(run.folder))
        rows.append([first, run.state, *(column[i] for column in comparison.settings.values()), *numbers])
    head = ["run", "state", *comparison.settings, *names]
    return Table(head, rows, "Runs", range(len(head) - len(names), len(head)))


def shown_path(path: Path, folder: Path) -> str:
    """The path of a run relative to the comparison's folder, or as given if that is shorter."""
    return min(os.path.relpath(path, folder), str(path), key=len)


def link_of(path: Path, folder: Path) -> str | None:
    """The URL of a run's page, relative to the comparison's; None if there is no page."""
    return quote(os.path.relpath(path / NAME, folder)) if (path / NAME).is_file() else None


def shown_runs(comparison: Comparison) -> list[Run]:
    """The runs with curves and pictures: the first complete ones, and then the first others."""
    return sorted(comparison.runs, key=lambda run: run not in comparison.places)[:SHOWN]


# --------------------------------------------------------------------------------------------- charts and pictures


def means(comparison: Comparison) -> list[Block]:
    """The chart of the means."""
    if not comparison.rows or not comparison.columns:
        return []
    caption = "A dot for each training seed, and the mean with its 95% interval; the best mean has another colour."
    return [Charts([Chart(caption, partial(figure, comparison), "compare.png")])]


@style.styled
def figure(comparison: Comparison) -> Figure:
    """A panel per column, a line per recipe: a dot per training seed, and the mean with its interval."""
    rows = comparison.rows
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [textwrap.fill(name, 26) for name in comparison.names]
    lines = sum(max(2, 1 + name.count("\n")) for name in names)
    drawn = Figure(figsize=(1.8 + 1.9 * across, down * (0.6 + 0.2 * lines)), layout="constrained")
    for i, column in enumerate(columns):
        ax = drawn.add_subplot(down, across, i + 1)
        first, _ = comparison.best(column)
        for y, row in enumerate(rows):
            values, mean = row.numbers(column.name), row.mean(column.name)
            if mean is None:
                continue
            ax.plot(values, [y] * len(values), "o", color=style.LIGHT, markersize=3, zorder=1)
            half = None if math.isnan(mean.half) else mean.half
            colour = style.VERMILION if y == first else style.BLUE
            bar = ax.errorbar(mean.mean, y, xerr=half, fmt="o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
            readable(bar.lines[0], row.label, texts=[f"{row.label}\n{column.name} {mean}"])
        ax.set_yticks(range(len(rows)), names if i % across == 0 else [""] * len(rows), parse_math=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        better = "" if column.lower is None else f" ({'lower' if column.lower else 'higher'} is better)"
        ax.set_xlabel(style.plain(column.name) + better)
        ax.locator_params(axis="x", nbins=4)
    return drawn


def parallel_blocks(comparison: Comparison) -> list[Block]:
    """Parallel coordinates, if there are runs to compare by a number that is ranked."""
    placed = [(comparison.rows[place], run) for run, place in comparison.places.items()]
    columns = sorted((c for c in comparison.columns if c.name != "seconds"), key=lambda column: column.lower is None)
    if len(placed) < 2 or not placed[0][0].settings or not columns or columns[0].lower is None:
        return []
    runs = [comparison.runs.index(run) for _, run in placed]
    settings = {key: column for key, column in comparison.settings.items() if key in ("seed", *placed[0][0].settings)}
    axes: dict[str, list[Any]] = {key: [column[i] for i in runs] for key, column in settings.items()}
    axes |= {column.name: [row.value(run, column.name) for row, run in placed] for column in columns[:3]}
    names = [run.folder.name for _, run in placed]
    caption = f"A line per run, coloured by {columns[0].name}; grey without it."
    return [Charts([Chart(caption, partial(parallel, names, axes, columns[0].name))])]


@style.styled
def parallel(runs: Sequence[str], axes: Mapping[str, Sequence[str | float | None]], shade: str) -> Figure:
    """Parallel coordinates: an upright axis for each of `axes`, a line per run, coloured by the axis `shade`."""
    drawn, ax = style.axes((max(style.COLUMN[0], 1.15 * len(axes)), 3.2))
    ways = {name: heights(values) for name, values in axes.items()}
    halo = [withStroke(linewidth=3, foreground=style.GROUND)]
    for i, run in enumerate(runs):
        there = [(x, name) for x, name in enumerate(axes) if axes[name][i] in ways[name]]
        tint = ways[shade].get(axes[shade][i])
        colour = style.LIGHT if tint is None else colormaps["viridis"](0.15 + 0.7 * tint)
        y = [ways[name][axes[name][i]] for _, name in there]
        (line,) = ax.plot([x for x, _ in there], y, "o-", color=colour, linewidth=1.4, markersize=2.5)
        readable(line, run, texts=[f"{run}\n{name}: {_text(axes[name][i])}" for _, name in there])
    for x, way in enumerate(ways.values()):
        ax.axvline(x, color=style.GREY, linewidth=0.6, zorder=0)
        for value in [*way] if len(way) <= 8 else [*way][:: len(way) - 1]:
            text = style.plain(textwrap.shorten(_text(value), 18, placeholder="…"))
            ax.text(x + 0.05, way[value], text, va="center", fontsize=8, path_effects=halo, zorder=4)
    ax.set_xticks(range(len(axes)), [textwrap.fill(name, 16) for name in axes], parse_math=False, fontsize=8)
    ax.xaxis.tick_top()
    ax.set(xlim=(-0.1, len(axes) - 0.3), ylim=(-0.05, 1.05), yticks=[])
    ax.grid(visible=False)
    ax.spines[:].set_visible(False)
    return drawn


def _text(value: Any) -> str:
    return number(value) if isinstance(value, float) else str(value)


def heights(values: Sequence[Any]) -> dict[Any, float]:
    """Value -> its height in [0, 1] on an axis; texts are evenly spaced. Missing values are left out."""
    known = sorted({value for value in values if value not in (None, MISSING)}, key=_size)
    if all(isinstance(value, float) for value in known) and len(known) > 1:
        return {value: (value - known[0]) / (known[-1] - known[0]) for value in known}
    return dict(zip(known, np.linspace(0, 1, max(1, len(known))), strict=False))


def _size(text: Any) -> tuple[float, str]:
    """A sort key: numbers by size, also those that are texts, and then words."""
    try:
        return float(text), ""
    except ValueError:
        return math.inf, text


def curves(comparison: Comparison) -> list[Block | None]:
    """The validation errors of each recipe, on the same scales."""
    runs = [run for run in shown_runs(comparison) if run in comparison.places and "val/mse" in run.metrics]
    rows = sorted({comparison.places[run] for run in runs})
    charts = [Chart(comparison.names[i], partial(errors, comparison, runs, i)) for i in rows]
    return [Charts(charts)] if charts else []


@style.styled
def errors(comparison: Comparison, runs: Sequence[Run], row: int) -> Figure:
    """The validation error by step of the runs in a row, above those of all others."""
    drawn, ax = style.axes((style.COLUMN[0], 2.2))
    for run in sorted(runs, key=lambda run: comparison.places[run] == row):
        series = run.metrics["val/mse"]
        step, value = (each[spread(len(series.step), POINTS)] for each in series)
        own = comparison.places[run] == row
        look = {"color": style.BLUE, "marker": "o", "markersize": 2.5} if own else {"color": style.LIGHT}
        (line,) = ax.plot(step, value, linewidth=1.4 if own else 0.7, **look)
        if own:
            readable(line, run.folder.name)
    style.log_mse(ax)
    ax.set_xlim(left=0)
    ax.set_xlabel("training step")
    ax.set_ylabel("val/mse")
    style.count_axis(ax)
    return drawn


def samples(comparison: Comparison) -> list[Block | None]:
    """The first samples of the runs, next to each other; assets/page.js overlays two of them."""
    found = []
    for run in shown_runs(comparison):
        if (picture := pictures.latest(run, IMAGES, COLUMNS)) is not None:
            place = comparison.places.get(run)
            name = run.folder.name if place is None else f"{comparison.names[place]} ({run.folder.name})"
            image = pictures.shown(picture, f"Samples of {name}", max(1, min(4, 400 // picture.width)))
            figure = tag("figure", image, tag("figcaption", name), data_run=comparison.runs.index(run))
            found.append(figure)
    if len(found) < 2:
        return []
    return [either(tag("div", found, class_="pair"))]
