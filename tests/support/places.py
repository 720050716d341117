"""Signals at a given place of a run: `python -m places FOLDER` is a process of a run which sends them to itself."""

import json
import os
import sys
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from forked import counted

from diffusion.runs.processes import as_rank
from diffusion.training import jobs

AT = "SIGNALLED_AT"  # the environment variable with the place and the signals


def at(place: str, call: int, numbers: Sequence[int], rank: int = 0) -> Callable[[], None]:
    """A function that makes a process of its run send itself the signals, once, at the n-th call of a function."""

    def prepare() -> None:
        os.environ[AT] = json.dumps([rank, place, call, *numbers])
        jobs.WORKER = __name__  # type: ignore[misc]  # for a run of several processes
        signalled(place, call, numbers)

    return prepare


def signalled(place: str, call: int, numbers: Sequence[int]) -> None:
    """Make this process send itself the signals."""
    import torch

    from diffusion.training import saving
    from diffusion.training.ema import EMA
    from diffusion.training.module import Diffusion

    owner, name = {
        "step": (Diffusion, "training_step"),
        "validation": (Diffusion, "validation_step"),
        "swap": (EMA, "swap"),
        "saving": (torch, "save"),
        "linking": (os, "link"),
        "sampling": (saving, "poll"),
    }[place]
    counted(owner, name, call, lambda: [os.kill(os.getpid(), number) for number in numbers])


def main(folder: Path) -> None:
    """One process of the run in `folder`."""
    rank, place, call, *numbers = json.loads(os.environ[AT])
    once = folder / "signalled"
    if int(os.environ["RANK"]) == rank and not once.exists():
        once.touch()
        signalled(place, call, numbers)
    as_rank("train", partial(jobs.work, folder))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
