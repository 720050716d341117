"""The device that a command uses, and its name."""

import torch

from diffusion.console import count
from diffusion.errors import UserError


def choose_device(name: str) -> torch.device:
    """`auto` is the best device of this machine. Raises UserError for a device that it does not have."""
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


def device_name(device: torch.device) -> str:
    """`NVIDIA H100`, `cpu (2 threads)`."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"cpu ({count(torch.get_num_threads(), 'thread')})" if device.type == "cpu" else device.type
