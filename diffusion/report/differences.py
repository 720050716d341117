"""What tells runs apart: the settings in which they differ, without those that a choice brings along.

A choice (`schedule: cosine`) is a value of its own, at the place of its group in the configuration; below it lie the
settings that it has (`schedule.s`). Two schedules have different settings because they are different schedules, which
one column says. So a setting is shown where

    two runs differ in it that have the same choices above it, or it was given by hand in one of them and they differ.

All that is hidden follows from what is shown: runs that agree in the one agree in the other.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from diffusion.config.settings import has
from diffusion.report.formatting import describe
from diffusion.runs.folder import Run

MISSING = "—"


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Config key -> its value in each run, for the settings that tell apart the runs that began.

    Keys are dotted. A choice is named as Hydra's record of each run has it (`optimizer: adamw`), where one of them has
    none by its class (`optimizer: AdamW`). A run's own folder reads `.`, so that paths into it are no difference; what
    takes its value from a top-level setting that is shown, as data.seed from seed, is left out.
    """
    flat = [_flatten(run.settings, run.folder) for run in runs]
    groups = {key for settings in flat for key, (_, chosen) in settings.items() if chosen}
    values = [{key: value for key, (value, _) in settings.items()} for settings in flat]
    groups |= _name_choices(values, runs)
    told = [i for i, run in enumerate(runs) if run.resolved] or range(len(runs))
    by_hand = {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}
    keys = dict.fromkeys(key for settings in values for key in settings)
    columns = {key: [settings.get(key, MISSING) for settings in values] for key in keys}

    def tells(key: str) -> bool:
        above = [columns[group] for group in groups if key.startswith(f"{group}.")]
        pairs = [(i, j) for i, j in combinations(told, 2) if columns[key][i] != columns[key][j]]
        return any(key in by_hand or all(column[i] == column[j] for column in above) for i, j in pairs)

    def follows(key: str) -> bool:
        top = key.rpartition(".")[2]
        return top != key and top in shown and all(columns[top][i] == columns[key][i] for i in told)

    shown = {key: column for key, column in columns.items() if tells(key)}
    return {key: column for key, column in shown.items() if not follows(key)}


def labels(settings: Mapping[str, Sequence[str]], count: int) -> list[str]:
    """`lr=0.001, schedule=cosine` for each of `count` entries of the columns: what it has, by the names' last parts.

    `all` where there is nothing.
    """
    last = [key.rpartition(".")[2] for key in settings]
    names = {key: key if last.count(short) > 1 else short for key, short in zip(settings, last, strict=True)}
    own = [[f"{names[k]}={column[i]}" for k, column in settings.items() if column[i] != MISSING] for i in range(count)]
    return [", ".join(words) or "all" for words in own]


def _name_choices(values: Sequence[dict[str, str]], runs: Sequence[Run]) -> set[str]:
    """Put the names of choices in the place of classes, where every run that has the group has one; those groups.

    Where one name stands for several classes, by an override or in another version of the program, it is not enough.
    """
    named = set()
    for key in dict.fromkeys(key for run in runs for key in run.choices):
        having = [(run, settings) for run, settings in zip(runs, values, strict=True) if has(run.settings, key)]
        if not having or any(key not in run.choices for run, _ in having):
            continue
        named.add(key)
        classes = {(run.choices[key], settings.get(key)) for run, settings in having}
        names = [name for name, _ in classes]
        for run, settings in having:
            name = run.choices[key]
            settings[key] = name if names.count(name) == 1 else f"{name} ({settings.get(key)})"
    return named


def _flatten(node: Any, folder: Path, prefix: str = "") -> dict[str, tuple[str, bool]]:
    """Dotted key -> its value in words, and whether it is a class, of which other keys are settings."""
    if isinstance(node, Mapping) and node:
        flat = {}
        for key, value in node.items():
            if key == "_target_":
                flat[prefix or key] = (str(value).rsplit(".", 1)[-1], True)
            else:
                flat |= _flatten(value, folder, f"{prefix}.{key}" if prefix else str(key))
        return flat
    own = re.compile(rf"\S*(?<![^/]){re.escape(folder.parent.name)}/{re.escape(folder.name)}(?![^/])")
    return {prefix: (own.sub(".", describe(node)), False)} if prefix else {}
