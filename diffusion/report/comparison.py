"""A comparison's files, compare.md, compare.csv and compare.png, and its table on the console."""

import math
import textwrap
from pathlib import Path
from typing import Any

from rich.console import Console

from diffusion.console import console as standard
from diffusion.files import replace
from diffusion.report.differences import MISSING
from diffusion.report.formatting import csv_of, table
from diffusion.report.recipes import Column, Comparison


def write(comparison: Comparison, folder: Path, title: str, console: Console | None = standard) -> list[Path]:
    """Write compare.md, compare.csv and compare.png to `folder`, print the table on `console`; returns the paths."""
    from diffusion.report import style
    from diffusion.report.sweep import in_parts

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
        short = "" if mean.n == len(rows[i].runs) else f" (of {mean.n})"
        return f"{bold}{mean}{bold}{short}" if i == first else f"{mean}{short}{' ≈' if i in alike else ''}"

    def shown(bold: str) -> list[list[str]]:
        return [
            [*row.settings.values(), str(len(row.runs)), *(cell(i, column, bold) for column in columns)]
            for i, row in enumerate(rows)
        ]

    numeric = range(len(settings), len(head))
    parts = [f"# {title}", table(head, shown("**"), right=numeric), _notes(comparison, numeric=bool(rows))]
    replace(folder / "compare.md", "\n\n".join(parts) + "\n")
    wide = [f"{c.name}{suffix}" for c in columns for suffix in ("", " ±", " n")]
    lines: list[list[Any]] = [[*settings, "seeds", *wide, "runs"]]
    for row in rows:
        means = [row.mean(column.name) or (None, None, 0) for column in columns]
        where = " ".join(str(run.folder) for run in row.runs)
        numbers = [None if isinstance(x, float) and math.isnan(x) else x for mean in means for x in mean]
        lines.append([*row.settings.values(), len(row.runs), *numbers, where])
    replace(folder / "compare.csv", csv_of(lines))
    written = [folder / "compare.md", folder / "compare.csv"]
    if rows and columns:
        written.append(style.save(figure(comparison), folder / "compare.png"))
    if console:
        console.print(f"\n{title}", markup=False)
        brief = [[row.label, *line[len(settings) :]] for row, line in zip(rows, shown("*"), strict=True)]
        for part in in_parts(["recipe", *head[len(settings) :]], brief, console.width):
            console.print(part)
        console.print(_legend(comparison), markup=False)
        for run, reason in comparison.left_out:
            console.print(f"left out: {run.folder}: {reason}", markup=False)
        for warning in comparison.warnings:
            console.print(f"warning: {warning}", markup=False)
    return written


def _legend(comparison: Comparison) -> str:
    several = any(len(row.runs) > 1 for row in comparison.rows)
    interval = "±: 95% t-interval over seeds" if several else "one seed each: no interval, no test"
    return f"{interval}; *best*; ≈ can't be told from the best (Welch, 5%)" if several else f"{interval}; *best*"


def _notes(comparison: Comparison, numeric: bool) -> str:
    """What the columns mean, what was left out and why."""
    legend = (
        "A row per recipe: only settings that differ are shown, and runs that differ in their seed alone are one row. "
        "Mean ± half of the 95% t-interval over seeds. **Bold**: the best mean of a column; ≈: a mean that Welch's "
        "test can't tell from it at 5%."
    )
    lines = [f"- {column.words}." for column in comparison.columns] if numeric else []
    lines += [f"- **warning**: {warning}." for warning in comparison.warnings]
    lines += [f"- left out: `{run.folder}`: {reason}." for run, reason in comparison.left_out]
    return "\n\n".join([legend, "\n".join(lines), "![comparison](compare.png)" if numeric else ""])


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
            values, mean = row.values.get(column.name) or [], row.mean(column.name)
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
