"""The committed table of a sweep: a number per recipe, seed and column, from which everything else is computed.

A seed is that of training, or TRAINING/SAMPLING for the evaluation of a model.

`SWEEP.csv` in docs/results/STUDY contains the numbers, and `record.json` next to it the protocols of the columns.
Means, intervals over seeds, the best of a column and the figure are recomputed from them, as in `diffusion.compare`.
"""

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffusion.errors import UserError
from diffusion.report.differences import labels
from diffusion.report.formatting import csv_text
from diffusion.report.recipes import Column, Comparison, Mean, Row, by_seed, mean_over_seeds

SEED = "seed"
MACHINES = ("seconds",)  # columns that depend on the machine
Recipe = tuple[str, ...]


@dataclass(frozen=True)
class Table:
    """The names of the settings that differ, the columns, and the numbers: recipe -> seed -> column -> number."""

    settings: tuple[str, ...]
    columns: tuple[Column, ...]
    numbers: Mapping[Recipe, Mapping[str, Mapping[str, float]]]

    @classmethod
    def of(cls, comparison: Comparison) -> "Table":
        """The table of compared runs. Raises UserError if a run was left out, such as an incomplete one."""
        if comparison.left_out:
            run, reason = comparison.left_out[0]
            raise UserError(
                f"{run.folder}: {reason}; the same command repeats runs that did not complete; otherwise, remove the "
                "folder of the superfluous run, or use --out"
            )
        columns = tuple(column for column in comparison.columns if column.name not in MACHINES)
        names = {column.name for column in columns}
        numbers: dict[Recipe, dict[str, dict[str, float]]] = {}
        for row in comparison.rows:
            by_seed = numbers.setdefault(tuple(row.settings.values()), {})
            for run in row.runs:
                seed = "/".join(map(str, run.seeds or ()))
                by_seed[seed] = {name: value for name, value in row.values[run].items() if name in names}
        return cls(tuple(comparison.rows[0].settings), columns, numbers)

    @classmethod
    def read(cls, text: str, columns: Mapping[str, Mapping[str, Any]]) -> "Table":
        """Parse a CSV file's `text`, with `columns` from record.json: name -> protocol, and whether lower is better."""
        head, *lines = csv.reader(io.StringIO(text, newline=""))
        place = head.index(SEED)
        numbers: dict[Recipe, dict[str, dict[str, float]]] = {}
        for line in lines:
            values = {
                name: float(cell) for name, cell in zip(head[place + 1 :], line[place + 1 :], strict=True) if cell
            }
            numbers.setdefault(tuple(line[:place]), {})[line[place]] = values
        found = tuple(Column(name, columns[name]["lower"], columns[name]["words"]) for name in head[place + 1 :])
        return cls(tuple(head[:place]), found, numbers)

    def text(self) -> str:
        """The text of the CSV file."""
        names = [column.name for column in self.columns]
        lines = [
            [*recipe, seed, *(values.get(name) for name in names)]
            for recipe, by_seed in self.numbers.items()
            for seed, values in by_seed.items()
        ]
        return csv_text([[*self.settings, SEED, *names], *lines])

    def protocols(self) -> dict[str, dict[str, Any]]:
        """The columns, for record.json."""
        return {column.name: {"lower": column.lower, "words": column.words} for column in self.columns}

    def comparison(self, shown: Sequence[str]) -> Comparison:
        """The table as a comparison, with only the columns `shown`."""
        recipes = [*self.numbers]
        columns = {key: [recipe[i] for recipe in recipes] for i, key in enumerate(self.settings)}
        rows = []
        for recipe, label in zip(recipes, labels(columns, len(recipes)), strict=True):
            seeds: Any = dict(self.numbers[recipe])  # seeds stand in for runs
            trained: Any = {seed: trained_with(seed) for seed in seeds}
            rows.append(Row(dict(zip(self.settings, recipe, strict=True)), label, seeds, {}, [*seeds], trained))
        return Comparison([], rows, [column for column in self.columns if column.name in shown], [], [])

    def by_seed(self, recipe: Recipe, column: str) -> list[float]:
        """A number per training seed: the mean over its sampling seeds."""
        found = self.numbers.get(recipe, {}).items()
        return by_seed((trained_with(seed), values[column]) for seed, values in found if column in values)

    def mean(self, recipe: Recipe, column: str) -> Mean | None:
        """The mean over training seeds; None if there are no numbers."""
        values = self.by_seed(recipe, column)
        return mean_over_seeds(values) if values else None


def trained_with(seed: str) -> str:
    """The training seed of TRAINING/SAMPLING."""
    return seed.partition("/")[0]


def disagreements(committed: Table, again: Table) -> Iterator[str]:
    """Yield a line for each cell of `committed` that `again` does not confirm, and each changed protocol.

    Two means m, m' with 95% intervals ± h, ± h' over their seeds agree if |m − m'| ≤ √(h² + h'²). Cells without such an
    interval are left out: see `uncompared`. If the recipes differ in other settings than the committed ones, the study
    has changed, and no cell is compared.
    """
    if again.settings != committed.settings:
        yield f"the recipes differ in {', '.join(again.settings)}; committed: {', '.join(committed.settings)}"
        return
    protocols = {column.name: column.words for column in again.columns}
    for column in committed.columns:
        if column.name in protocols and protocols[column.name] != column.words:
            yield f"{column.name}: measured under another protocol: {protocols[column.name]}; committed: {column.words}"
    for name, before, now in cells(committed, again):
        if now is None:
            yield f"{name} was not measured again"
        elif has_interval(before, now) and not agree(before, now):
            yield f"{name} is {now}, committed: {before}"


def uncompared(committed: Table, again: Table) -> Iterator[str]:
    """Yield a line for each cell that differs but has a single seed, here or there, and so no interval."""
    if again.settings == committed.settings:
        for name, before, now in cells(committed, again):
            if now is not None and not has_interval(before, now) and now.mean != before.mean:
                yield f"{name} is {now.mean:.9g}, committed: {before.mean:.9g} (one seed, so no interval)"


def agreeing(committed: Table, again: Table) -> tuple[int, int]:
    """The number of cells of `committed` that `again` confirms, and of all its cells but the `uncompared` ones."""
    both = [
        (name, before, now)
        for name, before, now in cells(committed, again)
        if now is None or has_interval(before, now) or now.mean == before.mean
    ]
    if again.settings != committed.settings:
        return 0, len(both)
    same = {column.name for column in again.columns if column in committed.columns}  # with the same protocol
    confirmed = (
        now is not None and agree(before, now) for name, before, now in both if name.rpartition(": ")[2] in same
    )
    return sum(confirmed), len(both)


def cells(committed: Table, again: Table) -> Iterator[tuple[str, Mean, Mean | None]]:
    """Yield each cell of `committed`: `RECIPE: COLUMN`, its mean, and its mean in `again`."""
    for recipe in committed.numbers:
        label = ", ".join(f"{key}={value}" for key, value in zip(committed.settings, recipe, strict=True))
        for column in committed.columns:
            if (before := committed.mean(recipe, column.name)) is not None:
                yield f"{label}: {column.name}", before, again.mean(recipe, column.name)


def has_interval(a: Mean, b: Mean) -> bool:
    """Whether both means have an interval over seeds."""
    return not math.isnan(a.half + b.half)


def agree(a: Mean, b: Mean) -> bool:
    """Whether two means over seeds agree. (Without an interval, `half` is NaN and the comparison with it is False.)"""
    half = math.hypot(a.half, b.half)
    return a.mean == b.mean or abs(a.mean - b.mean) <= half
