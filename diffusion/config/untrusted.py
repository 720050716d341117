"""Untrusted configurations from files: read as plain data, and built only from classes named in conf/.

A checkpoint or a run's folder may come from somebody else. Its configuration must neither run code nor read the
environment: no interpolation is resolved, and each part may only name classes that the choices of its group name, in
conf/ or in a folder that the user passes to the current command (`--config-dir`, see `choices.searching`).
"""

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
    wanted = f"{where}: its configuration %s; expected one written by diffusion.train"
    try:
        if not isinstance(text, str):
            raise UserError(wanted % "is not plain yaml")
        for token in yaml.scan(text, Loader=yaml.SafeLoader):
            if isinstance(token, REFUSED_TOKENS):
                raise UserError(wanted % "is not plain yaml")
            if isinstance(token, yaml.ScalarToken) and "${" in token.value:
                raise UserError(wanted % f"contains the interpolation {' '.join(token.value.split())[:200]}")
        config = OmegaConf.to_container(OmegaConf.create(text))
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(wanted % f"can't be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, dict):
        raise UserError(wanted % "is not a mapping")
    return {str(key): value for key, value in config.items()}


def buildable_config(text: Any, where: Path | str) -> dict[str, Any]:
    """As `plain_config`, with checks that `PARTS` can be built and that only allowed classes are named."""
    config = plain_config(text, where)
    for part in (*PARTS, *OPTIONAL_PARTS):
        check_targets(config.get(part), part, where)
    for part in PARTS:
        node = config.get(part)
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str) or has_directives(node):
            raise UserError(
                f"{where}: its configuration has no {part} that can be built; use a file written by diffusion.train"
            )
    for part in OPTIONAL_PARTS:
        if config.get(part) and not isinstance(config[part], Mapping):
            raise UserError(f"{where}: its {part} is {config[part]!r:.80}; use a file written by diffusion.train")
    resolution = config["data"].get("resolution")
    sides = resolution if isinstance(resolution, list) and len(resolution) == 2 else [resolution]
    if any(type(side) is not int or side < 1 for side in sides):
        raise UserError(
            f"{where}: its data.resolution is {resolution!r}, expected pixels; use a file written by diffusion.train"
        )
    return config


def check_targets(node: Any, part: str, where: Path | str, trusted: Any = None) -> None:
    """Raise UserError if a part of a file's configuration names a class that no choice of its group names.

    Args:
        trusted: a node given by the user, whose classes are also allowed.
    """
    allowed = {*allowed_targets(part), *_targets(trusted)}
    for target in _targets(node):
        if target not in allowed:
            raise UserError(
                f"{where}: its {part} names {target}; a file may use only classes named in conf/{part}; if you trust "
                f"it, pass --config-dir CONF (diffusion.load: config_dir=CONF), where CONF/{part}/NAME.yaml names it"
            )


def allowed_targets(part: str) -> frozenset[str]:
    """Every `_target_` in the choices of a group and of its nested groups."""
    groups = (part, *inner_groups(part))
    return frozenset(target for group in groups for node in nodes(group) for target in _targets(node))


def has_directives(node: Any, nested: bool = False) -> bool:
    """Whether the node contains, at any depth, a directive for Hydra other than `_target_`, such as `_convert_`.

    A nested part may be a function (`_partial_`): its `_target_` is checked like all others.
    """
    if isinstance(node, Mapping):
        allowed = ("_target_", "_partial_") if nested and "_target_" in node else ("_target_",)
        special = any(str(key).startswith("_") and key not in allowed for key in node)
        special = special or not isinstance(node.get("_partial_", False), bool)
        return special or has_directives(list(node.values()), True)
    return isinstance(node, list | tuple) and any(has_directives(value, nested) for value in node)


def _targets(node: Any) -> Iterator[str]:
    """Yield every `_target_`, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
