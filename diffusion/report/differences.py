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
from diffusion.report.formatting import MISSING, NULL, describe
from diffusion.runs.folder import Run


@cache
def defaults(folders: tuple[Path, ...]) -> Any:
    """The settings of `diffusion.train` without overrides, in the form of a `Run`; conf/ is searched in `folders`."""
    settings = composed("train", ["name=default"])
    return SimpleNamespace(folder=Path("default"), settings=settings, choices=default_choices("train"), overrides=[])


def from_default(run: Run) -> dict[str, tuple[str, str]]:
    """Config key -> (value in the run, default), for the settings of a `train` run that differ from the defaults."""
    found = {key: (here, usual) for key, (here, usual) in differing([run, defaults(searched())]).items()}
    return {key: pair for key, pair in found.items() if key not in ("name", "score", "experiment", "callbacks")}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Config key -> its value in each run, for the settings that distinguish the runs.

    Keys are dotted. A choice is shown by the name that Hydra recorded for each run (`optimizer: adamw`) or, if a run
    has no record, by its class (`optimizer: AdamW`). The run's own folder is written as `.`, so paths into it do not
    differ. A setting is left out if it equals a shown top-level setting of the same name, as data.seed equals seed.
    """
    flat = [_flatten(run.settings) for run in runs]
    groups = {key for settings in flat for key, (_, is_choice) in settings.items() if is_choice}
    values = []
    for run, settings in zip(runs, flat, strict=True):
        own = re.compile(rf"\S*(?<![^/]){re.escape(f'{run.folder.parent.name}/{run.folder.name}')}(?![^/])")
        values.append({key: own.sub(".", text) for key, (text, _) in settings.items()})
    groups |= _name_choices(values, runs)
    overridden = {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}
    keys = dict.fromkeys(key for settings in values for key in settings)
    columns = {key: [settings.get(key, MISSING) for settings in values] for key in keys}

    def distinguishes(key: str) -> bool:
        above = [columns[group] for group in groups if key.startswith(f"{group}.") and key not in overridden]
        choices = [tuple(column[i] for column in above) for i in range(len(runs))]
        return len({*zip(choices, columns[key], strict=True)}) > len({*choices})

    shown = {key: column for key, column in columns.items() if distinguishes(key)}

    def follows(key: str) -> bool:
        top = key.rpartition(".")[2]
        return top != key and shown.get(top) == columns[key]

    return {key: column for key, column in shown.items() if not follows(key)}


def labels(settings: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """A label for each of `count` entries of the columns: `lr=0.001, schedule=cosine`; `all` for one without any value.

    A setting is named by the last part of its key, or by the full key if the last part is not unique.
    """
    last = [key.rpartition(".")[2] for key in settings]
    names = {key: key if last.count(short) > 1 else short for key, short in zip(settings, last, strict=True)}
    parts = [[f"{names[k]}={col[i]}" for k, col in settings.items() if col[i] != MISSING] for i in range(count)]
    return [", ".join(words) or "all" for words in parts]


def _name_choices(values: Sequence[dict[str, str]], runs: Sequence[Run]) -> set[str]:
    """Replace classes by names of choices in the groups with a recorded choice in all runs. Returns these groups.

    If one name stands for several classes, due to an override or another version of the program, both are shown. A
    choice that an override set to null keeps the value `none`.
    """
    named = set()
    for key in dict.fromkeys(key for run in runs for key in run.choices):
        having = [(run, settings) for run, settings in zip(runs, values, strict=True) if _has(settings, key)]
        if not having or any(key not in run.choices for run, _ in having):
            continue
        named.add(key)
        given = [(run, settings) for run, settings in having if settings.get(key) != NULL]
        names = [name for name, _ in {(run.choices[key], settings.get(key)) for run, settings in given}]
        for run, settings in given:
            name = run.choices[key]
            settings[key] = name if names.count(name) == 1 else f"{name} ({settings.get(key)})"
    return named


def _has(settings: Mapping[str, str], key: str) -> bool:
    """Whether there is a setting at or below a dotted key."""
    return any(other == key or other.startswith(f"{key}.") for other in settings)


def _flatten(node: Any, prefix: str = "") -> dict[str, tuple[str, bool]]:
    """Dotted key -> (its value as text, whether it is a class, with other keys as its settings)."""
    if isinstance(node, Mapping) and node:
        flat = {}
        for key, value in node.items():
            if key == "_target_":
                flat[prefix or key] = (str(value).rsplit(".", 1)[-1], True)
            else:
                flat |= _flatten(value, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: (describe(node), False)} if prefix else {}
