"""Compare runs: a row per recipe with mean ± interval over training seeds, and the best one marked where justified.

Runs that differ only in their seed share a row; samplings of one model are averaged first. The interval is Student's
95% interval for the mean of k training seeds, m ± t_{k−1, 0.975} s / √k; one seed has none. The best mean of a column
is marked, and every mean (≈) that Welch's two-sided test does not show to differ from it, at 5% for all tests of the
column together (Holm's step-down correction): the lowest number of a table is often just the luckiest one. Without the
correction, half of all tables of 15 equal recipes would show a difference; with it, 4 to 14% do, for 3 to 5 seeds.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.differences import differing, labels
from diffusion.report.scores import number, plus_minus, protocol_text
from diffusion.runs.folder import PARTS, Run, is_run, jobs_of
from diffusion.runs.metrics import measures, validated_weights

LEVEL = 0.95
LONG = 52  # most characters of a label in a figure: two lines
ERRORS = ("val/mse", "fit/mse", "gap/mse")


class Mean(NamedTuple):
    """The mean over `n` training seeds, and half the width of its interval (NaN for one seed)."""

    mean: float
    half: float
    n: int

    def __str__(self) -> str:
        return number(self.mean) if self.n == 1 else plus_minus(self.mean, self.half)


def mean_over_seeds(values: Sequence[float]) -> Mean:
    """The mean of the numbers of k seeds, and half the width of its interval."""
    x = np.asarray(values, dtype=float)
    half = math.nan
    if len(x) > 1:
        half = float(scipy.stats.t.ppf((1 + LEVEL) / 2, len(x) - 1) * x.std(ddof=1) / math.sqrt(len(x)))
    return Mean(float(x.mean()), half, len(x))


def by_seed(numbers: Iterable[tuple[Any, float]]) -> list[float]:
    """A number per training seed, from pairs (training seed, number): the mean over its sampling seeds."""
    found: dict[Any, list[float]] = {}
    for seed, value in numbers:
        found.setdefault(seed, []).append(value)
    return [fmean(values) for values in found.values()]


@dataclass
class Row:
    """A recipe: the settings that distinguish it, and its runs with their numbers by column."""

    settings: dict[str, str]
    label: str
    values: dict[Run, dict[str, float]] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """The number of training seeds."""
        return len({run.seeds[0] for run in self.values})

    def numbers(self, column: str) -> list[float]:
        """The numbers of a column: one per training seed that has any."""
        return by_seed((run.seeds[0], found[column]) for run, found in self.values.items() if column in found)

    def mean(self, column: str) -> Mean | None:
        """The mean over training seeds; None if there are no numbers."""
        numbers = self.numbers(column)
        return mean_over_seeds(numbers) if numbers else None


class Column(NamedTuple):
    """A quantity under one protocol. `lower`: whether lower or higher is better (True or False); None for neither."""

    name: str
    lower: bool | None
    words: str


@dataclass(frozen=True)
class Comparison:
    """Rows of recipes, columns of numbers, the runs left out with the reasons, and warnings."""

    rows: list[Row]
    columns: list[Column]
    left_out: list[tuple[Run, str]]
    warnings: list[str]

    @property
    def runs(self) -> list[tuple[int, Run]]:
        """The runs, each with the index of its row."""
        return [(i, run) for i, row in enumerate(self.rows) for run in row.values]

    @property
    def names(self) -> list[str]:
        """The names of the recipes in figures: their labels or, if one is too long, `row 1`, … as in the table."""
        long = any(len(row.label) > LONG for row in self.rows)
        return [f"row {i}" if long else row.label for i, row in enumerate(self.rows, start=1)]

    def best(self, column: Column) -> tuple[int | None, set[int]]:
        """The row of the best mean, and the rows not shown to differ from it, as `best_of` explains."""
        return best_of([row.numbers(column.name) for row in self.rows], column.lower)


def best_of(numbers: Sequence[Sequence[float]], lower: bool | None) -> tuple[int | None, set[int]]:
    """The index of the best mean, and those of the means not shown to differ from it (also for lack of a test)."""
    means = {i: fmean(values) for i, values in enumerate(numbers) if values}
    if lower is None or len(set(means.values())) < 2:
        return None, set()
    first = (min if lower else max)(means, key=means.__getitem__)
    tests = {i: welch(numbers[first], numbers[i]) for i in means if i != first}
    return first, {*tests} - rejected({i: p for i, p in tests.items() if p is not None})


def welch(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The p-value of Welch's two-sided test that two means are equal; None for fewer than two numbers on a side."""
    if min(len(x), len(y)) < 2:
        return None
    if np.ptp(x) == np.ptp(y) == 0:
        return float(x[0] == y[0])
    return float(scipy.stats.ttest_ind(x, y, equal_var=False).pvalue)


def rejected(p_values: Mapping[int, float], level: float = 1 - LEVEL) -> set[int]:
    """The hypotheses that Holm's step-down test rejects: the chance of a wrong rejection is at most `level` in all."""
    found: set[int] = set()
    for i in sorted(p_values, key=p_values.__getitem__):
        if p_values[i] > level / (len(p_values) - len(found)):
            break
        found.add(i)
    return found


def gather(folders: Iterable[Path]) -> list[Run]:
    """Collect the runs in `folders`, each the folder of a run or of a sweep; in order, without duplicates."""
    runs: dict[Path, Run] = {}
    for folder in folders:
        found = [Run(folder)] if is_run(folder) else jobs_of(folder)
        if not found:
            raise UserError(
                f"{folder}: neither a run (it has none of {', '.join(PARTS)}) nor a sweep (no run in its sub-folders); "
                "choose a folder written by python -m diffusion.train"
            )
        runs |= {run.folder.resolve(): run for run in found}
    return list(runs.values())


def compare(runs: Sequence[Run], mixed: bool = False) -> Comparison:
    """Compare `runs`; if several have the same recipe and seed, only the newest counts.

    Raises UserError if scores of one metric have different protocols; with `mixed`, each becomes a column.
    """
    left_out = [
        (run, f"{run.state}: {run.info.get('reason', '')}".strip(": ")) for run in runs if run.state != "complete"
    ]
    used = [run for run in runs if run.state == "complete"]
    settings = {key: column for key, column in differing(used).items() if key not in ("seed", "name", "step")}
    recipes = {run: {key: column[i] for key, column in settings.items()} for i, run in enumerate(used)}
    twins = {run: (*recipes[run].values(), run.seeds) for run in used}
    newest = {twins[run]: run for run in sorted(used, key=lambda run: str(run.info.get("finished")))}
    rows: dict[tuple[str, ...], Row] = {}
    for run, label in zip(used, labels(settings, len(used)), strict=True):
        if (counts := newest[twins[run]]) == run:
            rows.setdefault(tuple(recipes[run].values()), Row(recipes[run], label)).values[run] = {}
        else:
            left_out.append((run, f"same recipe and seed as {counts.folder}"))
    values = {run: numbers for row in rows.values() for run, numbers in row.values.items()}
    columns = [*_errors(values, settings), *_scores(values, mixed)]
    columns.append(Column("seconds", None, "duration of a run, training to report, over all its starts"))
    columns = [column for column in columns if any(column.name in numbers for numbers in values.values())]
    return Comparison([*rows.values()], columns, left_out, _warnings(values, len(rows)))


def _errors(values: Mapping[Run, dict[str, float]], settings: Iterable[str]) -> list[Column]:
    """Fill in the last errors and the seconds. Errors are ranked only if data, schedule and validation are the same."""
    for run, numbers in values.items():
        numbers |= {name: float(run.metrics[name].value[-1]) for name in ERRORS if name in run.metrics}
        if run.info.get("seconds") is not None:
            numbers["seconds"] = float(run.info["seconds"])
    different = [key for key in settings if measures(key)]
    verb = "differ" if len(different) > 1 else "differs"
    why = f"; not ranked, because {', '.join(different)} {verb}, and with it what is measured" * bool(different)
    measured = f"denoising MSE on validation images, {validated_weights(run.metrics for run in values)}, at the end"
    return [
        Column("val/mse", None if different else True, measured + why),
        Column("fit/mse", None, "the same on as many training images; not ranked, since over-fitting lowers it too"),
        Column("gap/mse", None, "val/mse − fit/mse, which grows with over-fitting"),
    ]


def _scores(values: Mapping[Run, dict[str, float]], mixed: bool) -> list[Column]:
    """Fill in the latest scores. Returns a column per metric and protocol."""
    found: dict[str, dict[Run, Score]] = {}  # protocol -> run -> score
    for run in values:
        for score in run.scores:
            if score.what in ("samples", "images", "network") and not math.isnan(score.value):
                found.setdefault(score.protocol_key, {})[run] = score
    firsts = [next(iter(by_run.items())) for by_run in found.values()]
    columns = []
    for i, ((_, first), by_run) in enumerate(zip(firsts, found.values(), strict=True), start=1):
        same = [(run, score) for run, score in firsts if score.name == first.name]
        if len(same) > 1 and not mixed:
            raise _refused(*same[:2])
        name = f"{first.name} [{i}]" if len(same) > 1 else first.name
        for run, score in by_run.items():
            values[run][name] = score.value
        lower = None if first.higher_is_better is None else not first.higher_is_better
        columns.append(Column(name, lower, protocol_text(first)))
    return columns


def _refused(one: tuple[Run, Score], other: tuple[Run, Score]) -> UserError:
    """The differences between the protocols of two scores of one metric."""
    (run, x), (second, y) = one, other
    different = [
        f"{key} is {x.protocol.get(key)} in {run.folder} and {y.protocol.get(key)} in {second.folder}"
        for key in {**x.protocol, **y.protocol}
        if x.protocol.get(key) != y.protocol.get(key)
    ]
    return UserError(
        f"{x.name} was measured under different protocols and can't be ranked: {'; '.join(different)}; "
        "score them under one protocol with python -m diffusion.evaluate, or add --mixed for separate columns"
    )


def _warnings(runs: Iterable[Run], recipes: int) -> list[str]:
    """Warnings about scores that are too good, because the test split was used more than once."""
    scored = [(run, score) for run in runs for score in run.scores]
    found = []
    if recipes > 1 and any(score.on_test for _, score in scored):
        found.append(
            f"choosing among {recipes} recipes by their test scores makes the winner's score too good; choose on the "
            "validation split, and score only the chosen one on test"
        )
    again = {run.folder: k for run, score in scored if (k := score.source.get("test_evaluation") or 1) > 1}
    found += [f"{run} has test evaluation {k} of its model; only the first is unbiased" for run, k in again.items()]
    return found
