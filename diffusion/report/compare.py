"""Runs against runs: a row per recipe, mean ± interval over its seeds, the best marked where marking is fair.

Two runs that differ in nothing but their seed are one row, and of several runs of one seed the newest counts, once. The
interval is Student's, of 95% for the mean of k seeds,

    m ± t_{k−1, 0.975} s / √k,

and says how far another draw of k seeds may move the mean; with one seed there is none. Numbers of one column share
one protocol. The best mean of a column is marked, and so is every other (≈) that Welch's test of the two means can't
tell from it at 5%, since a table's lowest number is often the luckiest one.
"""

import csv
import json
import math
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from rich.console import Console
from scipy import stats

from diffusion.console import console as standard
from diffusion.errors import UserError
from diffusion.report.folder import Run, is_run
from diffusion.report.metrics import validated
from diffusion.report.settings import MISSING, differing, labels
from diffusion.report.words import (
    Record,
    comparable,
    higher_is_better,
    protocol_line,
    protocol_of,
    sampler_name,
    table,
)

LEVEL = 0.95
ERRORS = ("val/mse", "fit/mse", "gap/mse")
MEASURED = ("data", "schedule", "validation")  # what two denoising errors must share to be ranked
IDLE = ("seed", "name", "logger", "samples", "score", "again")  # settings that change no number but by its protocol


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
    """A quantity under one protocol; `lower` and `ranked` say whether and how its best is marked."""

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


def gather(folders: Iterable[Path]) -> list[Run]:
    """The runs that `folders` are, or hold as sweeps, each once, in order."""
    from diffusion.report.sweep import jobs_of

    runs: dict[Path, Run] = {}
    for folder in folders:
        found = [Run(folder)] if is_run(folder) else jobs_of(folder)
        if not found:
            raise UserError(
                f"{folder}: neither a run nor a sweep of runs; name folders that python -m diffusion.train wrote"
            )
        runs |= {run.folder.resolve(): run for run in found}
    return list(runs.values())


def compare(runs: Sequence[Run], mixed: bool = False) -> Comparison:
    """The comparison of `runs`.

    Raises UserError where scores of one metric were made under different protocols, naming what differs; with `mixed`
    they stand in columns of their own, ranked within each.
    """
    reasons = [unusable(run) for run in runs]
    used = [run for run, reason in zip(runs, reasons, strict=True) if reason is None]
    left_out = [(run, reason) for run, reason in zip(runs, reasons, strict=True) if reason is not None]
    told = _told(used)
    grouped: dict[tuple[str, ...], Row] = {}
    for i, (run, label) in enumerate(zip(used, labels(told, len(used)), strict=True)):
        own = {key: column[i] for key, column in told.items()}
        grouped.setdefault(tuple(own.values()), Row(own, label)).runs.append(run)
    rows = list(grouped.values())
    for row in rows:
        row.runs, spare = _replicates(row.runs)
        left_out += spare
    warnings: list[str] = []
    columns = _errors(rows, told)
    columns += _scores(rows, mixed, warnings)
    columns.append(Column("seconds", None, "seconds: duration of a run, training to report"))
    for row in rows:
        row.values["seconds"] = [float(run.info["seconds"]) for run in row.runs if run.info.get("seconds") is not None]
    return Comparison(rows, [c for c in columns if any(r.values.get(c.name) for r in rows)], left_out, warnings)


def _told(runs: Sequence[Run]) -> dict[str, list[str]]:
    """The settings that make rows of runs: those that differ, but for seeds and what changes no number.

    `ckpt` is what was evaluated, and nothing to a run that was trained. Its step is told where two of one name are of
    one run: best.ckpt is of another step for each seed.
    """
    told = {key: column for key, column in differing(runs).items() if key.split(".")[0] not in IDLE}
    if "ckpt" in told:
        column = [MISSING if "trainer" in run.config else name for run, name in zip(runs, told["ckpt"], strict=True)]
        told = {key: value for key, value in (told | {"ckpt": column}).items() if len(set(value)) > 1}
    steps = told.pop("step", None)
    if steps:
        draws = list(zip(*told.values(), [str(run.seeds) for run in runs], strict=True))
        if len(set(zip(draws, steps, strict=True))) > len(set(draws)):
            told["step"] = steps
    return told


def unusable(run: Run) -> str | None:
    """Why a run's numbers are not those of a finished run, or None."""
    state = str(run.info.get("state", "complete" if run.scores else "not started"))
    if state == "complete":
        return None
    return f"{state}: {run.info['reason']}" if run.info.get("reason") else state


def _replicates(runs: Sequence[Run]) -> tuple[list[Run], list[tuple[Run, str]]]:
    """Of the runs of one recipe the newest of each seed, and the others with the reason: one draw is counted once."""
    newest: dict[Any, Run] = {}
    for run in runs:
        key = run.seeds or run.folder
        newest[key] = max(run, newest.get(key, run), key=lambda run: str(run.info.get("finished", "")))
    kept = {run.folder for run in newest.values()}
    spare = [(run, newest[run.seeds]) for run in runs if run.folder not in kept]
    return list(newest.values()), [(run, f"same recipe and seed as {used.folder}") for run, used in spare]


def _errors(rows: Sequence[Row], told: Mapping[str, Sequence[str]]) -> list[Column]:
    """Fill in the last denoising errors. They are ranked only between equal data, schedules and grids."""
    apart = [key for key in told if any(key == part or key.startswith(f"{part}.") for part in MEASURED)]
    apart = [key for key in apart if key not in ("data.batch_size", "data.flip")]
    for row in rows:
        for name in ERRORS:
            row.values[name] = [float(run.metrics[name].value[-1]) for run in row.runs if name in run.metrics]
    why = (
        f"; not ranked, because {', '.join(apart)} differ{'s' * (len(apart) == 1)}: another error is measured"
        if apart
        else ""
    )
    weights = validated(run.metrics for row in rows for run in row.runs)
    words = {
        "val/mse": f"val/mse: denoising MSE on validation images, {weights}, at the end{why}",
        "fit/mse": "fit/mse: the same on as many training images; not ranked, since it falls with over-fitting too",
        "gap/mse": "gap/mse: val/mse − fit/mse, which grows with over-fitting",
    }
    return [Column(name, True if name == "val/mse" and not apart else None, words[name]) for name in ERRORS]


def _scores(rows: Sequence[Row], mixed: bool, warnings: list[str]) -> list[Column]:
    """Fill in the last scores of samples, a column for each metric and protocol."""
    measured = [(row, run, _measured(run)) for row in rows for run in row.runs]
    apart = _makers_apart([(run, records) for _, run, records in measured], mixed)

    def key_of(record: Record) -> str:
        protocol = comparable(record)
        own = {part: value for part, value in maker(record).items() if part in apart.get(protocol, ())}
        return json.dumps([protocol, own], sort_keys=True)

    last = [(row, run, {key_of(record): record for record in records}) for row, run, records in measured]
    words = {key: record for _, _, records in reversed(last) for key, record in records.items()}
    keys = list(dict.fromkeys(key for _, _, records in last for key in records))
    metrics = [str(words[key].get("metric")) for key in keys]
    for metric in dict.fromkeys(metrics):
        if metrics.count(metric) > 1 and not mixed:
            _refuse(metric, [(run, r) for _, run, records in last for r in records.values() if r["metric"] == metric])
    columns = []
    for i, (key, metric) in enumerate(zip(keys, metrics, strict=True), start=1):
        name, record = metric if metrics.count(metric) == 1 else f"{metric} [{i}]", words[key]
        for row in rows:
            row.values[name] = [float(rs[key]["value"]) for owner, _, rs in last if owner is row and key in rs]
        higher = higher_is_better(record)
        own = "".join(f"; {part} {maker(record)[part]}" for part in apart.get(comparable(record), ()))
        columns.append(Column(name, None if higher is None else not higher, f"{name}: {protocol_line(record)}{own}"))
    tests = {record["metric"] for record in words.values() if (record.get("reference") or {}).get("split") == "test"}
    if tests and len(rows) > 1:
        warnings.append(
            f"{', '.join(sorted(tests))}: choosing among {len(rows)} recipes by their test scores makes the winner's "
            "score too good; choose by the validation split, and score only the chosen one on test"
        )
    looks = {run: max(r.get("look") or 1 for r in records.values()) for _, run, records in last if records}
    if again := [f"{run.folder} (look {look})" for run, look in looks.items() if look > 1]:
        warnings.append(
            f"{', '.join(again)}: its test split had been scored before; of several only the first is honest"
        )
    said = [(str(r["code"]), run) for _, run, records in last for r in records.values() if r.get("code")]
    if len(dict(said)) > 1:
        first = dict(reversed(said))
        told = " and ".join(f"{code} in {first[code].folder}" for code in dict(said))
        warnings.append(f"the scores were made by different versions of the code: {told}")
    return columns


def maker(record: Record) -> dict[str, str]:
    """Who made what was scored: the sampler, weights and checkpoint, the seed, else the folder; in words."""
    parts = {key: record.get(key) for key in ("sampler", "weights", "seed", "folder")}
    parts |= {"checkpoint": (record.get("checkpoint") or {}).get("path")}
    named = {key: sampler_name(part) if isinstance(part, Mapping) else str(part) for key, part in parts.items()}
    return {key: named[key] for key, part in parts.items() if part is not None}


def _measured(run: Run) -> list[Record]:
    """The scores of what the run made, in order."""
    of = ("samples", "images", "network")
    return [record for record in run.scores if record.get("what") in of and record.get("value") is not None]


def _makers_apart(scored: Sequence[tuple[Run, Sequence[Record]]], mixed: bool) -> dict[str, list[str]]:
    """Protocol -> the parts of `maker` in which scores of one folder differ; {} where each folder has one maker.

    Scores of one run at several steps have one maker, and the last is meant. Of several makers it is not known which
    is meant: UserError, unless `mixed`.
    """
    apart: dict[str, list[str]] = {}
    for run, records in scored:
        for protocol in dict.fromkeys(map(comparable, records)):
            same = [record for record in records if comparable(record) == protocol]
            values: dict[str, dict[str, None]] = {}
            for part, value in (pair for record in same for pair in maker(record).items()):
                values.setdefault(part, {})[value] = None
            several = {part: list(found) for part, found in values.items() if len(found) > 1}
            if several and not mixed:
                told = "; ".join(f"{part} is {' and '.join(found)}" for part, found in several.items())
                raise UserError(
                    f"{run.folder}: {same[0]['metric']} was measured several times there, and {told}: add --mixed for "
                    "columns apart, or score into a folder each (a study is told by its own study.md)"
                )
            apart.setdefault(protocol, []).extend(part for part in several if part not in apart[protocol])
    return apart


def _refuse(metric: str, scored: Sequence[tuple[Run, Record]]) -> None:
    """Name what differs between the protocols of one metric, with a run for each value."""
    apart = []
    told = [(run, protocol_of(record)) for run, record in scored]
    for key in dict.fromkeys(key for _, protocol in told for key in protocol):
        values = {str(protocol.get(key)): run for run, protocol in told}
        if len(values) > 1:
            apart.append(f"{key} is " + " and ".join(f"{value} in {run.folder}" for value, run in values.items()))
    raise UserError(
        f"{metric} was measured under different protocols and can't be ranked: {'; '.join(apart)}; score them alike "
        "with python -m diffusion.evaluate, or add --mixed for columns apart"
    )


def write(comparison: Comparison, folder: Path, title: str, console: Console | None = standard) -> list[Path]:
    """Write compare.md, compare.csv and compare.png to `folder`, print the table on `console`; returns the paths."""
    from diffusion.report import style
    from diffusion.report.sweep import in_parts

    folder.mkdir(parents=True, exist_ok=True)
    rows, columns = comparison.rows, comparison.columns
    settings = list(rows[0].settings) if rows else []
    head = [*settings, "seeds", *(column.name for column in columns)]
    marks = {column.name: comparison.best(column) for column in columns}

    def cell(i: int, column: Column, bold: str) -> str:
        mean = rows[i].mean(column.name)
        if mean is None:
            return MISSING
        first, alike = marks[column.name]
        short = "" if mean.n == len(rows[i].runs) else f" (of {mean.n})"
        return f"{bold}{mean}{bold}{short}" if i == first else f"{mean}{short}{' ≈' if i in alike else ''}"

    def shown(bold: str) -> list[list[str]]:
        return [
            [*row.settings.values(), str(len(row.runs)), *(cell(i, column, bold) for column in columns)]
            for i, row in enumerate(rows)
        ]

    numeric = range(len(settings), len(head))
    parts = [f"# {title}", table(head, shown("**"), right=numeric), _notes(comparison, numeric=bool(rows))]
    (folder / "compare.md").write_text("\n\n".join(parts) + "\n", encoding="utf-8")
    with (folder / "compare.csv").open("w", newline="", encoding="utf-8") as file:
        wide = [f"{c.name}{suffix}" for c in columns for suffix in ("", " ±", " n")]
        lines = csv.writer(file)
        lines.writerow([*settings, "seeds", *wide, "runs"])
        for row in rows:
            means = [row.mean(column.name) or (None, None, 0) for column in columns]
            where = " ".join(str(run.folder) for run in row.runs)
            numbers = [None if isinstance(x, float) and math.isnan(x) else x for mean in means for x in mean]
            lines.writerow([*row.settings.values(), len(row.runs), *numbers, where])
    written = [folder / "compare.md", folder / "compare.csv"]
    if rows and columns:
        written.append(style.save(figure(comparison), folder / "compare.png"))
    if console:
        console.print(f"\n{title}", markup=False)
        brief = [[row.label, *line[len(settings) :]] for row, line in zip(rows, shown("*"), strict=True)]
        for part in in_parts(["recipe", *head[len(settings) :]], brief, console.width):
            console.print(part)
        console.print(_legend(comparison), markup=False)
        for run, reason in comparison.left_out:
            console.print(f"left out: {run.folder}: {reason}", markup=False)
        for warning in comparison.warnings:
            console.print(f"warning: {warning}", markup=False)
    return written


def _legend(comparison: Comparison) -> str:
    several = any(len(row.runs) > 1 for row in comparison.rows)
    interval = "±: 95% t-interval over seeds" if several else "one seed each: no interval, no test"
    return f"{interval}; *best*; ≈ can't be told from the best (Welch, 5%)" if several else f"{interval}; *best*"


def _notes(comparison: Comparison, numeric: bool) -> str:
    """What the columns mean, what was left out and why."""
    legend = (
        "A row per recipe: only settings that differ are shown, and runs that differ in their seed alone are one row. "
        "Mean ± half of the 95% t-interval over seeds. **Bold**: the best mean of a column; ≈: a mean that Welch's "
        "test can't tell from it at 5%."
    )
    lines = [f"- {column.words}." for column in comparison.columns] if numeric else []
    lines += [f"- **warning**: {warning}." for warning in comparison.warnings]
    lines += [f"- left out: `{run.folder}`: {reason}." for run, reason in comparison.left_out]
    return "\n\n".join([legend, "\n".join(lines), "![comparison](compare.png)" if numeric else ""])


def figure(comparison: Comparison) -> Any:
    """A panel per column, a line per recipe: each seed as a dot, their mean with its interval."""
    from diffusion.report import style

    return style.styled(_figure)(comparison)


def _figure(comparison: Comparison) -> Any:
    from matplotlib.figure import Figure

    from diffusion.report import style

    rows = comparison.rows
    columns = [column for column in comparison.columns if column.name != "seconds"] or comparison.columns
    across = min(3, len(columns))
    down = math.ceil(len(columns) / across)
    names = [textwrap.fill(row.label, 26) for row in rows]
    lines = sum(max(2, 1 + name.count("\n")) for name in names)
    made = Figure(figsize=(1.8 + 1.9 * across, down * (0.6 + 0.2 * lines)), layout="constrained")
    for i, column in enumerate(columns):
        ax = made.add_subplot(down, across, i + 1)
        first, _ = comparison.best(column)
        for y, row in enumerate(rows):
            values, mean = row.values.get(column.name) or [], row.mean(column.name)
            if mean is None:
                continue
            colour = style.VERMILION if y == first else style.BLUE
            ax.plot(values, [y] * len(values), "o", color=style.LIGHT, markersize=3, zorder=1)
            half = None if math.isnan(mean.half) else mean.half
            ax.errorbar(mean.mean, y, xerr=half, fmt="o", color=colour, markersize=4, capsize=2.5, linewidth=1.2)
        ax.set_yticks(range(len(rows)), names if i % across == 0 else [""] * len(rows))
        ax.set_ylim(len(rows) - 0.5, -0.5)
        better = "" if column.lower is None else f" ({'lower' if column.lower else 'higher'} is better)"
        ax.set_xlabel(column.name + better)
        ax.locator_params(axis="x", nbins=4)
    return made
