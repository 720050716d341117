"""The choices that conf/ offers: a folder for each group, a yaml file for each choice."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion.files import PACKAGE


def conf_dir() -> Path:
    """The folder of yaml files: inside the package when installed from a wheel, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def is_group(name: str) -> bool:
    """Whether conf/ has a group of this name."""
    return bool(re.fullmatch(r"\w+", name)) and (conf_dir() / name).is_dir()


def choices(group: str) -> list[str]:
    """The names of a group's choices."""
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def choices_with(group: str, key: str) -> list[str]:
    """The choices of a group that have a setting of this name, or choose it from a group of its own."""
    pattern = re.compile(rf"^{re.escape(key)}:|@{re.escape(key)}:", re.MULTILINE)
    return [choice for choice in choices(group) if pattern.search((conf_dir() / group / f"{choice}.yaml").read_text())]


@cache
def inner_groups(group: str) -> tuple[str, ...]:
    """The groups that are chosen as parts of another one, such as `grid` of `sampler`."""
    texts = [file.read_text() for file in (conf_dir() / group).glob("*.yaml")]
    return tuple(sorted({name for text in texts for name in re.findall(r"^  - /(\w+)@", text, re.MULTILINE)}))


@cache
def shipped(group: str) -> list[Any]:
    """The choices of a group, as they are written in conf/."""
    return [yaml.safe_load(file.read_text()) for file in sorted((conf_dir() / group).rglob("*.yaml"))]
