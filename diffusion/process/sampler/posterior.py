"""Samplers that follow the reverse process itself: DDPM's, DDIM's, and the score SDE's discretisations.

r = alpha_t sigma_s / (alpha_s sigma_t) = exp(lam_t − lam_s), as in `variance`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import variance as variances
from diffusion.process.denoiser import Estimate
from diffusion.process.sampler.loop import Evaluator, Point, Sampler, Time
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams

Variance = Callable[[Schedule, Tensor, Tensor, Tensor | None], Tensor]


def straight(estimate: Estimate, s: Time) -> Tensor:
    """alpha_s x0 + sigma_s eps: the first-order step of every ODE solver here, also where alpha_t or sigma_s is 0."""
    return s.alpha * estimate.x0 + s.sigma * estimate.eps


@dataclass(eq=False)
class Ancestral(Sampler):
    """x_s ~ N(alpha_s x0 + sigma_s r eps, variance), without noise in the last step (DDPM, Algorithm 2; the memoir's).

    Args:
        variance: (schedule, t, s, spread) -> log variance, () or (B, C, H, W).
    """

    variance: Variance = variances.fixed_small

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
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

    η = 0 is deterministic: Euler's step on the probability-flow ODE on EDM's σ axis and on a flow's straight line
    alike, and DPM-Solver-1. η = 1 is ancestral sampling with the small variance: k-diffusion's Euler-ancestral, and
    SDE-DPM-Solver++1.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"sampler: eta = {self.eta:g} of DDIM; choose it from 0 (no noise) to 1 (DDPM's)")

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        noise_variance = self.eta**2 * s.sigma**2 * -math.expm1(2 * (t.lam - s.lam))
        x_s = s.alpha * now.estimate.x0 + math.sqrt(s.sigma**2 - noise_variance) * now.estimate.eps
        if self.eta:
            x_s = x_s + math.sqrt(noise_variance) * streams.normal_like(x_t)
        return x_s, now


@dataclass(eq=False)
class ReverseDiffusion(Sampler):
    """x_s = x_t − f + G² score + G z, without noise in the last step (Score SDE, eq. 46), for any schedule.

    The forward step x_t = (alpha_t/alpha_s) x_s + G z has f = (alpha_t/alpha_s − 1) x and G² = sigma_t² (1 − r²);
    score = −eps/sigma_t. First order, and needs about a thousand steps.
    """

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        G = t.sigma * math.sqrt(-math.expm1(2 * (t.lam - s.lam)))
        mean = (2 - t.alpha / s.alpha) * x_t - G**2 / t.sigma * now.estimate.eps
        return (mean if s.t == 0 else mean + G * streams.normal_like(x_t)), now


@dataclass(eq=False)
class PredictorCorrector(Sampler):
    """At each t, `corrections` Langevin steps, then the predictor's step to s (Score SDE, Algorithms 2–5).

    x ← x + ε score + √(2ε) z with ε = 2 (snr ‖z‖/‖score‖)². The norms are each image's own, where the reference
    takes the batch's mean: an image does not depend on its neighbours. Its factor 1 − β_t ≈ 1 of ε is left out.

    Args:
        predictor: (steps, grid, threshold) -> the sampler whose step predicts.
        snr: the signal-to-noise ratio of a Langevin step; its stationary variance is too large by snr², relatively.
    """

    predictor: Callable[..., Sampler] = ReverseDiffusion
    corrections: int = 1
    snr: float = 0.16

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        for _ in range(self.corrections):
            score = denoise(x_t, t).eps / -t.sigma
            z = streams.normal_like(x_t)
            noise_norm, score_norm = (torch.linalg.vector_norm(v, dim=(1, 2, 3), keepdim=True) for v in (z, score))
            size = 2 * (self.snr * noise_norm / score_norm) ** 2
            x_t = x_t + size * score + (2 * size).sqrt() * z
        return self.predictor(self.steps, self.grid, self.threshold).step(denoise, x_t, t, s, past, streams)
