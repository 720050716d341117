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
from diffusion.runs import slurm
from diffusion.runs.folder import SWEEP

RESUMING = ("ckpt=auto", "ckpt=last", "ckpt=null")  # these do not change the identity of a job


@cache
def new_folder(wanted: str, words: tuple[str, ...] = ()) -> str:
    """`wanted`, with the first suffix that makes it new. Creating the folder right here resolves races.

    Args:
        words: the overrides of the command line, which identify a launch in a SLURM job.
    """
    parent = Path(wanted).parent
    parent.mkdir(parents=True, exist_ok=True)
    if before := slurm.marked(parent, words):
        return str(before)
    names = itertools.chain([wanted], (f"{wanted}-{i}" for i in itertools.count(2)))
    folder = next(Path(name) for name in names if _created(Path(name)))
    slurm.mark(folder, words)
    return str(folder)


@cache
def job_folder(sweep: Path, number: int, overrides: tuple[str, ...]) -> str:
    """The name of a job's folder in `sweep`, which is created.

    A job that ran there before (with the same overrides) gets its old folder. A new job gets its number or, if another
    job has that number (a resumed Optuna study restarts at 0; a grid may have grown), the next free one.
    """
    sweep.mkdir(parents=True, exist_ok=True)
    same = (folder.name for folder, words in jobs_in(sweep) if words == _key(overrides))
    return next(same, None) or next(str(i) for i in itertools.count(number) if _created(sweep / str(i)))


def _created(folder: Path) -> bool:
    """Whether a new folder could be created: false if there is one, which another job may just have created."""
    try:
        folder.mkdir()
    except FileExistsError:
        return False
    return True


def jobs_in(sweep: Path) -> Iterator[tuple[Path, list[str]]]:
    """Yield the folder and the overrides of each job of a sweep."""
    for file in sorted(sweep.glob("*/.hydra/overrides.yaml")):
        yield file.parent.parent, _key(yaml.safe_load(file.read_text("utf-8")))


def _key(overrides: Sequence[str]) -> list[str]:
    """The identity of a job. Whether it resumes does not matter, but a path to resume from does."""
    return sorted(word for word in overrides if word not in RESUMING)


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
