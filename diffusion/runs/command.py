"""Entry point of every command: Hydra composes the configuration, which is validated once and becomes a typed object.

Exit status: 0 success; 1 a bug in the program (with a traceback), or a killed process of the run; with one line on
stderr: 2 an error that the user can fix, 3 a NaN or infinity, 4 a diverged loss; 128 + its number after a signal,
such as 130 for Ctrl-C: a training run first saves its state.
"""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from pkgutil import resolve_name
from typing import Any, TypeVar

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
from diffusion.runs.launch import begin_process
from diffusion.runs.record import LOCK

S = TypeVar("S", bound=Settings)
Task = Callable[[S, Path, list[str]], Any] | str
"""(settings, folder, words of the command line) -> the result of a job, which a sweeper optimizes; or its full name."""
Values = dict[str, Any]


def command(
    name: str, schema: type[S], about: str, task: Task[S], job: Task[S] | None = None, init: str = "",
    from_model: str = "",
) -> Callable[..., None]:  # fmt: skip
    """Create the main function of a command with its choices in conf/NAME.yaml and its settings in `schema`.

    `about` describes it, with examples, for `--help`. `task` is called after Hydra has finished; for a job of a sweep
    (`-m`), Hydra calls `job`, by default the same, maybe in another process.

    With `init=MODEL`, the choices are those in conf/INIT.yaml, and `from_model` is the full name of a function that
    completes the composed values, by the words, with what they leave to the model.
    """
    register(name)
    naming.register()

    def checked(values: Values, words: list[str]) -> S:
        if from_model and values["init"]:
            values = called(from_model)(values, words)
        return validated(schema, values | dict.fromkeys(left_by(name)))

    def main(typed: Sequence[str] | None = None) -> None:
        """Run the command with these words, by default those of the command line."""
        begin_process()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions reach the handlers below
        typed = sys.argv[1:] if typed is None else typed
        words, sweep, single = list[str](), False, list[tuple[Path, Any]]()
        with ExitStack() as stack:
            try:
                given = messages.parsed(typed, name)
                words, sweep = [written(word) for word in given.overrides], given.multirun
                stack.enter_context(searching([given.config_dir]))
                if messages.print_help(name, schema, about, typed):
                    return
                if name == "train" and not sweep and (resumed := resumed_run(words)):
                    called(task)(validated(schema, resumed[1]), resumed[0], words)
                    return
                given.overrides = [*words]  # Hydra adds its mode
                config = init if init and any(word.startswith("init=") for word in words) else name
                register(config)
                version.setbase("1.3")
                # What hydra.main does, which itself would read sys.argv instead of these words.
                composed = partial(run_composed, checked, job or task, single)
                _run_hydra(given, get_args_parser(), composed, str(conf_dir()), config)
                for folder, values in single:
                    called(task)(checked(values, words), folder, words)
            except KeyboardInterrupt:
                sys.exit(130)
            except Interrupted as stop:
                sys.exit(stop.status)
            except Exception as error:
                for folder in [folder for folder, _ in single] or naming.made[-1:]:
                    names = {each.name for each in folder.glob("*")}
                    if folder in naming.made and names <= {".hydra", LOCK, naming.MARK, SWEEP}:
                        shutil.rmtree(folder, ignore_errors=True)  # nothing was begun
                    if isinstance(error, OSError) and error.errno in messages.UNWRITABLE:
                        error.filename = error.filename or str(folder)
                known = messages.explain(error, name, words, sweep)
                if known is None:
                    raise
                print(f"error: {known}", file=sys.stderr)
                sys.exit(known.status)

    return main


def run_composed(
    checked: Callable[[Values, list[str]], S], job: Task[S], single: list[tuple[Path, Values]], config: DictConfig
) -> Any:
    """Called by Hydra with a configuration: run a job of a sweep, or keep the folder and values of a `single` run."""
    begin_process()  # it may be that of a worker
    context = HydraConfig.get()
    values: Any = OmegaConf.to_container(config, resolve=True)
    folder = Path(context.runtime.output_dir)
    if context.mode == RunMode.MULTIRUN:
        check_output(folder)
        words, sources = [*context.overrides.task], context.runtime.config_sources
        with searching(each.path for each in sources if each.provider == "command-line"):  # for launchers, too
            return called(job)(checked(values, words), folder, words)
    return single.append((folder, values))


def written(word: str) -> str:
    """`KEY=VALUE` with ~ expanded, and with quotes around a value that is not ASCII, which Hydra only accepts so."""
    key, equals, value = word.partition("=")
    value = os.path.expanduser(value) if value.startswith("~/") else value
    plain = value.isascii() or any(mark in value for mark in "\"'[]{}(),\\")
    return f"{key}{equals}{value}" if plain else f'{key}{equals}"{value}"'


def resumed_run(words: list[str]) -> tuple[Path, dict[str, Any]] | None:
    """The folder and the settings of the run that `hydra.run.dir=RUN ckpt=auto` resumes; None for other overrides.

    These are the settings that the run has saved, changed by the overrides. With `experiment=…`, the command line
    states the whole recipe again, and Hydra composes it.
    """
    changes = changes_of(words)
    given = {change.place: change.value for change in changes}
    if given.get("ckpt") not in ("auto", "last") or "hydra.run.dir" not in given or "experiment" in given:
        return None
    folder = Path(str(given["hydra.run.dir"])).absolute()
    file = folder / "config.yaml"
    if not file.is_file():
        if {*given} & {*groups()}:
            return None  # it is started
        raise UserError(
            f"{folder}: no run to resume, as it has no config.yaml (diffusion status lists the runs); with a recipe, a "
            "run is started, or resumed if there is one: experiment=NAME hydra.run.dir=RUN ckpt=auto"
        )
    check_output(folder)
    console.print(f"resuming with the settings in {file}")
    return folder, inherit(plain_config(file.read_bytes(), file), changes, file=file)


def called(task: Any) -> Any:
    """A function, or the one with this full name, which is imported only now."""
    return resolve_name(task) if isinstance(task, str) else task
