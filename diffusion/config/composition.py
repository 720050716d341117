"""Hydra's composition of conf/ and of the settings' defaults, for those who need it outside of a command's beginning."""

from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig, OmegaConf

from diffusion.config.choices import conf_dir, is_group
from diffusion.config.schema import COMMANDS, Settings


def register_settings(name: str, schema: type[Settings]) -> None:
    """Make the defaults of a command's settings known to Hydra: conf/NAME.yaml includes NAME_settings."""
    ConfigStore.instance().store(f"{name}_settings", defaults(schema))


def defaults(schema: type[Settings]) -> dict[str, Any]:
    """The settings with their defaults, as plain values; `???` where there is none. Groups are left out."""
    found: dict[str, Any] = {}
    for key, field in schema.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, Settings):
            found[key] = defaults(field.annotation)
        elif not is_group(key):
            found[key] = "???" if field.is_required() else field.default
    return found


def composed(command: str, overrides: list[str]) -> DictConfig:
    """The configuration of a command with overrides."""
    for name, schema in COMMANDS.items():
        register_settings(name, schema)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        return compose(command, overrides)


def plain(node: Any) -> Any:
    """A part of a configuration as plain values, resolved."""
    return OmegaConf.to_container(node, resolve=True)
