"""Draw samples in this process, or in one process for each device (`diffusion.launch`).

    python -m diffusion.evaluation.together FOLDER

is one of these processes. It reads the models and the drawings, draws its share of the batches, and ends; the process
that started it reads the images. (A training run already has its processes: they draw together at its end.)
"""

import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import torch

from diffusion.console import console
from diffusion.errors import Interrupted, ProcessLost
from diffusion.evaluation.drawing import Drawing, Watch
from diffusion.evaluation.drawn import FOLDER, Drawn, kept
from diffusion.metric.precision import set_precision
from diffusion.process.denoiser import Denoiser

PLAN = f"{FOLDER}/plan.pt"  # what the processes draw; written and removed by the process that starts them


class Task(NamedTuple):
    """Samples to draw: how, into which files, and the label of the progress bar."""

    drawing: Drawing
    drawn: Drawn
    label: str


def draw(
    tasks: Sequence[Task], denoiser: Denoiser, devices: Sequence[torch.device], folder: Path, watch: Watch | None = None
) -> None:
    """Draw the samples that are missing; batches that are drawn are kept, whatever ends the command.

    Args:
        devices: the device of each process.
        folder: the folder of the command, for the processes' files.
        watch: called after every step if one process draws.

    Raises ProcessLost if a process has died.
    """
    left = [task for task in tasks if task.drawn.missing()]
    try:
        if left and len(devices) > 1:
            draw_in_processes(left, denoiser, devices, folder)
        elif left:
            for drawing, drawn, label in left:
                drawing.into(drawn, denoiser.to(devices[0]), devices[0], label, watch)
    except ProcessLost as error:
        raise ProcessLost(f"{error}; {kept(folder, *(task.drawn for task in left))}") from error
    except (KeyboardInterrupt, Interrupted):
        console.print(f"stopped: {kept(folder, *(task.drawn for task in left))}")
        raise


def draw_in_processes(tasks: Sequence[Task], denoiser: Denoiser, devices: Sequence[torch.device], folder: Path) -> None:
    """Start a process for each device, and wait until all samples are drawn."""
    from diffusion.launch import launch

    plan = folder / PLAN
    plan.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.save((tasks, denoiser, devices, torch.get_float32_matmul_precision()), plan)
        launch(len(devices), folder, "diffusion.evaluation.together")
    finally:
        plan.unlink(missing_ok=True)


def draw_share(folder: Path) -> None:
    """Draw the share of this process, one of several."""
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    console.quiet = rank > 0
    # not only tensors: the drawings, which the process that started this one has just written
    tasks, denoiser, devices, precision = torch.load(folder / PLAN, map_location="cpu", weights_only=False)
    set_precision(precision)
    device = devices[rank]
    for drawing, drawn, label in tasks:
        label = f"{label}, the first of {processes} processes" if rank == 0 else None
        drawing.into(drawn, denoiser.to(device), device, label, share=(rank, processes))


if __name__ == "__main__":
    from diffusion.launch import as_rank

    as_rank("sample", partial(draw_share, Path(sys.argv[1])))
