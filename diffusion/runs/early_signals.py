"""Signals from a process's first instant until training takes them over: nothing can be lost yet, so it ends at once.

With 128 + the signal's number, as later (`diffusion.training.signals`); on SIGUSR1 a job under SLURM is queued again
too. Of several processes of one run only the first ends it: the others take note, and agree with it at the first step.

Imported before all else, and so it imports what takes no time.
"""

import os
import signal
from collections.abc import Callable
from types import FrameType
from typing import NoReturn

from diffusion.runs import slurm

CAUGHT = [getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)]


class State:
    """What is known of the run so far."""

    received: int | None = None  # of a process that is not the first
    last_words: Callable[[str], None] | None = None  # told the signal's name before the process ends


def watch() -> None:
    """Handle signals here from now on. One that the parent process had ignored, as nohup does, stays ignored."""
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    for number in CAUGHT:
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, end if first else note)


def note(number: int, frame: FrameType | None) -> None:
    """For training, once it begins."""
    State.received = State.received or number


def end(number: int, frame: FrameType | None) -> None:
    """End this process. Not by an exception, which a library that is being imported might swallow."""
    for other in CAUGHT:  # the rest of a burst must not cut this short
        signal.signal(other, lambda *_: None)
    say(number, "nothing was in training, ending at once")
    leave(number)


def leave(number: int) -> NoReturn:
    """End this process, told by a signal, on the spot."""
    try:
        if State.last_words is not None:
            State.last_words(signal.Signals(number).name)
        queue_again(number)
    finally:
        os._exit(128 + number)


def queue_again(number: int) -> None:
    """On SIGUSR1, queue SLURM's job again, and say so."""
    if number == getattr(signal, "SIGUSR1", None) and (line := slurm.requeue()):
        os.write(2, f"{line}\n".encode())


def say(number: int, what: str) -> None:
    """One line on stderr, which a handler may write at any moment."""
    os.write(2, f"\n{signal.Signals(number).name}: {what}\n".encode())
