"""`--help GROUP`: the documentation of choices is read from their source files, without importing them."""

import pytest

from diffusion.config import help as helps
from diffusion.config.choices import conf_dir, is_group
from diffusion.config.schema import Train

GROUPS = sorted(path.name for path in conf_dir().iterdir() if path.is_dir() and is_group(path.name))


@pytest.mark.parametrize("group", GROUPS)
def test_the_help_of_every_group_lists_its_choices(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert helps.print_help("train", Train, "", ["--help", group])
    out = capsys.readouterr().out
    assert all(f"{group}={choice}" in out for choice in helps.choices(group))
