"""`--help` and `--help GROUP` of the commands: every choice and every setting with its documentation.

The documentation is read from the settings' schema, and from the docstrings of the classes that the choices name. These
classes are not imported, so the help appears in well under a second.
"""

import ast
import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from diffusion.config.choices import choices, conf_dir, content, files, groups, inner_groups, is_group
from diffusion.config.schema import Settings, Train
from diffusion.config.validation import shown
from diffusion.console import console
from diffusion.errors import UserError, nearest
from diffusion.files import PACKAGE

FLAGS = ("--help", "-h", "help")
FOOT = """
GROUP=CHOICE selects a choice, KEY=VALUE sets a value, and -m before them runs a sweep over comma-separated values.
--cfg job prints the whole configuration without running anything. --help GROUP explains the choices of a group."""
Row = tuple[str, str]
"""(KEY=VALUE, documentation) of a setting; (GROUP=, choices) of a group."""


def print_help(command: str, schema: type[Settings], about: str, words: Sequence[str]) -> bool:
    """Print the help requested by the command-line `words`. Returns whether they request any."""
    asked = [i for i, word in enumerate(words) if word in FLAGS]
    if not asked:
        return False
    group = next(iter(words[asked[0] + 1 :]), "-")
    if group.startswith("-"):
        console.print(about.strip())
        chosen = default_choices(command)
        parts = [(group, part) for group in chosen for part in inner_groups(group)]
        inner = [(f"{part}@{group}.{part}=", ", ".join(choices(part))) for group, part in parts]
        _print("Groups", [*((f"{group}=", _listed(group, choice)) for group, choice in chosen.items()), *inner])
        rows = [row for group, choice in chosen.items() if choice in files(group) for row in _rows_in(group, choice)]
        _print("Settings", [*_settings(schema), *rows])
        console.print(FOOT)
    elif is_group(group):
        for choice, file in files(group).items():
            header = re.match(r"(?:# (?!  ).*\n)*", file.read_text("utf-8"))  # up to its commands or a blank comment
            lines = header[0].splitlines() if header else []
            about = " ".join(line[2:] for line in lines if not line.startswith("# @package"))
            _print(f"{group}={choice}", _rows_in(group, choice), about)
    else:
        raise UserError(f"--help {group}: unknown group{nearest(group, groups())}; groups are {', '.join(groups())}")
    return True


def default_choices(command: str) -> dict[str, str]:
    """Group -> a command's default choice."""
    listed = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: str(choice) for group, choice in found.items() if is_group(group) and group != "hydra"}


def _listed(group: str, default: str) -> str:
    """The choices of a group. (The default `run` of an evaluation has no file.)"""
    names = dict.fromkeys([*choices(group), *([default] if default != "None" else [])])
    return ", ".join(name + " (default)" * (name == default) for name in names)


def _print(title: str, rows: Sequence[Row], about: str = "") -> None:
    console.print(f"\n{title}", style="bold")
    if about:
        console.print(f"  {about}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for row in rows:
        table.add_row(*map(Text, row))
    if rows:
        console.print(table, soft_wrap=False)


def _settings(schema: type[Settings], prefix: str = "") -> Iterator[Row]:
    """Yield the settings outside groups, with their defaults."""
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from _settings(field.annotation, f"{prefix}{key}.")
        elif not is_group(prefix + key):
            default = "" if field.is_required() else shown(field.default)
            text = " ".join((field.description or "").split())
            yield f"{prefix}{key}={'' if '${' in default else default}", text


def _rows_in(group: str, choice: str) -> list[Row]:
    """The settings in a choice's yaml; if nothing else documents a setting, the comment after it does."""
    text = content(group, choice)
    said = {f"{group}.{key}": comment for key, comment in re.findall(r"^(\w+):.*? {2,}# (.+)", text, re.MULTILINE)}
    rows = _rows(group, yaml.safe_load(text) or {})
    return [(row, about or said.get(row.partition("=")[0], "")) for row, about in rows]


def _rows(place: str, node: Mapping[str, Any]) -> Iterator[Row]:
    """The settings of a choice and of its nested parts."""
    documented = documentation(str(node.get("_target_", "")))
    field = Train.model_fields.get(place)  # a group may set settings of diffusion.train, such as `score`
    if field is not None and inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
        documented |= {key: " ".join((x.description or "").split()) for key, x in field.annotation.model_fields.items()}
    for key, value in node.items():
        if key == "defaults" or key.startswith("_"):
            continue
        part = value if isinstance(value, Mapping) else {}
        about = documented.get(key) or documentation(str(part.get("_target_", ""))).get("", "")
        yield f"{place}.{key}={shown(value) if value is not part else '…'}", about
        yield from _rows(f"{place}.{key}", part)


@cache
def _definitions(place: Path) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """Every top-level class and function of a file, or of all files in a folder, by name."""
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    trees = [ast.parse(file.read_text("utf-8")) for file in files]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def documentation(target: str) -> dict[str, str]:
    """Argument -> its docstring entry, of a class (with its base classes) or function of this project.

    The key "" has the first line of the docstring.
    """
    if not re.match(r"diffusion\.\w+\.", target):
        return {}
    *inner, name = target.split(".")[1:]
    place = PACKAGE.joinpath(*inner)
    file = place.with_suffix(".py")
    node = _definitions(file if file.is_file() else place).get(name)
    if node is None:
        return {}
    found: dict[str, str] = {}
    for base in (ast.unparse(base).rpartition(".")[2] for base in getattr(node, "bases", [])):
        if base != name:  # a base in another package may have its name
            found |= documentation(f"diffusion.{inner[0]}.{base}")
    makers = [each for each in node.body if isinstance(each, ast.FunctionDef) and each.name == "__init__"]
    for docstring in (ast.get_docstring(each) or "" for each in (node, *makers)):
        entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", docstring.partition("Args:\n")[2], re.MULTILINE)
        found |= {key.strip(): " ".join(text.split()) for keys, text in entries for key in keys.split(",")}
    return found | {"": (ast.get_docstring(node) or "").partition("\n")[0]}
