"""Entry point of every command: Hydra composes the configuration, which is validated once and becomes a typed object.

Exit status: 0 success; 1 a bug in the program (with a traceback), or a killed process of the run; with one line on
stderr: 2 an error that the user can fix, 3 a NaN or infinity in training, 4 a diverged loss. A training run that is
stopped by a signal first saves its state, and exits with 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM,
138 for SIGUSR1, 142 for trainer.max_time, 129 if its terminal was closed.
"""

import os
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, TypeVar

from hydra import version
from hydra._internal.utils import _run_hydra, get_args_parser
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.config import messages
from diffusion.config.build import validated
from diffusion.config.choices import conf_dir, register, searching
from diffusion.config.help import print_help
from diffusion.config.schema import Settings
from diffusion.errors import Interrupted
from diffusion.runs import naming, resume

S = TypeVar("S", bound=Settings)
Task = Callable[[S, Path, list[str]], Any]
"""(settings, folder, words of the command line) -> the result of a job, which a sweeper optimizes."""


def command(name: str, schema: type[S], about: str, task: Task[S], job: Task[S] | None = None) -> Callable[..., None]:
    """Create the main function of a command with its choices in conf/NAME.yaml and its settings in `schema`.

    Args:
        about: description of the command, with examples, for `--help`.
        task: called after Hydra has finished.
        job: the same for one job of a sweep (`-m`), called by Hydra, maybe in another process; default: `task`.
    """
    register(name)
    naming.register()

    def main(typed: Sequence[str] | None = None) -> None:
        """Run the command with these words, by default those of the command line."""
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions reach the handlers below
        typed = sys.argv[1:] if typed is None else typed
        words, sweep = list[str](), False
        with ExitStack() as stack:
            try:
                given = messages.parsed(typed, name)
                words, sweep = [written(word) for word in given.overrides], given.multirun
                stack.enter_context(searching([given.config_dir]))
                if print_help(name, schema, about, typed):
                    return
                composed = Composed(schema, job or task)
                if name == "train" and not sweep and (resumed := resume.resumed_run(words)):
                    composed.single.append(resumed)
                else:
                    given.overrides = [*words]  # Hydra adds its mode
                    version.setbase("1.3")
                    # What hydra.main does, which itself would read sys.argv instead of these words.
                    _run_hydra(given, get_args_parser(), composed, str(conf_dir()), name)
                for folder, values in composed.single:
                    task(validated(schema, values), folder, words)
            except KeyboardInterrupt:
                sys.exit(130)
            except Interrupted as stop:
                sys.exit(stop.status)
            except Exception as error:
                known = messages.explain(error, name, words, sweep)
                if known is None:
                    raise
                print(f"error: {known}", file=sys.stderr)
                sys.exit(known.status)

    return main


class Composed:
    """Called by Hydra with a configuration: runs a job of a sweep, or keeps the folder and values of a single run."""

    def __init__(self, schema: type[Settings], job: Task[Any]):
        self.schema, self.job = schema, job
        self.single: list[tuple[Path, Any]] = []

    def __call__(self, config: DictConfig) -> Any:
        values: Any = OmegaConf.to_container(config, resolve=True)
        context = HydraConfig.get()
        folder = Path(context.runtime.output_dir)
        if context.mode == RunMode.MULTIRUN:
            return self.job(validated(self.schema, values), folder, [*context.overrides.task])
        self.single.append((folder, values))
        return None


def written(word: str) -> str:
    """`KEY=VALUE` with ~ expanded, and with quotes around a value that is not ASCII, which Hydra only accepts so."""
    key, equals, value = word.partition("=")
    value = os.path.expanduser(value) if value.startswith("~/") else value
    plain = value.isascii() or any(mark in value for mark in "\"'[]{}(),\\")
    return f"{key}{equals}{value}" if plain else f'{key}{equals}"{value}"'
