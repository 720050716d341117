"""Folders of runs, as resolvers for conf/hydra: no two launches and no two jobs share one.

${new_folder:outputs/NAME/TIME}    that folder, or TIME-2, TIME-3, … where other launches were as quick; a job that
                                   SLURM has queued again has the folder that it made before
${job_folder:}                     the folder of a sweep's job: its number, unless that is another job's
"""

import itertools
import json
import shlex
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion.console import console
from diffusion.files import replace
from diffusion.runs import slurm

OVERRIDES = ".hydra/overrides.yaml"  # which Hydra writes
GOING_ON = ("ckpt=auto", "ckpt=last", "ckpt=null")  # from what this very run has saved


def new_folder(wanted: str) -> str:
    """`wanted` with the first suffix that makes it new. It is made at once: making is what decides whose it is."""
    Path(wanted).parent.mkdir(parents=True, exist_ok=True)
    if before := slurm.own(Path(wanted).parent):
        return str(before)
    for i in itertools.count(1):
        path = wanted if i == 1 else f"{wanted}-{i}"
        try:
            Path(path).mkdir()
        except FileExistsError:
            continue
        slurm.mark(Path(path))
        return path
    raise AssertionError


def job_folder(sweep: Path, number: int, overrides: list[str]) -> str:
    """The name of the job's folder in `sweep`.

    A job that was there before, by its overrides, has its folder again. Else it is the job's number or, where another
    job has that (a resumed Optuna study counts from 0 again, a grid may have grown), the next free one.
    """
    key = _key(overrides)
    for file in sorted(sweep.glob(f"*/{OVERRIDES}")):
        if _read(file) == key:
            return file.parent.parent.name
    for i in itertools.count(number):
        file = sweep / str(i) / OVERRIDES
        if not file.exists():
            try:
                file.parent.mkdir(parents=True, exist_ok=i == number)
            except FileExistsError:
                continue
            replace(file, OmegaConf.to_yaml(OmegaConf.create(overrides)))
            return str(i)
    raise AssertionError


def _key(overrides: list[Any]) -> list[str]:
    """What makes a job the same job. That it goes on does not; from which file, given by a path, does."""
    return sorted(str(override) for override in overrides if str(override) not in GOING_ON)


def _read(file: Path) -> list[str]:
    try:
        return _key(yaml.safe_load(file.read_text("utf-8")) or [])
    except (OSError, ValueError, TypeError, yaml.YAMLError):
        return []


def words_of(run: Path) -> list[str]:
    """The words of the command that began a run, as its run.json has them; none where there is none."""
    try:
        command = json.loads((run / "run.json").read_text())["command"]
        _, _, _, *words = shlex.split(command)  # python -m diffusion.train
    except (OSError, ValueError, TypeError, LookupError, AttributeError):
        return []
    return [word for word in words if not word.startswith("-")]


def with_its_words(words: list[str]) -> list[str]:
    """`words`; where they go on in a run's folder, with those of its own command before them that they leave open.

    So `hydra.run.dir=RUN ckpt=auto` goes on with the recipe of RUN, whatever that is.
    """
    if any(word in ("-m", "--multirun") for word in words):
        return words
    parser = OverridesParser.create()
    plain = [word for word in words if not word.startswith("-")]
    try:
        given = {override.key_or_group: override.value() for override in parser.parse_overrides(plain)}
        if given.get("ckpt") not in ("auto", "last") or "hydra.run.dir" not in given:
            return words
        own = words_of(Path(str(given["hydra.run.dir"])))
        parsed = zip(own, parser.parse_overrides(own), strict=True)
    except HydraException:
        return words  # Hydra will say what is wrong with them
    over = tuple(f"{key}." for key in given)  # with what lies within: of another choice the settings are others
    kept = [word for word, override in parsed if not f"{override.key_or_group}.".startswith(over)]
    if kept:
        console.print(f"with the run's own settings: {' '.join(kept)}")
    return [*kept, *words]


def _job_folder(*, _root_: DictConfig) -> str:
    hydra = _root_.hydra
    return job_folder(Path(hydra.sweep.dir), int(hydra.job.num), [str(word) for word in hydra.overrides.task])


def register() -> None:
    """Make the resolvers known to OmegaConf."""
    OmegaConf.register_new_resolver("new_folder", new_folder, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("job_folder", _job_folder, replace=True)
