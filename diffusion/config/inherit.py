"""What `sample` and `evaluate` take from a checkpoint's recipe where nothing else is chosen.

`sampler=run`, their default, means the run's sampler; single settings of it can be changed beside it:
`sampler.steps=20`, `grid@sampler.grid=karras`. The same holds for features, metrics and data. A number that is null is
the run's too.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig

from diffusion.config.choices import inner_groups, nodes
from diffusion.config.composition import composed, plain
from diffusion.config.schema import Settings
from diffusion.errors import UserError, nearest

RUN = "run"
GROUPS = ("sampler", "guidance", "features", "metrics", "data")  # that may be the run's
NUMBERS = {"seed": ("seed",), "n": ("score", "n"), "batch_size": ("score", "batch_size")}
S = TypeVar("S", bound=Settings)


def register() -> None:
    """Make the choice `run` known to Hydra. Its node takes any settings, because the run's are not known yet."""
    for group in GROUPS:
        node = {"defaults": ["_self_", *({f"/{part}@{part}": None} for part in inner_groups(group))], "from": RUN}
        ConfigStore.instance().store(name=RUN, group=group, node=DictConfig(node, flags={"struct": False}))


def completed(settings: S, recipe: Mapping[str, Any] | None, where: Path | str = "") -> S:
    """`settings` with what they leave to the run, whose `recipe` comes from the file `where`.

    Without a recipe, and for what an exported file does not hold, the defaults of diffusion.train are taken. Raises
    UserError for what must not be taken from a file.
    """
    changes: dict[str, Any] = {}
    defaults = composed("train")
    for group in GROUPS:
        node = getattr(settings, group, None)
        if isinstance(node, dict) and node.get("from") == RUN:
            inherited = of_run(group, recipe, defaults)
            if group == "features" and inherited not in nodes(group):
                raise UserError(
                    f"{where}: its features are set differently from conf/features, and a file may not say which "
                    "weights are read; choose them again, such as features=clip features.source=FOLDER"
                )
            if group == "guidance" and inherited.get("ckpt") is not None:
                raise UserError(
                    f"{where}: its guidance is by another model, and a file may not say which weights are read; choose "
                    "it again, such as guidance=auto guidance.ckpt=RUN, or guidance=none"
                )
            chosen = {key: value for key, value in node.items() if key != "from"}
            changes[group] = _merged(inherited, chosen, group)
    for key, path in NUMBERS.items():
        if getattr(settings, key, 0) is None and (recipe is not None or key != "n"):  # n of images: all of them
            changes[key] = _number(recipe or {}, path, where) or _number(defaults, path, where)
    return settings.model_copy(update=changes)


def of_run(group: str, recipe: Mapping[str, Any] | None, defaults: DictConfig | None = None) -> Any:
    """The choice of a group in a run's recipe; where it has none, the default of diffusion.train."""
    others = composed("train") if defaults is None else defaults
    return (recipe or {}).get(group) or plain(others.get(group, {}))


def _merged(inherited: Any, changes: Any, place: str) -> Any:
    """`inherited` with the changes, at any depth; a node with a `_target_` of its own replaces the inherited one.

    Raises UserError for a setting that `inherited`, at `place` in the configuration, does not have.
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
    """The whole number at `path` of a recipe from the file `where`; None where there is none."""
    value: Any = recipe
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is not None and (type(value) is not int or value < 0):
        raise UserError(f"{where}: its {'.'.join(path)} is {value!r}, expected a whole number; give {path[-1]}=…")
    return value
