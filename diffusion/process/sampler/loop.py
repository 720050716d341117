"""The loop that all samplers share, and what a step works with: `Time`, `Evaluator` and the earlier `Point`s."""

import copy
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import grid as grids
from diffusion.process.denoiser import Conditioned, Denoise, Estimate, Thresholded
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype

Grid = Callable[[Schedule, int], Tensor]
Threshold = Callable[[Tensor], Tensor]
Watch = Callable[[int, Tensor, Estimate], None]

MEMORY = 3  # how many of the last points a multistep solver can use


class Time(NamedTuple):
    """A time and its coefficients as Python floats, so that steps compute in float64 whatever the dtype of x.

    lam = log(alpha/sigma) is half the log-SNR: +inf where sigma = 0, −inf where alpha = 0.
    """

    t: float
    alpha: float
    sigma: float
    lam: float

    @property
    def level(self) -> float:
        """sigma/alpha, or +inf near alpha = 0, where dividing by alpha would amplify the rounding errors of x_t."""
        return self.sigma / self.alpha if self.alpha > 1e-4 * self.sigma else math.inf


class Point(NamedTuple):
    """A point of a sampling trajectory: the time t, x_t (B, C, H, W) and the denoiser's estimate at x_t."""

    t: Time
    x: Tensor
    estimate: Estimate


class Evaluator:
    """The denoiser for use in a step: it takes a `Time`, counts its evaluations and looks up times on the schedule."""

    def __init__(self, denoise: Denoise, device: torch.device):
        self.denoise = denoise
        self.schedule = copy.deepcopy(denoise.schedule).cpu()  # a CPU copy: no waiting for the device
        self.dtype = real_dtype(device)
        self.evaluations = 0

    def __call__(self, x_t: Tensor, t: Time) -> Estimate:
        return self.at_each(x_t, torch.full((len(x_t),), t.t, dtype=self.dtype, device=x_t.device))

    def at_each(self, x_t: Tensor, t: Tensor) -> Estimate:
        """The same, with one time for each image: t (B,)."""
        self.evaluations += 1
        return self.denoise(x_t, t)

    def times(self, t: Tensor) -> list[Time]:
        """The `Time` for each element of t (N,)."""
        t = t.double()
        alpha, sigma = self.schedule(t)
        rows = torch.stack([t, alpha, sigma, self.schedule.log_snr(t) / 2], dim=-1).tolist()
        return [Time(*row) for row in rows]

    def time(self, lam: float) -> Time:
        """The time at which log(alpha/sigma) is `lam`, clamped to [0, 1]."""
        return self.times(self.schedule.time(torch.tensor([2 * lam], dtype=torch.float64)).clamp(0, 1))[0]


@dataclass(eq=False)
class Sampler:
    """Base class: from noise to images in `steps` steps along a grid of times.

    Only `Ancestral` with `variance.learned_range` uses a learned variance. All other samplers ignore the second half of
    the network's output channels.

    Args:
        steps: the number of steps, N.
        grid: (schedule, steps) -> the N + 1 times, decreasing to 0.
        threshold: applied to every estimate of x0, such as `denoiser.clip`; None: estimates are left unchanged.

    Attributes:
        evaluations: the number of network evaluations in the last call (NFE).
        adaptive: whether that number depends on the network and the images, not only on `steps`.
    """

    steps: Annotated[int, Ge(1)]
    grid: Grid = grids.uniform
    threshold: Threshold | None = None
    evaluations: int = field(default=0, init=False)
    adaptive: ClassVar[bool] = False

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        """x_s, and the point at t to keep for later steps. `past` holds the last `MEMORY` kept points, newest first."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self, denoise: Denoise, noise: Tensor, streams: Streams, watch: Watch | None = None, **conditions: Any
    ) -> Tensor:
        """Images x0 (B, C, H, W) from `noise` ~ N(0, I) of the same shape; float32, or float64 if `noise` is.

        Args:
            denoise: the denoiser.
            noise: N(0, I), (B, C, H, W).
            streams: one random stream per image.
            watch: called after each step as watch(k, x, estimate), with k from 1 to N.
            conditions: handed to the denoiser at each evaluation, such as `classes` (B,).
        """
        if conditions:
            denoise = Conditioned(denoise, **conditions)
        if self.threshold is not None:
            denoise = Thresholded(denoise, self.threshold)
        evaluator = Evaluator(denoise, noise.device)
        times = evaluator.times(self.grid(evaluator.schedule, self.steps))
        for k, (t, s) in enumerate(itertools.pairwise(times)):
            if not t.t > s.t >= 0:
                raise UserError(f"sampler: grid times {k} and {k + 1} are {t.t:g} and {s.t:g}; they must decrease")
        # The start has variance alpha² + sigma², the variance of x_t for data of unit variance.
        x = noise.to(torch.promote_types(noise.dtype, torch.float32)) * math.hypot(times[0].alpha, times[0].sigma)
        past: list[Point] = []
        for k, (t, s) in enumerate(itertools.pairwise(times), start=1):
            x, now = self.step(evaluator, x, t, s, past, streams)
            past = [now, *past[: MEMORY - 1]]
            if watch is not None:
                watch(k, x, now.estimate)
        self.evaluations = evaluator.evaluations
        return x
