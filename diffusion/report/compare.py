"""Compare runs: a row per recipe with mean ± interval over training seeds, and the best one marked where justified.

Runs that differ only in their seed share a row. If several have the same recipe and seed, only the newest counts. If a
model was sampled with several seeds, its number is the mean over them: samplings of one model say nothing about another
training of the recipe. The interval is Student's 95% interval for the mean of k training seeds,

    m ± t_{k−1, 0.975} s / √k;

one seed has no interval. All numbers of a column have the same protocol. The best mean of a column is marked. Every
other mean that is not shown to differ from it is marked, too (≈), because the lowest number of a table is often just
the luckiest one. A mean is shown to differ by Welch's two-sided test against the best, at 5% for all tests of the
column together (Holm's step-down correction). Without the correction, half of all tables of 15 equal recipes would
show a difference. With it, 4 to 7% of tables of 5 to 70 equal recipes do with 3 seeds each, and 6 to 14% with 5,
because the best row is not chosen in advance.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from diffusion.errors import UserError
from diffusion.metric.record import Score
from diffusion.report.differences import differing, labels
from diffusion.report.formatting import MISSING, half_width, number, plus_minus, protocol_text, sampler_text
from diffusion.runs.folder import PARTS, SCORES, Run, is_run, jobs_of
from diffusion.runs.metrics import measures, validated_weights

LEVEL = 0.95
LONG = 52  # most characters of a label in a figure: two lines
ERRORS = ("val/mse", "fit/mse", "gap/mse")


class Number(NamedTuple):
    """A number of a run, and half the width of its own interval, such as that over draws of samples."""

    value: float
    half: float = math.nan


class Mean(NamedTuple):
    """The mean over `n` training seeds, and half the width of its interval (NaN for one seed).

    `own` is half the width of the interval of a single number.
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
    values: dict[Run, dict[str, Number]] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """The number of training seeds."""
        return len({run.seeds[0] for run in self.values})

    def value(self, run: Run, column: str) -> float | None:
        """The number of one run; None if it has none."""
        found = self.values[run].get(column)
        return None if found is None else found.value

    def numbers(self, column: str) -> list[float]:
        """The numbers of a column: one per training seed that has any."""
        return by_seed((run.seeds[0], found[column].value) for run, found in self.values.items() if column in found)

    def mean(self, column: str) -> Mean | None:
        """The mean over training seeds; None if there are no numbers."""
        found = [numbers[column] for numbers in self.values.values() if column in numbers]
        if not found:
            return None
        return mean_over_seeds(self.numbers(column))._replace(own=found[0].half if len(found) == 1 else math.nan)


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
        return {run: i for i, row in enumerate(self.rows) for run in row.values}

    @property
    def is_numbered(self) -> bool:
        """Whether the recipes are numbered in tables, and called `row 1` in figures, because a label is too long."""
        return any(len(row.label) > LONG for row in self.rows)

    @property
    def names(self) -> list[str]:
        """The names of the recipes in figures: their labels, or their rows in the table if they are numbered."""
        return [f"row {i}" if self.is_numbered else row.label for i, row in enumerate(self.rows, start=1)]

    def best(self, column: Column) -> tuple[int | None, set[int]]:
        """The row of the best mean, and the rows not shown to differ from it, as `best_of` explains."""
        return best_of([row.numbers(column.name) for row in self.rows], column.lower)


def best_of(numbers: Sequence[Sequence[float]], lower: bool | None) -> tuple[int | None, set[int]]:
    """The index of the best mean, and those of the means not shown to differ from it; (None, {}) if unranked.

    A mean of one number cannot be tested, so it is not shown to differ.
    """
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


# ------------------------------------------------------------------------------------------------------- the runs


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
    """Compare `runs`.

    Raises UserError if scores of one metric have different protocols; the message names the differences. With `mixed`,
    each protocol becomes a separate column, ranked on its own.
    """
    unused = {run: unusable(run) for run in runs}
    used = [run for run in runs if unused[run] is None]
    left_out = [(run, reason) for run, reason in unused.items() if reason]
    settings = _distinguishing(used)
    groups: dict[tuple[str, ...], tuple[dict[str, str], str, list[Run]]] = {}
    for i, (run, label) in enumerate(zip(used, labels(settings, len(used)), strict=True)):
        chosen = {key: column[i] for key, column in settings.items()}
        groups.setdefault(tuple(chosen.values()), (chosen, label, []))[2].append(run)
    rows = []
    for chosen, label, same in groups.values():
        newest = {run.seeds: run for run in sorted(same, key=_finished)}
        rows.append(Row(chosen, label, {run: {} for run in same if run in newest.values()}))
        older = [run for run in same if run not in newest.values()]
        left_out += [(run, f"same recipe and seed as {newest[run.seeds].folder}") for run in older]
    scored, columns = _scores(rows, mixed)
    columns = _errors(rows, settings) + columns
    columns.append(Column("seconds", None, "seconds: duration of a run, training to report, over all its starts"))
    values = {run: numbers for row in rows for run, numbers in row.values.items()}
    for run, numbers in values.items():
        if run.info.get("seconds") is not None:
            numbers["seconds"] = Number(float(run.info["seconds"]))
    columns = [column for column in columns if any(column.name in numbers for numbers in values.values())]
    return Comparison(list(runs), rows, columns, left_out, _warnings(rows, scored))


def unusable(run: Run) -> str | None:
    """The reason why a run cannot be compared (it is not complete), or None."""
    if run.state == "complete":
        return None
    return f"{run.state}: {run.info['reason']}" if run.info.get("reason") else run.state


def _distinguishing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that distinguish recipes: those that differ, except the seed and the name.

    `ckpt`, the evaluated checkpoint, is blank for training runs. The step of a checkpoint is shown only if one training
    seed has checkpoints of two steps with the same name, because the step of best.ckpt differs between seeds anyway.
    """
    found = {key: column for key, column in differing(runs).items() if key not in ("seed", "name")}
    if "ckpt" in found:
        column = [MISSING if "trainer" in run.config else name for run, name in zip(runs, found["ckpt"], strict=True)]
        found = {key: value for key, value in (found | {"ckpt": column}).items() if len(set(value)) > 1}
    steps = found.pop("step", None)
    if steps:
        draws = list(zip(*found.values(), [str(run.seeds[0]) for run in runs], strict=True))
        if len(set(zip(draws, steps, strict=True))) > len(set(draws)):
            found["step"] = steps
    return found


def _finished(run: Run) -> float:
    """When a training run finished, or when the last score of another one was written, in seconds; 0 if unknown."""
    if run.info.get("finished"):
        return datetime.fromisoformat(run.info["finished"]).timestamp()
    scores = run.folder / SCORES
    return scores.stat().st_mtime if scores.is_file() else 0.0


def _different(values: Iterable[tuple[object, Run]]) -> str:
    """`A in RUN and B in RUN`: the different values, each with its first run; "" if there is one. None is skipped."""
    first: dict[object, Run] = {}
    for value, run in values:
        if value is not None:
            first.setdefault(value, run)
    return " and ".join(f"{value} in {run.folder}" for value, run in first.items()) if len(first) > 1 else ""


# ------------------------------------------------------------------------------------------------------ the columns


def _errors(rows: Sequence[Row], settings: Iterable[str]) -> list[Column]:
    """Fill in the final denoising errors. They are ranked only if data, schedule and validated images are the same."""
    runs = [run for row in rows for run in row.values]
    for row in rows:
        for run, numbers in row.values.items():
            numbers |= {name: Number(float(run.metrics[name].value[-1])) for name in ERRORS if name in run.metrics}
    different = [key for key in settings if measures(key)]
    why = ""
    if different:
        verb = "differ" if len(different) > 1 else "differs"
        why = f"; not ranked, because {', '.join(different)} {verb}, and with it what is measured"
    weights = validated_weights(run.metrics for run in runs)
    words = {
        "val/mse": f"val/mse: denoising MSE on validation images, {weights}, at the end{why}",
        "fit/mse": "fit/mse: the same on as many training images; not ranked, since over-fitting lowers it too",
        "gap/mse": "gap/mse: val/mse − fit/mse, which grows with over-fitting",
    }
    return [Column(name, True if name == "val/mse" and not different else None, words[name]) for name in ERRORS]


def _scores(rows: Sequence[Row], mixed: bool) -> tuple[list[tuple[Run, Score]], list[Column]]:
    """Fill in the latest scores. Returns them, and a column per metric and protocol."""
    found: dict[str, dict[Run, Score]] = {}  # protocol -> run -> score
    for run in (run for row in rows for run in row.values):
        for score in run.scores:
            if score.what in ("samples", "images", "network") and not math.isnan(score.value):
                found.setdefault(score.protocol_key, {})[run] = score
    scored = [(run, score) for by_run in found.values() for run, score in by_run.items()]
    metrics = [next(iter(by_run.values())).name for by_run in found.values()]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, score) for run, score in scored if score.name == metric])
    columns = []
    for i, (metric, by_run) in enumerate(zip(metrics, found.values(), strict=True), start=1):
        name = metric if metrics.count(metric) == 1 else f"{metric} [{i}]"
        for row in rows:
            for run in row.values.keys() & by_run.keys():
                row.values[run][name] = Number(by_run[run].value, half_width(by_run[run]))
        score = next(iter(by_run.values()))
        lower = None if score.higher_is_better is None else not score.higher_is_better
        columns.append(Column(name, lower, f"{name}: {protocol_text(score)}"))
    return scored, columns


def _refuse(metric: str, scored: Sequence[tuple[Run, Score]]) -> None:
    """Raise UserError that lists the differences between the protocols of one metric, with an example run per value."""
    differences = []
    for key in dict.fromkeys(key for _, score in scored for key in score.protocol):
        if values := _different((str(score.protocol.get(key)), run) for run, score in scored):
            differences.append(f"{key} is {values}")
    raise UserError(
        f"{metric} was measured under different protocols and can't be ranked: {'; '.join(differences)}; score them "
        "under one protocol with python -m diffusion.evaluate, or add --mixed for separate columns"
    )


def _warnings(rows: Sequence[Row], scored: Sequence[tuple[Run, Score]]) -> list[str]:
    """Warnings about scores that cannot be compared as they stand, or are too good."""
    found = []
    for row, metric in product(rows, dict.fromkeys(score.name for _, score in scored)):
        made = ((_made(run, score), run) for run, score in scored if run in row.values and score.name == metric)
        if different := _different(made):
            found.append(f"{metric} of one row was not made in the same way: {different}")
    tests = {score.metric for _, score in scored if score.on_test}
    if tests and len(rows) > 1:
        found.append(
            f"{', '.join(sorted(tests))}: choosing among {len(rows)} recipes by their test scores makes the winner's "
            "score too good; choose on the validation split, and score only the chosen one on test"
        )
    again = {run.folder: k for run, score in scored if (k := score.source.get("test_evaluation") or 1) > 1}
    found += [f"{run} has test evaluation {k} of its model; only the first is unbiased" for run, k in again.items()]
    if versions := _different((score.code or None, run) for run, score in scored):
        found.append(f"the scores were made by different versions of the code: {versions}")
    return found


def _made(run: Run, score: Score) -> str | None:
    """How the scored images were made, and after how many steps (except for best.ckpt); None if it is not known."""
    source = {"guidance": None, "precision": "float32"} | dict(score.source)
    parts = [source.get(part) for part in ("sampler", "guidance", "precision", "weights", "variance")]
    texts = [sampler_text(part) if isinstance(part, Mapping) else str(part) for part in parts if part is not None]
    if Path(str(run.config.get("ckpt"))).name != "best.ckpt":
        texts.append(f"step {source.get('step') or run.config.get('step') or run.info.get('steps')}")
    return ", ".join(texts) if "sampler" in source else None
