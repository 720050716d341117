"""`compile=auto`: compile the network if a trial shows that this saves more time in the run than it takes."""

import time
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import torch

from diffusion.config.schema import Train
from diffusion.console import console, duration
from diffusion.data import ImageData
from diffusion.errors import first_line
from diffusion.runs.record import RunRecord
from diffusion.training.clock import Clock
from diffusion.training.module import Diffusion
from diffusion.training.trials import Trials

LEAST = 3600.0  # seconds of training below which nothing is tried, because the trial takes minutes
TIMED = 3  # timed steps, of which the fastest counts


def is_compiled(
    settings: Train,
    module: Diffusion,
    data: ImageData,
    trainer: pl.Trainer,
    clock: Clock,
    folder: Path,
    record: RunRecord | None,
    before: Any = None,
    done: int = 0,
) -> bool:
    """Return whether to compile the network. For `auto`, the first process decides it and prints it.

    Args:
        module: The module as it will be trained, still on the CPU; it is not changed.
        folder: The run's folder.
        record: The run's record on the first process; None on the others, which start after it is written.
        before: Whether the resumed run was compiled, which then decides, because a compiled network rounds differently.
        done: Number of steps that the resumed run has completed.
    """
    if settings.compile != "auto":
        return settings.compile
    if record is None:
        return bool(RunRecord(folder).content["compiled"])
    if before is None:
        found, why = worthwhile(module, data, trainer, (clock.total - done) * clock.accumulate)
    else:
        found, why = bool(before), "as before"
    record.update(compiled=found)
    console.print(f"compile=auto: {'' if found else 'not '}compiled ({why})")
    return found


def worthwhile(module: Diffusion, data: ImageData, trainer: pl.Trainer, batches: int) -> tuple[bool, str]:
    """Return whether compiling saves time in `batches` batches, and why."""
    with Trials(module, data, trainer, copies=0) as trials:
        trials.begin()
        plain = quickest(trials, data.batch_size)
        if plain * batches < LEAST:
            return (
                False,
                f"a training of {duration(plain * batches)} is too short; compiling needs at least {duration(LEAST)}",
            )
        console.print("compile=auto: trying a compiled network; this takes minutes")
        assert trials.trained is not None
        trials.trained.denoiser.network.compile()
        try:
            first = seconds(trials, data.batch_size)
            compiled = quickest(trials, data.batch_size)
        except RuntimeError as error:  # such as no compiler on this machine
            return False, f"it fails: {first_line(error)}"
    saved, share = (plain - compiled) * batches, compiled / plain
    gain = f"saves {duration(saved)} of {duration(plain * batches)}" if saved > 0 else "saves nothing"
    return saved > first, f"a step takes {share:.2f} of the time, which {gain}; compiling takes {duration(first)}"


def quickest(trials: Trials, size: int) -> float:
    """The seconds of the fastest of `TIMED` steps with `size` images."""
    return min(seconds(trials, size) for _ in range(TIMED))


def seconds(trials: Trials, size: int) -> float:
    """The seconds of one forward and backward pass."""
    began = time.perf_counter()
    trials.loss(size).backward()
    if trials.device.type == "cuda":
        torch.cuda.synchronize(trials.device)  # not the current device, which Lightning sets later
    elif trials.device.type != "cpu":
        getattr(torch, trials.device.type).synchronize()
    return time.perf_counter() - began
