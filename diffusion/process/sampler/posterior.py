"""Samplers that discretise the reverse process directly: DDPM, DDIM and the score SDE's; and consistency sampling.

r = alpha_t sigma_s / (alpha_s sigma_t) = exp(lam_t − lam_s), as in `variance`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from diffusion.process import grid as grids
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler.loop import Evaluator, Grid, Past, Point, Sampler, Stepped, Threshold, Time
from diffusion.process.variance import Variance, fixed_small
from diffusion.randomness import Streams


def first_order_step(estimate: Estimate, s: Time) -> Tensor:
    """alpha_s x0 + sigma_s eps: the first-order step of the ODE solvers, also valid at alpha_t = 0 or sigma_s = 0."""
    return s.alpha * estimate.x0 + s.sigma * estimate.eps


@dataclass(eq=False)
class Ancestral(Sampler):
    """x_s ~ N(alpha_s x0 + sigma_s r eps, variance), without noise in the last step (DDPM and the memoir, Algorithm 2).

    Args:
        variance: (schedule, t, s, spread) -> log variance, (1,) or (B, C, H, W).
    """

    variance: Variance = fixed_small

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        r = math.exp(t.lam - s.lam)
        mean = s.alpha * now.estimate.x0 + s.sigma * r * now.estimate.eps
        if s.t == 0:
            return mean, now
        t_1, s_1 = (torch.full((1,), time.t, dtype=denoise.dtype, device=x_t.device) for time in (t, s))
        log_variance = self.variance(denoise.denoise.schedule, t_1, s_1, now.estimate.spread)
        return mean + torch.exp(log_variance / 2).to(x_t.dtype) * streams.normal_like(x_t), now


@dataclass(eq=False)
class DDIM(Sampler):
    """x_s = alpha_s x0 + √(sigma_s² − ς²) eps + ς z with ς² = η² sigma_s² (1 − r²) (DDIM, eqs. 12 and 16).

    η = 0 is DPM-Solver-1, and Euler's method for the probability-flow ODE. η = 1 is ancestral sampling with the small
    variance, SDE-DPM-Solver++(1), and the Euler-ancestral sampler of k-diffusion.

    Args:
        eta: η, the amount of noise, from 0 (none) to 1 (as in DDPM).
    """

    eta: Annotated[float, Ge(0), Le(1)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        noise_variance = self.eta**2 * s.sigma**2 * -math.expm1(2 * (t.lam - s.lam))
        x_s = s.alpha * now.estimate.x0 + math.sqrt(s.sigma**2 - noise_variance) * now.estimate.eps
        if self.eta:
            x_s = x_s + math.sqrt(noise_variance) * streams.normal_like(x_t)
        return x_s, now


@dataclass(eq=False)
class Consistency(Sampler):
    """x_s = alpha_s x0 + sigma_s z, without noise in the last step (Song et al. 2023, Algorithm 1).

    For models trained with `consistency.Consistency`, which estimate a sample of x0, not its mean. With a plain
    denoiser, the images become smoother with each step.
    """

    grid: Grid = grids.consistency

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        x0 = s.alpha * now.estimate.x0
        return (x0 if s.sigma == 0 else x0 + s.sigma * streams.normal_like(x_t)), now


@dataclass(eq=False)
class ReverseDiffusion(Sampler):
    """x_s = x_t − f + G² score + G z, without noise in the last step (Score SDE, eq. 46), for any schedule.

    The forward step is x_t = (alpha_t/alpha_s) x_s + G z, with f = (alpha_t/alpha_s − 1) x and G² = sigma_t² (1 − r²).
    The score is −eps/sigma_t. The method is of first order and needs about a thousand steps.
    """

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        G = t.sigma * math.sqrt(-math.expm1(2 * (t.lam - s.lam)))
        mean = (2 - t.alpha / s.alpha) * x_t - G**2 / t.sigma * now.estimate.eps
        return (mean if s.t == 0 else mean + G * streams.normal_like(x_t)), now


@dataclass(eq=False)
class PredictorCorrector(Sampler):
    """`corrections` Langevin steps at each t, then the predictor's step to s (Score SDE, Algorithms 2–5).

    A Langevin step is x ← x + ε score + √(2ε) z with ε = 2 (snr ‖z‖/‖score‖)². Each image has its own norms, whereas
    the reference code averages them over the batch. Its factor 1 − β_t ≈ 1 in ε is omitted.

    Args:
        predictor: (steps, grid, threshold) -> the sampler that runs the steps from t to s.
        corrections: the number of Langevin steps at each t.
        snr: the signal-to-noise ratio of a Langevin step; after many steps, the variance is too large by a fraction of
            about snr².
    """

    predictor: Callable[[int, Grid, Threshold | None], Sampler] = ReverseDiffusion
    corrections: Annotated[int, Ge(0)] = 1
    snr: Annotated[float, Gt(0)] = 0.16

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        for _ in range(self.corrections):
            score = denoise(x_t, t).eps / -t.sigma
            z = streams.normal_like(x_t)
            noise_norm, score_norm = (torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True) for v in (z, score))
            ratio = torch.where(score_norm > 0, noise_norm / score_norm, 0.0)  # the score of a new network is 0
            size = 2 * (self.snr * ratio) ** 2
            x_t = x_t + size * score + (2 * size).sqrt() * z
        return self.predictor(self.steps, self.grid, self.threshold).step(denoise, x_t, t, s, past, streams)
