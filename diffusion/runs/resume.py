"""Resume a run in its own folder: its saved configuration plus the overrides of the command line.

`hydra.run.dir=RUN ckpt=auto` continues with the recipe of RUN. The saved configuration is data, never a command line:
no interpolation is resolved, and a class that conf/ does not name is only built if the command line names it again,
directly or with a folder of choices (`--config-dir`).
"""

import copy
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from diffusion.config import messages, untrusted
from diffusion.config.choices import SEVERAL, choices, files, is_group
from diffusion.config.composition import flat
from diffusion.config.quoting import command_line, hydra_value
from diffusion.console import console
from diffusion.errors import UserError
from diffusion.files import replace
from diffusion.runs.record import RunRecord

IGNORED = ("experiment",)  # groups of presets for other choices, which are saved separately
MISSING = object()


@dataclass(frozen=True)
class ResumedRun:
    """The configuration saved in a run's folder."""

    folder: Path
    config: dict[str, Any]
    overrides: list[Override]  # from the command line

    @property
    def choices(self) -> list[str]:
        """GROUP=CHOICE for each choice in the run's configuration that still exists.

        Hydra composes the command line on top of them, so their settings can be overridden.
        """
        noted = self.folder / ".hydra/hydra.yaml"
        try:
            made = dict(yaml.safe_load(noted.read_text("utf-8"))["hydra"]["runtime"]["choices"])
        except (OSError, ValueError, TypeError, LookupError, AttributeError, yaml.YAMLError):
            return []
        given = tuple(f"{place}." for override in self.overrides for place in _places(override))
        for group in SEVERAL:  # Hydra does not record lists of choices, but each is a key of the node
            node = self.config.get(group)
            names = [name for name in choices(group) if isinstance(node, Mapping) and name in node]
            made.setdefault(group, f"[{','.join(names)}]")
        return [
            f"{key}={choice}"
            for key, choice in made.items()
            if is_group(group := str(key).partition("@")[0])
            and group not in IGNORED
            and str(key).rpartition("@")[2].partition(".")[0] in self.config  # not those of an evaluation in the folder
            and not f"{str(key).rpartition('@')[2]}.".startswith(given)
            and all(name.strip() in choices(group) for name in str(choice).strip("[]").split(","))
        ]

    @contextmanager
    def keeping_choices(self) -> Iterator[None]:
        """Context that restores the files in .hydra at its end, unless the run has written a new config.yaml.

        Hydra writes its files before the run is checked; after a refused attempt, they must still describe config.yaml.
        """
        noted = [self.folder / ".hydra" / name for name in ("config.yaml", "hydra.yaml", "overrides.yaml")]
        config = self.folder / "config.yaml"
        before = {path: path.read_bytes() for path in (config, *noted) if path.is_file()}
        try:
            yield
        finally:
            if config.read_bytes() == before.pop(config):
                for path, content in before.items():
                    if path.read_bytes() != content:
                        replace(path, content)

    def with_overrides(self, composed: Mapping[str, Any]) -> dict[str, Any]:
        """The saved configuration, with the keys overridden on the command line taken from `composed`.

        Raises UserError if the saved configuration names an untrusted class.
        """
        result = copy.deepcopy(self.config)
        for override in self.overrides:
            for place in _places(override):
                _set(result, place, _get(composed, place))
        for part, node in result.items():
            if is_group(part):
                untrusted.check_targets(node, part, self.folder, composed.get(part))
        return result


def resumed_run(words: list[str]) -> ResumedRun | None:
    """The run that the command line resumes in its own folder; None if it does not resume one."""
    if any(word in ("-m", "--multirun") for word in words):
        return None
    try:
        overrides = OverridesParser.create().parse_overrides(messages.options_of(words)[0].overrides)
    except HydraException:
        return None  # Hydra will report what is wrong with them
    given = {override.key_or_group: override.value() for override in overrides}
    if given.get("ckpt") not in ("auto", "last") or "hydra.run.dir" not in given:
        return None
    file = Path(str(given["hydra.run.dir"])) / "config.yaml"
    if not file.is_file():
        if any(file.parent.glob("checkpoints/*.ckpt")):
            raise UserError(
                f"{file}: missing; without it, a run in this folder would resume with other settings; restore it, or "
                f"pass all settings and another folder: hydra.run.dir=… ckpt={file.parent}/checkpoints/last.ckpt"
            )
        _check_repeated(file.parent, overrides)
        return None
    console.print(f"resuming with the settings in {file}")
    return ResumedRun(file.parent, untrusted.plain_config(file.read_text("utf-8"), file), overrides)


def _check_repeated(folder: Path, overrides: list[Override]) -> None:
    """Raise UserError if a run that stopped before it wrote config.yaml is not started again with all its choices.

    A run that failed is no such case: its settings may have been wrong.
    """
    noted = folder / ".hydra/overrides.yaml"
    if RunRecord(folder).state not in ("interrupted", "died"):
        return
    begun = yaml.safe_load(noted.read_text("utf-8")) if noted.is_file() else []
    before = OverridesParser.create().parse_overrides(begun or [])
    missing = {override.key_or_group for override in before} - {override.key_or_group for override in overrides}
    if missing - {"ckpt"}:
        raise UserError(
            f"{folder}: its run stopped before training began, so its settings are not recorded yet; repeat its "
            f"command: {command_line('train', [*begun, f'hydra.run.dir={hydra_value(folder)}'])}; or remove the folder"
        )


def _places(override: Override) -> Iterator[str]:
    """Yield the keys of the configuration set by an override; a choice sets everything below its key."""
    key = str(override.key_or_group)
    if key == "experiment":
        yield from _places_of_experiment(str(override.value()))
    elif not key.startswith("hydra"):
        yield str(override.package or key)


def _places_of_experiment(name: str) -> Iterator[str]:
    """Yield the keys set by a choice of `experiment`, including those of experiments that it includes."""
    file = files("experiment").get(name)  # Hydra will report a missing one
    node = yaml.safe_load(file.read_text("utf-8")) or {} if file else {}
    for entry in node.pop("defaults", []):
        if isinstance(entry, Mapping):
            yield from (re.sub(r"^override /(?:\w+@)?", "", str(group)) for group in entry)
        elif entry != "_self_":
            yield from _places_of_experiment(str(entry))
    yield from flat(node)


def _get(config: Any, place: str) -> Any:
    for key in place.split("."):
        if not isinstance(config, Mapping) or key not in config:
            return MISSING
        config = config[key]
    return config


def _set(config: dict[str, Any], place: str, value: Any) -> None:
    *path, last = place.split(".")
    for key in path:
        inner = config.get(key)
        config[key] = config = inner if isinstance(inner, dict) else {}
    if value is MISSING:
        config.pop(last, None)
    else:
        config[last] = copy.deepcopy(value)
