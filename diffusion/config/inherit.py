"""What a model or a run passes on: its settings, in whose place others may be given.

who inherits                    from                   what, if the words do not choose it
a resumed run                   its own config.yaml    everything
sample, edit, evaluate, study   the recipe of `ckpt`   the groups whose choice in conf/NAME.yaml is `run`
a training with `init=MODEL`    the recipe of `init`   those `init` in conf/init.yaml, and the size of the images
finetune                        the recipe of `init`   those `init` in conf/finetune.yaml, and what is no group

Hydra composes these choices as nodes that accept any settings, because those of the model are not known yet.
"""

from collections.abc import Collection, Mapping, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any, NamedTuple

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from diffusion.config.build import check_targets, flat
from diffusion.config.choices import SEVERAL, choice, composed, groups, leaves
from diffusion.errors import UserError, nearest

Values = dict[str, Any]


class Change(NamedTuple):
    """A setting that is given, `sampler.steps=20`; for a choice, such as `grid@sampler.grid=karras`, with its group."""

    place: str
    value: Any
    group: str = ""
    adds: bool = False
    deletes: bool = False

    @property
    def part(self) -> str:
        """The setting, or group, that it belongs to: `sampler`."""
        return self.place.partition(".")[0]


def changes_of(words: Sequence[str]) -> list[Change]:
    """The settings and choices in the words of a command line, without the choices that leave a group to a model."""
    found = []
    for word in OverridesParser.create().parse_overrides([*words]):
        key, value = str(word.key_or_group), word.value()
        group = key if key in groups() else ""
        if not (group and leaves(group, value)):
            found.append(Change(str(word.package or key), value, group, word.is_add(), word.is_delete()))
    return found


def of_recipe(group: str, recipe: Mapping[str, Any]) -> Any:
    """The node of a group in a recipe or, if it has none, the default of `diffusion train`."""
    return deepcopy(recipe[group]) if group in recipe else composed("train")[group]


def inherit(
    base: Values, changes: Sequence[Change], parts: Collection[str] | None = None, file: Path | None = None
) -> Values:
    """The settings `base`, with the changes of these parts; None: of all. (Those of Hydra are no settings.)

    The base is data without interpolations, which `plain_config` refuses; those of choices are resolved in the result.
    Raises UserError for a setting that the base does not have. Of a base that was read from a `file`, a class that
    conf/ does not name is only accepted if the changes name it again, directly or with a folder of choices
    (`--config-dir`).
    """
    made = deepcopy(base)
    given = [each for each in changes if not each.part.startswith("hydra") and (parts is None or each.part in parts)]
    for change in sorted(given, key=lambda each: each.place.count(".")):  # choices come first
        _set(made, change)
    found: Any = OmegaConf.to_container(OmegaConf.create(made), resolve=True)
    if file is not None:
        named = [{"_target_": change.value} for change in given if change.place.endswith("._target_")]
        for part in groups():
            check_targets(found.get(part), part, file, named)
    return {**found}


def _set(values: Values, change: Change) -> None:
    *path, last = change.place.split(".")
    node: Any = values
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if path and not values.get(change.part, True):
        raise UserError(f"{change.place}: the run has no {change.part}; choose one, such as {change.part}=…")
    if not isinstance(node, dict) or (last not in node and not change.adds):
        near = nearest(change.place, flat(values))
        raise UserError(f"{change.place}: the run has no such setting{near}; +{change.place}=… adds it")
    if change.deletes:
        del node[last]
    elif change.group in SEVERAL and isinstance(change.value, list):  # several choices together
        chosen = [choice(change.group, each, resolve=False) for each in change.value]
        node[last] = {name: part for each in chosen for name, part in each.items()}
    else:
        node[last] = choice(change.group, str(change.value), resolve=False) or None if change.group else change.value
