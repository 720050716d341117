"""What a command prints instead of running: its `--help`, or an error in one line, made from the exception.

A command's own settings are documented in their schema, those of a choice in its yaml file or in the docstring of the
class that it names. Only `--help GROUP` imports these classes, so `--help` appears in well under a second.
"""

import errno
import inspect
import re
from argparse import Namespace
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from pydoc import locate
from textwrap import indent
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import ConfigAttributeError, OmegaConfBaseException
from rich.table import Table

from diffusion.base.console import console
from diffusion.config.build import flat
from diffusion.config.choices import choices, composed, default_choices, files, groups, inner_groups, left_by
from diffusion.config.schema import INSTEAD, Settings
from diffusion.errors import ProcessLost, UserError, first_line, nearest, of_system, override, pip_install, shown

HELP = ("--help", "-h", "help")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)
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


SWEEPING = {
    "hydra/launcher=basic": "one after the other; the default",
    "hydra/launcher=joblib": "hydra.launcher.n_jobs=N at a time on this machine; pip install -e '.[sweep]'",
    "hydra/launcher=submitit_slurm": "as SLURM jobs; pip install -e '.[sweep]'",
    "hydra/sweeper=basic": "all combinations of the values; the default",
    "hydra/sweeper=search": "a search for the best score (docs/search.md); pip install -e '.[sweep]'",
}


def print_help(command: str, schema: type[Settings], about: str, words: Sequence[str]) -> None:
    """Print the help that the command-line `words` ask for by one of `HELP`."""
    asked = next(i for i, word in enumerate(words) if word in HELP)
    name = next(iter(words[asked + 1 :]), "-").partition("=")[0]
    group = name.partition("@")[0]
    settings = list(_settings(schema))
    described = [row for row in settings if f"{row[0].partition('=')[0]}.".startswith(f"{name}.")]
    if name.startswith("-"):
        console.print(about.strip())
        chosen = default_choices(command)
        if first := MOST_USED.get(command):
            defaults = flat(composed(command)) | chosen
            values = {key: shown(defaults[key]) if key in defaults else "" for key in first}
            _print("Most used", [(f"{key}={value}", first[key]) for key, value in values.items()])
        rows = [(f"{each}={default}", ", ".join(choices(each))) for each, default in chosen.items()]
        rows += [(f"{part}@{each}.{part}=", ", ".join(choices(part))) for each in chosen for part in inner_groups(each)]
        _print("Settings and their defaults", settings)
        _print("Groups, the default choices, and all choices", rows)
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
    elif re.match("hydra|launcher|sweeper", group):
        _print("The jobs of -m: where they run, and which", [*SWEEPING.items()])
        console.print(f"Their settings: diffusion {command} hydra/launcher=joblib --cfg hydra -p hydra.launcher")
    elif not described:
        raise UserError(f"--help {group}: unknown name{nearest(group, groups())}; groups are {', '.join(groups())}")
    if described:
        _print("Settings and their defaults", described)


def documentation(target: str) -> str:
    """The `Args:` of a function, or of a class, its base classes in the same package and their `__init__`."""
    made: Any = locate(target)
    parts = [made]
    if inspect.isclass(made):
        own = [base for base in inspect.getmro(made) if base.__module__.partition(".")[0] == target.partition(".")[0]]
        parts = [part for base in own for part in (base, vars(base).get("__init__"))]
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


def explain(error: BaseException, command: str, words: Sequence[str] = (), sweep: bool = False) -> UserError | None:
    """An error that the user can fix, such as in the overrides `words` of a command or its sweep; None for a bug."""
    chain = [error]
    while cause := chain[-1].__cause__ or chain[-1].__context__:  # OmegaConf hides that of an interpolation's error
        chain.append(cause)
    if known := [each for each in chain if isinstance(each, UserError)]:
        return known[0]
    if type(error).__name__ == "TerminatedWorkerError":  # joblib's, unimported
        again = "rerun the same command with hydra.sweep.dir=SWEEP to repeat what is not complete"
        return ProcessLost(f"a worker of the sweep was killed (out of memory?); the other jobs save and end; {again}")
    line = next(filter(None, map(_described, chain)), None)
    if line is None and isinstance(error, HydraException | OmegaConfBaseException | ValueError):
        line = _wrong(words, command, sweep)
    if line is None and isinstance(error, HydraException | OmegaConfBaseException):
        line = " ".join(str(error).split())
    if type(error).__name__ == "OutOfMemoryError" or "MPS backend out of memory" in str(error):  # torch's, unimported
        fix = "lower batch_size, which does not change the samples, or set precision=bf16-mixed"
        if command == "train":
            fix = "lower data.batch_size and set data.global_batch_size, or set trainer.precision=bf16-mixed"
        line = f"{first_line(error).partition('. ')[0]}: {fix}"
    return None if line is None else UserError(line)


def parsed(words: Sequence[str], command: str) -> Namespace:
    """Hydra's options, with the settings in `overrides`.

    Raises UserError for a word that is neither an option nor KEY=VALUE, such as `--lr 1e-4`.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the settings")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given, more = parser.parse_known_args([*words])  # the intermixed way hides a signal behind an error of argparse
    if given.cfg and given.multirun:
        raise UserError("--cfg prints one configuration: leave out -m, and give each setting one value")
    given.overrides += [word for word in more if not word.startswith("-")]  # those after an option
    stray = [each for each in (*more, *given.overrides) if each[:1] == "-" or ("=" not in each[1:] and each[:1] != "~")]
    if stray and not {*HELP} & {*words}:
        key = stray[0].lstrip("-").partition("=")[0].replace("-", "_")
        raise UserError(f"{stray[0]}: expected KEY=VALUE{nearest(key, flat(composed(command)))}")
    return given


def _described(error: BaseException) -> str | None:
    """An error of Hydra, yaml or the operating system that says by itself what is wrong; None for another one."""
    if isinstance(error, MissingConfigException):
        group, _, choice = (error.missing_cfg_file or "").rpartition("/")
        listed = error.options or (choices(group) if group in groups() else [])  # Hydra lists none for several choices
        options = [name for name in listed if not name.startswith("_") and "_settings" not in name]
        extra = f"; {pip_install('sweep')} installs more" if group.startswith("hydra/") else ""
        if own := [*Path().glob(f"*/{error.missing_cfg_file}.yaml")]:
            return f"{group}={choice}: for {own[0]}, add --config-dir {own[0].parts[0]}"
        return f"{group}={choice}: unknown choice{nearest(choice, options)}; it is one of {', '.join(options)}{extra}"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{of_system(error)} (hydra.run.dir=…, or DIFFUSION_CACHE for decoded images)"
    if isinstance(error, yaml.YAMLError):  # it names the file and the line
        return f"not readable as yaml: {' '.join(str(error).split())}"
    if isinstance(error, ConfigAttributeError) and str(error.full_key).startswith("hydra."):
        return f"{error.full_key}: unknown setting{nearest(error.key, error.parent_node or ())}; --cfg hydra lists all"
    if isinstance(error, RuntimeError) and '"srun"' in str(error):  # submitit's
        return "no SLURM on this machine (srun is missing): use a login node of the cluster, or hydra/launcher=joblib"
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        return f"{error.override}: a value with special characters needs quotes: {override(key, value)}"
    return None


def _wrong(words: Sequence[str], command: str, sweep: bool) -> str | None:
    """The first of the settings that does not suit the command, and how to write it."""
    overrides = OverridesParser.create().parse_overrides([*words])
    given = [o for o in overrides if o.type == OverrideType.CHANGE and not o.key_or_group.startswith("hydra")]
    chosen = [o for o in given if o.key_or_group in groups() and not (o.package or o.is_sweep_override())]
    try:
        config = composed(command, [str(each.input_line) for each in chosen])
    except Exception:  # a choice is invalid; the keys of the defaults are close enough
        config = composed(command)
    known = [*dict.fromkeys(name for key in flat(config) for name in (key, key.rpartition(".")[0]))]
    left = left_by(command)
    known += ["sampler.steps"] * ("sampler" in left)
    for each in given:
        word, key = str(each.input_line), str(each.key_or_group)
        place = str(each.package or key)
        group, _, name = place.partition(".")
        if each.is_sweep_override() and not sweep:
            value = word.partition("=")[2]
            return f"{word}: add -m to run them one by one, or write {place}=[{value}] or {override(place, value)}"
        if place in known or (group in left and name) or (key, command) == ("experiment", "train"):
            if key in groups() and not each.is_sweep_override() and not isinstance(each.value(), str | list):
                return f"{word}: a choice is required; {key} is one of {', '.join(choices(key))}"
        elif place in INSTEAD:
            return f"{place}: it is set by the run itself; {INSTEAD[place]}"
        elif name and group in groups():
            having = [choice for choice, file in files(group).items() if f"@{name}:" in file.read_text("utf-8")]
            near = f"; {', '.join(having)} have it, by a line of defaults" if having else nearest(place, known)
            return f"{word}: the chosen {group} has no such setting{near}; --help {group} lists those of each choice"
        else:
            inner = [f"{place}@{each}" for each in known if place in groups() and each.endswith(f".{place}")]
            return f"{word}: unknown setting{nearest(place, inner or known)}; --help lists all of them"
    return None
