"""Compose conf/ and the default settings with Hydra, outside a command's own startup."""

import json
import threading
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion.config.choices import choices, groups, inner_groups, searched
from diffusion.config.schema import COMMANDS, Settings
from diffusion.errors import UserError, first_line, nearest

RUN = "run"  # the choice of other commands that inherits the settings of the run, see `evaluation.inherited`
INHERITED = ("sampler", "guidance", "features", "metrics", "data")  # groups that have this choice
_COMPOSING = threading.Lock()  # Hydra's state belongs to the whole process; the studio's requests are threads


@cache
def register(command: str) -> None:
    """Register with Hydra what conf/COMMAND.yaml includes besides the files of conf/.

    These are the defaults of the command's settings, as COMMAND_settings, and the choice `run`. It accepts any
    settings, because those of the run are not known yet. diffusion.train has no run to inherit from.
    """
    store = ConfigStore.instance()
    store.store(f"{command}_settings", defaults(COMMANDS[command]))
    for group in INHERITED if command != "train" else ():
        node = {"defaults": ["_self_", *({f"/{part}@{part}": None} for part in inner_groups(group))], "from": RUN}
        store.store(name=RUN, group=group, node=DictConfig(node, flags={"struct": False}))


def defaults(schema: type[Settings], prefix: str = "") -> dict[str, Any]:
    """The settings, all beginning with `prefix`, and their defaults; `???` for required ones. Groups are omitted."""
    found: dict[str, Any] = {}
    for key, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found[key] = defaults(field.annotation, f"{prefix}{key}.")
        elif prefix + key not in groups():
            found[key] = "???" if field.is_required() else field.default
    return found


def composed(command: str, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The configuration of a command with overrides, as plain values. Without a name, it has that of the command."""
    register(command)
    found: dict[str, Any] = _composed(command, (f"name={command}", *overrides), searched())
    return deepcopy(found)


def choice(group: str, words: str, resolve: bool = True, **settings: Any) -> dict[str, Any]:
    """The configuration node of a choice, with changed settings: `choice("sampler", "heun", steps=18, grid="karras")`.

    A nested group is the name of a choice, or changes to the settings of its choice. Overrides may follow the choice:
    "heun sampler.steps=18". Raises UserError for an unknown choice or setting.

    Args:
        resolve: whether to resolve interpolations such as `${seed}`.
    """
    name, *overrides = words.split() or [""]
    if name not in choices(group):
        near = nearest(name, choices(group))
        raise UserError(f"{group}={name}: unknown choice{near}; it is one of {', '.join(choices(group))}")
    try:
        found = _composed(f"{group}/{name}", tuple(overrides), searched(), resolve)
    except HydraException as error:
        if not overrides:
            raise
        raise UserError(f"{words}: {first_line(error)}; settings follow as in 'ddim sampler.steps=20'") from error
    node: dict[str, Any] = deepcopy(found.get(group)) or {}
    for key, value in settings.items():
        if key not in node:
            raise UserError(f"{group}.{key}: {group}={words} has no such setting{nearest(key, node)}")
        if key in groups() and isinstance(value, str):
            value = choice(key, value)
        elif key in groups() and isinstance(value, Mapping) and "_target_" not in value:
            value = {**(node[key] or {}), **value}
        node[key] = value
    return node


@cache
def _composed(config: str, overrides: tuple[str, ...], folders: tuple[Path, ...], resolve: bool = True) -> Any:
    """Compose a file of `folders` with overrides, in 0.15 s. Hydra's global state is restored afterwards."""
    main = next(folder for folder in folders if (folder / f"{config}.yaml").is_file())
    others = [str(folder.absolute()) for folder in folders if folder != main]
    path = [f"hydra.searchpath={json.dumps(others)}"] if others else []
    with _COMPOSING:
        before = GlobalHydra.instance().hydra
        GlobalHydra.instance().clear()
        try:
            with initialize_config_dir(str(main.absolute()), version_base="1.3"):
                return OmegaConf.to_container(compose(config, [*overrides, *path]), resolve=resolve)
        finally:
            GlobalHydra.instance().hydra = before
