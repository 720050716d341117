"""Secrets belong in the environment: a command refuses to run with one on its command line or in its configuration.

Both are saved in the run's folder, in its checkpoints and by loggers, from where secrets leak.
"""

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from diffusion.errors import UserError

NAME = re.compile(
    r"(?i)(^|[_.-])(api_?keys?|access_?keys?(_id)?|key|token|secret|pwd|pass(w(or)?d|phrase)?|credentials?"
    r"|auth(orization)?)(\[\d+\])*$"
)
URL = re.compile(r"://[^/\s:@]*:(?!\$\{)[^/\s@]+@")  # user:password@, except `${oc.env:…}`, which is saved unresolved
INNER = re.compile(r"[{,]\s*[\"']?([\w.-]+)[\"']?\s*:\s*([^,{}]+)")  # of `{name: value, …}`
NO_SECRET = ("PWD",)  # variables with the name of a secret that are none
SHORTEST = 8  # minimum length of an environment value to search for; shorter ones occur by chance


def check_words(words: Iterable[str]) -> None:
    """Raise UserError if one of a command's `words` sets or contains a secret. The message does not repeat it."""
    for word in words:
        key, _, value = word.partition("=")
        if not key.startswith("hydra."):  # hydra.* is not saved with a run
            _refuse_source(key, value)
        _refuse(key.lstrip("+~"), value)
        for inner, held in INNER.findall(value):
            _refuse(f"{key.lstrip('+~')}.{inner}", held.strip())


def check_sources(config: Any) -> None:
    """Raise UserError if a value of the unresolved `config` comes from the environment."""
    for key, value in _flat(config):
        _refuse_source(key, value)


def check_values(config: Mapping[str, Any]) -> None:
    """Raise UserError if a value of the resolved `config` is a secret."""
    for key, value in _flat(config):
        _refuse(key, value)


def _refuse(key: str, value: str) -> None:
    if NAME.search(key) and value not in ("", "null", "None"):
        raise UserError(f"{key}: a key would be saved with the run; set it in the environment")
    if URL.search(value):
        raise UserError(
            f"{key} contains a URL with a password, which would be saved with the run: remove the password, and let it "
            "be read from the environment, ~/.pgpass, ~/.netrc or a keyring"
        )
    for name, secret in os.environ.items():
        if NAME.search(name) and name not in NO_SECRET and len(secret) >= SHORTEST and secret in value:
            raise UserError(f"{key} contains the value of ${name}, which would be saved with the run: remove it")


def _refuse_source(key: str, value: str) -> None:
    if "${oc.env:" in value:
        raise UserError(
            f"{key}={value}: a value from the environment would be saved with the run; if it is not secret, let the "
            f"shell fill it in: {key}=$NAME"
        )


def _flat(node: Any, prefix: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            yield from _flat(value, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(node, list):
        for i, value in enumerate(node):
            yield from _flat(value, f"{prefix}[{i}]")
    else:
        yield prefix, "" if node is None else str(node)
