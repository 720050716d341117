"""Recipes beside one another: mean ± interval over seeds, the best marked where marking is fair.

The interval is Student's, of 95% for the mean of k seeds,

    m ± t_{k−1, 0.975} s / √k,

and says how far another draw of k seeds may move the mean; with one seed there is none. Numbers of one column share
one protocol. The best mean of a column is marked, and so is every other (≈) that Welch's test of the two means can't
tell from it at 5%, since a table's lowest number is often the luckiest one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from scipy import stats

from diffusion.runs.folder import Run

LEVEL = 0.95


class Mean(NamedTuple):
    """Mean over `n` seeds, and half the width of its interval (NaN for one seed)."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        if math.isnan(self.half) or not self.half:
            return f"{self.mean:.4g}" + ("" if math.isnan(self.half) else " ± 0")
        digits = 3 - math.floor(math.log10(abs(self.mean))) if self.mean else 4
        return f"{self.mean:.{max(0, min(digits, 8))}f} ± {self.half:.2g}"


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """Mean of k numbers and the half width of its t-interval."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Mean(float(x.mean()), math.nan, len(x))
    half = stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Mean(float(x.mean()), float(half), len(x))


@dataclass
class Row:
    """The runs of one recipe: the settings that tell it from the others, and its numbers by column."""

    settings: dict[str, str]
    label: str = "all"
    runs: list[Run] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def mean(self, column: str) -> Mean | None:
        return mean_over_seeds(self.values[column]) if self.values.get(column) else None


@dataclass(frozen=True)
class Column:
    """A quantity under one protocol; `lower` says whether and how its best is marked."""

    name: str
    lower: bool | None  # None: neither end is better
    words: str


@dataclass(frozen=True)
class Comparison:
    """Rows of recipes, columns of numbers, the runs that gave none, and what has to be said about the numbers."""

    rows: list[Row]
    columns: list[Column]
    left_out: list[tuple[Run, str]]
    warnings: list[str]

    def best(self, column: Column) -> tuple[int | None, set[int]]:
        """The row of the best mean, and those of the means that can't be told from it; (None, {}) where unranked."""
        there = [i for i, row in enumerate(self.rows) if row.values.get(column.name)]
        if column.lower is None or len(there) < 2:
            return None, set()
        sign = 1 if column.lower else -1
        means = {i: float(np.mean(self.rows[i].values[column.name])) for i in there}
        if len(set(means.values())) == 1:
            return None, set()
        first = min(there, key=lambda i: sign * means[i])
        return first, {i for i in there if i != first and self._alike(column.name, first, i)}

    def _alike(self, column: str, a: int, b: int) -> bool:
        """Welch's test can't tell the means; False where a row has one seed alone, for then there is no test."""
        x, y = self.rows[a].values[column], self.rows[b].values[column]
        if min(len(x), len(y)) < 2:
            return False
        if np.ptp(x) == np.ptp(y) == 0:
            return x[0] == y[0]
        return bool(stats.ttest_ind(x, y, equal_var=False).pvalue > 1 - LEVEL)
