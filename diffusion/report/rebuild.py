"""The run's own schedule and images, made again from its config.yaml, so that a report can be drawn at any time."""

from collections.abc import Iterator, Mapping
from typing import Any

from hydra.errors import HydraException
from hydra.utils import get_object, instantiate

from diffusion.errors import UserError
from diffusion.report.figures import Schedule


def schedule_of(config: Mapping[str, Any]) -> Schedule | None:
    """The schedule of a run's config; None where the config has none.

    Only what this project defines is made: a config that comes with a run from elsewhere must not choose which
    functions run here. Raises UserError for any other target, and for one that can't be made.
    """
    node = config.get("schedule")
    if not isinstance(node, Mapping):
        return None
    for target in _targets(node):
        if not _is_ours(target):
            raise UserError(f"config.yaml: schedule names {target}, expected one of diffusion.process.schedule")
    try:
        return instantiate(dict(node))
    except HydraException as error:
        reason = " ".join(str(error).split())
        raise UserError(f"config.yaml: this version can't make the run's schedule ({reason}); mend it there") from error


def _targets(node: Any) -> Iterator[str]:
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        node = list(node.values())
    if isinstance(node, list):
        for value in node:
            yield from _targets(value)


def _is_ours(target: str) -> bool:
    """True for what is defined in diffusion.*: `diffusion.paths.os.system` is reachable there, and not ours."""
    if not target.startswith("diffusion."):
        return False
    try:
        return str(getattr(get_object(target), "__module__", "")).startswith("diffusion.")
    except (HydraException, ValueError, ImportError, AttributeError):
        return False
