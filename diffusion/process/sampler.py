"""Samplers: from noise to images along a grid of times. A sampler is one `step` from t to s < t; the loop is here once."""

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from diffusion.process import grid as grids
from diffusion.process import variance as variances
from diffusion.process.denoiser import Denoise, Estimate, Thresholded, expand
from diffusion.process.schedule import Schedule
from diffusion.process.variance import ratio
from diffusion.randomness import Streams

Grid = Callable[[Schedule, int], Tensor]
Variance = Callable[[Schedule, Tensor, Tensor, Tensor | None], Tensor]
Watch = Callable[[int, Tensor, Estimate], None]


class Sampler:
    """The loop that every sampler shares.

    Args:
        steps: number of steps N; one network evaluation each, unless a sampler says otherwise.
        grid: (schedule, steps) -> the N + 1 times, falling to 0.
        threshold: applied to every estimate of x0 (such as `denoiser.clip`), or None.
    """

    def __init__(self, steps: int, grid: Grid = grids.uniform, threshold: Callable[[Tensor], Tensor] | None = None):
        self.steps = steps
        self.grid = grid
        self.threshold = threshold

    def step(
        self, estimate: Estimate, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, streams: Streams
    ) -> Tensor:
        """x_s from x_t and the estimate at t; t and s are scalars."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(self, denoise: Denoise, noise: Tensor, streams: Streams, watch: Watch | None = None) -> Tensor:
        """Images x0 (B, C, H, W) from `noise` ~ N(0, I) of that shape.

        `streams` holds one random stream an image. `watch(k, x, estimate)` is called after step k of N, k from 1.
        """
        if self.threshold is not None:
            denoise = Thresholded(denoise, self.threshold)
        times = self.grid(denoise.schedule, self.steps).to(noise.device)
        alpha, sigma = denoise.schedule(times[0])
        x = noise * expand(torch.sqrt(alpha**2 + sigma**2), noise)  # x_T ~ N(0, I) where alpha² + sigma² = 1
        for k, (t, s) in enumerate(itertools.pairwise(times), start=1):
            estimate = denoise(x, t.expand(len(x)))
            x = self.step(estimate, denoise.schedule, x, t, s, streams)
            if watch is not None:
                watch(k, x, estimate)
        return x


class Ancestral(Sampler):
    """x_s ~ N(alpha_s x0 + sigma_s r eps, variance), without noise in the last step (DDPM, Algorithm 2; the memoir's)."""

    def __init__(
        self,
        steps: int,
        grid: Grid = grids.uniform,
        threshold: Callable[[Tensor], Tensor] | None = None,
        variance: Variance = variances.fixed_small,
    ):
        super().__init__(steps, grid, threshold)
        self.variance = variance

    def step(
        self, estimate: Estimate, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, streams: Streams
    ) -> Tensor:
        alpha_s, sigma_s = schedule(s)
        r, _ = ratio(schedule, t, s)
        mean = expand(alpha_s, x_t) * estimate.x0 + expand(sigma_s * r, x_t) * estimate.eps
        log_variance = self.variance(schedule, t, s, estimate.spread)
        deviation = torch.exp(log_variance / 2) * (s > 0)
        return mean + expand(deviation, x_t) * streams.normal_like(x_t)


class DDIM(Sampler):
    """x_s = alpha_s x0 + √(sigma_s² − ς²) eps + ς z with ς² = η² sigma_s² (1 − r²) (DDIM, eqs. 12 and 16).

    η = 0 is deterministic; η = 1 is ancestral sampling with the small variance.
    """

    def __init__(
        self,
        steps: int,
        grid: Grid = grids.uniform,
        threshold: Callable[[Tensor], Tensor] | None = None,
        eta: float = 0.0,
    ):
        super().__init__(steps, grid, threshold)
        self.eta = eta

    def step(
        self, estimate: Estimate, schedule: Schedule, x_t: Tensor, t: Tensor, s: Tensor, streams: Streams
    ) -> Tensor:
        alpha_s, sigma_s = schedule(s)
        _, rest = ratio(schedule, t, s)
        noise_variance = self.eta**2 * sigma_s**2 * rest
        direction = torch.sqrt(sigma_s**2 - noise_variance)
        x_s = expand(alpha_s, x_t) * estimate.x0 + expand(direction, x_t) * estimate.eps
        if self.eta == 0:
            return x_s
        return x_s + expand(noise_variance.sqrt(), x_t) * streams.normal_like(x_t)
