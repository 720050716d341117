"""The devices that a command uses, and their names."""

from typing import Literal

import torch

from diffusion.console import count
from diffusion.errors import UserError


def choose_device(name: str | int | torch.device) -> torch.device:
    """The device `name`; `auto` is the best one of this machine, and a number is that of a GPU, as in torch.

    Raises UserError for a device that is not present.
    """
    name = f"cuda:{name}" if isinstance(name, int) else str(name)
    present = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if name == "auto":
        return torch.device(next(kind for kind, found in present.items() if found))
    kind, _, number = name.partition(":")
    if not present.get(kind, False) or (number and not number.isdecimal()):
        raise UserError(
            f"device={name}: not on this machine; use one of auto, {', '.join(k for k in present if present[k])}"
        )
    if kind == "cuda" and int(number or 0) >= (devices := torch.cuda.device_count()):
        raise UserError(
            f"device={name}: this machine has {count(devices, 'GPU')}, counted from 0; use device=cuda:{devices - 1}"
        )
    return torch.device(name)


def choose_devices(name: str, devices: int | Literal["auto"], batches: int) -> list[torch.device]:
    """The device of each process that draws; several processes can share a CPU.

    Args:
        name: see `choose_device`.
        devices: the number of devices; "auto": all GPUs, or one CPU process.
        batches: the number of batches to draw; there are no more processes than that.

    Raises UserError for more devices than are present.
    """
    first = choose_device(name)
    single = first.index is not None or first.type == "mps"
    there = torch.cuda.device_count() if first.type == "cuda" and not single else 1
    if devices == "auto":
        devices = there
    elif devices > 1 and single:
        raise UserError(
            f"devices={devices}: device={name} is a single device; use device=cuda, device=cpu or devices=1"
        )
    elif first.type == "cuda" and devices > there:
        raise UserError(f"devices={devices}: this machine has {count(there, 'GPU')}; use devices=auto for all of them")
    number = max(1, min(devices, batches))
    return [torch.device("cuda", i) for i in range(number)] if first.type == "cuda" and number > 1 else [first] * number


def device_name(device: torch.device, number: int = 1) -> str:
    """The device's name: `NVIDIA H100`, `cpu (2 threads)`; for several devices, `2 × NVIDIA H100`."""
    if number > 1:
        return f"{number} × {device_name(device)}"
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({count(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type
