"""The report of a comparison: compare.md, runs.csv, report.html, a table on the console."""

import os
import re
import textwrap
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import quote

from matplotlib.figure import Figure
from PIL import Image

from diffusion.base.console import console, count
from diffusion.base.files import replace
from diffusion.findings.compare import Column, Comparison, compare
from diffusion.findings.ranking import ranking
from diffusion.findings.scores import alike
from diffusion.report import images, style
from diffusion.report.answer import verdict_sections
from diffusion.report.page import NAME, Block, Cell, Section, Table, html, listed, write_files
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
    shown = best_first(comparison)[:SHOWN]
    lines = [(os.path.relpath(run.folder, folder) if by_run else name, run) for name, run in shown]
    pictures = pictures_of(shown, folder)
    names = [*pictures]
    top, rest = (
        images.side_by_side({name: pictures[name] for name in part}) for part in (names[:FIRST], names[FIRST:])
    )
    ranked, unranked = ([c for c in comparison.columns if (c.higher is None) == none] for none in (False, True))
    words = listed(f"{each}." for each in alike((column.name, column.words) for column in comparison.columns))
    return [
        Section("", [top, listed(comparison.notes)]),
        *verdict_sections(ranking(comparison, folder)),
        Section("Recipes", [recipes_table(comparison, ranked), LEGEND]),
        Section("Curves", [curves(name, lines) for name in quantities(shown)]),
        Section("Samples of two runs", [Block(html=html("swipes")), rest] if len(pictures) > 1 else [], folded=True),
        Section("Other numbers", [recipes_table(comparison, unranked) if unranked else None, words], folded=True),
        Section("Runs", [runs_table(comparison, folder, link)], folded=True),
    ]


def pictures_of(shown: Sequence[tuple[str, Run]], folder: Path) -> dict[str, Image.Image]:
    """Samples of the runs that have some, with the recipe, the seed and the place of each."""
    found = {}
    for name, run in shown:
        if (picture := images.latest(run, IMAGES, COLUMNS)) is not None:
            found[f"{name}, seed {run.seeds[0]}, run {os.path.relpath(run.folder, folder).lstrip('./')}"] = picture
    return found


def best_first(comparison: Comparison) -> list[tuple[str, Run]]:
    """The runs with their recipes' names: one of each recipe, the best recipe first; then the others."""
    order = comparison.main.order if comparison.main else []
    named = [*zip(comparison.names, comparison.rows, strict=True)]
    named = [named[i] for i in order] + [each for i, each in enumerate(named) if i not in order]
    first = [(name, row.runs[0]) for name, row in named]
    return first + [(name, run) for name, row in named for run in row.runs[1:]]


def recipes_table(comparison: Comparison, columns: Sequence[Column], brief: bool = False) -> Table:
    """The table of recipes: settings, or with `brief` only their label, and numbers, as `LEGEND` explains."""
    rows = []
    for i, row in enumerate(comparison.rows):
        recipe = [comparison.names[i]] if brief else row.settings.values()
        seeds = len({run.seeds[0] for run in row.runs})
        rows.append([*recipe, seeds, *(mean_cell(column, i) for column in columns)])
    head = ["recipe"] if brief else comparison.settings
    return Table([*head, "seeds", *(column.name for column in columns)], rows)


def mean_cell(column: Column, i: int) -> Cell | None:
    """The mean of a recipe: the best is bold, and ≈ marks those that no test shows to differ from it."""
    if (mean := column.means[i]) is None:
        return None
    similar = " ≈" if column.differs.get(i) is False else ""
    return Cell(f"{mean}{similar}", mean.mean, bold=column.order[:1] == [i])


def runs_table(comparison: Comparison, folder: Path, link: Link = lambda path: None) -> Table:
    """The compared runs: the settings that differ, the seed of training (and of the samples), and the numbers."""
    rows = []
    for row, run in comparison.runs:
        name = Cell(os.path.relpath(run.folder, folder), url=link(run.folder))
        numbers = [column.values.get(run) for column in comparison.columns]
        rows.append([name, *row.settings.values(), "/".join(map(str, run.seeds)), *numbers])
    return Table(["run", *comparison.settings, "seed", *(column.name for column in comparison.columns)], rows)


def link_of(path: Path, folder: Path) -> str | None:
    """The URL of a run's page, relative to `folder`; None if there is no page."""
    return quote(os.path.relpath(path / NAME, folder)) if (path / NAME).is_file() else None


def quantities(shown: Sequence[tuple[str, Run]]) -> list[str]:
    """The quantities of training with a chart: the validation error, the scores of samples, the loss."""
    found = {name for _, run in shown for name, series in run.metrics.items() if len(series.step) > 1}
    scores = sorted(name for name in found if name.startswith("val/") and not re.search("mse|_se|half", name))
    return [name for name in ("val/mse", *scores, "train/loss") if name in found][:CURVES]


@style.chart()
def curves(figure: Figure, quantity: str, runs: Sequence[tuple[str, Run]]) -> str:
    """A quantity by step: a line for each run, with a colour for each name."""
    names = [*{name: None for name, _ in runs}]
    figure.set_size_inches(style.TALL[0], 2.7 + 0.19 * len(names))
    ax, labelled = figure.add_subplot(), set[str]()
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
    style.legend_below(figure, ax)
    return f"{quantity} of {count(len(runs), 'run')}"
