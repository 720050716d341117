"""Objects out of a configuration, and the errors of making them as one line."""

import re
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from pydoc import ErrorDuringImport, locate
from typing import Any

import yaml
from hydra.errors import InstantiationException
from hydra.utils import instantiate
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from torch import nn

from diffusion.config.choices import choices_with, shipped
from diffusion.config.settings import check_arguments
from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser

PARTS = ("model", "schedule", "prediction", "data")  # of a configuration that comes with a file, what is built
FURTHER = ("sampler", "features", "metrics")  # and what may be: an exported file need not hold it
WITHIN = {"sampler": ("grid", "threshold", "variance")}  # groups that are chosen as parts of another
UNUSUAL = (yaml.AliasToken, yaml.AnchorToken, yaml.TagToken)  # never written here; aliases can grow without bound
EXTRAS = {"lion_pytorch": "optim"}  # packages that an extra of the project installs


def make(node: Any, group: str, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate(node, **kwargs)`; what goes wrong is a UserError of one line that names the group."""
    check_kinds(node, group)
    try:
        return instantiate(node, _convert_="all", **kwargs)  # plain lists: what an optimizer keeps is saved
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        package = next((name for name in EXTRAS if name in str(error)), None)
        if package is not None and isinstance(cause, ImportError):
            raise UserError(
                f"{group}: {package} is not installed; pip install 'diffusion-experiments[{EXTRAS[package]}]'"
            ) from error
        unknown = re.search(r"unexpected keyword argument '(\w+)'", str(cause))
        if unknown and (having := choices_with(group, unknown[1])):
            raise UserError(
                f"{group}: {str(node['_target_']).rpartition('.')[2]} has no {unknown[1]}; "
                f"use {' or '.join(f'{group}={choice}' for choice in having)}"
            ) from error
        target = node.get("_target_") if isinstance(node, Mapping) else type(node).__name__
        raise UserError(f"{group}: {target} cannot be made: {' '.join(str(cause).split())}") from error


def check_kinds(node: Any, where: str) -> None:
    """UserError where a value of the node, or of a part of it, is not what the class that it names says it takes."""
    if not isinstance(node, Mapping):
        return
    for key, value in node.items():
        check_kinds(value, f"{where}.{key}")
    if isinstance(target := node.get("_target_"), str):
        try:
            named = locate(target)
        except ErrorDuringImport:
            named = None
        if named is None:
            return  # `instantiate` says what is wrong with it
        plain = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else node
        assert isinstance(plain, Mapping)
        arguments = {str(key): value for key, value in plain.items() if not str(key).startswith("_")}
        check_arguments(named, arguments, where)


def denoiser(config: Mapping[str, Any]) -> Denoiser:
    """The denoiser (with fresh weights) that a configuration's model, schedule and prediction describe."""
    network: nn.Module = make(config["model"], "model")
    return Denoiser(network, make(config["schedule"], "schedule"), make(config["prediction"], "prediction"))


def stranger(text: Any, where: Path | str) -> dict[str, Any]:
    """A configuration that came with a file, as plain data to build from.

    It may come from somebody else. So what builds a denoiser or its data may name only what conf/ names for that part,
    at any depth. Raises UserError otherwise, and as `plain` does.
    """
    config = plain(text, where)
    for part in (*PARTS, *FURTHER):
        for target in _targets(config.get(part)):
            if target not in buildable(part):
                raise UserError(f"{where}: its {part} names {target}; from a file only what conf/{part} names is built")
    return config


def plain(text: Any, where: Path | str) -> dict[str, Any]:
    """A configuration that came with a file, as plain data to read, of which nothing is built.

    Nothing in it is interpolated, which could read the environment: one that diffusion.train wrote into a file holds no
    `${…}` any more. Raises UserError where it does, or can't be read.
    """
    wanted = f"{where}: its configuration %s; expected one written by diffusion.train"
    try:
        if not isinstance(text, str) or any(isinstance(t, UNUSUAL) for t in yaml.scan(text, Loader=yaml.SafeLoader)):
            raise UserError(wanted % "is not plain yaml")
        config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, RecursionError) as error:
        raise UserError(wanted % f"can't be read ({' '.join(str(error).split())[:200]})") from error
    if not isinstance(config, dict):
        raise UserError(wanted % "is no mapping")
    for value in _values(config):
        if isinstance(value, str) and "${" in value:
            raise UserError(wanted % f"holds the interpolation {value}")
    return {str(key): value for key, value in config.items()}


def check_parts(config: Mapping[str, Any], where: Path | str) -> None:
    """UserError unless every part of a file's configuration is a mapping that builds an object of our images' size."""
    for part in PARTS:
        node = config.get(part)
        if not isinstance(node, Mapping) or not isinstance(node.get("_target_"), str) or instructions(node):
            raise UserError(
                f"{where}: its configuration has no {part} that can be built; use a file of diffusion.train"
            )
    resolution = config["data"].get("resolution")
    if type(resolution) is not int or resolution < 1:
        raise UserError(
            f"{where}: its data.resolution is {resolution!r}, expected pixels; use a file of diffusion.train"
        )


def instructions(node: Any) -> bool:
    """Whether Hydra is told, at any depth, to build something otherwise, such as a function by `_partial_`."""
    if isinstance(node, Mapping):
        told = any(str(key).startswith("_") and key != "_target_" for key in node)
        return told or instructions(list(node.values()))
    return isinstance(node, list | tuple) and any(instructions(value) for value in node)


@cache
def buildable(part: str) -> frozenset[str]:
    """Every `_target_` in the choices of conf/<part> and of groups within it: what a file may name for this part."""
    groups = (part, *WITHIN.get(part, ()))
    return frozenset(target for group in groups for node in shipped(group) for target in _targets(node))


def _values(node: Any) -> Iterator[Any]:
    """Every value, at any depth. (Keys are never interpolated.)"""
    if isinstance(node, Mapping):
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _values(value)
    else:
        yield node


def _targets(node: Any) -> Iterator[str]:
    """Every `_target_`, at any depth."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list | tuple):
        for value in node:
            yield from _targets(value)
