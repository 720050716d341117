"""Resume a run in its own folder: its saved configuration with the overrides of the command line.

`hydra.run.dir=RUN ckpt=auto` continues with the recipe of RUN. The saved configuration is data, never a command line:
no interpolation is resolved, and a class that conf/ does not name is only built if the command line names it again,
directly or with a folder of choices (`--config-dir`).
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from omegaconf import OmegaConf

from diffusion.config.build import check_targets, flat, plain_config
from diffusion.config.choices import SEVERAL, choice, groups
from diffusion.console import console
from diffusion.errors import UserError, nearest


def resumed_run(words: list[str]) -> tuple[Path, dict[str, Any]] | None:
    """The folder and the settings of the run that the overrides resume in its own folder; None if they do not.

    With `experiment=…`, the command line states the whole recipe again, and Hydra composes it.
    """
    overrides = OverridesParser.create().parse_overrides(words)
    given = {override.key_or_group: override.value() for override in overrides}
    if given.get("ckpt") not in ("auto", "last") or "hydra.run.dir" not in given or "experiment" in given:
        return None
    folder = Path(str(given["hydra.run.dir"])).absolute()
    file = folder / "config.yaml"
    if not file.is_file():
        return None
    console.print(f"resuming with the settings in {file}")
    settings = plain_config(file.read_text("utf-8"), file)
    for override in sorted(overrides, key=lambda each: each.key_or_group not in groups()):  # choices come first
        if not override.key_or_group.startswith("hydra"):
            apply(override, settings)
    composed: Any = OmegaConf.to_container(OmegaConf.create(settings), resolve=True)
    named = [{"_target_": o.value()} for o in overrides if o.key_or_group.endswith("._target_")]
    for part, node in composed.items():
        if part in groups():
            check_targets(node, part, folder, named)
    return folder, composed


def apply(override: Override, settings: dict[str, Any]) -> None:
    """Change saved settings as an override says. Raises UserError for a setting that they do not have."""
    group, value = override.key_or_group, override.value()
    key = str(override.package or group)
    *path, last = key.split(".")
    node: Any = settings
    for name in path:
        node = node.get(name) if isinstance(node, Mapping) else None
    if not isinstance(node, dict) or (last not in node and not override.is_add()):
        raise UserError(f"{key}: the run has no such setting{nearest(key, flat(settings))}; +{key}=… adds it")
    if override.is_delete():
        del node[last]
    elif group in SEVERAL and isinstance(value, list):  # several choices together
        node[last] = {name: part for each in value for name, part in choice(group, each, resolve=False).items()}
    else:
        node[last] = choice(group, str(value), resolve=False) or None if group in groups() else value
