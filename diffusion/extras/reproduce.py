"""Rerun a published study, and compare its numbers with the committed ones; without STUDY, list the studies.

  diffusion reproduce                                  the studies; nothing is run
  diffusion reproduce schedule                         run one, or its missing runs
  diffusion reproduce schedule hydra/launcher=joblib hydra.launcher.n_jobs=4     up to four runs at once

A study is a file in conf/results or CONF/results: sweeps of `diffusion train` and `evaluate`. Its runs go to a separate
folder in outputs/results (another one if settings are changed); after an interruption, the same command
resumes there. Numbers whose difference from the committed one lies beyond its 95% interval over seeds are listed; those
of a single seed have no interval. Exit status: 0 if there are none; 1 if there are some; 2 for an error that you can
fix, with one line on stderr; 130 after Ctrl-C.
"""

import math
import signal
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Literal

from diffusion.base.console import console
from diffusion.base.files import PACKAGE, digest, read_table
from diffusion.config.build import validated
from diffusion.config.choices import choices, nodes, searching
from diffusion.config.schema import Settings
from diffusion.errors import Arguments, UserError, command_line, nearest, shown
from diffusion.findings.compare import Mean, compare, label
from diffusion.runs.folder import Run, jobs_of


class StudySweep(Settings):
    """Runs of one command: the overrides in `common` with each of `cases`; comma-separated values are swept."""

    command: Literal["train", "evaluate"]
    common: list[str]
    cases: list[list[str]]
    of: Sequence[str] = ()
    """The sweeps whose models are evaluated: SWEEP, or STUDY/SWEEP for a sweep of another study."""


class StudyPlan(Settings):
    """A question, the sweeps that answer it, and about how many hours these take on a CPU core or on a GPU."""

    question: str
    cpu_hours: float
    gpu_hours: float
    config_dir: str | None = None  # of choices that only this study has, from the root of a checkout
    sweeps: dict[str, StudySweep]


def reproduce(study: str | None, overrides: Sequence[str], out: Path, config_dir: str | None) -> None:
    """List the studies, or run the missing runs of one and compare its numbers with the committed ones."""
    with searching([config_dir]):
        for name in [study] if study else choices("results"):
            found = read(name)
            cost = f"about {found.cpu_hours:g} h of a CPU core, or {found.gpu_hours:g} h of a GPU"
            console.print(f"{name}: {found.question}\n  {cost}")
        if study:
            changed = [word for word in overrides if not word.lstrip("+~").startswith(("hydra", "study."))]
            root = out / f"changed-{digest(*changed)[:8]}" if changed else out
            own = config_dir or found.config_dir
            for sweep in found.sweeps:
                run_sweep(root / study / sweep, (*overrides, *(("--config-dir", own) if own else ())))
            console.print(f"\nall runs of {study} are complete: {root / study}")
            check(study, root)


def read(name: str) -> StudyPlan:
    """Read a study. Raises UserError for an unknown name or an invalid file."""
    known = dict(zip(choices("results"), nodes("results"), strict=True))
    if name not in known:
        raise UserError(f"{name}: unknown study{nearest(name, known)}; it is one of {', '.join(known)}")
    return validated(StudyPlan, known[name], f"results/{name}.yaml")


@cache
def run_sweep(folder: Path, more: tuple[str, ...]) -> list[Run]:
    """Run the missing runs of a sweep in `folder`, STUDY/SWEEP, once in this process. Returns its runs.

    The sweeps whose models it evaluates are run first. Two studies may train the same model, which is evaluated once.
    """
    sweep = read(folder.parent.name).sweeps[folder.name]
    words = [word for word in more if sweep.command == "train" or not word.startswith("study.")]
    models: list[Run] = []
    for of in sweep.of:
        trained = run_sweep((folder.parents[1] if "/" in of else folder.parent) / of, more)
        models += [run for run in trained if run.config not in [model.config for model in models]]
    ckpt = [f"ckpt={','.join(shown(run.folder) for run in models)}"] if models else []
    for case in sweep.cases:
        run_command(sweep.command, ["-m", *ckpt, *sweep.common, *case, *words, f"hydra.sweep.dir={shown(folder)}"])
    return jobs_of(folder)


def run_command(command: str, words: Sequence[str]) -> None:
    """Run a command in its own process. Raises UserError if it fails, after the command has printed the reason.

    Ctrl-C and SIGTERM reach that process, too: this one waits until it has saved.
    """
    console.print(f"\n{command_line([command, *words])}")
    process = subprocess.Popen([sys.executable, "-m", "diffusion", command, *words])
    before = signal.signal(signal.SIGTERM, lambda *_: process.terminate())
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        raise
    finally:
        signal.signal(signal.SIGTERM, before)
    if status:
        raise UserError(f"diffusion {command} failed with status {status}; rerun the same command to resume")


def committed(name: str) -> list[Path]:
    """The committed tables of a study: inside the package if installed from a wheel, in docs/ for a checkout."""
    installed = PACKAGE / "committed"
    return sorted((installed if installed.is_dir() else PACKAGE.parent / "docs/results").glob(f"{name}/*.csv"))


def means(table: Path) -> dict[tuple[str, str], Mean]:
    """(recipe, column) in a committed table -> the mean over seeds. A seed is TRAINING, or TRAINING/SAMPLING."""
    found: dict[tuple[str, str], list[tuple[str, float]]] = {}
    for row in read_table(table):
        place = [*row].index("seed")
        recipe = label(dict([*row.items()][:place]))
        for column, value in [*row.items()][place + 1 :]:
            if value:
                found.setdefault((recipe, column), []).append((row["seed"].partition("/")[0], float(value)))
    return {cell: Mean(values) for cell, values in found.items()}


def check(name: str, root: Path) -> None:
    """Print the committed means m ± h of a study that its runs do not confirm by m' ± h': |m − m'| > √(h² + h'²).

    Raises UserError if there are any. A mean of a single seed, here or there, has no interval: none contradicts it.
    """
    compared = wrong = 0
    for table in committed(name):
        comparison = compare([root / name / table.stem])
        recipes = [label(row.settings) for row in comparison.rows]
        again = {column.name: dict(zip(recipes, column.means, strict=True)) for column in comparison.columns}
        for (recipe, column), before in means(table).items():
            now = again.get(column, {}).get(recipe)
            compared += 1
            if now is None or abs(before.mean - now.mean) > math.hypot(before.half, now.half):  # false for NaN
                wrong += 1
                console.print(f"{table.stem}: {recipe}: {column} is {now or 'missing'}, committed: {before}")
    console.print(f"{wrong} of {compared} numbers disagree with the committed ones")
    if wrong:
        raise UserError(f"{name}: not confirmed", 1)


main = Arguments("reproduce", __doc__, reproduce)
main.add_argument("study", nargs="?", help="the study's name, as listed")
main.add_argument(
    "overrides", nargs="*", metavar="KEY=VALUE", help="settings for every run, such as hydra/launcher=joblib"
)
main.add_argument("--out", type=Path, default=Path("outputs/results"), help="default: outputs/results")
main.add_config_dir()
