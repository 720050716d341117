"""Settings and runs without a command line."""

from collections.abc import Sequence
from copy import deepcopy
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from diffusion.config.choices import searched
from diffusion.config.composition import composed, plain
from diffusion.config.schema import Train
from diffusion.config.validation import validated
from diffusion.runs.record import RunRecord


def settings(overrides: Sequence[str]) -> Train:
    """The settings of `diffusion.train` with overrides."""
    return validated(Train, deepcopy(_values(tuple(overrides), searched())))


@cache
def _values(overrides: tuple[str, ...], folders: tuple[Path, ...]) -> dict[str, Any]:
    """The values that Hydra composes, in 0.15 s, with these folders as search path of conf/."""
    values: dict[str, Any] = plain(composed("train", ["name=test", *overrides]))
    return values


def train(overrides: Sequence[str], folder: Path) -> float | None:
    """Train in `folder` in this process, as rank 0."""
    from diffusion.training import run

    folder.mkdir(parents=True, exist_ok=True)
    return run.train(settings(overrides), folder, RunRecord.begin(folder))


def job_in_this_process(folder: Path, lock: BinaryIO | None) -> object:
    """Run a sweep's job in this process, which has already imported torch; replaces `jobs.wait_for_process`."""
    from diffusion.training import run, worker

    record = RunRecord.begin(folder)
    record.lock = lock
    with record.running(str):
        return run.train(worker.read_config(folder), folder, record)
