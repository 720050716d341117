"""Recipes beside one another: mean ± interval over seeds, with the best one marked where marking is fair.

The interval is Student's 95% interval for the mean of k seeds,

    m ± t_{k−1, 0.975} s / √k,

which says how far another draw of k seeds may move the mean; with one seed there is none. The numbers of one column have
one protocol. The best mean of a column is marked, and so is every other mean (≈) that Welch's test cannot distinguish
from it at 5%, because a table's lowest number is often the luckiest one.
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
    """The mean of k numbers, and half the width of its t-interval."""
    x = np.asarray(values, dtype=float)
    if len(x) < 2:
        return Mean(float(x.mean()), math.nan, len(x))
    half = stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x))
    return Mean(float(x.mean()), float(half), len(x))


@dataclass
class Row:
    """The runs of one recipe: the settings that distinguish it from the others, and its numbers by column."""

    settings: dict[str, str]
    label: str = "all"
    runs: list[Run] = field(default_factory=list)
    values: dict[str, dict[Run, float]] = field(default_factory=dict)

    def numbers(self, column: str) -> list[float]:
        """The numbers of a column, a run each."""
        return list(self.values.get(column, {}).values())

    def mean(self, column: str) -> Mean | None:
        """The mean over seeds; None where there is no number."""
        return mean_over_seeds(numbers) if (numbers := self.numbers(column)) else None


@dataclass(frozen=True)
class Column:
    """A quantity under one protocol; `lower` says whether its best is the lowest or the highest, None for neither."""

    name: str
    lower: bool | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """Rows of recipes, columns of numbers, the runs that gave none, and warnings about the numbers."""

    rows: list[Row]
    columns: list[Column]
    left_out: list[tuple[Run, str]]
    warnings: list[str]

    def best(self, column: Column) -> tuple[int | None, set[int]]:
        """The row of the best mean, and the rows that cannot be distinguished from it; (None, {}) where unranked."""
        present = [i for i, row in enumerate(self.rows) if row.numbers(column.name)]
        if column.lower is None or len(present) < 2:
            return None, set()
        sign = 1 if column.lower else -1
        means = {i: float(np.mean(self.rows[i].numbers(column.name))) for i in present}
        if len(set(means.values())) == 1:
            return None, set()
        first = min(present, key=lambda i: sign * means[i])
        return first, {i for i in present if i != first and self._alike(column.name, first, i)}

    def _alike(self, column: str, a: int, b: int) -> bool:
        """Whether Welch's test cannot tell the means apart; False where a row has one seed, for which there is no test."""
        x, y = self.rows[a].numbers(column), self.rows[b].numbers(column)
        if min(len(x), len(y)) < 2:
            return False
        if np.ptp(x) == np.ptp(y) == 0:
            return x[0] == y[0]
        return bool(stats.ttest_ind(x, y, equal_var=False).pvalue > 1 - LEVEL)
