"""The training process, which does not use Hydra.

    python -m diffusion.training.worker FOLDER [CKPT]

A plain `diffusion.train` becomes this process by calling `run` with its settings. Each job of a sweep is started as
one, and so are the additional processes of a run on several devices, which resume from the exact CKPT that the first
one found. These read the settings from their folder's config.yaml.
"""

from diffusion.runs import early_signals

if __name__ == "__main__":
    early_signals.watch()  # before the imports that take long

import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

from diffusion.config import messages
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.console import console, log_to
from diffusion.errors import Interrupted, UserError
from diffusion.runs.importing import importing
from diffusion.runs.jobs import CONFIG, GRACE, LAUNCHER
from diffusion.runs.naming import OVERRIDES
from diffusion.runs.record import RunRecord


def train(settings: Train, folder: Path, record: RunRecord | None) -> None:
    """Train, after the import of torch."""
    with importing():
        from diffusion.training import run
    run.train(settings, folder, record)


def run(settings: Train, folder: Path, record: RunRecord) -> None:
    """Train in `folder`, which `record` has claimed, as its first process."""
    log_to(folder / "train.log")
    with record.running(partial(messages.summary, command="train")):
        train(settings, folder, record)


def job(folder: Path) -> None:
    """Train as a job of a sweep."""
    _watch_launcher(lambda: os.kill(os.getpid(), signal.SIGTERM))
    words = yaml.safe_load((folder / OVERRIDES).read_text("utf-8")) or []
    record = RunRecord.begin(folder, list(map(str, words)))  # the command that runs this job alone
    log_to(folder / "train.log")
    with record.running(partial(messages.summary, command="train")):
        settings = read_config(folder)
        with importing():
            from diffusion.training import gpus
        gpus.take(settings.trainer)
        train(settings, folder, record)


def follow(folder: Path, ckpt: str | None = None) -> None:
    """Take part in the run of `folder` as one of its additional processes, resuming from `ckpt`."""
    if not (folder / CONFIG).is_file():
        raise UserError(f"{folder}: not visible on this machine; the machines of a run need a shared file system")
    console.quiet = True
    settings = read_config(folder).model_copy(update={"ckpt": ckpt})
    train(settings, folder, None)


def read_config(folder: Path) -> Train:
    """The settings in a folder's config.yaml."""
    return validated(Train, yaml.safe_load((folder / CONFIG).read_text("utf-8")))


def _watch_launcher(then: Callable[[], None]) -> None:
    """Call `then` when the process that started this one is gone, so that no abandoned process continues."""
    launcher = int(os.environ.get(LAUNCHER, os.getppid()))  # which may have died since

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(1)
        then()

    threading.Thread(target=watch, daemon=True).start()


def _leave() -> None:
    """End this process `GRACE` seconds after the run's first process has ended, for which it may still be waiting."""
    time.sleep(GRACE)
    os._exit(1)


def main(words: list[str]) -> None:
    """Run as one process of several, or as a job of a sweep."""
    folder, *ckpt = words
    try:
        if "LOCAL_RANK" in os.environ:
            _watch_launcher(_leave)
            follow(Path(folder), *ckpt)
        else:
            job(Path(folder))
    except Interrupted as stop:
        sys.exit(stop.status)
    except Exception as error:
        line = messages.explain(error, "train")
        if line is None:
            traceback.print_exc()
        elif "LOCAL_RANK" in os.environ:
            print(f"error: {line}", file=sys.stderr)
        sys.exit(messages.exit_status(error) if line else 1)


if __name__ == "__main__":
    main(sys.argv[1:])
