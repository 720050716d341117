"""Words of a command line, with the quotes that a shell and Hydra's grammar need."""

import re
import shlex
from pathlib import Path


def going_on(run: Path) -> str:
    """The command that goes on with a run."""
    return f"python -m diffusion.train {setting('hydra.run.dir', run)} ckpt=auto"


def setting(key: str, value: object) -> str:
    """`KEY=VALUE` as a shell wants it, with the quotes that Hydra needs."""
    word = f"{key}={value}"
    return word if re.fullmatch(r"[\w/.+:-]+", str(value)) else quoted(word)


def quoted(word: str) -> str:
    """`KEY=VALUE` with VALUE as a text, as a shell wants it: `'KEY="VALUE"'`."""
    key, _, value = word.partition("=")
    escaped = value.replace('"', '\\"')
    return shlex.quote(f'{key}="{escaped}"')
