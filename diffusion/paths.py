"""Where things live: the configs, and the cache of decoded images and reference statistics."""

import os
from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def conf_dir() -> Path:
    """The folder of yaml configs: inside the package when installed from a wheel, beside it in a checkout."""
    installed = PACKAGE / "conf"
    return installed if installed.is_dir() else PACKAGE.parent / "conf"


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
