"""The report of a comparison: compare.md, runs.csv, report.html, a table on the console."""

import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from diffusion.base.console import console, count
from diffusion.base.files import replace
from diffusion.report import images, style
from diffusion.report.compare import Column, Comparison, compare
from diffusion.report.page import MISSING, NAME, Cell, Chart, Section, Table, linked, listed, write_files
from diffusion.report.ranking import ranking
from diffusion.report.scores import alike, number
from diffusion.report.search import search_sections
from diffusion.runs.folder import Run

SHOWN, FIRST = 24, 4  # runs with curves and pictures, and those at the top; the table contains all runs
IMAGES, COLUMNS = 8, 4  # of each picture
CURVES, MARKS = 4, 10  # quantities with a chart; marks of a curve
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
        for line in [ranking(comparison, out), *comparison.notes, *written, out / "runs.csv"]:
            console.print(str(line))


def title_of(comparison: Comparison) -> str:
    """What is compared: `schedule, optimizer.lr: 6 recipes, 18 runs`."""
    names, runs = comparison.settings or [*{run.name: None for _, run in comparison.runs}], comparison.runs
    what = ", ".join(names[:3]) + f" and {len(names) - 3} more" * (len(names) > 3)
    return f"{what or 'no complete run'}: {count(len(comparison.rows), 'recipe')}, {count(len(runs), 'run')}"


def comparison_sections(comparison: Comparison, folder: Path, link: Link, by_run: bool = False) -> list[Section]:
    """The sections of the report in `folder`. The curves have a colour for each recipe, or for each run."""
    ranked, unranked = ([c for c in comparison.columns if (c.higher is None) == none] for none in (False, True))
    words = listed(f"{each}." for each in alike((column.name, column.words) for column in comparison.columns))
    shown = best_first(comparison)[:SHOWN]
    lines = [(os.path.relpath(run.folder, folder) if by_run else name, run) for name, run in shown]
    pictures = {}
    for name, run in shown:
        if (picture := images.latest(run, IMAGES, COLUMNS)) is not None:
            pictures[f"{name}, seed {run.seeds[0]}, run {os.path.relpath(run.folder, folder).lstrip('./')}"] = picture
    top, rest = (dict([*pictures.items()][part]) for part in (slice(FIRST), slice(FIRST, None)))
    two = [images.SWIPE, images.side_by_side(rest)] if len(pictures) > 1 else []
    more = [recipes_table(comparison, unranked) if unranked else None, words]
    return [
        Section("", [images.side_by_side(top), listed(comparison.notes)]),
        *ranking(comparison, folder).sections,
        *search_sections(folder),
        Section("Recipes", [recipes_table(comparison, ranked), LEGEND]),
        Section("Curves", [curves(name, lines) for name in quantities(shown)]),
        Section("Samples of two runs", two, folded=True),
        Section("Other numbers", more, folded=True),
        Section("Runs", [runs_table(comparison, folder, link)], folded=True),
    ]


def best_first(comparison: Comparison) -> list[tuple[str, Run]]:
    """The runs with their recipes' names: one of each recipe, the best recipe first; then the others."""
    order = comparison.main.order if comparison.main else []
    named = [*zip(comparison.names, comparison.rows, strict=True)]
    named = [named[i] for i in order] + [each for i, each in enumerate(named) if i not in order]
    first = [(name, row.runs[0]) for name, row in named]
    return first + [(name, run) for name, row in named for run in row.runs[1:]]


def recipes_table(comparison: Comparison, columns: Sequence[Column], brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains."""
    head, names = ["recipe"] if brief else comparison.settings, comparison.names
    lines = list[list[str | Cell]]()
    for i, row in enumerate(comparison.rows):
        seeds = {run.seeds[0] for run in row.runs}
        line: list[str | Cell] = [*([names[i]] if brief else row.settings.values()), str(len(seeds))]
        for column in columns:
            similar = " ≈" * (column.differs.get(i) is False)
            line.append(Cell(f"{column.means[i] or MISSING}{similar}", bold=column.order[:1] == [i]))
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


def quantities(shown: Sequence[tuple[str, Run]]) -> list[str]:
    """The quantities of training with a chart: the validation error, the scores of samples, the loss."""
    found = {name for _, run in shown for name, series in run.metrics.items() if len(series.step) > 1}
    scores = sorted(name for name in found if name.startswith("val/") and not re.search("mse|_se|half", name))
    return [name for name in ("val/mse", *scores, "train/loss") if name in found][:CURVES]


@style.styled
def curves(quantity: str, runs: Sequence[tuple[str, Run]]) -> Chart:
    """A quantity by step: a line for each run, with a colour for each name."""
    names = [*{name: None for name, _ in runs}]
    drawn, ax = style.axes((style.TALL[0], 2.7 + 0.19 * len(names)))
    labelled = set[str]()
    for name, run in runs:
        if quantity in run.metrics:
            step, value = style.thinned(run.metrics[quantity])
            label = None if name in labelled else style.plain(textwrap.shorten(name, 60, placeholder=" …"))
            look = style.LOOKS[names.index(name) % len(style.LOOKS)]
            ax.plot(step, value, label=label, markersize=3, markevery=max(1, len(step) // MARKS), **look)
            labelled.add(name)
    if ax.get_ylim()[0] > 0:
        style.log_axis(ax)
    style.count_axis(ax)
    ax.set(xlabel=style.STEPS, ylabel=style.plain(quantity))
    style.legend_below(drawn, ax)
    return Chart(f"{quantity} of {count(len(runs), 'run')}", drawn)
