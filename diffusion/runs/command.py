"""Entry point of every command: Hydra composes the configuration, which is validated once and becomes a typed object.

Exit status: 0 success; 1 a bug in the program (with a traceback), or a killed process of the run; with one line on
stderr: 2 an error that the user can fix, 3 a NaN or infinity, 4 a diverged loss; 128 + its number after a signal,
such as 130 for Ctrl-C: a training run first saves its state.
"""

import os
import shutil
import sys
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.base.console import console
from diffusion.config import messages
from diffusion.config.build import plain_config, validated
from diffusion.config.choices import conf_dir, groups, left_by, register, searching
from diffusion.config.inherit import changes_of, inherit
from diffusion.config.schema import Settings
from diffusion.errors import Interrupted, UserError
from diffusion.runs import naming
from diffusion.runs.folder import SWEEP, check_output
from diffusion.runs.launch import Launch
from diffusion.runs.processes import begin_process
from diffusion.runs.record import LOCK

Values = dict[str, Any]


@dataclass(frozen=True)
class Command:
    """The main function of a command, whose choices are in conf/NAME.yaml.

    Functions are given by their full names, since importing them takes long.

    Args:
        schema: Its settings.
        about: A description with examples, for `--help`.
        task: The function of (settings, launch). It is called after Hydra has finished; for a job of a sweep (`-m`), by
            Hydra, maybe in another process, and a sweeper optimizes its result.
        init: With `init=MODEL`, the choices are in conf/INIT.yaml.
        from_model: Then this function of (values, launch) completes the composed values with what they leave to MODEL.
    """

    name: str
    schema: type[Settings]
    about: str
    task: str
    init: str = ""
    from_model: str = ""

    def __call__(self, typed: Sequence[str] | None = None) -> None:
        """Run the command with these words, by default those of the command line."""
        begin_process()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions reach the handlers below
        typed = sys.argv[1:] if typed is None else typed
        words, sweep, launch = list[str](), False, None
        with ExitStack() as stack:
            try:
                given = messages.parsed(typed, self.name)
                words, sweep = [written(word) for word in given.overrides], given.multirun
                stack.enter_context(searching([given.config_dir]))
                if {*messages.HELP} & {*typed}:
                    messages.print_help(self.name, self.schema, self.about, typed)
                    return
                for settings, launch in self.runs(given, words):
                    resolve_name(self.task)(settings, launch)
            except KeyboardInterrupt:
                sys.exit(130)
            except Interrupted as stop:
                sys.exit(stop.status)
            except Exception as error:
                for folder in [launch.folder] if launch else naming.made[-1:]:
                    names = {each.name for each in folder.glob("*")}
                    if folder in naming.made and names <= {".hydra", LOCK, naming.MARK, SWEEP}:
                        shutil.rmtree(folder, ignore_errors=True)  # nothing was begun
                    if isinstance(error, OSError) and error.errno in messages.UNWRITABLE:
                        error.filename = error.filename or str(folder)
                known = messages.explain(error, self.name, words, sweep)
                if known is None:
                    raise
                print(f"error: {known}", file=sys.stderr)
                sys.exit(known.status)

    def runs(self, given: Namespace, words: list[str]) -> list[tuple[Settings, Launch]]:
        """The settings of the one run that is begun or resumed; none after a sweep, whose jobs are done."""
        if self.name == "train" and not given.multirun and (resumed := resumed_run(words)):
            values, launch = resumed
            return [(validated(self.schema, values), launch)]
        found = list[tuple[Values, Launch]]()
        config = self.init if self.init and any(word.startswith("init=") for word in words) else self.name
        register(self.name)
        register(config)
        naming.register()
        version.setbase("1.3")
        given.overrides = [*words]  # Hydra adds its mode
        # What hydra.main does, which itself would read sys.argv instead of these words.
        _run_hydra(given, get_args_parser(), partial(self.take, words, found), str(conf_dir()), config)
        return [(self.settings(values, launch), launch) for values, launch in found]

    def take(self, words: list[str], found: list[tuple[Values, Launch]], config: DictConfig) -> Any:
        """Called by Hydra with a configuration: do a job of a sweep, or add a run to `found`."""
        begin_process()  # it may be that of a worker
        context = HydraConfig.get()
        values: Any = OmegaConf.to_container(config, resolve=True)
        folder = Path(context.runtime.output_dir)
        if context.mode != RunMode.MULTIRUN:
            return found.append((values, Launch(folder, words, self.name)))
        check_output(folder)
        launch, sources = Launch(folder, [*context.overrides.task], self.name, job=True), context.runtime.config_sources
        with searching(each.path for each in sources if each.provider == "command-line"):  # for launchers, too
            return resolve_name(self.task)(self.settings(values, launch), launch)

    def settings(self, values: Values, launch: Launch) -> Settings:
        """Composed values, with what they leave to the model of `init`; None for what they leave to that of `ckpt`."""
        if self.from_model and values["init"]:
            values = resolve_name(self.from_model)(values, launch)
        return validated(self.schema, values | dict.fromkeys(left_by(self.name)))


def written(word: str) -> str:
    """`KEY=VALUE` with ~ expanded, and with quotes around a value that is not ASCII, which Hydra only accepts so."""
    key, equals, value = word.partition("=")
    value = os.path.expanduser(value) if value.startswith("~/") else value
    plain = value.isascii() or any(mark in value for mark in "\"'[]{}(),\\")
    return f"{key}{equals}{value}" if plain else f'{key}{equals}"{value}"'


def resumed_run(words: list[str]) -> tuple[Values, Launch] | None:
    """The settings and the launch of the run that `hydra.run.dir=RUN ckpt=auto` resumes; None for other overrides.

    These are the settings that the run has saved, changed by the overrides. With `experiment=…`, the command line
    states the whole recipe again, and Hydra composes it.
    """
    changes = changes_of(words)
    given = {change.place: change.value for change in changes}
    if given.get("ckpt") not in ("auto", "last") or "hydra.run.dir" not in given or "experiment" in given:
        return None
    launch = Launch(Path(str(given["hydra.run.dir"])).absolute(), words)
    file = launch.folder / "config.yaml"
    if not file.is_file():
        if {*given} & {*groups()}:
            return None  # it is started
        raise UserError(
            f"{launch.folder}: no run to resume, as it has no config.yaml (diffusion status lists the runs); with a "
            "recipe, a run is started, or resumed if there is one: experiment=NAME hydra.run.dir=RUN ckpt=auto"
        )
    check_output(launch.folder)
    console.print(f"resuming with the settings in {file}")
    return inherit(plain_config(file.read_bytes(), file), changes, file=file), launch
