"""Keys stay in the environment: a command refuses to run with one on its line or in its configuration.

Both are kept in the run's folder, in its checkpoints and by loggers, which is where keys leak from.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffusion.errors import UserError

NAME = re.compile(r"(?i)(^|[_.-])(api_?key|key|token|secret|passw(or)?d|credentials?)$")
SHORTEST = 8  # characters of a value that is taken for a key; shorter ones occur by chance


def refuse_words(words: Iterable[str]) -> None:
    """UserError if one of a command's `words` sets or holds a secret. The line doesn't repeat it."""
    for word in words:
        key, _, value = word.partition("=")
        _refuse(key.lstrip("+~"), value)


def refuse_values(config: Mapping[str, Any]) -> None:
    """UserError if a value of the resolved `config` is a secret, such as by `${oc.env:WANDB_API_KEY}`."""
    for key, value in _flat(config):
        _refuse(key, value)


def _refuse(key: str, value: str) -> None:
    if NAME.search(key) and value not in ("", "null", "None"):
        raise UserError(f"{key}: a key is not given here, as it would be kept with the run: set it in the environment")
    for name, secret in os.environ.items():
        if NAME.search(name) and len(secret) >= SHORTEST and secret in value:
            raise UserError(f"{key} holds the value of ${name}, which would be kept with the run: leave it out")


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _flat(value, f"{prefix}[{i}]")
    else:
        yield prefix, "" if node is None else str(node)
