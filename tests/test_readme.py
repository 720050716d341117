"""The README and the docs are correct: photographs are credited, links have targets, named choices exist."""

import csv
import re
import tomllib

import pytest

from diffusion.base.files import PACKAGE
from diffusion.config.choices import choices, groups

ROOT = PACKAGE.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_photograph_is_credited():
    credits = (ROOT / "docs/photographs.md").read_text(encoding="utf-8")
    licence = (PACKAGE / "data/landscapes/LICENSE").read_text(encoding="utf-8")
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    with (PACKAGE / "data/landscapes/CREDITS.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert f"| {row['title']} | {row['author']} | {row['licence']} | {row['scene']} |" in credits
            assert f"\n  {row['file']}: {row['title']}; {row['author']}\n" in licence
            assert row["licence"].replace("public domain", "LicenseRef-Public-Domain") in declared["license"]
    assert "diffusion/data/landscapes/LICENSE" in declared["license-files"]


@pytest.mark.parametrize("page", ["README.md", *(str(p.relative_to(ROOT)) for p in (ROOT / "docs").rglob("*.md"))])
def test_relative_links_have_existing_targets(page):
    for target in re.findall(r"\]\(([^)#:]+)\)", (ROOT / page).read_text(encoding="utf-8")):
        assert ((ROOT / page).parent / target).exists(), target


def test_choices_named_in_the_readme_exist():
    named = 0
    for row_of, row in re.findall(r"^\| (`[^|]+)\| [^|]+ \| ([^|]+) \|$", README, re.MULTILINE):
        known = {choice for group in re.findall(r"`(\w+)`", row_of) if group in groups() for choice in choices(group)}
        for choice in re.findall(r"`(\w+)`", row):
            assert choice in known, f"{row_of}: {choice}"
            named += 1
    assert named > 50
    sentence = re.search(r"`experiment=` chooses a whole recipe: ([^.]+)\.", README)
    assert sorted(re.findall(r"`(\w+)`", sentence[1])) == choices("experiment")


def test_the_test_of_each_documented_fault_exists():
    rows = [line for line in (ROOT / "docs/reliability.md").read_text("utf-8").splitlines() if line.startswith("| ")]
    faults = [row for row in rows if not row.startswith(("| fault", "| ---"))]
    assert len(faults) > 10
    for row in faults:
        file, name = re.findall(r"`([\w/]+\.py)::(\w+)`", row)[-1]
        assert f"def {name}(" in (ROOT / "tests" / file).read_text("utf-8"), row


def test_the_extras_are_documented_and_those_that_are_named_exist():
    extras = {*tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]}
    section = (ROOT / "docs/commands.md").read_text("utf-8").partition("## Extras")[2]
    assert extras - {*re.findall(r"`(\w+)`", section)} == {"bench", "dev", "doors", "site"}
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        assert {*re.findall(r"\.\[(\w+)\]'", page.read_text("utf-8"))} <= {*extras, "NAME"}, page
