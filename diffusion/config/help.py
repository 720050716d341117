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

from diffusion.config.choices import choices, conf_dir, files, inner_groups, is_group
from diffusion.config.schema import Settings, Train
from diffusion.config.validation import shown
from diffusion.console import console
from diffusion.errors import UserError, nearest
from diffusion.files import PACKAGE

FLAGS = ("--help", "-h", "help")
FOOT = """\
GROUP=CHOICE selects a choice, KEY=VALUE sets a value, and -m before them runs a sweep over comma-separated values.
--cfg job prints the whole configuration without running anything. --help GROUP explains the choices of a group."""


def print_help(command: str, schema: type[Settings], about: str, words: Sequence[str]) -> bool:
    """Print the help requested by the command-line `words`. Returns whether they request any."""
    asked = [i for i, word in enumerate(words) if word in FLAGS]
    if not asked:
        return False
    group = next(iter(words[asked[0] + 1 :]), "-")
    if group.startswith("-"):
        _command_help(command, schema, about)
    elif is_group(group):
        _group_help(group)
    else:
        groups = sorted(path.name for path in conf_dir().iterdir() if path.is_dir())
        raise UserError(f"--help {group}: unknown group{nearest(group, groups)}; groups are {', '.join(groups)}")
    return True


def _command_help(command: str, schema: type[Settings], about: str) -> None:
    console.print(about.strip())
    chosen = default_choices(command)
    groups = []
    for group, choice in chosen.items():
        names = dict.fromkeys([*choices(group), *([choice] if choice != "None" else [])])  # `run` has no file
        groups.append((f"{group}=", [name + " (default)" * (name == choice) for name in names]))
    groups += [(f"{part}@{group}.{part}=", choices(part)) for group in chosen for part in inner_groups(group)]
    _print("Groups", [(place, ", ".join(names)) for place, names in groups])
    settings = [*_settings(schema)]
    for group, choice in chosen.items():
        if file := files(group).get(choice):
            settings += _file_settings(group, file.read_text("utf-8"))
    _print("Settings", [(f"{key}={value}", text) for key, value, text in settings])
    console.print(f"\n{FOOT}")


def _group_help(group: str) -> None:
    for choice, file in files(group).items():
        text = file.read_text("utf-8")
        about = " ".join(line.lstrip("# ") for line in _header(text))
        settings = _file_settings(group, text)
        _print(f"{group}={choice}", [(f"{key}={value}", doc) for key, value, doc in settings], about)


def _print(title: str, rows: list[tuple[str, str]], about: str = "") -> None:
    console.print()
    console.print(title, style="bold")
    if about:
        console.print(f"  {about}")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(overflow="fold", max_width=44)
    table.add_column(overflow="fold")
    for left, right in rows:
        table.add_row(Text(left), Text(right))
    if rows:
        console.print(table, soft_wrap=False)


def _settings(schema: type[Settings], prefix: str = "") -> Iterator[tuple[str, str, str]]:
    """Yield (key, default, documentation) of the settings outside groups."""
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from _settings(field.annotation, f"{prefix}{key}.")
        elif not is_group(prefix + key):
            default = "" if field.is_required() else shown(field.default)
            yield f"{prefix}{key}", "" if "${" in default else default, " ".join((field.description or "").split())


def _file_settings(group: str, text: str) -> list[tuple[str, str, str]]:
    """`_choice_settings` for the text of a file; if nothing else documents a setting, the comment after it does."""
    said = {f"{group}.{key}": comment for key, comment in re.findall(r"^(\w+):.*? {2,}# (.+)", text, re.MULTILINE)}
    rows = _choice_settings(group, yaml.safe_load(text) or {})
    return [(key, value, about or said.get(key, "")) for key, value, about in rows]


def _choice_settings(group: str, node: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """(key, value, documentation) of the settings of a choice and of its nested parts."""
    documented = _documented_settings(group) | documentation(str(node.get("_target_", "")))
    rows = []
    for key, value in node.items():
        if key == "defaults" or key.startswith("_"):
            continue
        part = value if isinstance(value, Mapping) else {}
        text = documented.get(key) or summary(str(part.get("_target_", "")))
        rows.append((f"{group}.{key}", shown(value) if value is not part else "…", text))
        rows += _choice_settings(f"{group}.{key}", part)
    return rows


def _documented_settings(group: str) -> dict[str, str]:
    """The documentation of a group whose choices set settings of diffusion.train, such as `score`."""
    field = Train.model_fields.get(group)
    if field is None or not (inspect.isclass(field.annotation) and issubclass(field.annotation, Settings)):
        return {}
    return {key: text for key, _, text in _settings(field.annotation)}


def default_choices(command: str) -> dict[str, str]:
    """Group -> a command's default choice."""
    listed = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: str(choice) for group, choice in found.items() if is_group(group) and group != "hydra"}


def _header(text: str) -> Iterator[str]:
    """Yield the lines of the comment at the top of a yaml file, up to its launch commands or a blank comment line."""
    for line in text.splitlines():
        if not line.startswith("# ") or line.startswith("#   "):
            return
        if not line.startswith("# @package"):
            yield line


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
    docstrings = [ast.get_docstring(node) or ""]
    docstrings += [
        ast.get_docstring(f) or "" for f in node.body if isinstance(f, ast.FunctionDef) and f.name == "__init__"
    ]
    for docstring in docstrings:
        section = re.search(r"^Args:\n((?:[ \t]+.*\n?|\n)+)", docstring, re.MULTILINE)
        for names, text in re.findall(
            r"^ {4}([\w, ]+): ((?:.*)(?:\n {5,}.*)*)", section[1] if section else "", re.MULTILINE
        ):
            found |= {argument.strip(): " ".join(text.split()) for argument in names.split(",")}
    return found
