"""One-line explanations of errors in a command line and its configuration."""

import errno
import re
import sys
import traceback
from argparse import Namespace
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn

import yaml
from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.config import quoting
from diffusion.config.choices import SEVERAL, choices, choices_with, conf_dir, inner_groups, is_group
from diffusion.config.composition import composed
from diffusion.config.schema import INSTEAD
from diffusion.errors import UserError, closest, first_line, nearest, out_of_memory

PLUGIN_GROUPS = ("hydra/sweeper", "hydra/launcher")  # optional packages add choices
FULL = (errno.ENOSPC, errno.EDQUOT)


def exit_status(error: BaseException) -> int:
    """The exit status for an error that `explain` can explain."""
    return next((cause.status for cause in _chain(error) if isinstance(cause, UserError)), 2)


def explain(error: BaseException, command: str) -> str | None:
    """An error that the user can fix, in one line; None for a bug in the program."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
        if isinstance(cause, OSError) and _is_unwritable(cause):  # Hydra writes files before the command begins
            return _unwritable(cause)
    for cause in chain:
        if isinstance(cause, MissingConfigException):
            return _unknown_choice(cause)
        if isinstance(cause, yaml.YAMLError):  # it names the file and the line
            return " ".join(f"not readable as yaml: {cause}".split())
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause.override)
        if match := re.match(r"Ambiguous value for argument '(.+)'\n", str(cause)):
            return _unquoted_commas(match[1])
    if any(isinstance(cause, ConfigCompositionException | OmegaConfBaseException) for cause in chain):
        return _bad_override(chain, command)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra: GROUP=null or 1
        return _no_choice(sys.argv[1:], command)
    if isinstance(error, InstantiationException):
        return " ".join(str(chain[0]).split())
    if isinstance(error, ValueError) and "No trials are completed yet" in str(error):  # Optuna
        return "no trial of the search was completed, for the reasons above; repeat the command after fixing them"
    if isinstance(error, HydraException):
        return " ".join(str(error).split())
    if out_of_memory(error):
        fix = (
            "lower the batch size (to train with unchanged results, lower data.batch_size and set "
            "data.global_batch_size), or set trainer.precision=bf16-mixed"
            if command == "train"
            else "lower batch_size, which does not change the samples, or set precision=bf16-mixed"
        )
        return f"{first_line(error).partition('. ')[0]}: {fix}"
    if isinstance(error, RuntimeError) and "does not allow for gradient clipping" in str(error):
        return (
            "trainer.gradient_clip_val: gradients cannot be clipped with optimizer.fused=true and float16, because the "
            "optimizer scales them back by itself; use trainer.precision=bf16-mixed or optimizer.fused=false"
        )
    if isinstance(error, RuntimeError) and "without overflow" in str(error):
        return "a value in the optimizer's step overflows float32: lower optimizer.lr"
    if isinstance(error, OSError) and _raised_in(error, "makedirs", "mkdir"):
        return _unwritable(error)
    return None


def ordered(words: Sequence[str], command: str) -> list[str]:
    """Move Hydra's options behind the settings, because Hydra does not accept them in between.

    Raises UserError for a word that is neither an option nor KEY=VALUE, such as `--lr 1e-4`.
    """
    given, unknown = options_of(words)
    settings, options = list(given.overrides), list(words)
    stray = [w for w in words if w in unknown or (w in settings and "=" not in w[1:] and not w.startswith("~"))]
    if stray:
        raise UserError(_stray(stray, command))
    for word in settings:
        options.remove(word)
    return settings + options


def options_of(words: Sequence[str]) -> tuple[Namespace, list[str]]:
    """Hydra's options in `words`, and the unknown words. Raises UserError for an option without its value."""
    parser = get_args_parser()
    parser.error = _refuse_option  # type: ignore[method-assign]
    return parser.parse_known_intermixed_args(list(words))


def _refuse_option(message: str) -> NoReturn:
    raise UserError(f"{message}; --help lists the settings")


def _stray(words: Sequence[str], command: str) -> str:
    """The message for words that are not KEY=VALUE, with a suggestion for the first one."""
    key, equals, value = words[0].lstrip("-").partition("=")
    found = words[0]
    if not equals:
        value = next(iter(words[1:2]), "…")
        found += f" {value}" * (len(words) > 1)
    meant = closest(key.replace("-", "_"), _known_keys(command))
    return f"{found}: expected KEY=VALUE" + (f", here {meant[0]}={value}" if meant else "; --help lists the keys")


def _is_unwritable(error: OSError) -> bool:
    """Whether a full or read-only disk is the reason, or a folder in which Hydra may not write."""
    places = ("makedirs", "mkdir", "_save_config", "save", "replacing", "claim", "lock")
    forbidden = error.errno == errno.EACCES and _raised_in(error, *places, frames=2)
    return error.errno in (*FULL, errno.EROFS) or forbidden


def _raised_in(error: OSError, *functions: str, frames: int = 1) -> bool:
    """Whether an error was raised in one of these functions, or in one that they called: within the last `frames`."""
    return any(frame.name in functions for frame in traceback.extract_tb(error.__traceback__)[-frames:])


def _unwritable(error: OSError) -> str:
    """The message for a file or folder that cannot be written; a full disk does not name it."""
    free = "free some space, or " if error.errno in FULL else ""
    what = error.filename or "the output folder"
    return f"cannot write {what}: {error.strerror}; {free}choose a folder you can write to (hydra.run.dir=…)"


def summary(error: BaseException, command: str) -> str:
    """Any error in one line, including bugs in the program."""
    reason = explain(error, command) if isinstance(error, Exception) else None
    return reason or f"{type(error).__name__}: {first_line(error)}"


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _unknown_choice(error: MissingConfigException) -> str:
    """The message for an unknown choice such as `data=landscpes`, with the closest ones."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    known = error.options or (choices(group) if is_group(group) else [])  # Hydra lists none for a list of choices
    options = [option for option in known if not option.startswith("_") and "_settings" not in option]
    if not group or not options:
        return " ".join(str(error).split())
    extra = "; pip install 'diffusion-experiments[sweep]' installs more" if group in PLUGIN_GROUPS else ""
    near = nearest(choice, options)
    return f"{group}={choice}: unknown choice{near}; {group} is one of {', '.join(options)}{extra}"


def _no_choice(words: Sequence[str], command: str) -> str | None:
    """The message for `data=null`, or for a number given as a choice."""
    for key, _, value in (word.partition("=") for word in words):
        group, _, place = key.partition("@")
        if is_group(group) and re.fullmatch(r"null|[-+.\d][-+.\de]*", value):
            if place:
                listed = ", ".join(choices(group))
                return f"{key}={value}: {group} is one of {listed}; if it is optional, {place}=null"
            if key == "ema" and command != "train":
                return f"ema={value}: ema is a choice for training; for an average of this length, set weights={value}"
            return f"{key}={value}: a choice is required; {key} is one of {', '.join(choices(key))}"
    return None


def _unreadable(word: str) -> str:
    """The message for a word that Hydra's grammar does not accept, such as `data.root=/a/run (1)`."""
    return f"{word}: a value with characters such as ( ) {{ }} = or a quote needs quotes: {quoting.quoted(word)}"


def _unquoted_commas(word: str) -> str:
    (key, _, value), text = word.partition("="), quoting.quoted(word)
    several = f"write {key}=[{value}] for a list, {text} for text, or "
    return f"{word}: {'' if is_group(key) and key not in SEVERAL else several}add -m to run them one by one"


def _bad_override(chain: list[BaseException], command: str) -> str:
    """The message for an override of an unknown key, or with a value of the wrong type."""
    text = " ".join(str(chain[0]).split())
    if match := re.match(r"\w+ raised while resolving interpolation: \[Errno (\d+)\] (.+): '(.+?)'", text):
        return _unwritable(OSError(int(match[1]), match[2], match[3]))  # of a new folder; OmegaConf keeps only the text
    if match := re.search(r"Could not override '([^']+)'", text):
        key = match[1]
        if key in INSTEAD:
            return f"{key}: it is set by the run itself; {INSTEAD[key]}"
        part = re.fullmatch(r"\w+@(\w+)\.(\w+)", key)
        if part and (having := choices_with(*part.groups())):
            use = " or ".join(f"{part[1]}={choice}" for choice in having)
            return f"{key}: the chosen {part[1]} has no {part[2]}; use {use}"
        if is_group(key) and (outer := _outer_groups(key)):
            places = " or ".join(f"{key}@{group}.{key}=…" for group in outer)
            return f"{key}: it is part of another group; choose it with its place: {places}"
        group, _, name = key.partition(".")
        known = _known_keys(command, key)
        if name and group in known and (having := choices_with(group, name)):
            return f"{key}: it is a setting of {' or '.join(f'{group}={each}' for each in having)}; choose that, too"
        if group in SEVERAL and (choice := name.partition(".")[0]) in choices(group):
            return f"{key}: set {group}={choice}, too"
        return f"{key}: unknown setting{nearest(key, known)}; --help lists all of them"
    return re.sub(r"\s*(full_key|object_type|To append to your config).*", "", text)


def _outer_groups(part: str) -> list[str]:
    """The groups whose choices contain a nested group: objective for `weighting`; [] for other groups."""
    groups = sorted(path.name for path in conf_dir().iterdir() if is_group(path.name))
    return [group for group in groups if part in inner_groups(group)]


def _known_keys(command: str, wrong: str = "") -> list[str]:
    """All dotted keys of the configuration composed with the command line's choices, for spelling suggestions.

    Settings of a run's sampler are added if it is not chosen here. The key `wrong` is left out of the command line.
    """
    words = [word for word in sys.argv[1:] if "=" in word and not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(words)
    chosen = [o for o in parsed if "." not in o.key_or_group and not o.is_sweep_override()]
    for kept in ([o.input_line for o in chosen if o.key_or_group != wrong], []):
        try:
            config = composed(command, [line for line in kept if line])
        except Exception:
            continue  # the overrides themselves are invalid; the keys of the defaults are close enough
        found = [*_dotted(OmegaConf.to_container(config, resolve=False))]
        return [*found, *(["sampler.steps"] if "sampler" in found and "sampler.steps" not in found else [])]
    return []


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in (node or {}).items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")
