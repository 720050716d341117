"""Where things live: the configs, and the cache of decoded images and reference statistics."""

import os
import re
from functools import cache
from pathlib import Path
from typing import Any

import yaml

PACKAGE = Path(__file__).resolve().parent


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


def cache_dir(*parts: str) -> Path:
    """`$DIFFUSION_CACHE`, else `$XDG_CACHE_HOME/diffusion-experiments`, else `~/.cache/diffusion-experiments`.

    The folder (with `parts` joined) is created. Whatever lies here can be deleted; it is made again when needed.
    """
    chosen = os.environ.get("DIFFUSION_CACHE")
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(chosen) if chosen else Path(home) / "diffusion-experiments"
    folder = folder.joinpath(*parts)
    folder.mkdir(parents=True, exist_ok=True)
    return folder
