"""A comparison's files (compare.md, compare.csv, runs.csv, compare.png) and its table on the console."""

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from diffusion.console import console as standard
from diffusion.files import replace
from diffusion.report.differences import MISSING, differing
from diffusion.report.formatting import csv_text, markdown_table
from diffusion.report.recipes import Column, Comparison


def write(comparison: Comparison, folder: Path, title: str, console: Console | None = standard) -> list[Path]:
    """Write the comparison to `folder` and print its table on `console`; returns the paths."""
    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = comparison.rows, comparison.columns
    settings = list(rows[0].settings) if rows else []
    head = [*settings, "seeds", *(column.name for column in columns)]
    marks = {column.name: comparison.best(column) for column in columns}

    def cell(i: int, column: Column, bold: str) -> str:
        mean = rows[i].mean(column.name)
        if mean is None:
            return MISSING
        first, alike = marks[column.name]
        fewer = "" if mean.n == len(rows[i].runs) else f" (of {mean.n})"
        return f"{bold}{mean}{bold}{fewer}" if i == first else f"{mean}{fewer}{' ≈' if i in alike else ''}"

    def shown(bold: str) -> list[list[str]]:
        return [
            [*row.settings.values(), str(len(row.runs)), *(cell(i, column, bold) for column in columns)]
            for i, row in enumerate(rows)
        ]

    run_head, run_rows = by_run(comparison)
    numeric = range(len(settings), len(head))
    parts = [
        f"# {title}",
        markdown_table(head, shown("**"), right=numeric) if rows else "No run is complete.",
        _notes(comparison),
        "## Runs",
        markdown_table(run_head, [[_short(value) for value in row] for row in run_rows]),
    ]
    replace(folder / "compare.md", "\n\n".join(part for part in parts if part) + "\n")
    replace(folder / "compare.csv", _by_recipe_csv(comparison, settings))
    replace(folder / "runs.csv", csv_text([run_head, *run_rows]))
    written = [folder / name for name in ("compare.md", "compare.csv", "runs.csv")]
    if rows and columns:
        from diffusion.report import style

        written.append(style.save(figure(comparison), folder / "compare.png"))
    if console:
        console.print(f"\n{title}")
        brief = [[row.label, *line[len(settings) :]] for row, line in zip(rows, shown("*"), strict=True)]
        for part in in_parts(["recipe", *head[len(settings) :]], brief, console.width) if rows else []:
            console.print(part)
        console.print(_legend(comparison))
        for run, reason in comparison.left_out:
            console.print(f"left out: {run.folder}: {reason}")
        for warning in comparison.warnings:
            console.print(f"warning: {warning}")
    return written


def by_run(comparison: Comparison) -> tuple[list[str], list[list[Any]]]:
    """The head and rows of a table of all runs: state, the settings in which they differ, their numbers."""
    used = [(run, row) for row in comparison.rows for run in row.runs]
    runs = sorted([*dict(used), *(run for run, _ in comparison.left_out)], key=lambda run: _order(run.folder))
    settings = {key: column for key, column in differing(runs).items() if key != "name"}
    names = [column.name for column in comparison.columns]
    rows = []
    for i, run in enumerate(runs):
        row = dict(used).get(run)
        numbers = [None if row is None else row.values.get(name, {}).get(run) for name in names]
        state = str(run.info.get("state", "not started" if not run.scores else "complete"))
        rows.append([str(run.folder), state, *(column[i] for column in settings.values()), *numbers])
    return ["run", "state", *settings, *names], rows


def _order(folder: Path) -> tuple[str, int, str]:
    """Job 2 before job 10."""
    return str(folder.parent), int(folder.name) if folder.name.isdigit() else -1, folder.name


def _short(value: Any) -> str:
    return MISSING if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)


def _by_recipe_csv(comparison: Comparison, settings: Sequence[str]) -> str:
    wide = [f"{c.name}{suffix}" for c in comparison.columns for suffix in ("", " ±", " n")]
    lines: list[list[Any]] = [[*settings, "seeds", *wide, "runs"]]
    for row in comparison.rows:
        means = [row.mean(column.name) or (None, None, 0) for column in comparison.columns]
        where = " ".join(str(run.folder) for run in row.runs)
        numbers = [None if isinstance(x, float) and math.isnan(x) else x for mean in means for x in mean]
        lines.append([*row.settings.values(), len(row.runs), *numbers, where])
    return csv_text(lines)


def _legend(comparison: Comparison) -> str:
    if not any(len(row.runs) > 1 for row in comparison.rows):
        return "one seed each: no interval, no test; *best*"
    return "±: 95% t-interval over seeds; *best*; ≈ can't be told from the best (Welch, 5%)"


def _notes(comparison: Comparison) -> str:
    """What the columns mean, what was left out and why."""
    legend = (
        "A row per recipe: only settings that differ are shown, and runs that differ in their seed alone are one row. "
        "Mean ± half of the 95% t-interval over seeds. **Bold**: the best mean of a column; ≈: a mean that Welch's "
        "test can't tell from it at 5%."
    )
    lines = [f"- {column.words}." for column in comparison.columns] if comparison.rows else []
    lines += [f"- **warning**: {warning}." for warning in comparison.warnings]
    lines += [f"- left out: `{run.folder}`: {reason}." for run, reason in comparison.left_out]
    return "\n\n".join([legend, "\n".join(lines), "![comparison](compare.png)" if comparison.rows else ""]).strip()


def in_parts(head: list[str], rows: list[list[str]], width: int) -> list[Table]:
    """The table for a console of `width`, in parts where it is wider; each part begins with the first two columns.

    The first column is text, wrapped where it is longer than a third of the width; the others are right-aligned.
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


def figure(comparison: Comparison) -> Any:
    """A panel per column, a line per recipe: each seed as a dot, their mean with its interval."""
    from diffusion.report import style

    return style.styled(_figure)(comparison)


def _figure(comparison: Comparison) -> Any:
    from matplotlib.figure import Figure

    from diffusion.report import style

    rows = comparison.rows
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [textwrap.fill(row.label, 26) for row in rows]
    lines = sum(max(2, 1 + name.count("\n")) for name in names)
    made = Figure(figsize=(1.8 + 1.9 * across, down * (0.6 + 0.2 * lines)), layout="constrained")
    for i, column in enumerate(columns):
        ax = made.add_subplot(down, across, i + 1)
        first, _ = comparison.best(column)
        for y, row in enumerate(rows):
            values, mean = row.numbers(column.name), row.mean(column.name)
            if mean is None:
                continue
            colour = style.VERMILION if y == first else style.BLUE
            ax.plot(values, [y] * len(values), "o", color=style.LIGHT, markersize=3, zorder=1)
            half = None if math.isnan(mean.half) else mean.half
            ax.errorbar(mean.mean, y, xerr=half, fmt="o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
        ax.set_yticks(range(len(rows)), names if i % across == 0 else [""] * len(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        better = "" if column.lower is None else f" ({'lower' if column.lower else 'higher'} is better)"
        ax.set_xlabel(column.name + better)
        ax.locator_params(axis="x", nbins=4)
    return made
