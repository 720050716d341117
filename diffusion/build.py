"""Objects out of a configuration, and the errors of making them as one line."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import OmegaConf
from torch import nn

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser

EXTRAS = {"lion_pytorch": "optim"}  # packages that an extra of the project installs


def make(node: Any, group: str, **kwargs: Any) -> Any:
    """`hydra.utils.instantiate(node, **kwargs)`; what goes wrong is a UserError of one line that names the group."""
    try:
        return instantiate(node, **kwargs)
    except InstantiationException as error:
        cause = error.__cause__ or error
        if isinstance(cause, UserError):
            raise cause from None
        package = next((name for name in EXTRAS if name in str(error)), None)
        if package is not None and isinstance(cause, ImportError):
            raise UserError(
                f"{group}: {package} is not installed; pip install 'diffusion-experiments[{EXTRAS[package]}]'"
            ) from error
        target = node.get("_target_") if isinstance(node, Mapping) else type(node).__name__
        raise UserError(f"{group}: {target} cannot be made: {' '.join(str(cause).split())}") from error


def denoiser(config: Mapping[str, Any]) -> Denoiser:
    """The denoiser (with fresh weights) that a configuration's model, schedule and prediction describe."""
    network: nn.Module = make(config["model"], "model")
    return Denoiser(network, make(config["schedule"], "schedule"), make(config["prediction"], "prediction"))


def stranger(text: str, where: Path | str) -> dict[str, Any]:
    """A configuration that came with a file, as plain data.

    It may come from somebody else, so nothing in it is interpolated, and every `_target_` in the parts that build a
    denoiser or its data must be this project's own. Raises UserError otherwise.
    """
    config = OmegaConf.to_container(OmegaConf.create(text), resolve=False)
    if not isinstance(config, dict):
        raise UserError(f"{where}: its configuration is no mapping; expected one written by diffusion.train")
    for part in ("model", "schedule", "prediction", "data"):
        for target in _targets(config.get(part)):
            if not is_ours(target):
                raise UserError(f"{where}: its {part} names {target}; only diffusion.* is built from a file")
    return {str(key): value for key, value in config.items()}


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def is_ours(target: str) -> bool:
    """True for what is defined in diffusion.*: `diffusion.paths.os.system` is reachable there, and not ours."""
    if not target.startswith("diffusion."):
        return False
    try:
        return str(getattr(get_object(target), "__module__", "")).startswith("diffusion.")
    except Exception:
        return False
