"""Entry point of every command: Hydra composes the configuration, which is validated once and becomes a typed object.

Exit status: 0 success; 1 a bug in the program (with a traceback), or a killed process of the run; with one line on
stderr: 2 an error that the user can fix, 3 a NaN or infinity in training, 4 a diverged loss. A training run that is
stopped by a signal first saves its state, and exits with 128 + the signal's number: 130 for Ctrl-C, 143 for SIGTERM,
138 for SIGUSR1, 142 for trainer.max_time, 129 if its terminal was closed.
"""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from diffusion.config import messages, secrets
from diffusion.config.choices import conf_dir, searching
from diffusion.config.composition import register
from diffusion.config.help import print_help
from diffusion.config.quoting import with_quotes
from diffusion.config.schema import RENAMED, Settings
from diffusion.config.validation import validated
from diffusion.console import console
from diffusion.errors import Interrupted
from diffusion.runs import naming, resume, streams

S = TypeVar("S", bound=Settings)
Task = Callable[[S, Path], Any]


def command(name: str, schema: type[S], about: str, task: Task[S], job: Task[S] | None = None) -> Callable[[], None]:
    """Create the main function of a command with its choices in conf/NAME.yaml and its settings in `schema`.

    Args:
        about: description of the command, with examples, for `--help`.
        task: function of the settings and the output folder, called after Hydra has finished.
        job: the same for one job of a sweep (`-m`), called by Hydra, maybe in another process; default: `task`. A
            sweeper optimizes its result.
    """
    register(name)
    naming.register()

    def main() -> None:
        streams.keep_going()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions reach the handlers below
        composed: list[tuple[Any, Any, Path]] = []
        each = job or task
        stack = ExitStack()
        try:
            stack.enter_context(searching(own_folders(sys.argv[1:])))
            if print_help(name, schema, about, sys.argv[1:]):
                return
            words = [with_quotes(_expand_home(_renamed(word))) for word in messages.ordered(sys.argv[1:], name)]
            secrets.check_words(words)
            given = messages.options_of(words)[0]
            if name == "train" and not given.multirun and (resumed := resume.resumed_run(given.overrides)):
                folder, settings = resumed
                task(validated(schema, settings), folder)
                return
            sys.argv[1:] = words

            def settings_of(values: Any, sources: Any) -> S:
                secrets.check_sources(sources)
                secrets.check_values(values)
                return validated(schema, values)

            def compose(cfg: DictConfig) -> Any:
                """Called by Hydra, once or for each job of a sweep."""
                sources = OmegaConf.to_container(cfg, resolve=False)
                values, context = OmegaConf.to_container(cfg, resolve=True), HydraConfig.get()
                folder = Path(context.runtime.output_dir)
                if context.mode == RunMode.MULTIRUN:
                    return each(settings_of(values, sources), folder)
                composed.append((values, sources, folder))
                return None

            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(compose)()
            sys.argv[1:] = words  # the command that runs and reports record
            for values, sources, folder in composed:
                task(settings_of(values, sources), folder)
        except KeyboardInterrupt:
            sys.exit(130)
        except Interrupted as stop:
            sys.exit(stop.status)
        except Exception as error:
            line = messages.explain(error, name)
            if line is None:
                raise
            print(f"error: {line}", file=sys.stderr)
            sys.exit(messages.exit_status(error))
        finally:
            stack.close()
            streams.report_loss()

    return main


def own_folders(words: list[str]) -> list[Path]:
    """The folders of choices that a command line adds to conf/, with --config-dir and hydra.searchpath=[…]."""
    given, _ = messages.options_of(words)
    paths = [word for word in words if word.lstrip("+").startswith("hydra.searchpath=")]
    found = [given.config_dir] if given.config_dir else []
    for override in OverridesParser.create().parse_overrides(paths):
        value: Any = override.value()
        found += value if isinstance(value, list) else [value]
    return [_folder(str(path)) for path in found]


def _folder(path: str) -> Path:
    """Resolve FOLDER, file://FOLDER or pkg://PACKAGE to a folder, as Hydra does."""
    scheme, _, rest = path.rpartition("://")
    if scheme != "pkg" or not rest:
        return Path(rest)
    package, *inner = rest.replace("/", ".").split(".")
    found = find_spec(package)
    return Path(next(iter(found.submodule_search_locations or []), rest) if found else rest, *inner)


def _renamed(word: str) -> str:
    """Replace a renamed key in a word of the command line."""
    key, equals, value = word.partition("=")
    if key not in RENAMED:
        return word
    console.print(f"note: {key} is now called {RENAMED[key]}; the old name will stop working")
    return f"{RENAMED[key]}{equals}{value}"


def _expand_home(word: str) -> str:
    """Expand ~ in a word `KEY=~/…` of the command line, which shells do not expand."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else word
