"""Write a comparison: compare.md, compare.csv, runs.csv, compare.png, report.html, and a table on the console."""

import math
import re
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure
from rich import box
from rich.console import Console
from rich.table import Table

from diffusion.console import console as standard
from diffusion.files import replace
from diffusion.report import style
from diffusion.report.formatting import MISSING, csv_text, escaped, markdown_table, number
from diffusion.report.page.comparison import comparison_page
from diffusion.report.page.document import write_page
from diffusion.report.recipes import Column, Comparison

LISTED = 10  # runs that the console says were left out
LEGEND = (
    "One row per recipe: only settings that differ are shown, and runs that differ only in the seed share a row. "
    "Mean ± half of the 95% t-interval over training seeds; samplings of one model are averaged first. **Bold**: the "
    "best mean of a column; ≈: a mean that is not shown to differ from it, by Welch's tests at 5% for the whole column "
    "(Holm's correction), or for lack of a second seed."
)


def write(comparison: Comparison, folder: Path, title: str, console: Console | None = standard) -> list[Path]:
    """Write the comparison to `folder`, print its table on `console`, and return the paths of the files."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = comparison.rows, comparison.columns
    notes = [f"- {column.words}." for column in columns] if rows else []
    notes += [f"- **warning**: {warning}." for warning in comparison.warnings]
    notes += [f"- left out: `{run.folder}`: {reason}." for run, reason in comparison.left_out]
    run_head, run_rows = by_run(comparison)
    _, run_texts = by_run(comparison, lambda value, half: MISSING if value is None else number(value, half))
    parts = [
        f"# {escaped(title)}",
        recipes_table(comparison) if rows else "",
        LEGEND if rows else "No run is complete.",
        "\n".join(notes),
        "![comparison](compare.png)" if rows else "",
        "## Runs",
        markdown_table(run_head, [[escaped(cell) for cell in line] for line in run_texts]),
    ]
    replace(folder / "compare.md", "\n\n".join(part for part in parts if part) + "\n")
    replace(folder / "compare.csv", csv_text(by_recipe(comparison)))
    replace(folder / "runs.csv", csv_text([run_head, *run_rows]))
    written = [folder / name for name in ("compare.md", "compare.csv", "runs.csv")]
    if rows and columns:
        written.append(style.save(figure(comparison), folder / "compare.png"))
    written.append(write_page(folder, comparison_page(comparison, folder, title)))
    if console:
        console.print(f"\n{title}")
        if rows:
            head, cells = in_cells(comparison, "*")
            brief = [[row.label, *line] for row, line in zip(rows, cells, strict=True)]
            for part in fitting(["recipe", *head], brief, console.width):
                console.print(part)
        several = any(row.seeds > 1 for row in rows)
        console.print(
            "±: 95% t-interval over training seeds; *best*; ≈ not shown to differ (Welch, 5% per column by Holm)"
            if several
            else "one seed each: no interval, no test; *best*; ≈ not shown to differ from it"
        )
        for run, reason in comparison.left_out[:LISTED]:
            console.print(f"left out: {run.folder}: {reason}")
        if (more := len(comparison.left_out) - LISTED) > 0:
            console.print(f"left out: {more} more, which {folder / 'compare.md'} lists")
        for warning in comparison.warnings:
            console.print(f"warning: {warning}")
    return written


def recipes_table(comparison: Comparison) -> str:
    """The table of recipes as Markdown: settings and numbers, in the notation that `LEGEND` explains.

    If the recipes are numbered, the first column contains the numbers.
    """
    numbered = comparison.is_numbered
    head, cells = in_cells(comparison, "**")
    settings = [*(["row"] if numbered else []), *comparison.rows[0].settings]
    table = [
        [*([str(i)] if numbered else []), *map(escaped, row.settings.values()), *line]
        for i, (row, line) in enumerate(zip(comparison.rows, cells, strict=True), start=1)
    ]
    return markdown_table([*settings, *head], table, range(len(settings), len(settings) + len(head)))


def in_cells(comparison: Comparison, bold: str) -> tuple[list[str], list[list[str]]]:
    """The header and the cells with the numbers of the recipes.

    Args:
        bold: the marker put on both sides of the best mean of a column.
    """
    rows, columns = comparison.rows, comparison.columns
    best = {column.name: comparison.best(column) for column in columns}

    def cell(i: int, column: Column) -> str:
        mean = rows[i].mean(column.name)
        if mean is None:
            return MISSING
        first, similar = best[column.name]
        fewer = "" if mean.n == rows[i].seeds else f" (of {mean.n})"
        return f"{bold}{mean}{bold}{fewer}" if i == first else f"{mean}{fewer}{' ≈' if i in similar else ''}"

    lines = [[str(row.seeds), *(cell(i, column) for column in columns)] for i, row in enumerate(rows)]
    return ["seeds", *(column.name for column in columns)], lines


def by_recipe(comparison: Comparison) -> list[list[Any]]:
    """The lines of compare.csv: each recipe's settings, the mean, half interval and n per column, and its runs."""
    head = [f"{column.name}{suffix}" for column in comparison.columns for suffix in ("", " ±", " n")]
    lines: list[list[Any]] = [[*(comparison.rows[0].settings if comparison.rows else ()), "seeds", *head, "runs"]]
    for row in comparison.rows:
        means = [row.mean(column.name) or (None, None, 0) for column in comparison.columns]
        values = [None if isinstance(x, float) and math.isnan(x) else x for mean in means for x in mean[:3]]
        lines.append([*row.settings.values(), row.seeds, *values, " ".join(str(run.folder) for run in row.runs)])
    return lines


def by_run(
    comparison: Comparison, cell: Callable[[float | None, float | None], Any] = lambda value, half: value
) -> tuple[list[str], list[list[Any]]]:
    """The header and rows of a table of all runs: state, the settings that differ, and the numbers.

    Args:
        cell: the content of a cell: (number, half the width of its interval) -> value.
    """
    names = [column.name for column in comparison.columns]
    rows = []
    for i, run in enumerate(comparison.runs):
        row = comparison.rows[comparison.places[run]] if run in comparison.places else None
        values, halves = ({}, {}) if row is None else (row.values[run], row.halves)
        numbers = [cell(values.get(name), halves.get((run, name))) for name in names]
        rows.append([str(run.folder), run.state, *(column[i] for column in comparison.settings.values()), *numbers])
    return ["run", "state", *comparison.settings, *names], rows


def fitting(head: list[str], rows: list[list[str]], width: int) -> list[Table]:
    """A table of recipes that fits the console `width`: a line per recipe or, if too wide, a column per recipe.

    If neither fits, the table is split into several.
    """
    upright = in_parts(head, rows, width)
    titles, *lines = zip(head, *rows, strict=True)
    first = 3 + max(map(len, head))
    each = (width - first - 2) // len(rows) - 3  # characters in a column
    if len(upright) == 1 or each < max(len(cell) for line in lines for cell in line[1:]):
        return upright
    turned = Table(box=box.SIMPLE_HEAD)
    turned.add_column("", no_wrap=True)
    for title in titles[1:]:
        turned.add_column(title, justify="right", max_width=each, overflow="fold")
    for line in lines:
        turned.add_row(*line)
    return [turned]


def in_parts(head: list[str], rows: list[list[str]], width: int) -> list[Table]:
    """Split a table into several that fit the console `width`; each begins with the first two columns.

    The first column is text, wrapped if it is wider than a third of the console; the others are right-aligned.
    """
    widths = [3 + max(len(line[i]) for line in [head, *rows]) for i in range(len(head))]
    first = min(widths[0], max(24, width // 3))
    parts: list[list[int]] = [[]]
    for i in range(2, len(head)):
        if parts[-1] and first + sum(widths[j] for j in [1, *parts[-1], i]) + 2 > width:
            parts.append([])
        parts[-1].append(i)
    tables = []
    for part in parts:
        table = Table(box=box.SIMPLE_HEAD)
        table.add_column(head[0], max_width=first - 3, overflow="fold")
        for i in [1, *part]:
            table.add_column(head[i], justify="right", no_wrap=True)
        for line in rows:
            table.add_row(line[0], *(line[i] for i in [1, *part]))
        tables.append(table)
    return tables


def in_lines(label: str, width: int) -> str:
    """A label in lines of at most `width` characters, broken after a space or =, and elsewhere only in longer words."""
    lines = [""]
    for part in re.split(r"(?<=[ =])", label):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(textwrap.fill(line, width) for line in lines)


@style.styled
def figure(comparison: Comparison) -> Figure:
    """A panel per column, a line per recipe: a dot per training seed, and the mean with its interval."""
    rows = comparison.rows
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [in_lines(name, 26) for name in comparison.names]
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
            ax.errorbar(mean.mean, y, xerr=half, fmt="o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
        ax.set_yticks(range(len(rows)), names if i % across == 0 else [""] * len(rows), parse_math=False)
        ax.set_ylim(len(rows) - 0.5, -0.5)
        better = "" if column.lower is None else f" ({'lower' if column.lower else 'higher'} is better)"
        ax.set_xlabel(column.name + better)
        ax.locator_params(axis="x", nbins=4)
    return drawn
