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
FOOT = """\
GROUP=CHOICE selects a choice, KEY=VALUE sets a value, and -m before them runs a sweep over comma-separated values.
--cfg job prints the whole configuration without running anything. --help GROUP explains the choices of a group."""
Row = tuple[str, str, str]
"""(key, value, documentation) of a setting."""


def print_help(command: str, schema: type[Settings], about: str, words: Sequence[str]) -> bool:
    """Print the help requested by the command-line `words`. Returns whether they request any."""
    asked = [i for i, word in enumerate(words) if word in FLAGS]
    if not asked:
        return False
    group = next(iter(words[asked[0] + 1 :]), "-")
    if group.startswith("-"):
        _print_command(command, schema, about)
    elif is_group(group):
        for choice, file in files(group).items():
            header = re.match(
                r"(?:# (?!  ).*\n)*", file.read_text("utf-8")
            )  # up to its launch commands or a blank comment line
            lines = header[0].splitlines() if header else []
            said = " ".join(line[2:] for line in lines if not line.startswith("# @package"))
            _print(f"{group}={choice}", _rows(group, content(group, choice)), said)
    else:
        raise UserError(f"--help {group}: unknown group{nearest(group, groups())}; groups are {', '.join(groups())}")
    return True


def _print_command(command: str, schema: type[Settings], about: str) -> None:
    console.print(about.strip())
    chosen = default_choices(command)
    listed = []
    for group, choice in chosen.items():
        names = dict.fromkeys([*choices(group), *([choice] if choice != "None" else [])])  # `run` has no file
        listed.append((f"{group}", ", ".join(name + " (default)" * (name == choice) for name in names), ""))
    listed += [(f"{p}@{group}.{p}", ", ".join(choices(p)), "") for group in chosen for p in inner_groups(group)]
    _print("Groups", [(f"{place}=", names, "") for place, names, _ in listed])
    made = {group: choice for group, choice in chosen.items() if choice in files(group)}
    rows = [row for group, choice in made.items() for row in _rows(group, content(group, choice))]
    _print("Settings", [*_settings(schema), *rows])
    console.print(f"\n{FOOT}")


def _print(title: str, rows: Sequence[Row], about: str = "") -> None:
    console.print()
    console.print(title, style="bold")
    if about:
        console.print(f"  {about}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for key, value, text in rows:
        table.add_row(*map(Text, (key, value) if key.endswith("=") else (f"{key}={value}", text)))
    if rows:
        console.print(table, soft_wrap=False)


def default_choices(command: str) -> dict[str, str]:
    """Group -> a command's default choice."""
    listed = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: str(choice) for group, choice in found.items() if is_group(group) and group != "hydra"}


def _settings(schema: type[Settings], prefix: str = "") -> Iterator[Row]:
    """Yield the settings outside groups, with their defaults."""
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from _settings(field.annotation, f"{prefix}{key}.")
        elif not is_group(prefix + key):
            default = "" if field.is_required() else shown(field.default)
            yield f"{prefix}{key}", "" if "${" in default else default, " ".join((field.description or "").split())


def _rows(group: str, text: str) -> list[Row]:
    """The settings in a choice's yaml; if nothing else documents a setting, the comment after it does."""
    said = {f"{group}.{key}": comment for key, comment in re.findall(r"^(\w+):.*? {2,}# (.+)", text, re.MULTILINE)}
    rows = _rows_of(group, yaml.safe_load(text) or {})
    return [(key, value, about or said.get(key, "")) for key, value, about in rows]


def _rows_of(place: str, node: Mapping[str, Any]) -> Iterator[Row]:
    """The settings of a choice and of its nested parts."""
    field = Train.model_fields.get(place)  # a group may set settings of diffusion.train, such as `score`
    nested = field is not None and inspect.isclass(field.annotation) and issubclass(field.annotation, Settings)
    documented = {key: text for key, _, text in _settings(field.annotation)} if nested else {}  # type: ignore
    documented |= documentation(str(node.get("_target_", "")))
    for key, value in node.items():
        if key == "defaults" or key.startswith("_"):
            continue
        part = value if isinstance(value, Mapping) else {}
        text = documented.get(key) or summary(str(part.get("_target_", "")))
        yield f"{place}.{key}", shown(value) if value is not part else "…", text
        yield from _rows_of(f"{place}.{key}", part)


@cache
def _definitions(place: Path) -> dict[str, ast.ClassDef | ast.FunctionDef]:
    """Every top-level class and function of a file, or of all files in a folder, by name."""
    files = [place] if place.is_file() else sorted(place.rglob("*.py"))
    trees = [ast.parse(file.read_text("utf-8")) for file in files]
    return {node.name: node for tree in trees for node in tree.body if isinstance(node, ast.ClassDef | ast.FunctionDef)}


def _definition(target: str) -> ast.ClassDef | ast.FunctionDef | None:
    """The definition of a class or function of this project, in its module or below its package."""
    *inner, name = target.split(".")
    if len(inner) < 2 or inner[0] != "diffusion":
        return None
    place = PACKAGE.joinpath(*inner[1:])
    return _definitions(file if (file := place.with_suffix(".py")).is_file() else place).get(name)


def summary(target: str) -> str:
    """The first line of the docstring of a class or function of this project."""
    node = _definition(target)
    return (ast.get_docstring(node) or "").partition("\n")[0] if node else ""


def documentation(target: str) -> dict[str, str]:
    """Argument -> its docstring entry, for a class (with its base classes) or function of this project."""
    node = _definition(target)
    if node is None:
        return {}
    room = target.split(".")[1]
    found: dict[str, str] = {}
    for base in getattr(node, "bases", []):
        if (name := ast.unparse(base).rpartition(".")[2]) != node.name:  # a base in another package may have its name
            found |= documentation(f"diffusion.{room}.{name}")
    functions = [f for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"]
    for docstring in (ast.get_docstring(each) or "" for each in (node, *functions)):
        section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
        entries = re.findall(r"^ {4}([\w, ]+): ((?:.*)(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE)
        found |= {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}
    return found
