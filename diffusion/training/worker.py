"""One of the processes of a run: `python -m diffusion.training.worker FOLDER` trains with the settings in FOLDER.

A run on several devices and a job of a sweep are started so, by torch's elastic agent (`diffusion.launch`).
"""

import signal

if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # before training, a Ctrl-C just ends this process

import contextlib
import os
import sys
from functools import partial
from pathlib import Path

import yaml

from diffusion.config.build import validated
from diffusion.config.schema import Train
from diffusion.console import console
from diffusion.errors import Interrupted, UserError
from diffusion.launch import PARENT, as_rank, requeue
from diffusion.runs.command import few_metrics
from diffusion.runs.record import CONFIG, RunRecord


def work(folder: Path) -> None:
    """Train in `folder`, in which a run has begun. The first process keeps its record."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not visible on this machine; the machines of a run need a shared file system")
    first = os.environ["RANK"] == "0"
    console.quiet = not first
    try:
        train(read_config(folder), folder, RunRecord.join(folder) if first else None)
    except Interrupted as stop:
        if first and stop.number == signal.SIGUSR1 and not os.environ.get(PARENT):
            requeue()  # torchrun does not
        raise


def train(settings: Train, folder: Path, record: RunRecord | None) -> None:
    """Train in `folder`. On the first process of the run, `record` says how it ends."""
    few_metrics()
    from diffusion.training import run

    with record.running() if record else contextlib.nullcontext():
        run.train(settings, folder, record)


def read_config(folder: Path) -> Train:
    """The settings in a folder's config.yaml."""
    return validated(Train, yaml.safe_load((folder / CONFIG).read_text("utf-8")))


if __name__ == "__main__":
    as_rank("train", partial(work, Path(sys.argv[1])))
