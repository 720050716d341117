"""Settings that `sample` and `evaluate` inherit from a checkpoint's recipe unless something else is chosen.

`sampler=run`, the default, selects the run's sampler. Single settings of it can be overridden: `sampler.steps=20`,
`grid@sampler.grid=karras`. The same applies to guidance, features, metrics and data. A number that is null is also
inherited from the run.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from omegaconf import DictConfig

from diffusion.config.choices import nodes
from diffusion.config.composition import INHERITED, RUN, composed, plain
from diffusion.config.schema import SCORED, Settings
from diffusion.errors import UserError, nearest

NUMBERS = {"seed": ("seed",), "n": ("score", "n"), "batch_size": ("score", "batch_size")}
S = TypeVar("S", bound=Settings)


def completed(settings: S, recipe: Mapping[str, Any] | None, where: Path | str = "") -> S:
    """Fill in the `settings` that are inherited from the run, given its `recipe` from the file `where`.

    Without a recipe, and for parts that an exported file does not contain, the defaults of diffusion.train are used.
    Raises UserError for settings that must not come from a file.
    """
    changes: dict[str, Any] = {}
    defaults = composed("train")
    for group in INHERITED:
        node = getattr(settings, group, None)
        if isinstance(node, dict) and node.get("from") == RUN:
            inherited = of_run(group, recipe, defaults)
            if group == "features" and inherited not in nodes(group):
                raise UserError(
                    f"{where}: its features differ from conf/features, and a file may not decide which "
                    "weights are read; set them yourself, such as features=clip features.source=FOLDER"
                )
            if group == "guidance" and inherited.get("ckpt") is not None:
                raise UserError(
                    f"{where}: its guidance uses another model, and a file may not decide which weights are read; set "
                    "it yourself, such as guidance=auto guidance.ckpt=RUN, or guidance=none"
                )
            chosen = {key: value for key, value in node.items() if key != "from"}
            changes[group] = _merged(inherited, chosen, group)
    for key, path in NUMBERS.items():
        if getattr(settings, key, 0) is None and (recipe is not None or key != "n"):  # images: n=null is all
            changes[key] = _number(recipe or {}, path, where) or _number(defaults, path, where)
    if changes.get("n", SCORED) in (0, None):  # the run scored none
        changes["n"] = SCORED
    data = changes.get("data", getattr(settings, "data", None))
    if isinstance(data, dict) and data.get("seed", 0) is None:  # as in conf/data/landscapes.yaml: that of the command
        changes["data"] = {**data, "seed": changes.get("seed") or 0}
    return settings.model_copy(update=changes)


def of_run(group: str, recipe: Mapping[str, Any] | None, defaults: DictConfig | None = None) -> Any:
    """The node of a group in a run's recipe or, if it has none, the default of diffusion.train."""
    others = composed("train") if defaults is None else defaults
    return (recipe or {}).get(group) or plain(others.get(group, {}))


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
    return {
        **inherited,
        **{key: _merged(inherited.get(key), value, f"{place}.{key}") for key, value in changes.items()},
    }


def _number(recipe: Mapping[str, Any], path: tuple[str, ...], where: Path | str) -> int | None:
    """The integer at `path` in a recipe from the file `where`; None if missing."""
    value: Any = recipe
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is not None and (type(value) is not int or value < 0):
        raise UserError(f"{where}: its {'.'.join(path)} is {value!r}, expected a whole number; set {path[-1]}=…")
    return value
