"""The loop that every sampler shares, and the three things a step works with: times, estimates, what came before."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import grid as grids
from diffusion.process.denoiser import Denoise, Estimate, Thresholded
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype

Grid = Callable[[Schedule, int], Tensor]
Watch = Callable[[int, Tensor, Estimate], None]

MEMORY = 3  # points that a multistep solver can look back on


class Time(NamedTuple):
    """A time as plain numbers: coefficients are computed in float64 and multiply tensors of any precision.

    lam = log(alpha/sigma) is half the log-SNR: +inf where sigma = 0, −inf where alpha = 0.
    """

    t: float
    alpha: float
    sigma: float
    lam: float

    @property
    def level(self) -> float:
        """sigma/alpha, or +inf near alpha = 0, where dividing by alpha would magnify x_t's rounding past use."""
        return self.sigma / self.alpha if self.alpha > 1e-4 * self.sigma else math.inf


class Point(NamedTuple):
    """Where a trajectory was: the time, x_t (B, C, H, W) there, and the estimate made there."""

    t: Time
    x: Tensor
    estimate: Estimate


class Evaluator:
    """The denoiser as a step sees it: takes a `Time`, counts its evaluations, knows other times of the schedule."""

    def __init__(self, denoise: Denoise, device: torch.device):
        self.denoise = denoise
        self.schedule = copy.deepcopy(denoise.schedule).cpu()  # numbers for steps without waiting for the device
        self.dtype = real_dtype(device)
        self.evaluations = 0

    def __call__(self, x_t: Tensor, t: Time) -> Estimate:
        return self.at_each(x_t, torch.full((len(x_t),), t.t, dtype=self.dtype, device=x_t.device))

    def at_each(self, x_t: Tensor, t: Tensor) -> Estimate:
        """The same with a time for each image, t (B,)."""
        self.evaluations += 1
        return self.denoise(x_t, t)

    def times(self, t: Tensor) -> list[Time]:
        """The `Time` of each of t (N,)."""
        t = t.double()
        alpha, sigma = self.schedule(t)
        rows = torch.stack([t, alpha, sigma, self.schedule.log_snr(t) / 2], dim=-1).tolist()
        return [Time(*row) for row in rows]

    def time(self, lam: float) -> Time:
        """The time at which log(alpha/sigma) is `lam`; at most the schedule's end."""
        return self.times(self.schedule.time(torch.tensor([2 * lam], dtype=torch.float64)).clamp(0, 1))[0]


@dataclass(eq=False)
class Sampler:
    """From noise to images in `steps` steps along a grid.

    A learned variance is used by `Ancestral` with `variance.LearnedRange` alone; every other sampler has a noise of
    its own, or none, and leaves the network's second half unused.

    Args:
        steps: number of steps N.
        grid: (schedule, steps) -> the N + 1 times, falling to 0.
        threshold: applied to every estimate of x0 (such as `denoiser.clip`), or None.
    Attributes:
        evaluations: network evaluations of the last call (NFE).
        adaptive: their number depends on the network and the images, not on `steps` alone.
    """

    steps: int
    grid: Grid = grids.uniform
    threshold: Callable[[Tensor], Tensor] | None = None
    evaluations: int = field(default=0, init=False)
    adaptive: ClassVar[bool] = False

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        """x_s from x_t, and the point to remember; `past` holds the last `MEMORY` remembered points, newest first."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, denoise: Denoise, noise: Tensor, streams: Streams, watch: Watch | None = None) -> Tensor:
        """Images x0 (B, C, H, W) from `noise` ~ N(0, I) of that shape; float32, or float64 where `noise` is.

        `streams` holds one random stream an image. `watch(k, x, estimate)` is called after step k of N, k from 1.
        """
        if self.threshold is not None:
            denoise = Thresholded(denoise, self.threshold)
        evaluator = Evaluator(denoise, noise.device)
        times = evaluator.times(self.grid(evaluator.schedule, self.steps))
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            if not t.t > s.t >= 0:
                raise UserError(f"sampler: times {k} and {k + 1} of the grid are {t.t:g} and {s.t:g}; they must fall")
        # x at the start ~ N(0, I) where alpha² + sigma² = 1: the variance of data of unit variance
        x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * math.hypot(times[0].alpha, times[0].sigma)
        past: list[Point] = []
        for k, (t, s) in enumerate(itertools.pairwise(times), start=1):
            x, now = self.step(evaluator, x, t, s, past, streams)
            past = [now, *past[: MEMORY - 1]]
            if watch is not None:
                watch(k, x, now.estimate)
        self.evaluations = evaluator.evaluations
        return x
