"""Errors that a user can cause and fix. Every module may import this one, and it imports nothing."""

import sys
from argparse import ArgumentParser, ArgumentTypeError, RawDescriptionHelpFormatter
from collections.abc import Callable, Iterable
from difflib import get_close_matches
from signal import Signals
from typing import NoReturn


class UserError(Exception):
    """Something the user can fix: one line that says what was found, where, what was expected, and how to fix it.

    Commands print it as `error: <line>` and exit with its status, without a traceback.
    """

    status = 2


class NotFinite(UserError):
    """A loss, gradient, weight or average has become NaN or infinite."""

    status = 3


class Diverged(UserError):
    """The loss has risen far above what it was, for several steps in a row."""

    status = 4


class ProcessLost(UserError):
    """One of a run's processes was killed."""

    status = 1


class FolderTaken(UserError):
    """The folder belongs to another run: nothing in it is changed."""


class Interrupted(BaseException):
    """A signal ended the run; what could be saved is saved. Commands exit with 128 + the signal's number.

    SIGALRM is the alarm clock that `trainer.max_time` sets.
    """

    def __init__(self, number: int):
        name = Signals(number).name
        super().__init__(f"{name}: trainer.max_time reached" if name == "SIGALRM" else name)
        self.number = int(number)
        self.status = 128 + self.number


def closest(word: str, choices: Iterable[str]) -> list[str]:
    """Up to three choices that `word` may stand for: `optimizer.lr` for `lr`, and else those that are spelt alike."""
    every, last = list(choices), word.rpartition(".")[2]
    same = [choice for choice in every if choice.rpartition(".")[2] == last]
    return get_close_matches(word, same, n=3, cutoff=0.0) or get_close_matches(word, every, n=3, cutoff=0.5)


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean a, b?)` with the choices closest to `word`, or `` when none is close."""
    close = closest(word, choices)
    return f" (did you mean {', '.join(close)}?)" if close else ""


def first_line(error: BaseException) -> str:
    """What an exception says, without what follows its first line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Arguments(ArgumentParser):
    """The options of a command without a configuration. What it does not know is one line on stderr, and status 2.

    Args:
        name: of the command, `diffusion.NAME`.
        about: for `--help`.
    """

    def __init__(self, name: str, about: str):
        super().__init__(
            prog=f"python -m diffusion.{name}", description=about, formatter_class=RawDescriptionHelpFormatter
        )

    def add_config_dir(self) -> None:
        """Add the option that names a folder of the user's own choices, for `config.choices.searching`."""
        self.add_argument(
            "--config-dir",
            metavar="CONF",
            help="choices of your own, as CONF/GROUP/NAME.yaml; their classes are trusted",
        )

    def add_weights(self) -> None:
        """Add the option that says which weights of a model are meant."""
        self.add_argument(
            "--weights",
            type=_weights,
            default="ema",
            help="ema (default), raw, or a length of a run with ema=power: 0.08",
        )

    def error(self, message: str) -> NoReturn:
        """End the command."""
        self.exit(2, f"error: {message}; --help lists the options of {self.prog}\n")


def _weights(word: str) -> str | float:
    try:
        return word if word in ("ema", "raw") else float(word)
    except ValueError as error:
        raise ArgumentTypeError(f"{word}: expected ema, raw, or a length such as 0.08") from error


def exit_status(task: Callable[[], object], fix: str) -> int:
    """Do `task`; the status with which a command ends. What the user can fix is one line on stderr.

    Args:
        fix: what to do about a file or folder that the operating system refuses.
    """
    try:
        task()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        print(f"error: {where}{error.strerror or error}; {fix}", file=sys.stderr)
        return 2
    return 0
