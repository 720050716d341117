"""Errors that a user can cause and fix, and the words of commands that fix them. It imports no other module of ours."""

import errno
import re
import shlex
import shutil
import sys
from argparse import ArgumentParser, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from signal import Signals
from typing import Any, NoReturn


class UserError(Exception):
    """An error that the user can fix: one line saying what was found, where, what was expected, and how to fix it.

    Commands print it as `error: <line>` and exit with its status, without a traceback. It is 2, or
    3 if numbers are not finite, 4 if a loss diverges.

    Args:
        key: The setting whose value the line begins with: it is shown as `KEY=VALUE: …`.
    """

    def __init__(self, line: str, status: int = 2, key: str = ""):
        super().__init__(line)
        self.status, self.key = status, key

    def __str__(self) -> str:
        return f"{self.key}={self.args[0]}" if self.key else str(self.args[0])


class ProcessLost(UserError):
    """One of a run's processes was killed."""

    def __init__(self, line: str):
        super().__init__(line, status=1)


class Interrupted(BaseException):
    """A signal ended the run, after saving what could be saved. Commands exit with 128 + the signal's number."""

    def __init__(self, number: int):
        super().__init__(int(number))  # from which another process makes it again
        self.number, self.status = int(number), 128 + number

    def __str__(self) -> str:
        return Signals(self.number).name


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean a, b?)` with up to three choices that `word` may stand for; empty if there is none.

    They end like it, as `optimizer.lr` for `lr`, or else are spelled similarly.
    """
    every, last = list(choices), word.rpartition(".")[2]
    same = [choice for choice in every if choice.rpartition(".")[2] == last]
    close = get_close_matches(word, same, n=3, cutoff=0.0) or get_close_matches(word, every, n=3, cutoff=0.5)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def shown(value: object) -> str:
    """A value as an override writes it: null, true, [1,2], and text in quotes where Hydra's grammar needs them."""
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(shown, value)) + "]"
    text = "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return text if re.fullmatch(r"[\w/.+:-]+", text, re.ASCII) else '"' + text.replace('"', '\\"') + '"'


def override(key: str, value: object) -> str:
    """`KEY=VALUE`, quoted for Hydra and the shell where needed."""
    return shlex.quote(f"{key}={shown(value)}")


def command_line(words: Iterable[str]) -> str:
    """`diffusion WORDS`, each word quoted for a shell where needed; the first one is the command's name."""
    return shlex.join(["diffusion", *words])


def pip_install(extra: str) -> str:
    """The command that adds the packages of an extra to this installation: to a clone, without copying it.

    Where a wheel is installed, pip takes the extra from it, published or not.
    """
    clone, python = Path(__file__).resolve().parents[1], Path(sys.executable)
    inside = Path(shutil.which("pip") or "").parent == python.parent  # the environment is active
    what = f"{'.' if clone == Path.cwd() else clone}[{extra}]"
    what = f"-e {shlex.quote(what)}" if (clone / "pyproject.toml").is_file() else f"'diffusion-experiments[{extra}]'"
    return f"{'' if inside else f'{python} -m '}pip install {what}"


def imported(package: str, what: str, extra: str) -> Any:
    """The package that `what` needs. Raises UserError, with the extra that installs it, if it cannot be imported."""
    try:
        return import_module(package)
    except ImportError as error:
        raise UserError(f"{what} needs {package}: {pip_install(extra)}") from error


def first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def refusing(where: object, advice: str = "", key: str = "") -> Iterator[None]:
    """Raise a UserError that names the place for an error of a library, which may be of any kind."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{where}: {first_line(error).rstrip('.')}{advice}", key=key) from error


@contextmanager
def given_as(key: str, *keys: str) -> Iterator[None]:
    """Context in which the user has given the settings `keys` as `key`; empty: as a value alone. Errors say so."""
    try:
        yield
    except UserError as error:
        error.key = key if error.key in keys else error.key
        raise


def of_system(error: OSError) -> str:
    """An error of the operating system, such as of a full disk, and what to do."""
    advice = {errno.ENOSPC: "free some space, or ", errno.EACCES: "change its permissions, or "}
    what = f"{error.filename}: {error.strerror}" if error.filename else error.strerror or str(error)
    return f"{what}; {advice.get(error.errno or 0, '')}choose another place"


class Arguments(ArgumentParser):
    """`diffusion NAME`, a command without a configuration, as its main function. Errors are one line."""

    def __init__(self, name: str, about: str, task: Callable[..., object]):
        super().__init__(f"diffusion {name}", None, about, formatter_class=RawDescriptionHelpFormatter)
        self.task = task  # its arguments are the options

    def __call__(self, words: Sequence[str] | None = None) -> int:
        """Parse the words, by default those of the command line; do the task. Returns the exit status."""
        asked = vars(self.parse_args(words))
        return exit_status(lambda: self.task(**asked))

    def add_config_dir(self) -> None:
        """Add the option for a folder of custom choices, for `config.choices.searching`."""
        about = "your own choices, as CONF/GROUP/NAME.yaml; their classes are trusted"
        self.add_argument("--config-dir", metavar="CONF", help=about)

    def add_model(self) -> None:
        """Add the argument that selects a model, which may begin with `ckpt=`, and the option for its weights."""
        about = "a run's folder, a checkpoint, an exported file, a diffusers folder, `demo` or `last`"
        self.add_argument("checkpoint", type=lambda word: word.removeprefix("ckpt="), help=about)
        about = "ema (default), raw, or, for a run with ema=power, a length such as 0.08"
        self.add_argument("--weights", type=_weights, default="ema", help=about)

    def error(self, message: str) -> NoReturn:
        """Print the error and exit with status 2."""
        self.exit(2, f"error: {message}; --help lists the options of {self.prog}\n")


def _weights(word: str) -> str | float:
    return word if word.isalpha() else float(word)


def exit_status(task: Callable[[], object]) -> int:
    """Run `task` and return the exit status of the command. Errors that the user can fix are one line on stderr."""
    try:
        task()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        print(f"error: {of_system(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    return 0
