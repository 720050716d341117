"""The devices that a command uses, and their names."""

from typing import Literal

import torch

from diffusion.console import count
from diffusion.errors import UserError


def choose_device(name: str | int | torch.device) -> torch.device:
    """The device `name`; `auto` is the best one of this machine, and a number is that of a GPU, as in torch.

    Raises UserError for a device that is not present.
    """
    name, gpus = f"cuda:{name}" if isinstance(name, int) else str(name), torch.cuda.device_count()
    present = ["cuda", *(f"cuda:{i}" for i in range(gpus))] if gpus else []
    present += ["mps"] * torch.backends.mps.is_available() + ["cpu"]
    if name not in ("auto", *present):
        raise UserError(f"device={name}: not on this machine; use one of auto, {', '.join(present)}")
    return torch.device(present[0] if name == "auto" else name)


def choose_devices(name: str, devices: int | Literal["auto"], batches: int) -> list[torch.device]:
    """The device of each process that draws; several processes can share a CPU.

    Args:
        name: see `choose_device`.
        devices: the number of devices; "auto": all GPUs, or one CPU process.
        batches: the number of batches to draw; there are no more processes than that.

    Raises UserError for more devices than are present.
    """
    first = choose_device(name)
    several = first.type == "cuda" and first.index is None
    present = torch.cuda.device_count() if several else 1
    if devices != "auto" and devices > present and first.type != "cpu":
        raise UserError(f"devices={devices}: device={name} is {count(present, 'device')}; lower devices, or use auto")
    number = max(1, min(present if devices == "auto" else devices, batches))
    return [torch.device("cuda", i) for i in range(number)] if several and number > 1 else [first] * number


def device_name(device: torch.device, number: int = 1) -> str:
    """The device's name: `NVIDIA H100`, `cpu (2 threads)`; for several devices, `2 × NVIDIA H100`."""
    if number > 1:
        return f"{number} × {device_name(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({count(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type
