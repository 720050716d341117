"""What every command shares: Hydra's composition in front, one-line errors behind.

Exit status: 0 done; 1 a fault of the program (with a traceback); with one line: 2 something the user can mend,
3 a NaN or infinity in training, 4 a loss that has diverged. A training run that is stopped saves its state first:
130 by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1.
"""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import (
    ConfigCompositionException,
    HydraException,
    InstantiationException,
    MissingConfigException,
    OverrideParseException,
)
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from diffusion.config import quoting as shell
from diffusion.config import secrets, settings
from diffusion.config.choices import choices_with, conf_dir
from diffusion.errors import Interrupted, UserError, nearest
from diffusion.runs import naming as folders
from diffusion.runs import slurm

PLUGGED = ("hydra/sweeper", "hydra/launcher")  # groups whose choices come with packages


def command(config_name: str) -> Callable[[Callable[[DictConfig], Any]], Callable[[], None]]:
    """Make `task(cfg)` a command whose configuration is `conf/<config_name>.yaml` and the command line's overrides."""

    def decorate(task: Callable[[DictConfig], Any]) -> Callable[[], None]:
        mendable: list[Exception] = []
        folders.register()

        @functools.wraps(task)
        def job(cfg: DictConfig) -> Any:
            try:
                resolved = OmegaConf.to_container(cfg, resolve=True)
                assert isinstance(resolved, dict)
                config = {str(key): value for key, value in resolved.items()}
                secrets.refuse_values(config)
                settings.check(config_name, config)
                return task(cfg)
            except Exception as error:
                if HydraConfig.get().mode != RunMode.RUN or explain(error, config_name) is None:
                    raise  # in a sweep Hydra says which job it was, and goes on with the others
                mendable.append(error)
                return None

        run = hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=config_name)(job)

        @functools.wraps(task)
        def main() -> None:
            if "TORCHELASTIC_RUN_ID" in os.environ and os.environ["RANK"] != "0":
                from diffusion.training.processes import follow

                return follow()  # the first process alone goes through Hydra, and tells the others
            mendable.clear()
            os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through to the lines below
            try:
                slurm.check_tasks()
                if config_name == "train":
                    sys.argv[1:] = folders.with_its_words(sys.argv[1:])
                secrets.refuse_words(sys.argv[1:])
                run()
                if mendable:
                    raise mendable[0]
            except KeyboardInterrupt:
                sys.exit(130)
            except Interrupted as stop:
                sys.exit(stop.status)
            except Exception as error:
                line = explain(error, config_name)
                if line is None:
                    raise
                print(f"error: {line}", file=sys.stderr)
                sys.exit(status(error))

        return main

    return decorate


def status(error: BaseException) -> int:
    """The exit status of an error that `explain` explains."""
    return next((cause.status for cause in _chain(error) if isinstance(cause, UserError)), 2)


def explain(error: BaseException, config_name: str) -> str | None:
    """The one line that says what the user can mend, or None for a fault of the program."""
    chain = list(_chain(error))
    for cause in chain:
        if isinstance(cause, UserError):
            return str(cause)
    for cause in chain:
        if isinstance(cause, MissingConfigException):
            return _unknown_choice(cause)
        if isinstance(cause, OverrideParseException):
            return _unreadable(cause.override)
        if match := re.match(r"Ambiguous value for argument '(.+)'\n", str(cause)):
            return _unquoted_commas(match[1])
    if any(isinstance(cause, ConfigCompositionException | OmegaConfBaseException) for cause in chain):
        return _bad_override(chain, config_name)
    if isinstance(error, ValueError) and "Config group override must be" in str(error):  # Hydra's, of GROUP=null
        empty = [word for word in sys.argv[1:] if word.endswith("=null") and (conf_dir() / word[:-5]).is_dir()]
        return settings.needed(empty[0][:-5]) if empty else None
    if isinstance(error, InstantiationException):
        return " ".join(str(chain[0]).split())
    if isinstance(error, HydraException):
        return " ".join(str(error).split())
    if isinstance(error, OSError) and _making_a_folder(error):
        return f"cannot write {error.filename}: {error.strerror}; choose a folder you can write to (hydra.run.dir=…)"
    return None


def _making_a_folder(error: OSError) -> bool:
    return traceback.extract_tb(error.__traceback__)[-1].name in ("makedirs", "mkdir")


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)


def _unknown_choice(error: MissingConfigException) -> str:
    """`data=landscpes` -> what there is, with the nearest names."""
    group, _, choice = (error.missing_cfg_file or "").rpartition("/")
    options = [option for option in (error.options or []) if not option.startswith("_")]
    if not group or not options:
        return " ".join(str(error).split())
    extra = "; pip install 'diffusion-experiments[sweep]' brings more" if group in PLUGGED else ""
    return (
        f"{group}={choice}: there is no such choice{nearest(choice, options)}; {group} is one of "
        f"{', '.join(options)}{extra}"
    )


def _unreadable(word: str) -> str:
    """A word of the command line that Hydra's grammar does not read, such as `data.root=~/photos`."""
    key, equals, _ = word.partition("=")
    if not key or not equals:
        return f"{word}: expected KEY=VALUE; --help lists the keys"
    return f"{word}: a value with signs such as ~ ( ) {{ }} = or a quote is given in quotes: {shell.quoted(word)}"


def _unquoted_commas(word: str) -> str:
    (key, _, value), text = word.partition("="), shell.quoted(word)
    return f"{word}: write {key}=[{value}] for a list, {text} for a text, or add -m to run them one by one"


def _bad_override(chain: list[BaseException], config_name: str) -> str:
    """An override that names no key of the configuration, or a value of the wrong kind."""
    text = " ".join(str(chain[0]).split())
    match = re.search(r"Could not override '([^']+)'", text)
    if match:
        key = match.group(1)
        part = re.fullmatch(r"\w+@(\w+)\.(\w+)", key)
        if part and (having := choices_with(*part.groups())):
            use = " or ".join(f"{part[1]}={choice}" for choice in having)
            return f"{key}: the chosen {part[1]} has no {part[2]}; use {use}"
        return f"{key}: there is no such setting{nearest(key, _known_keys(config_name))}; --help lists all of them"
    match = re.search(r"Could not (?:find|load) '?([\w/.@-]+)'?", text)
    missing = re.search(r"Missing mandatory value: (\S+)", text)
    for cause in chain:
        found = re.search(r"Missing mandatory value: (\S+)", str(cause))
        missing = missing or found
    if missing:
        key = missing.group(1)
        return f"{key} is not set; give it on the command line: {key}=…"
    return re.sub(r"\s*(full_key|object_type|To append to your config).*", "", text)


def _known_keys(config_name: str) -> list[str]:
    """All dotted keys of the configuration that the command line's choices compose, for spelling suggestions."""
    from hydra import compose, initialize_config_dir
    from hydra.core.global_hydra import GlobalHydra

    words = [word for word in sys.argv[1:] if not word.startswith("-")]
    parsed = OverridesParser.create().parse_overrides(words)
    GlobalHydra.instance().clear()
    with initialize_config_dir(str(conf_dir()), version_base="1.3"):
        for kept in ([o.input_line for o in parsed if "." not in o.key_or_group and not o.is_sweep_override()], []):
            try:
                cfg = compose(config_name, overrides=[line for line in kept if line])
            except Exception:
                continue  # the overrides are what is wrong; the defaults' keys are near enough
            return [*_dotted(OmegaConf.to_container(cfg, resolve=False))]
    return []


def _dotted(node: Any, prefix: str = "") -> Iterator[str]:
    for key, value in (node or {}).items():
        yield f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _dotted(value, f"{prefix}{key}.")


def output_folder() -> Path:
    """The folder of this run, made by Hydra."""
    return Path(HydraConfig.get().runtime.output_dir)
