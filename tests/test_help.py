"""`--help GROUP`: the documentation of choices is read from their source files, without importing them."""

import inspect
from pydoc import locate
from typing import Any

import pytest
import yaml

from diffusion.config import help as helps
from diffusion.config.choices import conf_dir, is_group
from diffusion.config.schema import Train

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and is_group(path.name))


def targets(node: Any) -> set[str]:
    """The classes and functions of this project that a configuration names."""
    if isinstance(node, list):
        return set().union(*map(targets, node))
    if not isinstance(node, dict):
        return set()
    own = {node["_target_"]} if str(node.get("_target_", "")).startswith("diffusion.") else set()
    return own.union(*map(targets, node.values()))


def test_the_documentation_of_every_choice_is_that_of_its_own_class() -> None:
    named = set().union(*(targets(yaml.safe_load(file.read_text("utf-8"))) for file in conf_dir().rglob("*.yaml")))
    assert len(named) > 100
    for target in named:
        assert helps.documentation(target)[""] == (inspect.getdoc(locate(target)) or "").partition("\n")[0], target


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_of_every_group_lists_its_choices(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert helps.print_help("train", Train, "", ["--help", group])
    out = capsys.readouterr().out
    assert all(f"{group}={choice}" in out for choice in helps.choices(group))
