"""The settings that differ between runs, without those that only follow from another choice.

A choice (`schedule: cosine`) is the value of a config group; its settings (`schedule.offset`) are nested below it. Two
different schedules have different settings anyway, so the column of the choice is enough. A setting is shown if it

    differs between two runs with the same choices above it, or differs and was an override of one of the runs.

Runs that agree in all shown settings also agree in all others.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from diffusion.config.choices import searched
from diffusion.config.composition import composed
from diffusion.config.help import default_choices
from diffusion.config.validation import flat
from diffusion.report.page import MISSING
from diffusion.report.scores import describe
from diffusion.runs.folder import Run

CLASS = "._target_"


@cache
def defaults(folders: tuple[Path, ...]) -> Any:
    """The settings of `diffusion.train` without overrides, in the form of a `Run`; conf/ is searched in `folders`."""
    settings = composed("train", ["name=default"])
    return SimpleNamespace(settings=settings, choices=default_choices("train"), overrides=[])


def from_default(run: Run) -> dict[str, list[str]]:
    """Config key -> [value in the run, default], for the settings of a `train` run that differ from the defaults."""
    found = differing([run, defaults(searched())])
    return {key: pair for key, pair in found.items() if key not in ("name", "ckpt", "score", "experiment", "callbacks")}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Dotted config key -> its value in each run, for the settings that distinguish the runs.

    A choice is shown by its name (`optimizer: adamw`) if all runs recorded it, else by its class. A setting that equals
    a shown top-level one of the same name, as data.seed, is left out.
    """
    values = [{key: describe(value) for key, value in flat(run.settings).items()} for run in runs]
    groups = [key.removesuffix(CLASS) for settings in values for key in settings if key.endswith(CLASS)]
    groups = [*dict.fromkeys([*groups, *(key for run in runs for key in run.choices)])]
    parts: list[dict[str, str]] = [{} for _ in runs]  # the choice of each group of a run
    for group in groups:
        having = [i for i in range(len(runs)) if any(key.startswith(f"{group}.") for key in values[i])]
        named = all(group in runs[i].choices for i in having)
        for i in having:
            name = runs[i].choices[group] if named else values[i].get(group + CLASS, "")
            parts[i][group] = name.rpartition(".")[2]
    values = [{**part, **settings} for part, settings in zip(parts, values, strict=True)]
    overridden = {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}
    keys = dict.fromkeys(key for settings in values for key in settings)
    columns = {key: [settings.get(key, MISSING) for settings in values] for key in keys}

    def distinguishes(key: str) -> bool:
        above = [
            columns[group]
            for group in groups
            if group in columns and key.startswith(f"{group}.") and key not in overridden
        ]
        choices = [tuple(column[i] for column in above) for i in range(len(runs))]
        return len({*zip(choices, columns[key], strict=True)}) > len({*choices})

    shown = {key: column for key, column in columns.items() if distinguishes(key)}
    same = {key for key in shown if "." in key and shown.get(key.rpartition(".")[2]) == shown[key]}
    return {key: column for key, column in shown.items() if key not in same}


def labels(settings: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """A label for each of `count` entries of the columns, with the shortest unique names: `lr=0.001, s=0.02`."""
    last = [key.rpartition(".")[2] for key in settings]
    names = {key: key if last.count(short) > 1 else short for key, short in zip(settings, last, strict=True)}
    parts = [[f"{names[k]}={col[i]}" for k, col in settings.items() if col[i] != MISSING] for i in range(count)]
    return [", ".join(words) or "all" for words in parts]
