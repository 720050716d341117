"""The committed results: docs/results/STUDY with a table of numbers for each sweep, and record.json.

SWEEP.csv has a row per recipe and seed (TRAINING/SAMPLING for the evaluation of a model). record.json has the protocol
of each column, and the settings of each job, to notice when the configuration has changed since. Everything else in the
folder is made from the runs with `diffusion.compare` and `diffusion.report`.
"""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

from diffusion.config.composition import composed, flat, plain
from diffusion.errors import UserError
from diffusion.files import PACKAGE, replace
from diffusion.report.compare import Mean, by_seed, compare, mean_over_seeds
from diffusion.report.formatting import csv_text, describe
from diffusion.reproduce.studies import read
from diffusion.runs.folder import Run

RECORD, SEED = "record.json", "seed"
Row = dict[str, Any]  # the settings that differ, the seed, the numbers; in the order of the columns


def rows_of(runs: Sequence[Run]) -> tuple[list[Row], dict[str, str]]:
    """The table of the runs of a sweep, and the protocol of each column.

    Raises UserError if a run is left out, such as an incomplete one.
    """
    comparison = compare(runs, mixed=True)
    if comparison.left_out:
        run, reason = comparison.left_out[0]
        raise UserError(f"{run.folder}: {reason}; run the same command again, or remove this folder")
    columns = {column.name: column.words for column in comparison.columns if column.name != "seconds"}
    rows = [
        {
            **row.settings,
            SEED: "/".join(map(str, run.seeds or ())),
            **{name: row.values[run][name].value if name in row.values[run] else "" for name in columns},
        }
        for row in comparison.rows
        for run in row.values
    ]
    return rows, columns


def means(rows: Sequence[Row]) -> dict[tuple[str, str], Mean]:
    """(recipe, column) -> the mean over training seeds, each the mean over its sampling seeds."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows:
        keys = list(row)
        place = keys.index(SEED)
        recipe = ", ".join(f"{key}={row[key]}" for key in keys[:place])
        for column in keys[place + 1 :]:
            if row[column] != "":
                found.setdefault((recipe, column), []).append((row[SEED].partition("/")[0], float(row[column])))
    return {cell: mean_over_seeds(by_seed(numbers)) for cell, numbers in found.items()}


def committed_dir() -> Path:
    """The folder of committed results: inside the package if installed from a wheel, in docs/ for a checkout."""
    installed = PACKAGE / "committed"
    return installed if installed.is_dir() else PACKAGE.parent / "docs/results"


def record_of(name: str) -> dict[str, Any]:
    """The record.json of a study; one without sweeps if no result is committed."""
    file = committed_dir() / name / RECORD
    return json.loads(file.read_text("utf-8")) if file.is_file() else {"date": None, "sweeps": {}}


def rows_in(name: str, sweep: str) -> list[Row]:
    """The committed table of a sweep."""
    text = (committed_dir() / name / f"{sweep}.csv").read_text("utf-8")
    return list(csv.DictReader(io.StringIO(text, newline="")))


def commit(name: str, sweeps: Mapping[str, Sequence[Run]], folder: Path) -> None:
    """Write the tables of a study and its record into `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, Any] = {}
    for sweep, runs in sweeps.items():
        rows, columns = rows_of(runs)
        replace(folder / f"{sweep}.csv", csv_text([[*rows[0]], *(row.values() for row in rows)]))
        words = {column: {"words": words} for column, words in columns.items()}
        found[sweep] = {"columns": words, "settings": settings_of(name, sweep)}
    every = [run for runs in sweeps.values() for run in runs]
    code = sorted({score.code for run in every for score in run.scores if score.code})
    seconds = round(sum(float(run.info.get("seconds") or 0) for run in every))
    record = {"date": f"{date.today()}", "code": code, "seconds": seconds, "sweeps": found}
    replace(folder / RECORD, json.dumps(record, indent=1, ensure_ascii=False) + "\n")


def settings_of(name: str, sweep: str) -> dict[str, dict[str, str]]:
    """The settings of a sweep's jobs as composed today, keyed by the overrides of each job without the seed.

    The first job has all settings; every other job has only those that differ from the first.
    """
    asked = read(name).sweeps[sweep]
    first: dict[str, str] = {}
    found: dict[str, dict[str, str]] = {}
    given = ["name=RUN", "ckpt=RUN"] if asked.command == "evaluate" else ["name=RUN"]
    for job in asked.jobs:
        words = " ".join(word for word in job if not word.startswith("seed="))
        if words not in found:
            node = plain(composed(asked.command, [*given, *job]))
            settings = {key: describe(value) for key, value in flat(node).items()}
            found[words] = {key: value for key, value in settings.items() if first.get(key) != value}
            first = first or settings
    return found


def changed_settings(name: str) -> list[str]:
    """A line per job, and per setting that still exists, that is not as in the committed result of a study."""
    lines = []
    for sweep, node in record_of(name)["sweeps"].items():
        today = settings_of(name, sweep) if sweep in read(name).sweeps else {}
        for job, then in node["settings"].items():
            now = today.get(job)
            if now is None:
                lines.append(f"{sweep}: {job} is no longer a part of the study")
            else:
                changed = [key for key in then.keys() & now.keys() if then[key] != now[key]]
                lines += [f"{sweep}: {key} is {now[key]}; committed: {then[key]}" for key in sorted(changed)]
    return lines


def agree(a: Mean, b: Mean) -> bool:
    """Whether two means m, m' with 95% intervals ± h, ± h' over their seeds agree: |m − m'| ≤ √(h² + h'²), or m = m'.

    A mean of one seed has no interval (h is NaN), so it agrees only with the same number.
    """
    return a.mean == b.mean or abs(a.mean - b.mean) <= math.hypot(a.half, b.half)


def differences(name: str, sweep: str, runs: Sequence[Run]) -> Iterator[tuple[str, bool]]:
    """Yield (words, whether it counts) for each committed mean of a sweep that its runs do not confirm.

    A changed protocol counts. A mean of a single seed, here or there, is yielded, but does not count.
    """
    rows, protocols = rows_of(runs)
    for column, about in record_of(name)["sweeps"][sweep]["columns"].items():
        if (words := protocols.get(column, about["words"])) != about["words"]:
            yield f"{column}: measured under another protocol: {words}; committed: {about['words']}", True
    again = means(rows)
    for (recipe, column), before in means(rows_in(name, sweep)).items():
        now = again.get((recipe, column))
        if now is None:
            yield f"{recipe}: {column} was not measured again", True
        elif not agree(before, now):
            alone = math.isnan(before.half + now.half)
            note = " (one seed, so no interval)" if alone else ""
            yield f"{recipe}: {column} is {now}, committed: {before}{note}", not alone
