"""The folders of launches and jobs: each has its own. Resolvers for conf/, and the folder of a sweep.

${new_folder:PLACE}           outputs/PLACE/TIME, or TIME-2, TIME-3, … if there was another launch in the same second; a
                              requeued SLURM job gets the folder that it created before
${new_folder:PLACE,sweep-}    outputs/PLACE/sweep-TIME
${job_folder:}                the folder of a sweep's job: its number, unless taken by another job
"""

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, read_write

from diffusion.config.quoting import hydra_value
from diffusion.files import lock, replace
from diffusion.runs import slurm
from diffusion.runs.folder import SWEEP

JOB = ".hydra/job.yaml"  # the overrides of the sweep's job that has this folder
LOCK, PATIENCE = ".jobs.lock", 60.0  # the lock of a sweep's job folders, and the seconds to wait for it
RESUMING = ("ckpt=auto", "ckpt=last", "ckpt=null")  # these do not change the identity of a job


@cache
def new_folder(wanted: str, words: tuple[str, ...] = ()) -> str:
    """`wanted`, with the first suffix that makes it new. Creating the folder right here resolves races.

    Args:
        words: the overrides of the command line, which identify a launch in a SLURM job.
    """
    Path(wanted).parent.mkdir(parents=True, exist_ok=True)
    if before := slurm.marked(Path(wanted).parent, words):
        return str(before)
    for i in itertools.count(1):
        path = Path(wanted if i == 1 else f"{wanted}-{i}")
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            slurm.mark(path, words)
            return str(path)
    raise AssertionError


def job_folder(sweep: Path, number: int, overrides: Sequence[str]) -> str:
    """The name of a job's folder in `sweep`.

    A job that ran there before (with the same overrides) gets its old folder. A new job gets its number or, if another
    job has that number (a resumed Optuna study restarts at 0; a grid may have grown), the next free one.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    with lock(sweep / LOCK, PATIENCE) or contextlib.nullcontext():  # until the folder has its job's overrides
        jobs = {folder.name: words for folder, words in jobs_in(sweep)}
        if same := [name for name, words in jobs.items() if words == _key(overrides)]:
            return same[0]
        free = next(str(i) for i in itertools.count(number) if str(i) not in jobs)
        (sweep / free / JOB).parent.mkdir(parents=True, exist_ok=True)
        replace(sweep / free / JOB, yaml.safe_dump([*overrides]))
        return free


def jobs_in(sweep: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder and the overrides of each job of a sweep."""
    for file in sorted(sweep.glob(f"*/{JOB}")):
        yield file.parent.parent, _key(yaml.safe_load(file.read_text("utf-8")))


def _key(overrides: Sequence[str]) -> list[str]:
    """The identity of a job. Whether it resumes does not matter, but a path to resume from does."""
    return sorted(str(override) for override in overrides if str(override) not in RESUMING)


def register() -> None:
    """Register the resolvers with OmegaConf."""
    OmegaConf.register_new_resolver("new_folder", _new_folder, replace=True)
    OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)


def _new_folder(place: str, prefix: str = "", *, _root_: DictConfig) -> str:
    return new_folder(f"outputs/{place}/{prefix}{_started():%Y-%m-%d_%H-%M-%S}", tuple(_root_.hydra.overrides.task))


@cache
def _started() -> datetime:
    return datetime.now()


def _job_folder(*, _root_: DictConfig) -> str:
    hydra = _root_.hydra
    return job_folder(Path(hydra.sweep.dir), int(hydra.job.num), list(map(str, hydra.overrides.task)))


class SweepFolder(Callback):
    """Hydra callback: create the folder of a sweep once, for all of its jobs, even if their names differ.

    It also sets Hydra's configuration, which the default name refers to and which Hydra sets only for each job, and
    writes multirun.yaml, by which a sweep's folder is recognized and which Optuna's sweeper does not write.
    """

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Called before the sweeper starts."""
        HydraConfig.instance().set_config(config)
        OmegaConf.set_readonly(config.hydra, None)  # which `set_config` has made read-only for the other callbacks
        folder = config.hydra.sweep.dir
        with read_write(config):
            config.hydra.sweep.dir = folder
            if not any(word.startswith("hydra.sweep.dir=") for word in config.hydra.overrides.hydra):
                config.hydra.overrides.hydra.append(f"hydra.sweep.dir={hydra_value(folder)}")  # for each job
        with contextlib.suppress(OSError):  # Hydra reports that it cannot write there
            Path(folder).mkdir(parents=True, exist_ok=True)
            OmegaConf.save(config, Path(folder) / SWEEP)
