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
FigureName = Literal["samples", "mse", "copies", "bins", "gap", "noising", "beta", "signal"]  # of a run's report


class Sweep(Settings):
    """Runs of one command: the overrides in `common` with each of `cases`; comma-separated values are swept."""

    command: Literal["train", "evaluate"]
    common: Words
    cases: Annotated[list[Words], MinLen(1)]
    of: Sequence[str] = ()
    """The sweeps whose models are evaluated: SWEEP, or STUDY/SWEEP for a sweep of another study."""


class Study(Settings):
    """A question, and the sweeps that answer it."""

    question: str
    cpu_hours: Annotated[float, Gt(0)]
    """Approximate hours on one CPU core for all runs of the study."""
    gpu_hours: Annotated[float, Gt(0)]
    """Expected hours on one GPU."""
    sweeps: dict[str, Sweep]
    columns: Annotated[Sequence[str], MinLen(1)] = (
        "val/mse",
        "fd_lite0",
        "kid_lite0",
        "precision_lite0",
        "coverage_lite0",
    )
    """The columns of the page and the figure, if measured. The CSV table contains all columns."""
    ranks: Sequence[str] = ()
    """Columns whose rankings of the models the page also compares."""
    figures: Sequence[FigureName] = ()
    """Training figures that are committed for each recipe, such as `mse` for figures/mse.png of its run."""


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
    """The jobs of a command line with comma-separated values: every combination, with the last word varying fastest.

    The order is that of Hydra's basic sweeper.
    """
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


def runs_of(study: str, sweep: Sweep) -> int:
    """The number of runs of a sweep of `study`."""
    each = sum(len(jobs([*sweep.common, *case])) for case in sweep.cases)
    places = [place(study, of) for of in sweep.of]
    return each * sum(runs_of(other, read(other).sweeps[name]) for other, name in places) if places else each


def needed(name: str) -> list[str]:
    """The other studies whose models a study evaluates, and which it runs if they are missing, with their cost."""
    places = [place(name, of)[0] for sweep in read(name).sweeps.values() for of in sweep.of]
    others = [other for other in dict.fromkeys(places) if other != name]
    return [f"{other} (at most {read(other).cpu_hours:g} h)" for other in others]


def count_runs(name: str) -> dict[str, int]:
    """The number of runs of a study by command, without those of other studies."""
    found = {"train": 0, "evaluate": 0}
    for sweep in read(name).sweeps.values():
        found[sweep.command] += runs_of(name, sweep)
    return found
