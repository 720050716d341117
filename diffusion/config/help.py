"""`--help` and `--help NAME` of the commands: the settings with their documentation, and the choices of a group.

A command's own settings are documented in their schema, those of a choice in its yaml file or in the docstring of the
class that it names. Only `--help GROUP` imports these classes, so `--help` appears in well under a second.
"""

import inspect
import re
from collections.abc import Iterable, Iterator, Sequence
from pydoc import locate
from textwrap import indent
from typing import Any

import yaml
from rich.table import Table

from diffusion.config.choices import choices, conf_dir, files, groups, inner_groups
from diffusion.config.messages import HELP
from diffusion.config.schema import Settings
from diffusion.console import console
from diffusion.errors import UserError, nearest, shown

FOOT = """
GROUP=CHOICE selects a choice, KEY=VALUE sets a value, and -m before them runs a sweep over comma-separated values.
--cfg job prints the whole configuration without running anything. --help NAME explains a group or a setting."""

MOST_USED = {  # of each command with more settings than fit on a screen
    "train": {
        "experiment": "A whole recipe, such as demo, which takes minutes on any machine.",
        "data": "folder: your own images; landscapes: the photographs that come with the program.",
        "data.root": "With data=folder: the folder of your images, nested or not.",
        "data.resolution": "Size of the images in pixels, or [height,width].",
        "data.batch_size": "Images per step and device. Lower it if memory runs out.",
        "model": "The network, from unet_tiny to unet_base, or another architecture.",
        "optimizer.lr": "Learning rate.",
        "trainer.max_steps": "Length of the run in steps; -1: trainer.max_epochs alone ends it.",
        "trainer.devices": "Number of GPUs or processes on this machine.",
        "ckpt": "Resume a run: auto with its hydra.run.dir, or last.",
        "seed": "Seed of all randomness. Several, as in -m seed=0,1,2, show how much results vary by chance.",
    }
}


def print_help(command: str, schema: type[Settings], about: str, words: Sequence[str]) -> bool:
    """Print the help requested by the command-line `words`. Returns whether they request any."""
    asked = [i for i, word in enumerate(words) if word in HELP]
    if not asked:
        return False
    name = next(iter(words[asked[0] + 1 :]), "-").partition("=")[0]
    group = name.partition("@")[0]
    settings = list(_settings(schema))
    described = [row for row in settings if f"{row[0].partition('=')[0]}.".startswith(f"{name}.")]
    if name.startswith("-"):
        console.print(about.strip())
        chosen = default_choices(command)
        if first := MOST_USED.get(command):
            defaults = dict(row[0].split("=", 1) for row in settings) | chosen
            for key in first.keys() - defaults.keys():  # of the default choice of a group
                group, _, inner = key.partition(".")
                value = yaml.safe_load(files(group)[chosen[group]].read_text("utf-8")).get(inner)
                defaults[key] = "" if value is None else shown(value)
            _print("Most used", [(f"{key}={defaults[key]}", text) for key, text in first.items()])
        rows = [(f"{each}={default}", ", ".join(choices(each))) for each, default in chosen.items()]
        rows += [(f"{part}@{each}.{part}=", ", ".join(choices(part))) for each in chosen for part in inner_groups(each)]
        _print("Groups, the default choices, and all choices", rows)
        _print("Settings and their defaults", settings)
        console.print(FOOT)
    elif group in groups() or (not described and (group := group.partition(".")[0]) in groups()):
        targets = dict[str, None]()
        for choice, file in files(group).items():
            text = file.read_text("utf-8")
            console.print(f"\n{group}={choice}", style="bold")
            console.print(indent(text.strip(), "  "))
            targets |= dict.fromkeys(re.findall(r"^ *_target_: ([\w.]+)", text, re.MULTILINE))
        for target in targets:
            if arguments := documentation(target):
                console.print(f"\n{target}", style="bold")
                console.print(arguments.rstrip())
    elif not described:
        raise UserError(f"--help {group}: unknown name{nearest(group, groups())}; groups are {', '.join(groups())}")
    if described:
        _print("Settings and their defaults", described)
    return True


def default_choices(command: str) -> dict[str, str]:
    """Group -> a command's default choice."""
    listed = yaml.safe_load((conf_dir() / f"{command}.yaml").read_text("utf-8"))["defaults"]
    found = {group: choice for entry in listed if isinstance(entry, dict) for group, choice in entry.items()}
    return {group: shown(choice) for group, choice in found.items() if group in groups()}


def documentation(target: str) -> str:
    """The `Args:` in the docstring of a function, or of a class, its base classes and their `__init__`."""
    made: Any = locate(target)
    parts = [made]
    if inspect.isclass(made):
        parts = [part for base in inspect.getmro(made) for part in (base, vars(base).get("__init__"))]
    texts = [inspect.cleandoc(part.__doc__ or "") + "\n" for part in parts]
    return "".join(found for text in texts for found in re.findall(r"^Args:\n((?: .*\n)+)", text, re.MULTILINE))


def _print(title: str, rows: Iterable[tuple[str, str]]) -> None:
    console.print(f"\n{title}", style="bold")
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 2))
    table.add_column(overflow="fold", max_width=44)
    for row in rows:
        table.add_row(*row)
    console.print(table, soft_wrap=False)


def _settings(schema: type[Settings], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield KEY=DEFAULT and the documentation of the settings outside groups."""
    for key, field in schema.model_fields.items():
        if inspect.isclass(field.annotation) and issubclass(field.annotation, Settings):
            yield from _settings(field.annotation, f"{prefix}{key}.")
        elif prefix + key not in groups():
            default = "" if field.is_required() else shown(field.default)
            yield f"{prefix}{key}={'' if '${' in default else default}", " ".join((field.description or "").split())
