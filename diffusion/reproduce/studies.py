"""The studies of docs/results: what conf/results/NAME.yaml says to run, as sweeps of the project's own commands."""

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
    """Runs of one command: the overrides in `common` with each of `cases`, every combination of values with commas."""

    command: Literal["train", "evaluate"]
    common: Words
    cases: Annotated[list[Words], MinLen(1)]
    of: Sequence[str] = ()
    """The sweeps whose models are evaluated, each by its name, or as STUDY/SWEEP for one of another study."""


class Study(Settings):
    """A question, and the sweeps that answer it."""

    question: str
    cpu_hours: Annotated[float, Gt(0)]
    """Of one CPU core, about, for all runs of the study."""
    gpu_hours: Annotated[float, Gt(0)]
    """Of one GPU, as expected."""
    sweeps: dict[str, Sweep]
    columns: Annotated[Sequence[str], MinLen(1)] = (
        "val/mse",
        "fd_lite0",
        "kid_lite0",
        "precision_lite0",
        "coverage_lite0",
    )
    """What the page and the figure show, where it was measured. The table holds all."""
    ranks: Sequence[str] = ()
    """Columns by which the page also compares how the models are ranked."""
    figures: Sequence[str] = ()
    """Figures of a training that are kept for each recipe, as `mse` for figures/mse.png of its run."""


def names() -> list[str]:
    """The studies that there are."""
    return choices(GROUP)


def read(name: str) -> Study:
    """The study of this name. Raises UserError for one that there is not, and for a file that is not a study."""
    if name not in names():
        raise UserError(f"{name}: unknown study{nearest(name, names())}; it is one of {', '.join(names())}")
    file = files(GROUP)[name]
    try:
        return validated(Study, yaml.safe_load(file.read_text("utf-8")))
    except (yaml.YAMLError, UserError) as error:
        raise UserError(f"{file}: {first_line(error)}; the other files in conf/results are examples") from error


def jobs(words: Sequence[str]) -> list[Words]:
    """The jobs of a command line with values between commas: every combination, the last word's values changing first.

    As Hydra's basic sweeper makes them.
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
    """(study, sweep) of a sweep that a sweep of `study` names: `SWEEP`, or `STUDY/SWEEP`."""
    other, slash, name = sweep.rpartition("/")
    return (other, name) if slash else (study, sweep)


def runs_of(study: str, sweep: Sweep) -> int:
    """The runs of a sweep of `study`."""
    each = sum(len(jobs([*sweep.common, *case])) for case in sweep.cases)
    places = [place(study, of) for of in sweep.of]
    return each * sum(runs_of(other, read(other).sweeps[name]) for other, name in places) if places else each


def count_runs(name: str) -> dict[str, int]:
    """The runs of a study, by command, without those of other studies."""
    found = {"train": 0, "evaluate": 0}
    for sweep in read(name).sweeps.values():
        found[sweep.command] += runs_of(name, sweep)
    return found
