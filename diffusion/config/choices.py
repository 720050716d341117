"""The choices that conf/ offers: a folder for each group, a yaml file for each choice."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from diffusion.files import PACKAGE


def conf_dir() -> Path:
    """The folder of yaml configs: inside the package when installed from a wheel, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


def choices_with(group: str, key: str) -> list[str]:
    """The choices of a group that have a setting of this name, or choose it from a group of its own."""
    files = sorted((conf_dir() / group).glob("*.yaml"))
    return [file.stem for file in files if re.search(rf"^{key}:|@{key}:", file.read_text(), re.MULTILINE)]


@cache
def shipped(group: str) -> list[Any]:
    """The choices of a group, as they are written in conf/."""
    return [yaml.safe_load(file.read_text()) for file in sorted((conf_dir() / group).rglob("*.yaml"))]
