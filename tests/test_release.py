"""The notes of a release are its section of CHANGELOG.md, and the package starts by its own name."""

import runpy
import tomllib

import pytest

from diffusion.base.files import PACKAGE

ROOT = PACKAGE.parent
notes = runpy.run_path(str(ROOT / ".ci/release.py"))["notes"]
CHANGES = """# Changes

## [Unreleased]

## [1.10.0] - 2027-02-01

- More.

## [1.1.0] - 2027-01-01

- First.
"""


def test_the_notes_are_the_section_of_the_version():
    assert notes(CHANGES, "1.10.0") == "- More.\n"
    assert notes(CHANGES, "1.1.0") == "- First.\n"


@pytest.mark.parametrize("version", ["1.1", "1.2.0", "Unreleased"])
def test_a_version_without_text_is_refused(version):
    with pytest.raises(SystemExit, match=rf"CHANGELOG.md: .*\[{version}\]"):
        notes(CHANGES, version)


def test_uvx_and_pipx_find_a_command_with_the_name_of_the_package():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert project["scripts"][project["name"]] == project["scripts"]["diffusion"]
