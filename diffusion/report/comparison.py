"""The report of a comparison: compare.md, runs.csv, compare.png, report.html, a table on the console."""

import math
import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from diffusion.console import console, count
from diffusion.files import replace
from diffusion.report import images, style
from diffusion.report.compare import Column, Comparison, compare
from diffusion.report.page import MISSING, NAME, Cell, Chart, Section, Table, linked, listed, write_files
from diffusion.report.ranking import answered, ranking
from diffusion.report.scores import alike, number
from diffusion.runs.folder import Run

SHOWN, FIRST = 24, 4  # runs with curves and pictures, and those at the top; the table contains all runs
IMAGES, COLUMNS = 8, 4  # of each picture
CURVES, MARKED = 4, 30  # quantities with a chart; points of a curve that are marked
Link = Callable[[Path], str | None]  # a run's folder -> the address of its page, if it has one
LEGEND = (
    "One row per recipe: only settings that differ are shown, and runs that differ only in the seed share a row. "
    "Mean ± half of the 95% t-interval over training seeds; samplings of one model are averaged first. Bold: the best "
    "mean of a column; ≈: a mean that is not shown to differ from it, by Welch's tests at 5% for the whole column "
    "(Holm's correction). A recipe with one seed has no interval and no test."
)


def write(folders: Iterable[Path], out: Path, printed: bool = True) -> None:
    """Compare the runs and sweeps, write the report to `out`, and print its verdict, its table and its files."""
    comparison = compare(folders)
    title = title_of(comparison)
    out.mkdir(parents=True, exist_ok=True)
    replace(out / "runs.csv", runs_table(comparison, out).csv())
    written = write_files(out, "compare.md", title, comparison_sections(comparison, out, partial(link_of, folder=out)))
    if printed:
        console.print(f"\n{title}")
        recipes_table(comparison, comparison.columns, brief=True).print(console)
        console.print("±: 95% t-interval over training seeds; *best*; ≈ not shown to differ (Welch, 5% by Holm)")
        verdict = ranking(comparison, out)
        step = [f"Next: {verdict.step}", f"  {verdict.command}"] * bool(verdict.step)
        for line in [*verdict.findings.values(), *step, *comparison.notes, *written, out / "runs.csv"]:
            console.print(line)


def title_of(comparison: Comparison) -> str:
    """What is compared: `schedule, optimizer.lr: 6 recipes, 18 runs`."""
    names, runs = comparison.settings or [*{run.name: None for _, run in comparison.runs}], comparison.runs
    what = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    return f"{what or 'no complete run'}: {count(len(comparison.rows), 'recipe')}, {count(len(runs), 'run')}"


def comparison_sections(comparison: Comparison, folder: Path, link: Link, by_run: bool = False) -> list[Section]:
    """The sections of the report in `folder`. The curves have a colour for each recipe, or for each run."""
    ranked, unranked = ([c for c in comparison.columns if (c.higher is None) == none] for none in (False, True))
    means = "A dot for each training seed, and the mean with its 95% interval; the best mean has another colour."
    words = listed(f"{each}." for each in alike((column.name, column.words) for column in comparison.columns))
    chart = Chart(means, figure(comparison), "compare.png") if comparison.columns else None
    pictures = {}
    for name, run in best_first(comparison)[:SHOWN]:
        if (picture := images.latest(run, IMAGES, COLUMNS)) is not None:
            pictures[f"{name}, run {os.path.relpath(run.folder, folder)}"] = picture
    top, rest = (dict([*pictures.items()][part]) for part in (slice(FIRST), slice(FIRST, None)))
    two = [images.SWIPE, images.side_by_side(rest)] if len(pictures) > 1 else []
    more = [chart, recipes_table(comparison, unranked) if unranked else None, words]
    return [
        Section("", [images.side_by_side(top), listed(comparison.notes)]),
        *answered(ranking(comparison, folder)),
        Section("Recipes", [recipes_table(comparison, ranked), LEGEND]),
        Section("Curves", [curves(comparison, name, folder, by_run) for name in quantities(comparison)]),
        Section("Samples of two runs", two, folded=True),
        Section("Other numbers", more, folded=True),
        Section("Runs", [runs_table(comparison, folder, link)], folded=True),
    ]


def best_first(comparison: Comparison) -> list[tuple[str, Run]]:
    """The runs with their recipes' names: one of each recipe, of one seed, the best recipe first; then the others."""
    main, runs = comparison.main, comparison.runs
    order = main.order if main else []
    places = sorted(range(len(comparison.rows)), key=lambda i: order.index(i) if i in order else len(order))
    seed = comparison.rows[places[0]].runs[0].seeds if places else ()
    first = [min(comparison.rows[i].runs, key=lambda run: run.seeds != seed) for i in places]
    names = {run: name for row, name in zip(comparison.rows, comparison.names, strict=True) for run in row.runs}
    return [(names[run], run) for run in [*first, *(run for _, run in runs if run not in first)]]


def recipes_table(comparison: Comparison, columns: Sequence[Column], brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains."""
    head, names = ["recipe"] if brief else comparison.settings, comparison.names
    lines = list[list[str | Cell]]()
    for i, row in enumerate(comparison.rows):
        seeds = {run.seeds[0] for run in row.runs}
        line: list[str | Cell] = [*([names[i]] if brief else row.settings.values()), str(len(seeds))]
        for column in columns:
            first, similar = column.best
            line.append(Cell(f"{column.means[i] or MISSING}{' ≈' * (i in similar)}", bold=i == first))
        lines.append(line)
    head = [*head, "seeds", *(column.name for column in columns)]
    return Table(head, lines, range(len(head) - len(columns) - 1, len(head)))


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
    names = [textwrap.fill(name, 26, max_lines=3, placeholder=" …") for name in comparison.names]
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


def quantities(comparison: Comparison) -> list[str]:
    """The quantities of training with a chart: the validation error, the scores of samples, the loss."""
    found = {name for _, run in comparison.runs for name, series in run.metrics.items() if len(series.step) > 1}
    scores = sorted(name for name in found if name.startswith("val/") and not re.search("mse|_se|half", name))
    return [name for name in ("val/mse", *scores, "train/loss") if name in found][:CURVES]


@style.styled
def curves(comparison: Comparison, quantity: str, folder: Path, by_run: bool) -> Chart:
    """A quantity by step, of the first runs, with a colour for each recipe, or for each run."""
    lines = len(comparison.runs[:SHOWN] if by_run else comparison.rows)
    drawn, ax = style.axes((style.TALL[0], 2.7 + 0.19 * lines))
    for i, (row, run) in enumerate(comparison.runs[:SHOWN]):
        if quantity in run.metrics:
            k = i if by_run else comparison.rows.index(row)
            name = os.path.relpath(run.folder, folder) if by_run else comparison.names[k]
            name = style.plain(textwrap.shorten(name, 60, placeholder=" …"))
            step, value = (part[style.spread(len(part), style.POINTS)] for part in run.metrics[quantity])
            look: Any = style.LOOKS[k % len(style.LOOKS)] | {"linestyle": ("-", "--", ":")[k // len(style.HUES) % 3]}
            look |= {"marker": ""} if len(step) > MARKED else {"markersize": 3}
            ax.plot(step, value, label=name if by_run or run == row.runs[0] else None, **look)
    if ax.get_ylim()[0] > 0:
        style.log_axis(ax)
    style.count_axis(ax)
    ax.set(xlabel=style.STEPS, ylabel=style.plain(quantity))
    style.legend_below(drawn, ax)
    of = f"at most {SHOWN} runs, with a colour for each " + ("run" if by_run else "recipe")
    return Chart(f"{quantity} of {of}", drawn)
