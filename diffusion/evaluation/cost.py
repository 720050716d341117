"""What sampling will cost, said before it starts: network evaluations counted, one batch timed."""

import copy
import time

import torch
from torch import Tensor

from diffusion.console import console, count, duration
from diffusion.process.denoiser import Denoise, Estimate
from diffusion.process.sampler import Sampler
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype
from diffusion.training.callbacks import device_name


class Blank:
    """A denoiser that costs nothing: every image is grey. Samplers that choose their own steps choose few with it.

    It works on the CPU, wherever `schedule` lies.
    """

    def __init__(self, schedule: Schedule):
        self.schedule = copy.deepcopy(schedule).cpu()

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        zero = torch.zeros_like(x_t)
        return Estimate(zero, x_t / self.schedule(t)[1].to(x_t).clamp(min=1e-6).view(-1, 1, 1, 1), zero)


def evaluations(sampler: Sampler, schedule: Schedule) -> int:
    """Network evaluations an image (NFE), counted on a denoiser that costs nothing."""
    sampler(Blank(schedule), torch.ones(1, 1, 1, 1), Streams([0]))
    return sampler.evaluations


@torch.no_grad()
def seconds_per_evaluation(
    denoise: Denoise, shape: tuple[int, int, int], batch_size: int, device: torch.device
) -> float:
    """Of a batch, timed once after one to warm up."""
    x = torch.zeros(batch_size, *shape, device=device)
    t = torch.full((batch_size,), 0.5, device=device, dtype=real_dtype(device))
    for _ in range(2):
        began = time.perf_counter()
        denoise(x, t).x0.flatten()[0].item()  # which waits for the device
    return time.perf_counter() - began


def say_cost(
    denoise: Denoise,
    sampler: Sampler,
    n: int,
    shape: tuple[int, int, int],
    batch_size: int,
    device: torch.device,
    untrained: int = 0,
) -> float:
    """One line: samples × evaluations, and the time they will take; returns it in seconds.

    `untrained`: how many of the `n` samples are a fresh network's, which costs as much.
    """
    batch = min(n, batch_size)
    nfe = evaluations(sampler, denoise.schedule)
    seconds = seconds_per_evaluation(denoise, shape, batch, device) * nfe * n / batch
    blank = f" ({untrained} of them untrained)" if untrained else ""
    console.print(
        f"{count(n, 'sample')}{blank} × {count(nfe, 'network evaluation')}: about {duration(seconds)} "
        f"on {device_name(device)} (a batch of {batch} was timed)"
    )
    return seconds
