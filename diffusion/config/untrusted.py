"""Configurations in files are untrusted: they must neither run code nor read the environment.

They are read as plain data, without interpolation, and each part may only name classes that the choices of its group
name, in conf/ or in a folder that the user passes to the current command (`--config-dir`, see `choices.searching`).
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.config.choices import inner_groups, nodes
from diffusion.errors import UserError

PARTS = ("model", "schedule", "prediction", "data")  # required, to sample and score
OPTIONAL_PARTS = ("sampler", "guidance", "features", "metrics")  # may be missing in an exported file
REFUSED_TOKENS = (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)  # never written by us; aliases can expand endlessly


def plain_config(text: Any, where: Path | str) -> dict[str, Any]:
    """Parse a file's configuration as plain data.

    Raises UserError if it cannot be read or contains an interpolation `${…}`: diffusion.train resolves these before it
    writes a configuration.
    """
    try:
        if not isinstance(text, str) or any(isinstance(token, REFUSED_TOKENS) for token in yaml.scan(text)):
            raise ValueError("it is not plain yaml")
        config = OmegaConf.to_container(OmegaConf.create(text))
        if not isinstance(config, dict) or "${" in json.dumps(config, default=str):
            raise ValueError("it is not a mapping without interpolations ${…}")
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{where}: its configuration can't be read ({reason})") from error
    return {str(key): value for key, value in config.items()}


def check_targets(node: Any, part: str, where: Path | str, trusted: Any = None) -> None:
    """Raise UserError if a part of a file's configuration names a class that no choice of its group names.

    Args:
        trusted: a node given by the user, whose classes are also allowed.
    """
    named = [each for group in (part, *inner_groups(part)) for each in nodes(group)]
    allowed = {*_targets(named), *_targets(trusted)}
    for target in _targets(node):
        if target not in allowed:
            raise UserError(
                f"{where}: its {part} names {target}; a file may use only classes named in conf/{part}; if you trust "
                f"it, pass --config-dir CONF (diffusion.load: config_dir=CONF), where CONF/{part}/NAME.yaml names it"
            )


def _targets(node: Any) -> Iterator[str]:
    """Yield every `_target_`, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
