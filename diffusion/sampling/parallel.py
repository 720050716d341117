"""The devices of a command; samples drawn in this process, or in one process for each (`diffusion.runs.processes`).

    python -m diffusion.sampling.parallel FOLDER

is one of these processes: it reads the drawings, draws its share of the batches, and ends.
"""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from diffusion.base.console import console, count
from diffusion.errors import Interrupted, ProcessLost, UserError, override
from diffusion.metric.precision import set_precision
from diffusion.process.denoiser import Denoiser
from diffusion.runs.processes import as_rank, run_ranks
from diffusion.sampling.drawing import KEPT, Drawing, Share

PLAN = f"{KEPT}/plan.pt"  # what the processes draw; written and removed by the process that starts them


def choose_device(name: str | int | torch.device) -> torch.device:
    """The device `name`; `auto` is the best one, and a number is that of a GPU. Raises UserError if it is not there."""
    name, gpus = f"cuda:{name}" if isinstance(name, int) else str(name), torch.cuda.device_count()
    present = ["cuda", *(f"cuda:{i}" for i in range(gpus))] if gpus else []
    present += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *present):
        raise UserError(f"device={name}: not on this machine; use one of auto, {', '.join(present)}")
    return torch.device(present[0] if name == "auto" else name)


def choose_devices(name: str, devices: int | Literal["auto"], batches: int) -> list[torch.device]:
    """The device of each process that draws, at most one for each of the batches; several processes can share a CPU.

    Args:
        devices: the number of devices; "auto": all GPUs, or one CPU process. Raises UserError if there are fewer.
    """
    present = [choose_device(name)]
    if present == [torch.device("cuda")]:
        present = [torch.device("cuda", i) for i in range(torch.cuda.device_count())]
    elif present == [torch.device("cpu")] and devices != "auto":
        present *= devices
    wanted = len(present) if devices == "auto" else devices
    if wanted > len(present):
        raise UserError(f"devices={wanted}: device={name} is {count(len(present), 'device')}; lower devices")
    return present[: max(1, min(wanted, batches))]


def device_name(device: torch.device, number: int = 1) -> str:
    """The device's name: `NVIDIA H100`, `cpu (2 threads)`; for several devices, `2 × NVIDIA H100`."""
    named = f"cpu ({count(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type
    named = torch.cuda.get_device_name(device) if device.type == "cuda" else named
    return f"{number} × {named}" if number > 1 else named


class Task(NamedTuple):
    """n samples to draw: how, the folder for their batches (`Drawing.files`), and the label of the progress bar."""

    drawing: Drawing
    n: int
    batch_size: int
    files: Path
    label: str

    def __call__(
        self, denoiser: Denoiser, device: torch.device, label: str | None = None, share: Share = (0, 1)
    ) -> Tensor:
        """The samples of a process, uint8 (n, C, H, W), drawn or read."""
        return self.drawing(denoiser, self.n, device, self.batch_size, label, share=share, files=self.files)


def draw(tasks: Sequence[Task], denoiser: Denoiser, devices: Sequence[torch.device], folder: Path) -> None:
    """Draw samples for a command's folder, except for those that an earlier call has drawn, in a process per device."""
    plan = folder / PLAN
    plan.parent.mkdir(parents=True, exist_ok=True)
    try:
        if len(devices) > 1:
            torch.save((tasks, denoiser, devices, torch.get_float32_matmul_precision()), plan)
            run_ranks(len(devices), folder, "diffusion.sampling.parallel")
        else:
            denoiser.to(devices[0])
            for task in tasks:
                task(denoiser, devices[0], task.label)
    except (KeyboardInterrupt, Interrupted, ProcessLost):
        again = override("hydra.run.dir", folder)
        console.print(f"the images so far are kept in {plan.parent}; the same command with {again} draws the rest")
        raise
    finally:
        plan.unlink(missing_ok=True)


def draw_samples(
    drawing: Drawing, source: Mapping[str, Any], n: int, batch_size: int, denoiser: Denoiser,
    devices: Sequence[torch.device], folder: Path,
) -> Tensor:  # fmt: skip
    """Draw n samples (n, C, *size) on all devices; a killed command goes on from those in `folder`.

    Args:
        source: what they depend on, see `Drawing.source`.
    """
    files = drawing.files(folder, denoiser, n, batch_size, source)
    task = Task(drawing, n, batch_size, files, f"sampling {count(n, 'image')}")
    draw([task], denoiser, devices, folder)
    return task(denoiser, devices[0])


def draw_share(folder: Path) -> None:
    rank, processes = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    console.quiet = rank > 0
    # not only tensors: the drawings, which the process that started this one has just written
    tasks, denoiser, devices, precision = torch.load(folder / PLAN, map_location="cpu", weights_only=False)
    set_precision(precision)
    denoiser.to(devices[rank])
    for task in tasks:
        task(denoiser, devices[rank], f"{task.label}, the first of {processes} processes", (rank, processes))


def remove(folder: Path) -> None:
    """Remove the batches in a command's folder, including those that were drawn in another way."""
    shutil.rmtree(folder / KEPT, ignore_errors=True)


if __name__ == "__main__":
    as_rank("sample", partial(draw_share, Path(sys.argv[1])))
