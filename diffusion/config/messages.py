"""Errors of a command in one line, made from the exception and the words of the command line."""

import errno
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import OverrideType
from hydra.errors import HydraException, MissingConfigException, OverrideParseException
from omegaconf.errors import OmegaConfBaseException

from diffusion.config.build import flat
from diffusion.config.choices import RUN, choices, composed, groups
from diffusion.config.schema import INSTEAD
from diffusion.errors import ProcessLost, UserError, first_line, nearest, of_system, override, pip_install

ArgumentParser._check_help = lambda *_: None  # type: ignore[attr-defined]  # Python 3.14 refuses a text of Hydra's
HELP = ("--help", "-h", "help")
UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES, errno.EPERM, errno.EEXIST, errno.ENOTDIR)


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


def summary(error: BaseException, command: str) -> str:
    """Any error in one line, including bugs in the program."""
    return str(explain(error, command) or f"{type(error).__name__}: {first_line(error)}")


def parsed(words: Sequence[str], command: str) -> Namespace:
    """Hydra's options, with the settings in `overrides`.

    Raises UserError for a word that is neither an option nor KEY=VALUE, such as `--lr 1e-4`.
    """

    def refuse(message: str) -> NoReturn:
        raise UserError(f"{message}; --help lists the settings")

    parser = get_args_parser()
    parser.error = refuse  # type: ignore[method-assign]
    given, unknown = parser.parse_known_intermixed_args(list(words))
    stray = [*unknown, *(word for word in given.overrides if "=" not in word[1:] and not word.startswith("~"))]
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
        return f"{group}={choice}: unknown choice{nearest(choice, options)}; it is one of {', '.join(options)}{extra}"
    if isinstance(error, OSError) and error.errno in UNWRITABLE:
        return f"{of_system(error)} (hydra.run.dir=…, or DIFFUSION_CACHE for decoded images)"
    if isinstance(error, yaml.YAMLError):  # it names the file and the line
        return f"not readable as yaml: {' '.join(str(error).split())}"
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
    if config.get("sampler", {}).get("from") == RUN:
        known.append("sampler.steps")
    for each in given:
        word, key = str(each.input_line), str(each.key_or_group)
        place = str(each.package or key)
        group, _, name = place.partition(".")
        if each.is_sweep_override() and not sweep:
            value = word.partition("=")[2]
            return f"{word}: add -m to run them one by one, or write {place}=[{value}] or {override(place, value)}"
        if place in known or (f"{group}.from" in known and name) or (key, command) == ("experiment", "train"):
            if key in groups() and not each.is_sweep_override() and not isinstance(each.value(), str | list):
                return f"{word}: a choice is required; {key} is one of {', '.join(choices(key))}"
        elif place in INSTEAD:
            return f"{place}: it is set by the run itself; {INSTEAD[place]}"
        elif name and group in groups():
            near = nearest(place, known)
            return f"{word}: the chosen {group} has no such setting{near}; --help {group} lists those of each choice"
        else:
            return f"{word}: unknown setting{nearest(place, known)}; --help lists all of them"
    return None
