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
from diffusion.report.page import MISSING
from diffusion.report.scores import describe
from diffusion.runs.folder import Run

CLASS, NULL = "._target_", describe(None)


@cache
def defaults(folders: tuple[Path, ...]) -> Any:
    """The settings of `diffusion.train` without overrides, in the form of a `Run`; conf/ is searched in `folders`."""
    settings = composed("train", ["name=default"])
    return SimpleNamespace(folder=Path("default"), settings=settings, choices=default_choices("train"), overrides=[])


def from_default(run: Run) -> dict[str, list[str]]:
    """Config key -> [value in the run, default], for the settings of a `train` run that differ from the defaults."""
    found = differing([run, defaults(searched())])
    return {key: pair for key, pair in found.items() if key not in ("name", "ckpt", "score", "experiment", "callbacks")}


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Dotted config key -> its value in each run, for the settings that distinguish the runs.

    A choice is shown by its recorded name (`optimizer: adamw`) or, if a run has no record, by its class. The run's own
    folder is written as `.`. A setting that equals a shown top-level one of the same name, as data.seed, is left out.
    """
    values, groups = [], set[str]()
    for run in runs:
        own = re.compile(rf"\S*(?<![^/]){re.escape(f'{run.folder.parent.name}/{run.folder.name}')}(?![^/])")
        texts = {key: own.sub(".", describe(value)) for key, value in flat(run.settings).items()}
        classes = {key.removesuffix(CLASS): texts.pop(key) for key in [*texts] if key.endswith(CLASS)}
        groups |= classes.keys()
        values.append({key: text.rpartition(".")[2] for key, text in classes.items()} | texts)
    groups |= _name_choices(values, runs)
    overridden = {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}
    keys = dict.fromkeys(key for settings in values for key in settings)
    columns = {key: [settings.get(key, MISSING) for settings in values] for key in keys}

    def distinguishes(key: str) -> bool:
        above = [columns[group] for group in groups if key.startswith(f"{group}.") and key not in overridden]
        choices = [tuple(column[i] for column in above) for i in range(len(runs))]
        return len({*zip(choices, columns[key], strict=True)}) > len({*choices})

    shown = {key: column for key, column in columns.items() if distinguishes(key)}
    same = {key for key in shown if "." in key and shown.get(key.rpartition(".")[2]) == shown[key]}
    return {key: column for key, column in shown.items() if key not in same}


def _name_choices(values: Sequence[dict[str, str]], runs: Sequence[Run]) -> set[str]:
    """Replace classes by names of choices in the groups with a recorded choice in all runs. Returns these groups.

    If one name stands for several classes, due to an override, both are shown; null stays `none`.
    """
    named = set()
    for key in dict.fromkeys(key for run in runs for key in run.choices):
        pairs = zip(values, runs, strict=True)
        having = [(settings, run) for settings, run in pairs if any(f"{k}.".startswith(f"{key}.") for k in settings)]
        if not having or any(key not in run.choices for _, run in having):
            continue
        named.add(key)
        given = [(settings, run.choices[key]) for settings, run in having if settings.get(key) != NULL]
        names = [name for name, _ in {(name, settings.get(key)) for settings, name in given}]
        for settings, name in given:
            settings[key] = name if names.count(name) == 1 else f"{name} ({settings.get(key)})"
    return named


def flat(node: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"a": {"b": 1}} -> {"a.b": 1}"""
    found: dict[str, Any] = {}
    for key, value in node.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def labels(settings: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """A label for each of `count` entries of the columns, with the shortest unique names: `lr=0.001, s=0.02`."""
    last = [key.rpartition(".")[2] for key in settings]
    names = {key: key if last.count(short) > 1 else short for key, short in zip(settings, last, strict=True)}
    parts = [[f"{names[k]}={col[i]}" for k, col in settings.items() if col[i] != MISSING] for i in range(count)]
    return [", ".join(words) or "all" for words in parts]
