"""The README keeps its word: every photograph is credited, every link and every named choice exists."""

import csv
import re

from diffusion.config.choices import conf_dir
from diffusion.files import PACKAGE

README = (PACKAGE.parent / "README.md").read_text(encoding="utf-8")


def test_every_photograph_is_credited():
    with (PACKAGE / "data/landscapes/CREDITS.csv").open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            assert f"| {row['title']} | {row['author']} | {row['licence']} |" in README


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (PACKAGE.parent / target).exists(), target


def test_the_table_of_choices_is_the_one_of_conf():
    for group, choices in re.findall(r"^\| `(\w+)`[^|]*\| ([^|]+) \|$", README, re.MULTILINE):
        there = sorted(path.stem for path in (conf_dir() / group).glob("*.yaml"))
        assert re.findall(r"`(\w+)`", choices) == there
