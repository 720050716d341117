"""The folders of launches and jobs: each has its own. Resolvers for conf/; what happens before a run or a sweep begins.

${new_folder:PLACE}           outputs/PLACE/TIME, or TIME-2, TIME-3, … if there was another launch in the same second
${new_folder:PLACE,sweep-}    outputs/PLACE/sweep-TIME
${job_folder:}                the folder of a sweep's job: its number, unless taken by another job
"""

import contextlib
import itertools
import shlex
import sys
from collections.abc import Iterable
from datetime import datetime
from functools import cache, partial
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write
from omegaconf.errors import OmegaConfBaseException

from diffusion.base.files import replace
from diffusion.config.build import LOADER
from diffusion.errors import exit_status, shown
from diffusion.runs.folder import SWEEP, check_output
from diffusion.runs.processes import queued_again, slurm_job
from diffusion.runs.record import LOCK, held

MARK = ".slurm"  # the file in a folder that names the launch that created it
made: list[Path] = []  # by `new_folder` in this process, or for a run by Hydra
UNNAMED = ("ckpt=auto", "ckpt=last", "ckpt=null")  # a job may resume or not; a path to resume from identifies it


@cache
def new_folder(wanted: Path, words: tuple[str, ...] = ()) -> str:
    """`wanted`, with the first suffix that makes it new; created.

    A launch in a SLURM job, which `words` identify, marks its folder, and gets it again if the job is requeued.
    """
    job, launch = slurm_job(), f"{slurm_job()} {shlex.join(words)}\n"
    wanted.parent.mkdir(parents=True, exist_ok=True)
    for file in sorted(wanted.parent.glob(f"*/{MARK}")) if queued_again() else ():
        if file.read_text("utf-8") == launch:
            return str(file.parent)
    folder = first_new(wanted.with_name(wanted.name + f"-{i}" * (i > 1)) for i in itertools.count(1))
    if job is not None:
        replace(folder / MARK, launch)
    made.append(folder.absolute())
    return str(folder)


@cache
def job_folder(sweep: Path, number: int, overrides: tuple[str, ...]) -> str:
    """The name of a job's folder in `sweep`, which is created.

    A job that ran there before (with the same overrides) gets its old folder. A new job gets its number or, if another
    job has that number (a grid may have grown), the next free one.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    for file in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        before = yaml.load(file.read_bytes(), LOADER) or ()  # it may just be written
        if {*before}.difference(UNNAMED) == {*overrides}.difference(UNNAMED):
            return file.parent.parent.name
    return first_new(sweep / str(i) for i in itertools.count(number)).name


def first_new(folders: Iterable[Path]) -> Path:
    """The first of these folders that does not exist. Creating it right here resolves races."""
    for folder in folders:
        with contextlib.suppress(FileExistsError):
            folder.mkdir()
            break
    return folder


def register() -> None:
    started = f"{datetime.now():%Y-%m-%d_%H-%M-%S}"

    def launch(place: str, prefix: str = "", *, _root_: DictConfig) -> str:
        return new_folder(Path("outputs", place, prefix + started), tuple(_root_.hydra.overrides.task))

    def job(*, _root_: DictConfig) -> str:
        hydra = _root_.hydra
        return job_folder(Path(hydra.sweep.dir).absolute(), int(hydra.job.num), tuple(map(str, hydra.overrides.task)))

    OmegaConf.register_new_resolver("new_folder", launch, replace=True)
    OmegaConf.register_new_resolver("job_folder", job, replace=True)


class FolderChecks(Callback):
    """Hydra callback: check the folder of a run or a sweep before anything is written to it; begin a sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before Hydra writes its record. Hydra would turn exceptions into warnings."""
        with contextlib.suppress(OmegaConfBaseException):  # Hydra reports that it cannot create the folder
            if status := exit_status(lambda: check_own(config.hydra.run.dir)):
                sys.exit(status)
            if not (folder := Path(config.hydra.run.dir).absolute()).exists():
                made.append(folder)

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the sweeper starts."""
        HydraConfig.instance().set_config(config)  # which the default name refers to
        OmegaConf.set_readonly(config.hydra, None)  # which `set_config` has made read-only for the other callbacks
        with read_write(config):
            if status := exit_status(partial(begin_sweep, config)):
                sys.exit(status)


def check_own(folder: str) -> None:
    """As `check_output`. Also raises UserError if a run is alive in the folder, whatever the command."""
    check_output(folder)
    if (Path(folder) / LOCK).is_file() and (file := held(Path(folder))):
        file.close()


def begin_sweep(config: DictConfig) -> None:
    """Create the folder of a sweep once, for all of its jobs, with multirun.yaml, which not every sweeper writes."""
    folder = config.hydra.sweep.dir
    check_output(folder, "hydra.sweep.dir")
    config.hydra.sweep.dir = folder
    if not any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
        config.hydra.overrides.hydra.append(f"hydra.sweep.dir={shown(folder)}")  # for each job
    with contextlib.suppress(OSError):  # Hydra reports that it cannot write there
        Path(folder).mkdir(parents=True, exist_ok=True)
        replace(Path(folder) / SWEEP, OmegaConf.to_yaml(config))
