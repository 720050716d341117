"""Provenance of results: version of the code, hash of a checkpoint file, hash of a network's weights."""

import hashlib
import platform
import subprocess
from functools import cache
from pathlib import Path

import lightning
import torch
from torch import nn

from diffusion.files import PACKAGE, VERSION, tensor_digest


@cache
def code_version() -> str:
    """`0.1.0`; in a git checkout `0.1.0 3f9a71c2d04e` with the commit; a final `+` if tracked files have changed."""
    if not (PACKAGE.parent / ".git").exists():
        return VERSION
    git = ["git", "-C", str(PACKAGE.parent), "describe", "--always", "--abbrev=12", "--exclude=*", "--dirty=+"]
    try:
        return f"{VERSION} {subprocess.run(git, capture_output=True, text=True, check=True, timeout=10).stdout.strip()}"
    except (OSError, subprocess.SubprocessError):
        return VERSION


def versions() -> dict[str, str]:
    """Versions of this program and of the software that its results depend on most."""
    return {
        "diffusion": VERSION,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": lightning.__version__,
    }


def file_hash(path: Path) -> str:
    """The first 16 digits of the SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]


def network_hash(network: nn.Module) -> str:
    """The first 16 digits of the SHA-256 of a network's weights as float32.

    The hash is the same during training and after loading from any file, so a network can be identified even if its
    checkpoint is gone. (A checkpoint of half-precision weights restores exactly these weights in float32.)
    """
    state = network.state_dict().items()
    return tensor_digest({name: value.float() if value.is_floating_point() else value for name, value in state})[:16]
