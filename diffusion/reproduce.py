"""Rerun a study of docs/results, and compare its numbers with the committed ones; without STUDY, list the studies.

  python -m diffusion.reproduce                                  the studies; nothing is run
  python -m diffusion.reproduce schedule                         run one, or its missing runs
  python -m diffusion.reproduce schedule hydra/launcher=joblib hydra.launcher.n_jobs=4     up to four runs at once

A study is a file in conf/results or CONF/results: sweeps of diffusion.train and diffusion.evaluate. Its runs go to a
separate folder in outputs/results (another one if settings are changed); after an interruption, the same command
resumes there. A number agrees with the committed one if their difference lies within its 95% interval over seeds; all
others are listed. Numbers of a single seed have no interval: they are listed, but do not count. Exit status: 0 if all
agree; 1 if some do not; 2 for an error that you can fix, with one line on stderr; 130 after Ctrl-C.

Committed are, in docs/results/STUDY, the numbers, SWEEP.csv with a row per recipe and seed (TRAINING/SAMPLING for the
evaluation of a model), and in record.json the protocol of each column: docs/results/commit.py writes them.
"""

import csv
import json
import math
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from annotated_types import Gt, MinLen

from diffusion.config.choices import choices, files, searching
from diffusion.config.schema import Settings
from diffusion.config.validation import validated
from diffusion.console import console, count
from diffusion.errors import Arguments, UserError, command_line, first_line, nearest
from diffusion.files import PACKAGE, digest
from diffusion.report.compare import Mean, by_seed, compare, gather, mean_over_seeds
from diffusion.runs.folder import Run

Done = dict[tuple[str, str], list[Run]]  # (study, sweep) -> its runs
Row = dict[str, Any]  # the settings that differ, the seed, the numbers; in the order of the columns


def main(arguments: list[str] | None = None) -> int:
    """List the studies or run one. Returns the exit status, as explained above."""
    parser = Arguments("reproduce", __doc__)
    parser.add_argument("study", nargs="?", help="the study's name, as listed")
    parser.add_argument(
        "overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, such as hydra/launcher=joblib"
    )
    parser.add_argument("--out", type=Path, default=Path("outputs/results"), help="default: outputs/results")
    parser.add_config_dir()
    return parser.run(reproduce, arguments)


def reproduce(study: str | None, overrides: Sequence[str], out: Path, config_dir: str | None) -> None:
    """List the studies, or run the missing runs of one and compare its numbers with the committed ones."""
    with searching([config_dir]):
        if study is None:
            for name in choices("results"):
                when = record_of(name)["date"]
                console.print(f"{name}: {read(name).question}", style="bold")
                console.print(f"  {read(name).cost}\n  {f'result of {when}' if when else 'no result yet'}\n")
            console.print(f"results: {committed_dir()}; python -m diffusion.reproduce STUDY runs one")
            return
        console.print(f"{read(study).question}\n{read(study).cost}")
        changed = [word for word in overrides if not word.lstrip("+~").startswith("hydra")]
        root = out / f"changed-{digest(*changed)[:8]}" if changed else out
        more, done = [*overrides, *(["--config-dir", config_dir] if config_dir else [])], Done()
        for sweep in read(study).sweeps:
            run_sweep(study, sweep, root, more, done)
        console.print(f"\nall runs of {study} are complete: {root / study}")
        check(study, done)


class Disagreement(UserError):
    """Numbers do not agree with the committed ones."""

    status = 1


class Sweep(Settings):
    """Runs of one command: the overrides in `common` with each of `cases`; comma-separated values are swept."""

    command: Literal["train", "evaluate"]
    common: list[str]
    cases: Annotated[list[list[str]], MinLen(1)]
    of: Sequence[str] = ()
    """The sweeps whose models are evaluated: SWEEP, or STUDY/SWEEP for a sweep of another study."""


class Study(Settings):
    """A question, and the sweeps that answer it."""

    question: str
    cpu_hours: Annotated[float, Gt(0)]
    """Approximate hours on one CPU core for all runs of the study."""
    gpu_hours: Annotated[float, Gt(0)]
    """Expected hours on one GPU."""
    sweeps: dict[str, Sweep]

    @property
    def cost(self) -> str:
        """How long it takes, and the other studies whose models it trains if they are missing."""
        others = sorted({of.rpartition("/")[0] for sweep in self.sweeps.values() for of in sweep.of} - {""})
        needed = f", and the missing models of {', '.join(others)}" if others else ""
        return f"about {self.cpu_hours:g} h of a CPU core, or {self.gpu_hours:g} h of a GPU{needed}"


def read(name: str) -> Study:
    """Read a study. Raises UserError for an unknown name or an invalid file."""
    if name not in (names := choices("results")):
        raise UserError(f"{name}: unknown study{nearest(name, names)}; it is one of {', '.join(names)}")
    file = files("results")[name]
    try:
        return validated(Study, yaml.safe_load(file.read_text("utf-8")))
    except (yaml.YAMLError, UserError) as error:
        raise UserError(f"{file}: {first_line(error)}; the other files in conf/results are examples") from error


# -------------------------------------------------------------------------------------------------------- running


def run_sweep(name: str, key: str, root: Path, more: Sequence[str], done: Done) -> None:
    """Run the missing runs of a sweep, after those of the sweeps whose models it evaluates, and add its runs to `done`.

    Two studies may train the same model, such as their first recipe. It is evaluated once.
    """
    sweep, folder = read(name).sweeps[key], root / name / key
    models: list[Run] = []
    for study, _, of in (each.rpartition("/") for each in sweep.of):
        other = study or name, of
        if other not in done:
            run_sweep(*other, root, more, done)
        models += [run for run in done[other] if run.config not in [model.config for model in models]]
    ckpt = [f"ckpt={','.join(str(run.folder) for run in models)}"] if models else []
    for case in sweep.cases:
        run_command(sweep.command, ["-m", *ckpt, *sweep.common, *case, *more, f"hydra.sweep.dir={folder}"])
    done[name, key] = gather([folder])


def run_command(command: str, words: Sequence[str]) -> None:
    """Run a command in its own process. Raises UserError if it fails, after the command has printed the reason.

    Ctrl-C reaches that process, too: this one waits until it has saved.
    """
    console.print(f"\n{command_line(command, words)}")
    process = subprocess.Popen([sys.executable, "-m", f"diffusion.{command}", *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    if status:
        raise UserError(f"diffusion.{command} failed with status {status}; rerun the same command to resume")


# ------------------------------------------------------------------------------------------------------ comparing


def committed_dir() -> Path:
    """The folder of committed results: inside the package if installed from a wheel, in docs/ for a checkout."""
    installed = PACKAGE / "committed"
    return installed if installed.is_dir() else PACKAGE.parent / "docs/results"


def record_of(name: str) -> dict[str, Any]:
    """The record.json of a study; one without sweeps if no result is committed."""
    file = committed_dir() / name / "record.json"
    return json.loads(file.read_text("utf-8")) if file.is_file() else {"date": None, "sweeps": {}}


def rows_in(name: str, sweep: str) -> list[Row]:
    """The committed table of a sweep."""
    with (committed_dir() / name / f"{sweep}.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def recipe_of(settings: Mapping[str, str]) -> str:
    """Settings in words: `schedule=cosine, schedule.steps=100`."""
    return ", ".join(f"{key}={value}" for key, value in settings.items())


def means(rows: Sequence[Row]) -> dict[tuple[str, str], Mean]:
    """(recipe, column) -> the mean over training seeds, each the mean over its sampling seeds."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in rows:
        place = [*row].index("seed")
        recipe = recipe_of(dict([*row.items()][:place]))
        for column, value in [*row.items()][place + 1 :]:
            if value != "":
                found.setdefault((recipe, column), []).append((row["seed"].partition("/")[0], float(value)))
    return {cell: mean_over_seeds(by_seed(numbers)) for cell, numbers in found.items()}


def check(name: str, done: Done) -> None:
    """Print the committed means of a study, and the protocols, that its runs do not confirm.

    Raises Disagreement unless these are only means of a single seed, here or there, which have no interval.
    """
    record, wrong = record_of(name), 0
    for sweep, columns in record["sweeps"].items():
        comparison, lines = compare(done[name, sweep], mixed=True), list[str]()
        for run, reason in comparison.left_out:
            raise UserError(f"{run.folder}: {reason}; run the same command again, or remove this folder")
        for column in comparison.columns:
            words = f"{column.name}: {column.words}"
            if columns.get(column.name, words) != words:
                lines.append(f"{column.name}: another protocol: {column.words}; committed: {columns[column.name]}")
        again = {(recipe_of(row.settings), column): row.mean(column) for row in comparison.rows for column in columns}
        for cell, before in means(rows_in(name, sweep)).items():
            now = again.get(cell)
            line = f"{': '.join(cell)} is {now or 'missing'}, committed: {before}"
            if now and not agree(before, now) and math.isnan(before.half + now.half):
                console.print(f"{sweep}: {line} (one seed, so no interval)")
            elif not now or not agree(before, now):
                lines.append(line)
        for line in lines:
            console.print(f"{sweep}: {line}", style="yellow")
        console.print(f"{sweep}: {count(len(lines), 'number')} disagree with the committed ones")
        wrong += len(lines)
    if wrong:
        made = f"{record['date']}, made by version {', '.join(record['code'])}"
        raise Disagreement(f"{name}: {count(wrong, 'number')} disagree with the result of {made}")


def agree(a: Mean, b: Mean) -> bool:
    """Whether two means m, m' with 95% intervals ± h, ± h' over their seeds agree: |m − m'| ≤ √(h² + h'²), or m = m'.

    A mean of one seed has no interval (h is NaN), so it agrees only with the same number.
    """
    return a.mean == b.mean or abs(a.mean - b.mean) <= math.hypot(a.half, b.half)


if __name__ == "__main__":
    sys.exit(main())
