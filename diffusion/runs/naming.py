"""The folders of launches and jobs: each has its own. Resolvers for conf/, and the folder of a sweep.

${new_folder:PLACE}           outputs/PLACE/TIME, or TIME-2, TIME-3, … if there was another launch in the same second
${new_folder:PLACE,sweep-}    outputs/PLACE/sweep-TIME
${job_folder:}                the folder of a sweep's job: its number, unless taken by another job
"""

import contextlib
import itertools
import shlex
import sys
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion.errors import exit_status, shown
from diffusion.files import replace
from diffusion.launch import queued_again, slurm_job
from diffusion.runs import optuna
from diffusion.runs.folder import SWEEP, identity, jobs_in

MARK = ".slurm"  # the file in a folder that names the launch that created it


@cache
def new_folder(wanted: str, words: tuple[str, ...] = ()) -> str:
    """`wanted`, with the first suffix that makes it new. Creating the folder right here resolves races.

    A launch in a SLURM job, which `words` identify, marks its folder, and gets it again if the job is requeued.
    """
    parent, job = Path(wanted).parent, slurm_job()
    parent.mkdir(parents=True, exist_ok=True)
    launch = f"{job} {shlex.join(words)}\n"
    for file in sorted(parent.glob(f"*/{MARK}")) if queued_again() else ():
        if file.read_text("utf-8") == launch:
            return str(file.parent)
    names = itertools.chain([wanted], (f"{wanted}-{i}" for i in itertools.count(2)))
    folder = next(Path(name) for name in names if _created(Path(name)))
    if job is not None:
        replace(folder / MARK, launch)
    return str(folder)


@cache
def job_folder(sweep: Path, number: int, overrides: tuple[str, ...]) -> str:
    """The name of a job's folder in `sweep`, which is created.

    A job that ran there before (with the same overrides) gets its old folder. A new job gets its number or, if another
    job has that number (a resumed Optuna study restarts at 0; a grid may have grown), the next free one.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    same = (folder.name for folder, words in jobs_in(sweep) if words == identity(overrides))
    return next(same, None) or next(str(i) for i in itertools.count(number) if _created(sweep / str(i)))


def _created(folder: Path) -> bool:
    """Whether a new folder could be created: false if there is one, which another job may just have created."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def register() -> None:
    """Register the resolvers with OmegaConf."""
    started = datetime.now()

    def launch(place: str, prefix: str = "", *, _root_: DictConfig) -> str:
        wanted = f"outputs/{place}/{prefix}{started:%Y-%m-%d_%H-%M-%S}"
        return new_folder(wanted, tuple(_root_.hydra.overrides.task))

    def job(*, _root_: DictConfig) -> str:
        hydra = _root_.hydra
        return job_folder(Path(hydra.sweep.dir).absolute(), int(hydra.job.num), tuple(map(str, hydra.overrides.task)))

    OmegaConf.register_new_resolver("new_folder", launch, replace=True)
    OmegaConf.register_new_resolver("job_folder", job, replace=True)


class Sweep(Callback):
    """Hydra callback: create the folder of a sweep once, for all of its jobs, even if their names differ.

    It also sets Hydra's configuration, which the default name refers to and which Hydra sets only for each job; writes
    multirun.yaml, by which a sweep's folder is recognized and which Optuna's sweeper does not write; and prepares a
    search with Optuna.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the sweeper starts. Hydra would turn exceptions into warnings."""
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, None)  # which `set_config` has made read-only for the other callbacks
        folder = config.hydra.sweep.dir
        with read_write(config):
            config.hydra.sweep.dir = folder
            if not any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={shown(folder)}")  # for each job
        with contextlib.suppress(OSError):  # Hydra reports that it cannot write there
            Path(folder).mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, Path(folder) / SWEEP)
        search = config.hydra.runtime.choices.get("hydra/sweeper") != "basic"
        if search and (status := exit_status(partial(optuna.prepare, config))):
            sys.exit(status)
