"""Build objects from a configuration: a mapping with `_target_` is a call of the class or function of that name.

Its other values are the arguments, of which the nested objects are built first. With `_partial_: true` it is that
function with these arguments set. Any failure is a one-line UserError. Beside a configuration, which is what was asked
for, stand its facts: arguments of the network that follow from the data and from other settings, and `guidance_step`,
the step whose weights guide the run's own samples.

A configuration in a file is untrusted: it must neither run code nor read the environment. It is read as plain data,
without interpolation, and each part may only name classes that the choices of its group name, in conf/ or in a folder
that the user passes to the current command (`--config-dir`, see `choices.searching`).
"""

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.config.choices import inner_groups, nodes
from diffusion.config.validation import check_arguments
from diffusion.errors import UserError, nearest

Facts = Mapping[str, int]
ARGUMENTS = ("in_channels", "out_channels", "classes", "augment", "coordinates")  # of a network that may be facts
PARTS = ("model", "schedule", "prediction", "data")  # required of a file, to sample and score
OPTIONAL_PARTS = ("sampler", "guidance", "features", "metrics")  # may be missing in an exported file
REFUSED_TOKENS = (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)  # never written by us; aliases can expand endlessly


def make(node: Mapping[str, Any], where: str, kind: type | None = None, **more: Any) -> Any:
    """Build the object that `node` describes.

    Args:
        where: the node's key in the configuration, such as `model`, for error messages.
        kind: the class of which it must be an object; None: any.
        more: further arguments, which are not written in the configuration.
    """
    if not isinstance(node, Mapping) or "_target_" not in node:
        raise UserError(f"{where}: it names no class; its yaml file needs a line _target_: PACKAGE.CLASS")
    check_node(node, where)
    made = _made(node, where, more)
    if kind is not None and not isinstance(made, kind):
        raise UserError(f"{where}: {node['_target_']} gives a {type(made).__name__}; expected a {kind.__name__}")
    return made


def model_of(config: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """The node of a network in a configuration, with the arguments that are facts. Both may be a stranger's."""
    return {**config["model"], **{key: facts[key] for key in ARGUMENTS if isinstance(facts.get(key), int)}}


def check_node(node: Any, where: str) -> None:
    """Raise UserError if the classes in a node do not exist, or a value does not have its annotated type."""
    for key, call in _calls(node, where):
        check_arguments(_named(call["_target_"], key), _arguments(call), key)


def _calls(node: Any, where: str = "") -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Yield every call in a node, at any depth, with its key."""
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _calls(value, f"{where}.{key}")
        if "_target_" in node:
            yield where, node
    elif isinstance(node, list | tuple):
        for value in node:
            yield from _calls(value, where)


def _named(target: Any, where: str) -> Callable[..., Any]:
    """The class or function with this full name."""
    parent, _, name = str(target).rpartition(".")
    try:
        found = locate(str(target))
    except ErrorDuringImport as error:
        raise UserError(f"{where}: {target} cannot be imported ({error.value})") from error
    if not callable(found):
        holder = locate(parent) if parent else None
        hint = nearest(name, dir(holder)) if holder else f"; install its package, or see --help {where.split('.')[0]}"
        raise UserError(f"{where}: {target} is no class or function that can be imported{hint}")
    return found


def _made(node: Any, where: str, more: Mapping[str, Any]) -> Any:
    if isinstance(node, list):
        return [_made(value, where, {}) for value in node]
    if not isinstance(node, Mapping):
        return node
    arguments = {key: _made(value, f"{where}.{key}", {}) for key, value in _arguments(node).items()} | dict(more)
    if "_target_" not in node:
        return arguments
    target = _named(node["_target_"], where)
    if node.get("_partial_"):
        return partial(target, **arguments)
    try:
        return target(**arguments)
    except UserError as error:  # the mathematics does not know the names of its settings
        if str(error).startswith(where.partition(".")[0]):
            raise
        raise UserError(f"{where}: {error}") from error
    except Exception as error:
        raise UserError(f"{where}: cannot build {node['_target_']}: {' '.join(str(error).split())}") from error


def _arguments(node: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): value for key, value in node.items() if key not in ("_target_", "_partial_")}


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
    known = [trusted, *(each for group in (part, *inner_groups(part)) for each in nodes(group))]
    allowed = {str(call["_target_"]) for _, call in _calls(known)}
    for _, call in _calls(node):
        if (target := str(call["_target_"])) not in allowed:
            raise UserError(
                f"{where}: its {part} names {target}; a file may use only classes named in conf/{part}; if you trust "
                f"it, pass --config-dir CONF (diffusion.load: config_dir=CONF), where CONF/{part}/NAME.yaml names it"
            )
