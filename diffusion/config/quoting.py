"""Command lines for users to copy, quoted for the shell and for Hydra's grammar."""

import re
import shlex
from collections.abc import Iterable
from pathlib import Path


def resume_command(run: Path) -> str:
    """The command that resumes a run."""
    return f"python -m diffusion.train {override('hydra.run.dir', run)} ckpt=auto"


def override(key: str, value: object) -> str:
    """`KEY=VALUE`, quoted for Hydra and the shell where needed."""
    return shlex.quote(f"{key}={hydra_value(value)}")


def hydra_value(value: object) -> str:
    """The value of an override, in quotes if Hydra's grammar needs them."""
    text = str(value)
    if re.fullmatch(r"[\w/.+:-]+", text, re.ASCII):
        return text
    return '"' + text.replace('"', '\\"') + '"'


def command_line(name: str, words: Iterable[str]) -> str:
    """`python -m diffusion.NAME WORDS`, each word quoted for a shell where needed."""
    return " ".join([f"python -m diffusion.{name}", *map(shlex.quote, words)])
