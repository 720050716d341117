"""Signal handling from process start until training takes over: nothing can be lost yet, so the process exits.

The exit status is 128 + the signal's number, as it is later (`diffusion.training.signals`); on SIGUSR1, a SLURM job is
also requeued. If a run has several processes, only the first one ends the run: the others remember the signal, and all
agree at the first training step. This module is imported before all others, so it must not import anything slow.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from diffusion.runs import slurm

CAUGHT: list[int] = [signal.SIGTERM, signal.SIGINT, signal.SIGALRM, signal.SIGUSR1, signal.SIGHUP, signal.SIGXCPU]


class State:
    """What this process knows about signals."""

    received: int | None = None  # set in the processes other than the run's first
    before_exit: Callable[[str], None] | None = None  # called with the signal's name before the process ends


def watch() -> None:
    """Install the handlers of this module. Signals that the parent process ignores, as nohup does, stay ignored."""
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    for number in CAUGHT:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end if first else note)


def note(number: int, frame: FrameType | None) -> None:
    """Remember the signal until training begins."""
    State.received = State.received or number


def end(number: int, frame: FrameType | None) -> None:
    """End this process; not by an exception, which a library that is being imported might swallow."""
    for other in CAUGHT:  # further signals of a burst must not interrupt this
        signal.signal(other, lambda *_: None)
    say(number, "training had not started; exiting")
    leave(number)


def leave(number: int) -> NoReturn:
    """Exit immediately, because of a signal."""
    try:
        if State.before_exit is not None:
            State.before_exit(signal.Signals(number).name)
        queue_again(number)
    finally:
        os._exit(128 + number)


def queue_again(number: int) -> None:
    """On SIGUSR1, requeue the SLURM job and print a message."""
    if number == signal.SIGUSR1 and (line := slurm.requeue()):
        write_line(line)


def say(number: int, what: str) -> None:
    """Write one line about a signal to stderr."""
    write_line(f"\n{signal.Signals(number).name}: {what}")


def write_line(line: str) -> None:
    """Write to stderr; safe in a signal handler, and if the terminal is gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
