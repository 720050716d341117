"""The run's own: what `sample` and `evaluate` take from a checkpoint's recipe where nothing else is chosen.

`sampler=run`, which is their default, stands for the run's sampler; settings given beside it change single ones of it:
`sampler.steps=20`, `grid@sampler.grid=karras`. So with features, metrics and data; a number that is null is the run's.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.config_store import ConfigStore
from omegaconf import DictConfig, OmegaConf

from diffusion.config.choices import shipped
from diffusion.errors import UserError, nearest

RUN = "run"
PLACED = {"sampler": ("grid", "threshold", "variance"), "features": (), "metrics": (), "data": ()}  # groups within each
NUMBERS = {"seed": ("seed",), "n": ("score", "n"), "batch_size": ("score", "batch_size")}


def register() -> None:
    """Make the choice `run` known to Hydra; its node takes any settings, as the run's are not known yet."""
    for group, within in PLACED.items():
        node = {"defaults": ["_self_", *({f"/{part}@{part}": None} for part in within)], "from": RUN}
        ConfigStore.instance().store(name=RUN, group=group, node=DictConfig(node, flags={"struct": False}))


def completed(cfg: DictConfig, recipe: Mapping[str, Any] | None, where: Path | str = "") -> DictConfig:
    """`cfg` with what it leaves to the run, whose `recipe` is that of the file `where`.

    Without a recipe, and for what an exported file does not hold, they are diffusion.train's defaults. Raises UserError
    for what cannot be taken from a file.
    """
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    usual: Any = OmegaConf.to_container(compose("train"), resolve=False)
    for group in PLACED.keys() & plain.keys():
        if isinstance(node := plain[group], dict) and node.pop("from", None) == RUN:
            own = (recipe or {}).get(group) or usual[group]
            if group == "features" and own not in shipped(group):
                raise UserError(
                    f"{where}: its features are set otherwise than conf/features has them, and a file may not say "
                    "which weights are read; choose them again, such as features=clip features.source=FOLDER"
                )
            plain[group] = merged(own, node, group)
    for key, path in NUMBERS.items():
        if plain.get(key, 0) is None and (recipe is not None or key != "n"):  # n of images: all of them
            plain[key] = number(recipe or {}, path, where) or number(usual, path, where)
    return OmegaConf.create(plain)


def merged(own: Any, changes: Any, place: str) -> Any:
    """`own` with the changes, at any depth; what says itself what it is (`_target_`) comes in its place.

    Raises UserError for a setting that `own`, at `place` in the configuration, does not have.
    """
    if not isinstance(own, Mapping) or not isinstance(changes, Mapping) or "_target_" in changes:
        return changes
    for key, value in changes.items():
        if key not in own and not (isinstance(value, Mapping) and "_target_" in value):
            having = [name for name in own if not name.startswith("_")]
            raise UserError(
                f"{place}.{key}: the run's {place} has no such setting{nearest(key, having)}; it has "
                f"{', '.join(having) or 'none'}; or choose another, {place}=…"
            )
    return {**own, **{key: merged(own.get(key), value, f"{place}.{key}") for key, value in changes.items()}}


def number(recipe: Mapping[str, Any], path: tuple[str, ...], where: Path | str) -> int | None:
    """The whole number at `path` of a recipe out of the file `where`; None where there is none."""
    value: Any = recipe
    for key in path:
        value = value.get(key) if isinstance(value, Mapping) else None
    if value is not None and (type(value) is not int or value < 0):
        raise UserError(f"{where}: its {'.'.join(path)} is {value!r}, expected a whole number; give {path[-1]}=…")
    return value
