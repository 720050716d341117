"""The settings in which runs differ, without those that only follow from another choice.

A choice (`schedule: cosine`) is a value at the place of its group in the configuration; below it are its settings
(`schedule.offset`). Two schedules have different settings because they are different schedules, and one column says so.
A setting is shown where

    two runs differ in it that have the same choices above it, or it was given by hand in one of them and they differ.

Everything hidden follows from what is shown: runs that agree in the latter agree in the former.
"""

import re
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import Any

from diffusion.report.formatting import describe
from diffusion.runs.folder import Run

MISSING = "—"


def differing(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Config key -> its value in each run, for the settings that distinguish the runs that began.

    Keys are dotted. A choice has the name that Hydra wrote down for each run (`optimizer: adamw`), or where one run has
    none, its class (`optimizer: AdamW`). A run's own folder is written `.`, so that paths into it are no difference.
    What takes its value from a top-level setting that is shown, as data.seed from seed, is left out.
    """
    flat = [_flatten(run.settings, run.folder) for run in runs]
    groups = {key for settings in flat for key, (_, chosen) in settings.items() if chosen}
    values = [{key: value for key, (value, _) in settings.items()} for settings in flat]
    groups |= _name_choices(values, runs)
    begun = [i for i, run in enumerate(runs) if run.resolved] or range(len(runs))
    by_hand = {re.sub(r"^[+~]*(.*@)?", "", word.partition("=")[0]) for run in runs for word in run.overrides}
    keys = dict.fromkeys(key for settings in values for key in settings)
    columns = {key: [settings.get(key, MISSING) for settings in values] for key in keys}

    def distinguishes(key: str) -> bool:
        above = [columns[group] for group in groups if key.startswith(f"{group}.")]
        pairs = [(i, j) for i, j in combinations(begun, 2) if columns[key][i] != columns[key][j]]
        return any(key in by_hand or all(column[i] == column[j] for column in above) for i, j in pairs)

    def follows(key: str) -> bool:
        top = key.rpartition(".")[2]
        return top != key and top in shown and all(columns[top][i] == columns[key][i] for i in begun)

    shown = {key: column for key, column in columns.items() if distinguishes(key)}
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
        having = [(run, settings) for run, settings in zip(runs, values, strict=True) if _has(run.settings, key)]
        if not having or any(key not in run.choices for run, _ in having):
            continue
        named.add(key)
        classes = {(run.choices[key], settings.get(key)) for run, settings in having}
        names = [name for name, _ in classes]
        for run, settings in having:
            name = run.choices[key]
            settings[key] = name if names.count(name) == 1 else f"{name} ({settings.get(key)})"
    return named


def _has(config: Mapping[str, Any], key: str) -> bool:
    """Whether there is a value at a dotted key."""
    node: Any = config
    for part in key.split("."):
        if not isinstance(node, Mapping) or part not in node:
            return False
        node = node[part]
    return True


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
