"""Compare recipes: mean ± interval over training seeds, with the best one marked where that is justified.

The interval is Student's 95% interval for the mean of k training seeds,

    m ± t_{k−1, 0.975} s / √k,

a confidence interval for the expected value of the recipe; one seed has no interval. If a model was sampled with
several seeds, its number is the mean over them: samplings of one model say nothing about another training of the
recipe. All numbers of a column have the same protocol. The best mean of a column is marked. Every other mean that is
not shown to differ from it is marked, too (≈), because the lowest number of a table is often just the luckiest one. A
mean is shown to differ by Welch's two-sided test against the best, at 5% for all tests of the column together (Holm's
step-down correction). Without the correction, half of all tables of 15 equal recipes would show a difference. With it,
4 to 7% of tables of 5 to 70 equal recipes do with 3 seeds each, and 6 to 14% with 5, because the best row is not chosen
in advance.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from diffusion.report.differences import differing
from diffusion.report.formatting import number, plus_minus
from diffusion.runs.folder import Run

LEVEL = 0.95
LONG = 52  # most characters of a label in a figure: two lines


class Mean(NamedTuple):
    """The mean over `n` training seeds, and half the width of its interval (NaN for one seed).

    `own` is half the width of the interval of a single number, such as that of a score over draws of samples.
    """

    mean: float
    half: float
    n: int
    own: float = math.nan

    def __str__(self) -> str:
        return number(self.mean, self.own) if self.n == 1 else plus_minus(self.mean, self.half)


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of the numbers of k seeds, and half the width of its interval."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Mean(float(x.mean()), math.nan, len(x))
    half = scipy.stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Mean(float(x.mean()), float(half), len(x))


def by_seed(numbers: Iterable[tuple[Any, float]]) -> list[float]:
    """A number per training seed, from pairs (training seed, number): the mean over its sampling seeds."""
    found: dict[Any, list[float]] = {}
    for seed, value in numbers:
        found.setdefault(seed, []).append(value)
    return [fmean(values) for values in found.values()]


@dataclass
class Row:
    """The runs of one recipe, and the settings that distinguish it from the others."""

    settings: dict[str, str]
    label: str
    values: dict[Run, dict[str, float]]  # run -> column -> number, for all runs
    halves: dict[tuple[Run, str], float]  # (run, column) -> half the width of that number's own interval
    runs: list[Run] = field(default_factory=list)
    trained: Mapping[Run, Any] = field(default_factory=dict)  # run -> its training seed; without one, the run itself

    @property
    def seeds(self) -> int:
        """The number of training seeds."""
        return len({self.trained.get(run, run) for run in self.runs})

    def numbers(self, column: str) -> list[float]:
        """The numbers of a column: one per training seed that has any."""
        return by_seed((self.trained.get(run, run), self.values[run][column]) for run in self._having(column))

    def mean(self, column: str) -> Mean | None:
        """The mean over training seeds; None if there are no numbers."""
        if not (runs := self._having(column)):
            return None
        own = self.halves.get((runs[0], column), math.nan) if len(runs) == 1 else math.nan
        return mean_over_seeds(self.numbers(column))._replace(own=own)

    def _having(self, column: str) -> list[Run]:
        """The runs that have a number in this column."""
        return [run for run in self.runs if column in self.values[run]]


@dataclass(frozen=True)
class Column:
    """A quantity under one protocol. `lower`: whether lower or higher is better (True or False); None for neither."""

    name: str
    lower: bool | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """All runs, rows of recipes, columns of numbers, the runs left out with the reasons, and warnings."""

    runs: list[Run]
    rows: list[Row]
    columns: list[Column]
    left_out: list[tuple[Run, str]]
    warnings: list[str]

    @cached_property
    def settings(self) -> dict[str, list[str]]:
        """The settings in which the runs differ, besides the name: dotted key -> its value in each run."""
        return {key: column for key, column in differing(self.runs).items() if key != "name"}

    @cached_property
    def places(self) -> dict[Run, int]:
        """The row index of each run that is not left out."""
        return {run: i for i, row in enumerate(self.rows) for run in row.runs}

    @property
    def is_numbered(self) -> bool:
        """Whether the recipes are numbered in tables, and called `row 1` in figures, because a label is too long."""
        return any(len(row.label) > LONG for row in self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the recipes in figures: their labels, or their rows in the table if they are numbered."""
        labels = [row.label for row in self.rows]
        return [f"row {i}" for i, _ in enumerate(labels, start=1)] if self.is_numbered else labels

    def best(self, column: Column) -> tuple[int | None, set[int]]:
        """The row of the best mean, and the rows not shown to differ from it; (None, {}) if unranked.

        A row with one seed cannot be tested, so it is not shown to differ.
        """
        means = {i: mean.mean for i, row in enumerate(self.rows) if (mean := row.mean(column.name))}
        if column.lower is None or len(set(means.values())) < 2:
            return None, set()
        first = (min if column.lower else max)(means, key=means.__getitem__)
        found = {i: welch(self.rows[first].numbers(column.name), self.rows[i].numbers(column.name)) for i in means}
        tested = {i: p for i, p in found.items() if i != first and p is not None}
        return first, {*means} - {first} - rejected(tested)


def welch(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The p-value of Welch's two-sided test that two means are equal; None for fewer than two numbers on a side."""
    if min(len(x), len(y)) < 2:
        return None
    if np.ptp(x) == np.ptp(y) == 0:
        return float(x[0] == y[0])
    known = ((np.mean(values), np.std(values, ddof=1), len(values)) for values in (x, y))
    return float(scipy.stats.ttest_ind_from_stats(*next(known), *next(known), equal_var=False).pvalue)


def rejected(p_values: Mapping[int, float], level: float = 1 - LEVEL) -> set[int]:
    """The hypotheses that Holm's step-down test rejects: the chance of a wrong rejection is at most `level` in all."""
    found: set[int] = set()
    for i in sorted(p_values, key=p_values.__getitem__):
        if p_values[i] > level / (len(p_values) - len(found)):
            break
        found.add(i)
    return found
