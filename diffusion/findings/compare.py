"""Compare runs: a row per recipe with mean ± interval over training seeds, and the best one marked where justified.

The best mean of a column is marked, and every mean (≈) that Welch's two-sided test does not show to differ from it, at
5% for all tests of the column together (Holm's step-down correction): the lowest number of a table is often just the
luckiest one. Without the correction, half of all tables of 15 equal recipes would show a difference; with it, 4 to 14%
do, for 3 to 5 seeds. Scores of different protocols are in different columns, so they are never ranked together.
"""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import fmean
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use

from diffusion.config.build import flat
from diffusion.config.choices import composed, default_choices
from diffusion.errors import UserError
from diffusion.findings.numbers import MISSING, plus_minus
from diffusion.findings.scores import describe, protocol_text
from diffusion.metric.record import Score
from diffusion.runs.folder import DAMAGED, Run, is_run, jobs_of, measures, validated_weights

CLASS = "._target_"
ASIDE = r"(seed|name|step|samples\.n|samples\.every_n_epochs)$|(score|logger|checkpoint|sweep|study)\b"  # no recipe


class Mean:
    """The mean m over k training seeds, and its 95% interval m ± `half`, t_{k−1, 0.975} s / √k (NaN for one seed).

    `values` are pairs (training seed, number). Several numbers of one seed, of several samplings, are averaged first.
    """

    def __init__(self, values: Iterable[tuple[Any, float]]):
        samplings: dict[Any, list[float]] = {}
        for seed, value in values:
            samplings.setdefault(seed, []).append(value)
        self.of_seeds = x = [fmean(found) for found in samplings.values()]
        self.mean, self.half = fmean(x), math.nan
        if len(x) > 1:
            self.half = float(scipy.stats.t.ppf(0.975, len(x) - 1) * np.std(x, ddof=1) / math.sqrt(len(x)))

    def __str__(self) -> str:
        return plus_minus(self.mean, self.half)


def label(settings: Mapping[str, str]) -> str:
    """Settings in words: `optimizer.lr=0.001, schedule=cosine`."""
    return ", ".join(f"{key}={value}" for key, value in settings.items() if value != MISSING) or "all"


class Row(NamedTuple):
    """A recipe: the settings that distinguish it, and its runs."""

    settings: dict[str, str]
    runs: list[Run]


@dataclass(frozen=True)
class Column:
    """A quantity under one protocol: whether higher is better (None: neither), an explanation, and values by run."""

    name: str
    higher: bool | None
    words: str
    values: Mapping[Run, float]
    rows: Sequence[Row]
    reference: int | None = None  # images that a score compares with

    @cached_property
    def means(self) -> list[Mean | None]:
        """The mean of each recipe; None if there are no numbers."""
        found = [[(run.seeds[0], self.values[run]) for run in row.runs if run in self.values] for row in self.rows]
        return [Mean(values) if values else None for values in found]

    @cached_property
    def order(self) -> list[int]:
        """The rows with numbers, the best mean first; [] if neither direction is better, or all means are equal."""
        known = {i: mean.mean for i, mean in enumerate(self.means) if mean}
        ranked = self.higher is not None and len({*known.values()}) > 1
        return sorted(known, key=lambda i: known[i], reverse=bool(self.higher)) if ranked else []

    @cached_property
    def differs(self) -> dict[int, bool | None]:
        """The rows after the best one -> whether a test shows that they differ from it; None without a test."""
        found: dict[int, bool | None] = dict.fromkeys(self.order[1:])
        x = [mean.of_seeds if mean else [] for mean in self.means]
        tests = sorted((p, i) for i in found if (p := welch(x[self.order[0]], x[i])) is not None)
        for rank, (p, i) in enumerate(tests):  # Holm: the smallest of k p-values must be below 0.05 / k
            found[i] = p <= 0.05 / (len(tests) - rank) and all(found[before] for _, before in tests[:rank])
        return found


def welch(x: Sequence[float], y: Sequence[float]) -> float | None:
    """The p-value of Welch's two-sided test that two means are equal; None for fewer than two numbers on a side."""
    if min(len(x), len(y)) < 2:
        return None
    if np.ptp(x) == np.ptp(y) == 0:
        return float(x[0] == y[0])
    of = [value for each in (x, y) for value in (fmean(each), np.std(each, ddof=1), len(each))]
    return float(scipy.stats.ttest_ind_from_stats(*of, equal_var=False).pvalue)  # without a warning of equal numbers


class Comparison(NamedTuple):
    """The settings that differ, rows of recipes, columns of numbers, and notes: the runs left out, and a warning."""

    settings: list[str]
    rows: list[Row]
    columns: list[Column]
    notes: list[str]

    @property
    def names(self) -> list[str]:
        """A name for each recipe: its overrides that differ, and the first settings that, together, no other has."""
        names = []
        for row in self.rows:
            kept, rest = dict[str, str](), [other for other in self.rows if other is not row]
            typed = overridden(row.runs)
            for key, value in sorted(row.settings.items(), key=lambda pair: pair[0] not in typed):
                same = [other for other in rest if other.settings[key] == value]
                if (key in typed or len(same) < len(rest)) and value != MISSING:
                    kept[key], rest = value, same
            names.append(label(kept))
        return names

    @property
    def main(self) -> Column | None:
        """The column that ranks the recipes: a score that most have, first of all a distance, or else val/mse."""
        ranked = [column for column in self.columns if column.order]
        last = ("val/mse", "copies")
        return max(ranked, key=lambda it: (not it.name.startswith(last), len(it.order), not it.higher), default=None)

    @property
    def runs(self) -> list[tuple[Row, Run]]:
        """The runs that count, each with its row."""
        return [(row, run) for row in self.rows for run in row.runs]


def compare(folders: Iterable[Path], every: bool = False) -> Comparison:
    """Compare the runs in `folders`, each the folder of a run or of a sweep.

    If several runs have the same recipe and seed, only the newest with scores counts, and only complete runs count,
    unless `every` run is to.
    """
    used: list[Run] = []
    notes: list[str] = []
    pruned: list[str] = []
    for folder in folders:
        found = [Run(folder)] if is_run(folder) else jobs_of(folder)
        if not found:
            raise UserError(f"{folder}: no run and no sweep; choose a folder written by `diffusion train`")
        for run in found:
            try:
                state, reason = run.state, run.info.get("reason", "")
                _ = run.settings, run.scores, run.metrics, run.record  # read here
            except UserError as error:
                state, reason = DAMAGED, str(error)
            if state == "complete" or (every and state != DAMAGED):
                used.append(run)
            elif state == "pruned":
                pruned.append(str(run.folder))
            else:
                notes.append(f"left out: {run.folder}: {state}: {reason}".rstrip(": "))
    if pruned:
        notes.append(f"left out, because a search has ended them: {', '.join(pruned)}")
    settings = {key: values for key, values in differing(used).items() if not re.match(ASIDE, key)}
    recipes = {run: tuple(values[i] for values in settings.values()) for i, run in enumerate(used)}
    ordered = sorted(used, key=lambda run: (bool(run.scores), str(run.info.get("finished"))))
    newest = {(recipes[run], run.seeds): run for run in ordered}
    grouped: dict[tuple[str, ...], Row] = {}
    for run, recipe in recipes.items():
        if (counts := newest[recipe, run.seeds]) == run or every:
            grouped.setdefault(recipe, Row(dict(zip(settings, recipe, strict=True)), [])).runs.append(run)
        else:
            notes.append(f"left out: {run.folder}: same recipe and seed as {counts.folder}")
    rows = [*grouped.values()]
    if len(rows) > 1 and any(score.on_test for row in rows for run in row.runs for score in run.scores):
        notes.append(
            f"warning: choosing among {len(rows)} recipes by their test scores makes the winner's score too good; "
            "choose on the validation split, and score only the chosen one on test"
        )
    return Comparison([*settings], rows, columns_of([*settings], rows), notes)


def columns_of(settings: Sequence[str], rows: Sequence[Row]) -> list[Column]:
    """The errors at the end, the latest scores by metric and protocol, and the duration, as far as runs have them.

    Errors are ranked only if data, schedule and validation are the same. The protocols of a metric are numbered.
    """
    runs = [run for row in rows for run in row.runs]
    different = ", ".join(filter(measures, settings))
    weights = " or ".join(sorted({validated_weights(run.metrics) for run in runs if "val/mse" in run.metrics}))
    why = f"; not ranked, because what is measured depends on {different}" if different else ""
    errors = {
        "val/mse": f"denoising MSE on validation images, {weights}, at the end{why}",
        "regret/mse": "mean squared difference from the best denoiser's estimate of the noise, on validation data",
        "fit/mse": "the same on as many training images; not ranked, since over-fitting lowers it too",
        "gap/mse": "val/mse − fit/mse, which grows with over-fitting",
    }
    columns = []
    for name, words in errors.items():
        values = {run: float(run.metrics[name].value[-1]) for run in runs if name in run.metrics}
        ranked = False if name in ("val/mse", "regret/mse") and not different else None
        columns.append(Column(name, ranked, words, values, rows))
    scores: dict[str, dict[str, dict[Run, Score]]] = {}  # metric -> protocol -> run -> score
    for run in runs:
        for score in run.scores:
            if score.what in ("samples", "images", "network") and not math.isnan(score.value):
                scores.setdefault(score.name, {}).setdefault(score.protocol_key, {})[run] = score
    for name, protocols in scores.items():
        for i, found in enumerate(protocols.values(), start=1):
            one, values = next(iter(found.values())), {run: score.value for run, score in found.items()}
            title = f"{name} [{i}]" if len(protocols) > 1 else name
            columns.append(Column(title, one.higher_is_better, protocol_text(one), values, rows, one.reference.n))
    seconds = {run: float(run.info["seconds"]) for run in runs if "seconds" in run.info}
    columns.append(Column("seconds", None, "duration of a run, training to report, over all its starts", seconds, rows))
    return [column for column in columns if column.values]


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Dotted config key -> its value in each run, for the settings that distinguish the runs.

    A choice (`schedule: cosine`) is the value of a config group: its name if all runs recorded it, else its class. Two
    different choices have different settings (`schedule.offset`) anyway, so a setting is shown only if it differs
    between two runs with the same choices above it, or differs and was an override of one of the runs. A setting that
    equals a shown top-level one of the same name, as data.seed, is left out. Runs that agree in all shown settings also
    agree in all others.
    """
    values = [{key: describe(value) for key, value in flat(run.settings).items()} for run in runs]
    for run, each in zip(runs, values, strict=True):
        if (total := run.info.get("total_steps")) is not None:  # the limit that did not end the run says nothing
            each.pop("trainer.max_epochs" if each.get("trainer.max_steps") == str(total) else "trainer.max_steps", None)
    groups = [key.removesuffix(CLASS) for settings in values for key in settings if key.endswith(CLASS)]
    groups = [*dict.fromkeys([*groups, *(key for run in runs for key in run.choices)])]
    for group in reversed(groups):  # each choice is put before the settings and the later choices
        having = [i for i in range(len(runs)) if any(key.startswith(f"{group}.") for key in values[i])]
        named = all(group in runs[i].choices for i in having)
        for i in having:
            name = runs[i].choices[group] if named else values[i].get(group + CLASS, "")
            values[i] = {group: name.rpartition(".")[2]} | values[i]
    typed = overridden(runs)
    shown: dict[str, list[str]] = {}
    for key in dict.fromkeys(key for settings in values for key in settings):
        above = [group for group in groups if key.startswith(f"{group}.") and key not in typed]
        choices = [tuple(settings.get(group) for group in above) for settings in values]
        column = [settings.get(key, MISSING) for settings in values]
        if len({*zip(choices, column, strict=True)}) > len({*choices}):
            shown[key] = column
    same = {key for key in shown if "." in key and shown.get(key.rpartition(".")[2]) == shown[key]}
    return {key: column for key, column in shown.items() if key not in same}


def overridden(runs: Iterable[Run]) -> set[str]:
    return {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}


def from_default(run: Run) -> dict[str, list[str]]:
    """Config key -> [value in the run, default], for the settings of a `train` run that differ from the defaults."""
    settings = composed("train", ["name=default"])
    default: Any = SimpleNamespace(settings=settings, choices=default_choices("train"), overrides=[], info={})
    left_out = ("name", "ckpt", "score", "experiment", "callbacks")
    return {key: pair for key, pair in differing([run, default]).items() if key not in left_out and pair[0] != MISSING}
