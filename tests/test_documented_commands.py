"""Every command line in the documentation is valid: its options exist, and its settings compose and are in range."""

import re
import shlex
import sys
from importlib import import_module

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override

from diffusion.__main__ import NAMES, module_of
from diffusion.base.files import PACKAGE
from diffusion.config.build import validated
from diffusion.config.choices import choices, composed, conf_dir, groups, searching
from diffusion.config.schema import COMMANDS
from diffusion.errors import Arguments

ROOT = PACKAGE.parent
COMMAND = rf"(?:python -m diffusion\.|\bdiffusion )({'|'.join(NAMES)})(?![\w.])((?:(?!&&)[^\n`])*)"
PAGES = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *conf_dir().rglob("*.yaml"), *PACKAGE.rglob("*.py")]


def documented() -> set[tuple[str, ...]]:
    """Each command with its words, without comments; a placeholder in capitals, such as RUN, is kept."""
    found = set()
    for page in PAGES:
        text = page.read_text("utf-8").replace("\\\n", " ")
        for name, rest in re.findall(COMMAND, text):
            if page.suffix != ".md":
                rest = re.split(r"\s{2,}(?!#)", rest.rstrip("\"'),;.{}"))[0]  # a description follows
            try:
                words = shlex.split(re.split(r" # | 2?>", rest)[0].replace("…", "x").strip("()"), comments=True)
            except ValueError:
                continue  # an f-string in a program
            said = " ".join(words)
            if words and (page.suffix == ".md" or not re.search(r"[{}%]|(^| )[a-z,]+ [a-z,]+( |$)", said)):  # not prose
                found.add((name, *(word for word in words if word != "x")))
    return found


DOCUMENTED = sorted(documented())
HYDRA = [words for words in DOCUMENTED if words[0] in (*COMMANDS, "finetune")]
OTHERS = [words for words in DOCUMENTED if words not in HYDRA]


def test_the_documentation_was_searched():
    assert len(HYDRA) > 60
    assert {words[0] for words in OTHERS} == {
        "compare", "completion", "doctor", "export", "new", "prune", "race", "report", "reproduce", "status", "studio",
        "watch",
    }  # fmt: skip


def variants(override: Override) -> list[str]:
    """The override with each choice of a sweep, with its first and last value, or with the first of an interval."""
    if not override.is_sweep_override():
        return [str(override.input_line)]
    if override.is_interval_sweep():
        return [f"{override.key_or_group}={override.value().start}"]
    values = [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]
    return values if override.key_or_group.partition("@")[0] in groups() else [values[0], values[-1]]


@pytest.mark.parametrize("words", HYDRA, ids=" ".join)
def test_the_settings_of_a_command_compose_and_are_in_range(words):
    name, *rest = words
    own = (ROOT / "docs/example").glob("*/conf") if "--config-dir" in rest else ()
    rest = [word for word in rest if word not in ("-m", "--config-dir", "conf")]
    if name == "finetune":
        name, rest = "train", ["data=folder", "data.root=x", *rest[2:]]  # RUN PHOTOS
    if name == "study":
        name = {"sampler": "study", "guidance": "study_guidance", "floor": "study_floor"}[rest.pop(0)]
    if "--help" in rest:
        assert all(word in groups() for word in rest if word != "--help")
        return
    overrides = OverridesParser.create().parse_overrides([word for word in rest if not word.startswith("hydra")])
    needed = [*([] if name == "study_floor" else ["name=x"]), *([] if name in ("train", "evaluate") else ["ckpt=x"])]
    with searching(own):
        for each in compositions([variants(override) for override in overrides]):
            validated(COMMANDS[name], composed(name, [*needed, *each]))


def compositions(values: list[list[str]]) -> list[list[str]]:
    """The first value of each override, and this list with each other value of one of them."""
    first = [each[0] for each in values]
    return [first] + [[*first[:i], other, *first[i + 1 :]] for i, each in enumerate(values) for other in each[1:]]


class Parsed(Exception):
    """The options are valid."""


@pytest.mark.parametrize("words", OTHERS, ids=" ".join)
def test_the_options_of_a_command_exist(words, monkeypatch):
    parse = Arguments.parse_args

    def parsed(*arguments):
        parse(*arguments)
        raise Parsed

    monkeypatch.setattr(Arguments, "parse_args", parsed)
    name, *rest = words
    if name == "reproduce" and rest[0].isalpha():
        assert rest[0] in choices("results")
    monkeypatch.setattr(sys, "argv", [name, *rest])
    with pytest.raises(Parsed):
        import_module(module_of(name)).main()
