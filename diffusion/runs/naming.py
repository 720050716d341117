"""Resolvers for the names of output folders in conf/hydra. Each launch and each job has its own folder.

${new_folder:outputs/NAME/TIME}    that folder, or TIME-2, TIME-3, … if there was another launch in the same second; a
                                   requeued SLURM job gets the folder that it created before
${job_folder:}                     the folder of a sweep's job: its number, unless taken by another job
"""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf

from diffusion.files import lock, replace
from diffusion.runs import slurm

OVERRIDES = ".hydra/overrides.yaml"  # written by Hydra, at each start of a command with this folder
JOB = ".hydra/job.yaml"  # the overrides of the sweep's job that has this folder
LOCK, PATIENCE = ".jobs.lock", 60.0  # the lock of a sweep's job folders, and the seconds to wait for it
RESUMING = ("ckpt=auto", "ckpt=last", "ckpt=null")  # these do not change the identity of a job


def new_folder(wanted: str) -> str:
    """`wanted`, with the first suffix that makes it new. Creating the folder right here resolves races."""
    Path(wanted).parent.mkdir(parents=True, exist_ok=True)
    if before := slurm.marked(Path(wanted).parent):
        return str(before)
    for i in itertools.count(1):
        path = Path(wanted if i == 1 else f"{wanted}-{i}")
        try:
            path.mkdir()
        except FileExistsError:
            continue
        slurm.mark(path)
        return str(path)
    raise AssertionError


def job_folder(sweep: Path, number: int, overrides: list[str]) -> str:
    """The name of a job's folder in `sweep`.

    A job that ran there before (with the same overrides) gets its old folder. A new job gets its number or, if another
    job has that number (a resumed Optuna study restarts at 0; a grid may have grown), the next free one.
    """
    key = _key(overrides)
    sweep.mkdir(parents=True, exist_ok=True)
    with lock(sweep / LOCK, PATIENCE) or contextlib.nullcontext():  # until the folder has its job's overrides
        for folder, before in jobs_in(sweep):
            if before == key:
                return folder.name
        for i in itertools.count(number):
            file = sweep / str(i) / JOB
            if not file.exists():
                try:
                    file.parent.mkdir(parents=True, exist_ok=i == number)
                except FileExistsError:
                    continue
                replace(file, OmegaConf.to_yaml(OmegaConf.create(overrides)))
                return str(i)
    raise AssertionError


def jobs_in(sweep: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder and the overrides of each job of a sweep."""
    for file in sorted(sweep.glob(f"*/{JOB}")):
        yield file.parent.parent, _read(file)


def register() -> None:
    """Register the resolvers with OmegaConf."""
    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)


def _job_folder(*, _root_: DictConfig) -> str:
    hydra = _root_.hydra
    return job_folder(Path(hydra.sweep.dir), int(hydra.job.num), [str(word) for word in hydra.overrides.task])


def _key(overrides: list[Any]) -> list[str]:
    """The identity of a job. Whether it resumes does not matter, but a path to resume from does."""
    return sorted(str(override) for override in overrides if str(override) not in RESUMING)


def _read(file: Path) -> list[str]:
    try:
        return _key(yaml.safe_load(file.read_text("utf-8")) or [])
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return []
