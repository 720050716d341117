"""`--help` and `--help GROUP` of the commands: every choice and every setting with its documentation.

That of the command's own settings is in their schema, and that of a choice in the docstring of the class that it names.
Only `--help GROUP` imports these classes, so `--help` appears in well under a second.
"""

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from pydoc import locate
from typing import Any

import yaml
from rich.table import Table
from rich.text import Text

from diffusion.config.choices import choices, conf_dir, content, files, groups, inner_groups, is_group
from diffusion.config.schema import Settings, Train
from diffusion.config.validation import shown
from diffusion.console import console
from diffusion.errors import UserError, nearest

FLAGS = ("--help", "-h", "help")
FOOT = """
GROUP=CHOICE selects a choice, KEY=VALUE sets a value, and -m before them runs a sweep over comma-separated values.
--cfg job prints the whole configuration without running anything. --help GROUP explains a group and its settings."""
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
            _print(f"{group}={choice}", _rows_in(group, choice, documentation), about)
    else:
        raise UserError(f"--help {group}: unknown group{nearest(group, groups())}; groups are {', '.join(groups())}")
    return True


def default_choices(command: str) -> dict[str, str]:
    """Group -> a command's default choice."""
    listed = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: str(choice) for group, choice in found.items() if is_group(group) and group != "hydra"}


def documentation(target: str) -> dict[str, str]:
    """Argument -> its docstring entry, of a class (with its base classes) or function; "" -> the first line."""
    made: Any = locate(target)
    parts = [made]
    if inspect.isclass(made):
        parts = [part for base in reversed(made.__mro__) for part in (base, vars(base).get("__init__"))]
    found: dict[str, str] = {}
    for docstring in (inspect.cleandoc(part.__doc__ or "") for part in parts if part is not None):
        entries = re.findall(r"^ {4}([\w, ]+): (.*(?:\n {5,}.*)*)", docstring.partition("Args:\n")[2], re.MULTILINE)
        found |= {name.strip(): " ".join(text.split()) for names, text in entries for name in names.split(",")}
    return found | {"": (inspect.getdoc(made) or "").partition("\n")[0]}


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


def _rows_in(group: str, choice: str, documented: Any = lambda target: {}) -> list[Row]:
    """The settings in a choice's yaml, explained by the class or schema that has them, or the comment after them."""
    text = content(group, choice)
    said = {f"{group}.{key}": comment for key, comment in re.findall(r"^(\w+):.*? {2,}# (.+)", text, re.MULTILINE)}
    field = Train.model_fields.get(group)  # a group may set settings of diffusion.train, such as `score`
    if field is not None and inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
        said |= {row.partition("=")[0]: about for row, about in _settings(field.annotation, f"{group}.")}

    def rows(place: str, node: Mapping[str, Any]) -> Iterator[Row]:
        about = documented(node["_target_"]) if node.get("_target_") else {}
        for key, value in node.items():
            if key != "defaults" and not key.startswith("_"):
                part = value if isinstance(value, Mapping) else {}
                first = documented(part["_target_"]).get("") if "_target_" in part else ""
                row = f"{place}.{key}={shown(value) if value is not part else '…'}"
                yield row, about.get(key) or first or said.get(f"{place}.{key}", "")
                yield from rows(f"{place}.{key}", part)

    return [*rows(group, yaml.safe_load(text) or {})]
