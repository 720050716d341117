"""The studies of docs/results: conf/results/NAME.yaml defines each one as sweeps of the project's commands."""

import itertools
from collections.abc import Sequence
from typing import Annotated, Literal

import yaml
from annotated_types import Gt, MinLen
from hydra.core.override_parser.overrides_parser import OverridesParser

from diffusion.config.choices import choices, files
from diffusion.config.schema import Settings
from diffusion.config.validation import validated
from diffusion.errors import UserError, first_line, nearest

GROUP = "results"
Words = list[str]


class Sweep(Settings):
    """Runs of one command: the overrides in `common` with each of `cases`; comma-separated values are swept."""

    command: Literal["train", "evaluate"]
    common: Words
    cases: Annotated[list[Words], MinLen(1)]
    of: Sequence[str] = ()
    """The sweeps whose models are evaluated: SWEEP, or STUDY/SWEEP for a sweep of another study."""

    @property
    def jobs(self) -> list[Words]:
        """The overrides of each job, in order."""
        return [job for case in self.cases for job in jobs([*self.common, *case])]


class Study(Settings):
    """A question, and the sweeps that answer it."""

    question: str
    cpu_hours: Annotated[float, Gt(0)]
    """Approximate hours on one CPU core for all runs of the study."""
    gpu_hours: Annotated[float, Gt(0)]
    """Expected hours on one GPU."""
    sweeps: dict[str, Sweep]


def names() -> list[str]:
    """The names of all studies."""
    return choices(GROUP)


def read(name: str) -> Study:
    """Read a study. Raises UserError for an unknown name or an invalid file."""
    if name not in names():
        raise UserError(f"{name}: unknown study{nearest(name, names())}; it is one of {', '.join(names())}")
    file = files(GROUP)[name]
    try:
        return validated(Study, yaml.safe_load(file.read_text("utf-8")))
    except (yaml.YAMLError, UserError) as error:
        raise UserError(f"{file}: {first_line(error)}; the other files in conf/results are examples") from error


def jobs(words: Sequence[str]) -> list[Words]:
    """The jobs of a command line with comma-separated values, in the order of Hydra's basic sweeper."""
    values = []
    for override in OverridesParser.create().parse_overrides(list(words)):
        if override.is_sweep_override():
            key = override.get_key_element()
            values.append([f"{key}={value}" for value in override.sweep_string_iterator()])
        else:
            values.append([str(override.input_line)])
    return [list(job) for job in itertools.product(*values)]


def place(study: str, sweep: str) -> tuple[str, str]:
    """(study, sweep) of a reference within `study`: `SWEEP` or `STUDY/SWEEP`."""
    other, slash, name = sweep.rpartition("/")
    return (other, name) if slash else (study, sweep)


def cost(name: str) -> str:
    """The duration of a study, and the other studies whose models it trains if they are missing, in words."""
    study = read(name)
    others = {place(name, of)[0] for sweep in study.sweeps.values() for of in sweep.of} - {name}
    needed = f", and the models of {' and '.join(sorted(others))} that are missing" if others else ""
    return f"about {study.cpu_hours:g} h of a CPU core, or {study.gpu_hours:g} h of a GPU{needed}"
