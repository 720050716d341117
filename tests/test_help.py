"""`--help GROUP`: the documentation of choices is read from their source files, without importing them."""

import pytest

from diffusion.config import help as helps
from diffusion.config.choices import groups
from diffusion.config.schema import Train


@pytest.mark.parametrize("group", groups())
def test_the_help_of_every_group_lists_its_choices(group: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert helps.print_help("train", Train, "", ["--help", group])
    out = capsys.readouterr().out
    assert all(f"{group}={choice}" in out for choice in helps.choices(group))
