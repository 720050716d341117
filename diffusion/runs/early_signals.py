"""Signals from a process's first instant until training takes over: nothing can be lost yet, so the process ends.

It ends with 128 + the signal's number, as it would later (`diffusion.training.signals`); on SIGUSR1 a job of SLURM is
also queued again. Of several processes of one run only the first ends the run: the others take note, and all agree at
the first training step. This module is imported before all others, so it imports nothing that takes time.
"""

import contextlib
import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from diffusion.runs import slurm

NAMES = ("SIGTERM", "SIGINT", "SIGALRM", "SIGUSR1", "SIGHUP", "SIGXCPU")
CAUGHT = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]


class State:
    """What this process knows about signals."""

    received: int | None = None  # by a process that is not the run's first
    before_exit: Callable[[str], None] | None = None  # called with the signal's name before the process ends


def watch() -> None:
    """Handle signals here from now on. A signal that the parent process ignores, as nohup does, stays ignored."""
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    for number in CAUGHT:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end if first else note)


def note(number: int, frame: FrameType | None) -> None:
    """Remember the signal until training begins."""
    State.received = State.received or number


def end(number: int, frame: FrameType | None) -> None:
    """End this process. Not by an exception, which a library that is being imported might swallow."""
    for other in CAUGHT:  # further signals of a burst must not interrupt this
        signal.signal(other, lambda *_: None)
    say(number, "training had not started; exiting")
    leave(number)


def leave(number: int) -> NoReturn:
    """End this process at once, because of a signal."""
    try:
        if State.before_exit is not None:
            State.before_exit(signal.Signals(number).name)
        queue_again(number)
    finally:
        os._exit(128 + number)


def queue_again(number: int) -> None:
    """On SIGUSR1, queue SLURM's job again, and say so."""
    if number == getattr(signal, "SIGUSR1", None) and (line := slurm.requeue()):
        write_line(line)


def say(number: int, what: str) -> None:
    """One line on stderr about a signal."""
    write_line(f"\n{signal.Signals(number).name}: {what}")


def write_line(line: str) -> None:
    """Write to stderr in a way that is safe in a signal handler, also when the terminal is gone."""
    with contextlib.suppress(OSError):
        os.write(2, f"{line}\n".encode())
