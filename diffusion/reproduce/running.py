"""Run a study: its sweeps in sequence, in fixed folders from which the same command can resume."""

import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.config.quoting import command_line
from diffusion.console import console
from diffusion.errors import Interrupted, UserError
from diffusion.report.compare import gather
from diffusion.reproduce.studies import Words, place, read
from diffusion.runs.folder import Run

SMOKE = {  # overrides that shorten a job to seconds
    "train": ["trainer.max_steps=2", "trainer.limit_val_batches=1", "samples.n=0", "score.n=8", "sampler.steps=2"],
    "evaluate": ["n=8", "sampler.steps=2", "likelihood.steps=2"],
}
Done = dict[tuple[str, str], list[Run]]  # (study, sweep) -> its runs, in the order of the study


def run_study(name: str, root: Path, more: Sequence[str] = (), smoke: bool = False) -> dict[str, list[Run]]:
    """Run the missing runs of a study below `root`; returns the runs of each sweep.

    Args:
        more: overrides for every job, such as `hydra/launcher=joblib`.
        smoke: smoke test: only the first job of each sweep, with the overrides `SMOKE`.
    """
    done: Done = {}
    for sweep in read(name).sweeps:
        _run_sweep(name, sweep, root, more, smoke, done)
    return {sweep: runs for (study, sweep), runs in done.items() if study == name}


def _run_sweep(name: str, key: str, root: Path, more: Sequence[str], smoke: bool, done: Done) -> None:
    """Run the missing runs of a sweep, after those of the sweeps whose models it evaluates, and add its runs to `done`.

    Two studies may train the same model, such as their first recipe. It is evaluated once.
    """
    sweep, folder = read(name).sweeps[key], root / name / key
    models: list[Run] = []
    for other in (place(name, of) for of in sweep.of):
        if other not in done:
            _run_sweep(*other, root, more, smoke, done)
        models += [run for run in done[other] if run.config not in [model.config for model in models]]
    ckpt = [f"ckpt={','.join(str(run.folder) for run in models[: 1 if smoke else None])}"] if models else []
    commands = [[*sweep.common, *case] for case in sweep.cases]
    if smoke:
        commands = [[*sweep.jobs[0], *SMOKE[sweep.command]]]
    for words in commands:
        run_command(sweep.command, ["-m", *ckpt, *words, *more, f"hydra.sweep.dir={folder}"])
    done[name, key] = in_order(gather([folder]), commands if smoke else sweep.jobs, more)


def in_order(runs: Sequence[Run], jobs: Sequence[Words], more: Sequence[str]) -> list[Run]:
    """The runs of these jobs in the order of the study; those of other overrides in the same folder are left out.

    A job that was resumed alone has no overrides on record, and counts.
    """
    asked = [_parsed([*job, *without_hydra(more)]) for job in jobs]
    kept = [run for run in runs if not run.overrides or _parsed(run.overrides) in asked]
    return sorted(kept, key=lambda run: asked.index(_parsed(run.overrides)) if run.overrides else len(asked))


def without_hydra(words: Sequence[str]) -> list[str]:
    """The overrides among `words` that are settings of the jobs, not of Hydra."""
    return [word for word in words if "=" in word and not word.lstrip("+~").startswith("hydra")]


def _parsed(words: Sequence[str]) -> set[tuple[str, str]]:
    """The keys and values of overrides, which Hydra records in other words: `[True]` for `[true]`."""
    parsed = OverridesParser.create().parse_overrides(list(words))
    return {(override.get_key_element(), override.get_value_element_as_str()) for override in parsed}


def run_command(command: str, words: Sequence[str]) -> None:
    """Run a command in its own process. Raises UserError if it fails, after the command has printed the reason.

    Ctrl-C reaches that process, too: this one waits until it has saved, and raises Interrupted.
    """
    console.print(f"\n{command_line(command, words)}")
    process = subprocess.Popen([sys.executable, "-m", f"diffusion.{command}", *words])
    try:
        status = process.wait()
    except KeyboardInterrupt:
        process.wait()
        console.print("interrupted; the same command resumes")
        raise Interrupted(signal.SIGINT) from None
    if status:
        raise UserError(f"diffusion.{command} failed with status {status}; rerun the same command to resume")
