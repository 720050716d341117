"""The way into every command: Hydra composes the configuration, which is checked once and becomes a typed object.

Exit status: 0 done; 1 a fault of the program (with a traceback); with one line on stderr: 2 something that the user can
fix, 3 a NaN or infinity in training, 4 a loss that has diverged. A training run that is stopped saves its state first,
and ends with 128 + the signal's number: 130 by Ctrl-C, 143 by SIGTERM, 138 by SIGUSR1, 142 by trainer.max_time,
129 when its terminal is closed.
"""

import os
import sys
from collections.abc import Callable
from contextlib import ExitStack
from importlib import import_module
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
from diffusion.config.composition import register_settings
from diffusion.config.help import print_help
from diffusion.config.schema import RENAMED, Settings
from diffusion.config.validation import validated
from diffusion.console import console
from diffusion.errors import Interrupted
from diffusion.runs import naming, resume, streams

S = TypeVar("S", bound=Settings)
Task = Callable[[S, Path], Any]


def command(name: str, schema: type[S], about: str, task: Task[S], job: Task[S] | None = None) -> Callable[[], None]:
    """The main function of a command whose choices are in conf/NAME.yaml and whose settings are in `schema`.

    Args:
        about: what the command does, with examples, for `--help`.
        task: what the command does with its settings and its output folder, after Hydra has finished.
        job: the same for one job of a sweep (`-m`), within Hydra; its result is what a sweeper minimises.
    """
    register_settings(name, schema)
    naming.register()

    def main() -> None:
        streams.keep_going()
        os.environ.setdefault("HYDRA_FULL_ERROR", "1")  # let exceptions through to the lines below
        composed: list[tuple[Any, Any, Path]] = []
        each = by_import(job or task)
        stack = ExitStack()
        try:
            stack.enter_context(searching(own_folders(sys.argv[1:])))
            if print_help(name, schema, about, sys.argv[1:]):
                return
            words = [_at_home(_renamed(word)) for word in messages.ordered(sys.argv[1:], name)]
            secrets.check_words(words)
            resumed = resume.resumed_run(words) if name == "train" else None
            sys.argv[1:] = words if resumed is None else [*resumed.choices, *words]

            def settings_of(values: Any, sources: Any) -> S:
                secrets.check_sources(sources)
                if resumed is not None:
                    values = resumed.with_overrides(values)
                secrets.check_values(values)
                return validated(schema, values)

            def compose(cfg: DictConfig) -> Any:
                """Hydra calls this, once, or for each job of a sweep."""
                sources = OmegaConf.to_container(cfg, resolve=False)
                values, context = OmegaConf.to_container(cfg, resolve=True), HydraConfig.get()
                folder = Path(context.runtime.output_dir)
                if context.mode == RunMode.MULTIRUN:
                    return each(settings_of(values, sources), folder)
                composed.append((values, sources, folder))
                return None

            hydra.main(version_base="1.3", config_path=str(conf_dir()), config_name=name)(compose)()
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


def by_import(task: Task[S]) -> Task[S]:
    """`task` of the module `python -m` runs, as an import gives it: a launcher's workers then find it by its name."""
    spec = sys.modules[task.__module__].__spec__
    return getattr(import_module(spec.name), task.__name__) if spec and task.__module__ == "__main__" else task


def own_folders(words: list[str]) -> list[Path]:
    """The folders of choices that a command line adds to conf/, by --config-dir and hydra.searchpath=[…]."""
    given, _ = messages.options_of(words)
    paths = [word for word in words if word.lstrip("+").startswith("hydra.searchpath=")]
    found = [given.config_dir] if given.config_dir else []
    for override in OverridesParser.create().parse_overrides(paths):
        value: Any = override.value()
        found += value if isinstance(value, list) else [value]
    return [_folder(str(path)) for path in found]


def _folder(path: str) -> Path:
    """The folder that Hydra means by FOLDER, file://FOLDER or pkg://PACKAGE."""
    scheme, _, rest = path.rpartition("://")
    if scheme != "pkg" or not rest:
        return Path(rest)
    package, *inner = rest.replace("/", ".").split(".")
    found = find_spec(package)
    return Path(next(iter(found.submodule_search_locations or []), rest) if found else rest, *inner)


def _renamed(word: str) -> str:
    """A word of the command line, with the key's new name where it has one."""
    key, equals, value = word.partition("=")
    if key not in RENAMED:
        return word
    console.print(f"note: {key} is now called {RENAMED[key]}; the old name will stop working")
    return f"{RENAMED[key]}{equals}{value}"


def _at_home(word: str) -> str:
    """A word of the command line, with the home folder in the place of ~ in `KEY=~/…`, which shells leave as it is."""
    key, equals, value = word.partition("=")
    return f"{key}{equals}{os.path.expanduser(value)}" if value.startswith("~/") else word
