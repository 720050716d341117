"""Run a study: its sweeps in sequence, in fixed folders from which the same command can resume."""

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.config.quoting import command_line
from diffusion.console import console, count
from diffusion.errors import Interrupted, UserError
from diffusion.report.compare import compare, gather
from diffusion.reproduce.studies import Sweep, Words, jobs, place, read
from diffusion.reproduce.table import Table
from diffusion.runs.folder import Run, jobs_of

SMOKE = {  # overrides that shorten a job to seconds
    "train": ["trainer.max_steps=2", "trainer.limit_val_batches=1", "samples.n=0", "score.n=8", "sampler.steps=2"],
    "evaluate": ["n=8", "sampler.steps=2", "likelihood.steps=2"],
}


@dataclass(frozen=True)
class Outcome:
    """The outcome of a study: per sweep, its table and one run per recipe; the total seconds and the code versions."""

    tables: Mapping[str, Table]
    examples: Mapping[str, Sequence[Path]]
    seconds: float
    code: Sequence[str]


def run_study(name: str, root: Path, more: Sequence[str] = (), smoke: bool = False) -> Outcome:
    """Run the missing runs of a study below `root`.

    Args:
        more: overrides for every job, such as `hydra/launcher=joblib`.
        smoke: smoke test: only the first job of each case, with the overrides `SMOKE`.
    """
    tables: dict[str, Table] = {}
    examples: dict[str, list[Path]] = {}
    done: dict[tuple[str, str], Path] = {}
    seconds, code = 0.0, set()
    for sweep in read(name).sweeps:
        run_sweep(name, sweep, root, more, smoke, done)
        runs = of_command(gather([done[name, sweep]]), read(name).sweeps[sweep], more, smoke)
        runs = in_order(runs, read(name).sweeps[sweep])
        comparison = compare(runs, mixed=True)
        tables[sweep] = Table.of(comparison)
        examples[sweep] = [min(row.runs, key=lambda run: str(run.seeds)).folder for row in comparison.rows]
        seconds += sum(float(run.info.get("seconds") or 0) for run in runs)
        code |= {score.code for run in runs for score in run.scores if score.code}
    return Outcome(tables, examples, seconds, sorted(code))


def run_sweep(
    name: str,
    sweep: str,
    root: Path,
    more: Sequence[str],
    smoke: bool,
    done: dict[tuple[str, str], Path],
    needed: bool = False,
) -> None:
    """Run the missing runs of a sweep, after those of the sweeps whose models it evaluates, equal ones once.

    Args:
        done: (study, sweep) -> folder, for all sweeps that have been run; this one is added.
        needed: whether only another sweep needs its models; the smoke version of that one evaluates a single model.
    """
    asked, folder = read(name).sweeps[sweep], root / name / sweep
    models: Words = []
    trained: list[Run] = []
    for other in (place(name, of) for of in asked.of):
        if other not in done:
            run_sweep(*other, root, more, smoke, done, needed=True)
        trained += of_command(jobs_of(done[other]), read(other[0]).sweeps[other[1]], more, smoke)
    # Two studies may train the same model, such as their first recipe.
    folders = [str(run.folder) for i, run in enumerate(trained) if run.config not in [r.config for r in trained[:i]]]
    if folders:
        models = [f"ckpt={','.join(folders[:1] if smoke else folders)}"]
    for case in asked.cases[:1] if smoke and needed else asked.cases:
        words = [*asked.common, *case]
        if smoke:
            words = [*jobs(words)[0], *SMOKE[asked.command]]
        run_command(asked.command, ["-m", *models, *words, *more, f"hydra.sweep.dir={folder}"])
    done[name, sweep] = folder


def of_command(runs: Sequence[Run], sweep: Sweep, more: Sequence[str], smoke: bool) -> list[Run]:
    """The runs in a sweep's folder that this command asks for; prints how many others there are.

    An earlier command may have run the study there with other overrides. A job that was resumed alone has none on
    record, and counts. If no run has exactly the overrides of a job, such as those of an older version, all are taken.
    """
    settings = without_hydra(more)
    asked = []
    for case in sweep.cases:
        words = [*sweep.common, *case]
        words = [*jobs(words)[0], *SMOKE[sweep.command]] if smoke else words
        asked += [_parsed(job) for job in jobs([*words, *settings])]
    found = [run for run in runs if not run.overrides or _parsed(run.overrides) in asked]
    if 0 < len(found) < len(runs):
        others = count(len(runs) - len(found), "run")
        console.print(f"{others} in {runs[0].folder.parent} with other overrides than this command's: left out")
    return found or [*runs]


def without_hydra(words: Sequence[str]) -> list[str]:
    """The overrides among `words` that are settings of the jobs, not of Hydra."""
    return [word for word in words if "=" in word and not word.lstrip("+~").startswith("hydra")]


def in_order(runs: Sequence[Run], sweep: Sweep) -> list[Run]:
    """Sort runs into the order of the study, since folders of parallel jobs are numbered in arbitrary order."""
    asked = [_parsed(job) for case in sweep.cases for job in jobs([*sweep.common, *case])]

    def place_of(run: Run) -> int:
        fitting = [(len(job), -i) for i, job in enumerate(asked) if job <= _parsed(run.overrides)]
        return -max(fitting)[1] if fitting else len(asked)

    return sorted(runs, key=place_of)


def _parsed(words: Sequence[str]) -> set[tuple[str, str]]:
    """The keys and values of overrides, which Hydra records in other words: `[True]` for `[true]`."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return {(override.get_key_element(), override.get_value_element_as_str()) for override in parsed}


def run_command(command: str, words: Sequence[str]) -> None:
    """Run a command in its own process. Raises UserError if it fails, after the command has printed the reason.

    Ctrl-C reaches that process, too: this one waits until it has saved, and raises Interrupted.
    """
    console.print(f"\n{command_line(command, words)}")
    process, interrupted = subprocess.Popen([sys.executable, "-m", f"diffusion.{command}", *words]), False
    while True:
        try:
            status = process.wait()
            break
        except KeyboardInterrupt:
            interrupted = True
    if interrupted:
        console.print("interrupted; the same command resumes")
        raise Interrupted(signal.SIGINT)
    if status:
        raise UserError(f"diffusion.{command} failed with status {status}; rerun the same command to resume")
