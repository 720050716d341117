"""Settings that `sample` and `evaluate` inherit from a checkpoint's recipe unless something else is chosen.

`sampler=run`, the default, selects the run's sampler. Single settings of it can be overridden: `sampler.steps=20`,
`grid@sampler.grid=karras`. The same applies to guidance, features, metrics and data. A number that is null is also
inherited from the run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from diffusion.config.choices import nodes
from diffusion.config.composition import INHERITED, RUN, composed
from diffusion.config.schema import SCORED, Settings
from diffusion.config.validation import flat, validated
from diffusion.errors import UserError, nearest

NUMBERS = {"seed": "seed", "n": "score.n", "batch_size": "score.batch_size"}  # setting -> that of diffusion.train
S = TypeVar("S", bound=Settings)


def completed(settings: S, recipe: Mapping[str, Any] | None, where: Path | str = "") -> S:
    """Fill in the `settings` that are inherited from the run, given its `recipe` from the file `where`.

    Without a recipe, and for parts that an exported file does not contain, the defaults of diffusion.train are used.
    Raises UserError for settings that must not come from a file.
    """
    values = settings.model_dump()
    for group in INHERITED:
        node = values.get(group)
        if node and node.pop("from", None) == RUN:
            inherited = of_run(group, recipe)
            if (group == "features" and inherited not in nodes(group)) or inherited.get("ckpt") is not None:
                raise UserError(
                    f"{where}: its {group} read other weights, and a file may not decide which are read; set {group} "
                    "yourself, such as features=clip features.source=FOLDER, or guidance=auto guidance.ckpt=RUN"
                )
            values[group] = _merged(inherited, node, group)
    own = flat(composed("train")) | flat(recipe or {})
    for key, place in NUMBERS.items():
        if key in values and values[key] is None and (recipe is not None or key != "n"):  # images: n=null is all
            values[key] = own[place] or (SCORED if key == "n" else 0)
    if values.get("data") and values["data"].get("seed", 0) is None:  # as in conf/data/landscapes.yaml
        values["data"]["seed"] = values.get("seed") or 0
    return validated(type(settings), values)


def of_run(group: str, recipe: Mapping[str, Any] | None) -> Any:
    """The node of a group in a run's recipe or, if it has none, the default of diffusion.train."""
    return (recipe or {}).get(group) or composed("train")[group] or {}


def _merged(inherited: Any, changes: Any, place: str) -> Any:
    """Apply `changes` to `inherited`, recursively. A node with its own `_target_` replaces the inherited one.

    Raises UserError for a setting that does not exist in `inherited`, which is at `place` in the configuration.
    """
    if not isinstance(inherited, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    for key, value in changes.items():
        if key not in inherited and not (isinstance(value, Mapping) and "_target_" in value):
            having = [name for name in inherited if not name.startswith("_")]
            raise UserError(
                f"{place}.{key}: the run's {place} has no such setting{nearest(key, having)}; it has "
                f"{', '.join(having) or 'none'}; or choose another, {place}=…"
            )
    merged = {key: _merged(inherited.get(key), value, f"{place}.{key}") for key, value in changes.items()}
    return {**inherited, **merged}
