"""The choices in conf/: one folder per group, one yaml file per choice.

Users add custom choices with a folder of the same structure: `--config-dir CONF`, see `searching`.
"""

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion.errors import UserError
from diffusion.files import PACKAGE

SEVERAL = ("logger", "callbacks")  # groups of which several choices can be combined
_own: ContextVar[tuple[Path, ...]] = ContextVar("own", default=())


@contextmanager
def searching(folders: Iterable[str | Path | None]) -> Iterator[None]:
    """Context in which these folders (None is ignored) add choices to those of conf/.

    The classes that they name are trusted like those of conf/, and may be built from a file. The folders must therefore
    come from the user, on the command line or as an argument, never from a file. Raises UserError for a missing folder.
    """
    own = [Path(folder).expanduser() for folder in folders if folder is not None]
    if missing := [folder for folder in own if not folder.is_dir()]:
        raise UserError(f"{missing[0]}: no such folder; expected one like conf/, with files GROUP/NAME.yaml")
    token = _own.set(tuple(own))
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
    """The names of all groups."""
    return tuple(sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and path.name != "hydra"))


def files(group: str) -> dict[str, Path]:
    """A group's choices, as name -> file."""
    found: dict[str, Path] = {}
    for folder in searched():
        for file in (folder / group).rglob("*.yaml"):
            found.setdefault(file.relative_to(folder / group).with_suffix("").as_posix(), file)
    return dict(sorted(found.items()))


def choices(group: str) -> list[str]:
    """The names of a group's choices."""
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
    with file.open(encoding="utf-8") as text:
        return yaml.safe_load(text)
