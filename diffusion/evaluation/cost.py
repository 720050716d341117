"""The cost of sampling, printed before it starts: network evaluations are counted, and one batch is timed."""

import copy
import time
from typing import Any

import torch
from torch import Tensor

from diffusion.console import console, duration
from diffusion.evaluation.devices import device_name
from diffusion.process.denoiser import Denoise, Estimate
from diffusion.process.guidance import Guidance
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype


class Blank:
    """A denoiser without a network, on the CPU, that estimates grey images, accepts any conditions, and counts `calls`.

    (Adaptive samplers take few steps with it.)
    """

    def __init__(self, schedule: Schedule):
        self.schedule = copy.deepcopy(schedule).cpu()
        self.calls = 0

    def __call__(self, x_t: Tensor, t: Tensor, **conditions: Any) -> Estimate:
        self.calls += 1
        zero = torch.zeros_like(x_t)
        return Estimate(zero, x_t / self.schedule(t)[1].to(x_t).clamp(min=1e-6).view(-1, 1, 1, 1), zero)


def evaluations(sampler: Sampler, schedule: Schedule, guidance: Guidance | None = None) -> int:
    """Network evaluations per image (NFE), counted without a network; with guidance, the weak network counts too."""
    blank, noise = Blank(schedule), torch.ones(1, 1, 1, 1)
    if guidance is None:
        sampler(blank, noise, Streams([0]))
    else:
        sampler(guidance(blank, blank), noise, Streams([0]), classes=torch.zeros(1, dtype=torch.int64))
    return blank.calls


@torch.no_grad()
def seconds_per_evaluation(
    denoise: Denoise, shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> float:
    """Wall time in seconds of one evaluation of a batch, measured once after a warm-up."""
    x = torch.zeros(batch_size, *shape, device=device)
    t = torch.full((batch_size,), 0.5, device=device, dtype=real_dtype(device))
    for _ in range(2):
        began = time.perf_counter()
        denoise(x, t).x0.flatten()[0].item()  # synchronizes with the device
    return time.perf_counter() - began


def print_estimate(
    work: str,
    denoise: Denoise,
    shape: tuple[int, int, int],
    n: int,
    total: int,
    batch_size: int,
    device: torch.device,
) -> float:
    """Print how long the `work` will take; returns the seconds.

    Args:
        n: Number of images, which limits the size of the timed batch.
        total: Number of evaluations of a single image.
        denoise: The denoiser without guidance; an evaluation of the weak denoiser counts the same.
    """
    batch = min(n, batch_size)
    seconds = seconds_per_evaluation(denoise, shape, batch, device) * total / batch
    console.print(f"{work}: about {duration(seconds)} on {device_name(device)} (a batch of {batch} was timed)")
    return seconds
