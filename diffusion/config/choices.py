"""The choices in conf/: one folder per group, one yaml file per choice; and their composition by Hydra.

Users add custom choices with a folder of the same structure: `--config-dir CONF`, see `searching`.
"""

import json
import re
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from diffusion.base.files import PACKAGE
from diffusion.config.schema import COMMANDS, Settings
from diffusion.errors import UserError, first_line, nearest, shown

SEVERAL = ("logger", "callbacks")  # groups of which several choices can be combined
RUN, INIT = "run", "init"  # the choices that leave a group to the run of `ckpt`, or of `init`: see `config.inherit`
_COMPOSING = threading.Lock()  # Hydra's state belongs to the whole process; the studio's requests are threads
_own: ContextVar[tuple[Path, ...]] = ContextVar("own", default=())


@contextmanager
def searching(folders: Iterable[str | Path | None]) -> Iterator[None]:
    """Context in which these folders add choices to those of conf/; without one (None is none), those of before do.

    The classes that they name are trusted like those of conf/, and may be built from a file. The folders must therefore
    come from the user, on the command line or as an argument, never from a file. Raises UserError for a missing folder.
    """
    own = [Path(folder).expanduser() for folder in folders if folder is not None]
    if missing := [folder for folder in own if not folder.is_dir()]:
        raise UserError(f"{missing[0]}: no such folder; expected one like conf/, with files GROUP/NAME.yaml")
    token = _own.set(tuple(own) or _own.get())
    try:
        yield
    finally:
        _own.reset(token)


def conf_dir() -> Path:
    """The folder of yaml files: inside the package if installed from a wheel, next to it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def searched() -> tuple[Path, ...]:
    """conf/ and the user's folders, in Hydra's order: the first of two files with the same name wins."""
    return conf_dir(), *_own.get()


@cache
def groups() -> tuple[str, ...]:
    return tuple(sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"))


def files(group: str) -> dict[str, Path]:
    """A group's choices, as name -> file."""
    found: dict[str, Path] = {}
    for folder in searched():
        for file in (folder / group).rglob("*.yaml"):
            found.setdefault(file.relative_to(folder / group).with_suffix("").as_posix(), file)
    return dict(sorted(found.items()))


def choices(group: str) -> list[str]:
    return list(files(group))


def inner_groups(group: str) -> tuple[str, ...]:
    """The groups nested in another one, such as `grid` in `sampler`."""
    text = "\n".join(file.read_text("utf-8") for file in files(group).values())
    return tuple(sorted({*re.findall(r"^ *- /(\w+)@", text, re.MULTILINE)}))


def nodes(group: str) -> list[Any]:
    """The parsed yaml files of a group's choices, without interpolation and the files that they include."""
    return [_parsed(file) for file in files(group).values()]


@cache
def _parsed(file: Path) -> Any:
    return yaml.safe_load(file.read_text("utf-8"))


@cache
def register(config: str) -> None:
    """Register with Hydra what conf/CONFIG.yaml includes besides the files of conf/.

    These are the defaults of a command's settings, as COMMAND_settings, and the choice that leaves a group to a model.
    """
    store = ConfigStore.instance()
    if config in COMMANDS:
        store.store(f"{config}_settings", defaults(COMMANDS[config]))
    for group in left_by(config):
        node = {"defaults": ["_self_", *({f"/{part}@{part}": None} for part in inner_groups(group))]}
        store.store(name=default_choices(config)[group], group=group, node=DictConfig(node, flags={"struct": False}))


def default_choices(config: str) -> dict[str, str]:
    """Group -> its choice in conf/CONFIG.yaml."""
    listed = yaml.safe_load((conf_dir() / f"{config}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    named = {group.removeprefix("override "): shown(choice) for group, choice in found.items()}
    return {group: choice for group, choice in named.items() if group in groups()}


def leaves(group: str, choice: object) -> bool:
    """Whether a choice leaves its group to a model, or a method of inverse problems to the operator."""
    return choice in (RUN, INIT) or (group, choice) == ("inpainting", "auto")


def left_by(config: str) -> list[str]:
    """The groups that conf/CONFIG.yaml leaves to a model."""
    return [group for group, choice in default_choices(config).items() if leaves(group, choice)]


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
    name = [f"name={command}"] if "name" in COMMANDS[command].model_fields else []
    found: dict[str, Any] = _composed(command, (*name, *overrides), searched())
    return deepcopy(found)


def choice(group: str, words: str, resolve: bool = True, **settings: Any) -> dict[str, Any]:
    """The configuration node of a choice, with changed settings: `choice("sampler", "heun", steps=18, grid="karras")`.

    A nested group is the name of a choice, or changes to the settings of its choice. Overrides may follow the choice:
    "heun sampler.steps=18". Interpolations such as `${seed}` stay unless they are to `resolve`. Raises UserError for an
    unknown choice or setting.
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
