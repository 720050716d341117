"""The loop shared by all samplers, and the types used in a step: `Time`, `Evaluator` and `Point`."""

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
from diffusion.process.schedule import Schedule, pure_noise
from diffusion.randomness import Streams, real_dtype

Grid = Callable[[Schedule, int], Tensor]
Threshold = Callable[[Tensor], Tensor]
Watch = Callable[[int, Tensor, Estimate], None]

MEMORY = 3  # how many earlier points a multistep solver can use


class Time(NamedTuple):
    """A time and its coefficients as Python floats: steps compute them in float64, whatever the dtype of x.

    lam = log(alpha/sigma) is half the log-SNR: +inf where sigma = 0, −inf where alpha = 0.
    """

    t: float
    alpha: float
    sigma: float
    lam: float

    @property
    def level(self) -> float:
        """sigma/alpha, or +inf where x_t is pure noise: a long step from there is exact only to first order."""
        return math.inf if pure_noise(self.alpha, self.sigma) else self.sigma / self.alpha


class Point(NamedTuple):
    """A point of a sampling trajectory: the time t, x_t (B, C, H, W) and the denoiser's estimate at x_t."""

    t: Time
    x: Tensor
    estimate: Estimate


Past = list[Point]
"""The last `MEMORY` points that a sampler has kept, newest first."""

Stepped = tuple[Tensor, Point]
"""The result of a step from t to s: x_s, and the point at t to keep for later steps."""


class Evaluator:
    """The denoiser as used in a step: it accepts a `Time`, counts evaluations and looks up times on the schedule."""

    def __init__(self, denoise: Denoise, device: torch.device):
        self.denoise = denoise
        self.schedule = copy.deepcopy(denoise.schedule).cpu()  # a CPU copy avoids waiting for the device
        self.dtype = real_dtype(device)
        self.evaluations = 0
        self.steps_left: int | None = None  # with the current one; None if the last step does not end at sigma = 0

    def __call__(self, x_t: Tensor, t: Time) -> Estimate:
        return self.at_each(x_t, torch.full((len(x_t),), t.t, dtype=self.dtype, device=x_t.device))

    def at_each(self, x_t: Tensor, t: Tensor) -> Estimate:
        """Like `__call__`, but with one time per image: t (B,)."""
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

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        """x_s, and the point at t to keep for later steps."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        noise: Tensor | None,
        streams: Streams,
        watch: Watch | None = None,
        start: tuple[Tensor, float] | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Images x0 (B, C, H, W) from `noise` ~ N(0, I) of the same shape; float32, or float64 if `noise` is.

        Args:
            denoise: the denoiser.
            noise: N(0, I), (B, C, H, W); None if there is a `start`.
            streams: one random stream per image.
            watch: called after each step as watch(k, x, estimate), where x is at the k-th time of the grid; the last k
                is N.
            start: (x_t, t): start from x_t (B, C, H, W) at time t instead, and run only the grid's steps below t.
                SDEdit does this with x_t = `diffuse(schedule, x0, streams.normal_like(x0), t)`.
            conditions: passed to the denoiser at each evaluation, such as `classes` (B,).

        Raises:
            UserError: if both or neither of `noise` and `start` are given, the number of streams is not B, or the grid
                does not decrease.
        """
        if (noise is None) == (start is None):
            raise UserError("sampler: pass either noise or start=(x_t, t), and None for the other")
        if conditions:
            denoise = Conditioned(denoise, **conditions)
        if self.threshold is not None:
            denoise = Thresholded(denoise, self.threshold)
        x = noise if start is None else start[0]
        assert x is not None
        if isinstance(streams, Streams):  # others, such as the oracle's, draw noise of any shape
            streams.check(x)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        evaluator = Evaluator(denoise, x.device)
        grid = self.grid(evaluator.schedule, self.steps)
        if not (grid.diff() < 0).all() or grid[-1] < 0:
            raise UserError(f"sampler: the grid's times {grid.tolist()[:5]} … must decrease to 0")
        if start is not None:
            first = start[1]  # then the times below it; one almost equal to it would make differences of noise
            grid = torch.cat([grid.new_tensor([first]), grid[grid < first * (1 - 1e-4)]])
        times = evaluator.times(grid)
        if start is None:  # variance alpha² + sigma², like x_t for data of unit variance
            x = x * math.hypot(times[0].alpha, times[0].sigma)
        past: list[Point] = []
        for k, (t, s) in enumerate(itertools.pairwise(times), start=self.steps + 2 - len(times)):
            evaluator.steps_left = self.steps + 1 - k if times[-1].sigma == 0 else None
            x, now = self.step(evaluator, x, t, s, past, streams)
            past = [now, *past[: MEMORY - 1]]
            if watch is not None:
                watch(k, x, now.estimate)
        self.evaluations = evaluator.evaluations
        return x
