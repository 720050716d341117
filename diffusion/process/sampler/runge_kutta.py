"""Solvers of the probability-flow ODE of one step: Euler, Heun and the midpoint rule, and an adaptive Runge–Kutta.

The axis. For any c ≥ 0 let y = x/(alpha + c sigma) and u = sigma/(alpha + c sigma). Then y = (1 − c u) x0 + u eps and
    dy/du = eps − c x0
whatever the schedule. c = 0 is EDM's axis (x/alpha, sigma/alpha); c = 1 is the straight line of a flow, u in [0, 1],
which has no singular end. Euler's step is alpha_s x0 + sigma_s eps on every axis.
"""

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from scipy.integrate import RK45
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Estimate, expand
from diffusion.process.sampler.loop import Evaluator, Point, Sampler, Time
from diffusion.process.sampler.posterior import straight
from diffusion.randomness import Streams


def along(x_t: Tensor, estimate: Estimate, t: Time, s: Time, c: float) -> Tensor:
    """x_s = (alpha_s + c sigma_s)(y_t + (u_s − u_t) (eps − c x0)): the slope of `estimate`, held from t to s."""
    scale_t, scale_s = t.alpha + c * t.sigma, s.alpha + c * s.sigma
    rise = s.sigma - scale_s * t.sigma / scale_t  # scale_s (u_s − u_t)
    return scale_s / scale_t * x_t + rise * (estimate.eps - c * estimate.x0)


@dataclass(eq=False)
class Euler(Sampler):
    """Euler's method with EDM's churn (EDM, Algorithm 2, without its second-order correction). One evaluation a step.

    Churn raises sigma/alpha by a factor 1 + γ with fresh noise before the step, γ = min(churn/N, √2 − 1), at most to
    the schedule's end. On a table the raised time lies between rows.

    Args:
        churn, churn_low, churn_high, churn_noise: S_churn, S_tmin, S_tmax (of sigma/alpha) and S_noise of the paper.
    """

    churn: float = 0.0
    churn_low: float = 0.0
    churn_high: float = math.inf
    churn_noise: float = 1.0

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        if self.churn and math.isfinite(t.level) and self.churn_low <= t.level <= self.churn_high:
            gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
            hat = denoise.time(t.lam - math.log1p(gamma))
            scale = hat.alpha / t.alpha
            added = math.sqrt(max(hat.sigma**2 - (scale * t.sigma) ** 2, 0.0))
            x_t, t = scale * x_t + self.churn_noise * added * streams.normal_like(x_t), hat
        now = Point(t, x_t, denoise(x_t, t))
        return self.advance(denoise, now, s), now

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        """x_s from the point at t; more evaluations make it more exact."""
        return straight(now.estimate, s)


@dataclass(eq=False)
class Heun(Euler):
    """Heun's second-order method (EDM, Algorithm 2): the slopes at t and at Euler's x_s, averaged.

    Two evaluations a step; one in a step that ends at sigma = 0 or begins at the singular end of the axis.

    Args:
        c: the axis; 0: EDM's, 1: a flow's.
    """

    c: float = 0.0

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        x_s = straight(now.estimate, s)
        if s.sigma == 0 or (self.c == 0 and math.isinf(now.t.level)):
            return x_s
        there = denoise(x_s, s)
        mean = Estimate((now.estimate.x0 + there.x0) / 2, (now.estimate.eps + there.eps) / 2)
        return along(now.x, mean, now.t, s, self.c)


@dataclass(eq=False)
class Midpoint(Euler):
    """The midpoint rule on the straight line of a flow: the slope at u = (u_t + u_s)/2. Two evaluations a step."""

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        t = now.t
        u = (t.sigma / (t.alpha + t.sigma) + s.sigma / (s.alpha + s.sigma)) / 2
        middle = denoise.time(math.log((1 - u) / u))
        return along(now.x, denoise(straight(now.estimate, middle), middle), t, s, c=1.0)


@dataclass(eq=False)
class ProbabilityFlow(Sampler):
    """The probability-flow ODE by adaptive Dormand–Prince 5(4), then one denoising step (Score SDE, section 4.3).

    Each interval of the grid is solved to the tolerance, except the last, which ends at sigma = 0 and is one
    first-order step: `steps` = 2 on a log-SNR grid is one solve from end to end. On the straight line (c = 1), where
    no schedule has a singular end. Each image has its own step sizes, so it does not depend on its neighbours;
    a batch is evaluated until its last image arrives.

    Args:
        rtol, atol: the error of one step at most, relative and absolute, root mean square over pixels.
    """

    adaptive: ClassVar[bool] = True
    rtol: float = 1e-5
    atol: float = 1e-5

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        if s.sigma == 0:
            return straight(now.estimate, s), now
        start, end = (time.sigma / (time.alpha + time.sigma) for time in (t, s))
        u = torch.full((len(x_t),), start, dtype=denoise.dtype, device=x_t.device)
        y = x_t / (t.alpha + t.sigma)
        h = (end - u) / 10
        slopes = [now.estimate.eps - now.estimate.x0]
        while (u > end).any():
            h = torch.maximum(h, end - u)  # both negative: not beyond the end
            for row, c in zip(RK45.A[1:], RK45.C[1:], strict=True):
                slopes.append(self.slope(denoise, y + expand(h, y) * combine(row, slopes), u + float(c) * h))
            y_new = y + expand(h, y) * combine(RK45.B, slopes)
            slopes.append(self.slope(denoise, y_new, u + h))
            tolerance = self.atol + self.rtol * torch.maximum(y.abs(), y_new.abs())
            ratio = (expand(h, y) * combine(RK45.E, slopes) / tolerance).flatten(1).square().mean(dim=1).sqrt()
            accepted = ratio < 1  # false for NaN
            y = torch.where(expand(accepted, y).bool(), y_new, y)
            slopes = [torch.where(expand(accepted, y).bool(), slopes[-1], slopes[0])]  # first same as last
            u = torch.where(accepted, u + h, u)
            u = torch.where(u - end < 1e-12, end, u)
            h = h * (0.9 * ratio**-0.2).nan_to_num(0.2).clamp(0.2, 10)
            if (h.abs() < 1e-12).logical_and(u > end).any():
                raise UserError(
                    f"sampler: the probability flow finds no step of rtol = {self.rtol:g} in t = {t.t:g} … {s.t:g}; "
                    "raise sampler.rtol and sampler.atol, or see whether the network's output is finite"
                )
        return y * (s.alpha + s.sigma), now

    @staticmethod
    def slope(denoise: Evaluator, y: Tensor, u: Tensor) -> Tensor:
        """eps − x0 at (y, u), u (B,) > 0."""
        schedule = denoise.denoise.schedule
        t = schedule.time(2 * torch.log((1 - u) / u)).clamp(0, 1)
        alpha, sigma = schedule(t)
        estimate = denoise.at_each(expand(alpha + sigma, y) * y, t)
        return estimate.eps - estimate.x0


def combine(row: list[float], slopes: list[Tensor]) -> Tensor:
    """The weighted sum of slopes by a row of the tableau, which may be padded."""
    return sum((float(w) * k for w, k in zip(row, slopes, strict=False)), torch.zeros_like(slopes[0]))
