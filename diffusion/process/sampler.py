"""Samplers: from noise to images along a grid of times. A sampler defines one `step` from t to s < t."""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, NamedTuple

import numpy as np
import scipy  # its submodules are imported on first use
import torch
from annotated_types import Ge, Gt, Le
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import grid as grids
from diffusion.process.denoiser import Conditioned, Denoise, Estimate, Thresholded
from diffusion.process.grid import Grid
from diffusion.process.schedule import pure_noise
from diffusion.process.variance import Variance, fixed_small
from diffusion.randomness import Streams, real_dtype

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
    left: int | None = None  # steps of the grid from here to its end; None if it does not end at sigma = 0

    @property
    def level(self) -> float:
        """sigma/alpha, or +inf where x_t is pure noise: a long step from there is exact only to first order."""
        return math.inf if pure_noise(self.alpha, self.sigma) else self.sigma / self.alpha


class Point(NamedTuple):
    """A point of a sampling trajectory: the time t, x_t (B, C, *size) and the denoiser's estimate at x_t."""

    t: Time
    x: Tensor
    estimate: Estimate


Past = list[Point]  # the last `MEMORY` points that a sampler has kept, newest first
Stepped = tuple[Tensor, Point]  # the result of a step from t to s: x_s, and the point at t to keep for later steps


class Evaluator:
    """The denoiser as used in a step: it accepts a `Time`, and looks up times on the schedule."""

    def __init__(self, denoise: Denoise, device: torch.device):
        self.denoise, self.schedule, self.dtype = denoise, denoise.schedule.on_cpu(), real_dtype(device)

    def __call__(self, x_t: Tensor, t: Time | Tensor, **more: Any) -> Estimate:
        """The estimate at x_t (B, C, *size), at one time or, for t (B,), at one for each image."""
        each = torch.full((len(x_t),), t.t, dtype=self.dtype, device=x_t.device) if isinstance(t, Time) else t
        return self.denoise(x_t, each, **more)

    def times(self, t: Tensor) -> list[Time]:
        """The `Time` for each element of t (N,)."""
        t = t.double()
        rows = torch.stack([t, *self.schedule(t), self.schedule.log_snr(t) / 2], dim=-1).tolist()
        return [Time(*row) for row in rows]

    def time(self, lam: float) -> Time:
        """The time at which log(alpha/sigma) is `lam`, clamped to [0, 1]."""
        return self.times(self.schedule.time(torch.tensor([2 * lam], dtype=torch.float64)).clamp(0, 1))[0]


@dataclass(eq=False)
class Sampler:
    """Base class: from noise to images in N = `steps` steps along a grid of times. Subclasses define `step`."""

    steps: Annotated[int, Ge(1)]
    grid: Grid = grids.uniform  # (schedule, steps) -> the N + 1 times, decreasing to 0
    threshold: Threshold | None = None  # applied to every estimate of x0, such as `denoiser.clip`

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        """x_s, and the point at t to keep for later steps."""
        raise NotImplementedError

    @torch.no_grad()
    def __call__(
        self,
        denoise: Denoise,
        x: Tensor,
        streams: Streams,
        watch: Watch | None = None,
        start: float | None = None,
        **conditions: Any,
    ) -> Tensor:
        """Images x0 (B, C, *size) from noise x ~ N(0, I) of the same shape; float32, or float64 if x is.

        Args:
            streams: one random stream per image.
            watch: called after each step as watch(k, x, estimate), where x is at the k-th of the N times of the grid.
            start: a time t: x is x_t instead of noise, and only the grid's steps below t are run.
            conditions: passed to the denoiser at each evaluation, such as `classes` (B,).
        """
        if conditions:
            denoise = Conditioned(denoise, conditions)
        if self.threshold is not None:
            denoise = Thresholded(denoise, self.threshold)
        x = x.to(torch.promote_types(x.dtype, torch.float32))
        evaluator = Evaluator(denoise, x.device)
        grid = self.grid(evaluator.schedule, self.steps)
        if not (grid.diff() < 0).all() or grid[-1] < 0:
            raise UserError(f"sampler: the grid's times {grid.tolist()[:5]} … must decrease to 0")
        if start is not None:  # a time of the grid that is almost equal to it would make differences of noise
            grid = torch.cat([grid.new_tensor([start]), grid[grid < start * (1 - 1e-4)]])
        times = evaluator.times(grid)
        if start is None:  # variance alpha² + sigma², like x_t for data of unit variance
            x = x * math.hypot(times[0].alpha, times[0].sigma)
        if times[-1].sigma == 0:
            times = [time._replace(left=len(times) - 1 - i) for i, time in enumerate(times)]
        past: Past = []
        for k, (t, s) in enumerate(itertools.pairwise(times), start=self.steps + 2 - len(times)):
            x, now = self.step(evaluator, x, t, s, past, streams)
            past = [now, *past[: MEMORY - 1]]
            if watch is not None:
                watch(k, x, now.estimate)
        return x


# The samplers that discretise the reverse process, with r = alpha_t sigma_s / (alpha_s sigma_t) = exp(lam_t − lam_s).


def first_order_step(estimate: Estimate, s: Time) -> Tensor:
    """alpha_s x0 + sigma_s eps: the first-order step of the ODE solvers, also valid at alpha_t = 0 or sigma_s = 0."""
    return s.alpha * estimate.x0 + s.sigma * estimate.eps


def fresh_variance(t: Time, s: Time, eta: float) -> float:
    """ς² = η² sigma_s² (1 − r²), of the noise that a step adds (DDIM, eq. 16)."""
    return eta**2 * s.sigma**2 * -math.expm1(2 * (t.lam - s.lam))


@dataclass(eq=False)
class Ancestral(Sampler):
    """x_s ~ N(alpha_s x0 + sigma_s r eps, variance), without noise in the last step (DDPM, the memoir: Algorithm 2)."""

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
    """

    eta: Annotated[float, Ge(0), Le(1)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        noise_variance = fresh_variance(t, s, self.eta)
        x_s = s.alpha * now.estimate.x0 + math.sqrt(s.sigma**2 - noise_variance) * now.estimate.eps
        if self.eta:
            x_s = x_s + math.sqrt(noise_variance) * streams.normal_like(x_t)
        return x_s, now


CONSISTENCY = partial(grids.karras, sigma_min=0.821, sigma_max=80.0)  # the last level is that of the last estimate


@dataclass(eq=False)
class Consistency(Sampler):
    """x_s = alpha_s x0 + sigma_s z, without noise in the last step (Song et al. 2023, Algorithm 1).

    For models trained with `consistency.Consistency`, which estimate a sample of x0, not its mean.
    """

    grid: Grid = CONSISTENCY

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        x0 = s.alpha * now.estimate.x0
        return (x0 if s.sigma == 0 else x0 + s.sigma * streams.normal_like(x_t)), now


@dataclass(eq=False)
class FlowMap(Sampler):
    """x_s = alpha_s x0 + sigma_s eps with the estimates for this s: exact in one step, if the flow map is.

    For models trained with `flow_map.FlowMap`.
    """

    grid: Grid = grids.flow

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        end = torch.full((len(x_t),), s.sigma / (s.alpha + s.sigma), dtype=denoise.dtype, device=x_t.device)
        now = Point(t, x_t, denoise(x_t, t, end=end))
        return first_order_step(now.estimate, s), now


@dataclass(eq=False)
class PredictorCorrector(Sampler):
    """`corrections` Langevin steps at each t, then a step of reverse diffusion to s (Score SDE, Algorithms 2–5).

    A Langevin step is x ← x + ε score + √(2ε) z with ε = 2 (snr ‖z‖/‖score‖)², with the norms of each image. (The
    reference code averages norms over the batch, and has a factor 1 − β_t ≈ 1 in ε.)

    Reverse diffusion is x_s = x_t − f + G² score + G z, without noise in the last step (eq. 46), for any schedule. The
    forward step is x_t = (alpha_t/alpha_s) x_s + G z, with f = (alpha_t/alpha_s − 1) x and G² = sigma_t² (1 − r²). The
    score is −eps/sigma_t. Of first order: it needs about a thousand steps.
    """

    corrections: Annotated[int, Ge(0)] = 1
    snr: Annotated[float, Gt(0)] = 0.16

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        for _ in range(self.corrections):
            score = denoise(x_t, t).eps / -t.sigma
            z, axes = streams.normal_like(x_t), tuple(range(1, x_t.ndim))
            noise_norm, score_norm = (torch.linalg.vector_norm(v, dim=axes, keepdim=True) for v in (z, score))
            ratio = torch.where(score_norm > 0, noise_norm / score_norm, 0.0)  # the score of a new network is 0
            size = 2 * (self.snr * ratio) ** 2
            x_t = x_t + size * score + (2 * size).sqrt() * z
        now = Point(t, x_t, denoise(x_t, t))
        G = t.sigma * math.sqrt(-math.expm1(2 * (t.lam - s.lam)))
        mean = (2 - t.alpha / s.alpha) * x_t - G**2 / t.sigma * now.estimate.eps
        return (mean if s.t == 0 else mean + G * streams.normal_like(x_t)), now


# Single-step solvers for the probability-flow ODE. The axis: for any c ≥ 0 let y = x/(alpha + c sigma) and
# u = sigma/(alpha + c sigma). Then y = (1 − c u) x0 + u eps and dy/du = eps − c x0 for every schedule. c = 0 is EDM's
# axis (x/alpha, sigma/alpha). c = 1 is the straight line of a flow, with u in [0, 1] and no singular end. Euler's step
# is alpha_s x0 + sigma_s eps on every axis.


@dataclass(eq=False)
class Heun(Sampler):
    """Heun's second-order method with churn (EDM, Algorithm 2): the average of the slopes at t and at Euler's x_s.

    The slopes are those on the axis c: x_s = (alpha_s + c sigma_s)(y_t + (u_s − u_t) (eps − c x0)). Two evaluations per
    step, but one in a step that ends at sigma = 0 or starts at the singular end of the axis.

    Before a step with sigma/alpha in [S_tmin, S_tmax], fresh noise of standard deviation S_noise raises sigma/alpha by
    the factor 1 + γ, γ = min(S_churn/N, √2 − 1), but not beyond the end of the schedule.
    """

    grid: Grid = grids.karras
    churn: Annotated[float, Ge(0)] = 0.0
    churn_low: Annotated[float, Ge(0)] = 0.0
    churn_high: Annotated[float, Ge(0)] = math.inf
    churn_noise: Annotated[float, Ge(0)] = 1.0
    c: Annotated[float, Ge(0)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        if self.churn and math.isfinite(t.level) and self.churn_low <= t.level <= self.churn_high:
            gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
            t_hat = denoise.time(t.lam - math.log1p(gamma))
            scale = t_hat.alpha / t.alpha
            added = math.sqrt(max(t_hat.sigma**2 - (scale * t.sigma) ** 2, 0.0))
            x_t, t = scale * x_t + self.churn_noise * added * streams.normal_like(x_t), t_hat
        now = Point(t, x_t, denoise(x_t, t))
        x_s = first_order_step(now.estimate, s)
        if s.sigma == 0 or (self.c == 0 and math.isinf(t.level)):
            return x_s, now
        estimate_s = denoise(x_s, s)
        x0, eps = (now.estimate.x0 + estimate_s.x0) / 2, (now.estimate.eps + estimate_s.eps) / 2
        scale_t, scale_s = t.alpha + self.c * t.sigma, s.alpha + self.c * s.sigma
        rise = s.sigma - scale_s * t.sigma / scale_t  # scale_s (u_s − u_t)
        return scale_s / scale_t * x_t + rise * (eps - self.c * x0), now


@dataclass(eq=False)
class Midpoint(Sampler):
    """The midpoint rule on the straight line of a flow: the slope at u = (u_t + u_s)/2. Two evaluations per step.

    The axis is that of `Heun` with c = 1: u = sigma/(alpha + sigma), on which y = x/(alpha + sigma) has the slope
    eps − x0.
    """

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        u_t, u_s = (time.sigma / (time.alpha + time.sigma) for time in (t, s))
        u = (u_t + u_s) / 2
        middle = denoise.time(math.log((1 - u) / u))
        estimate = denoise(first_order_step(now.estimate, middle), middle)
        y_s = x_t / (t.alpha + t.sigma) + (u_s - u_t) * (estimate.eps - estimate.x0)
        return (s.alpha + s.sigma) * y_s, now


# Exponential integrators and multistep solvers, which need few steps because they reuse earlier estimates. With
# lam = log(alpha/sigma), the reverse SDE with noise factor η (0: the probability-flow ODE) has the exact solution
#     x_s = (sigma_s/sigma_t) e^{−ηh} x_t + alpha_s ∫ (1 + η) e^{−(1+η)(lam_s − lam)} x0(lam) dlam
#           + sigma_s √(1 − e^{−2ηh}) z
# with h = lam_s − lam_t (DPM-Solver++, Proposition 4.1 and section 5; η = 1 is their SDE form). All solvers here
# call `exponential` and differ in D, the mean of x0 over the step.


def exponential(x_t: Tensor, D: Tensor, t: Time, s: Time, eta: float = 0.0, z: Tensor | None = None) -> Tensor:
    """x_s = (sigma_s/sigma_t) r^η x_t + alpha_s (1 − r^{1+η}) D + sigma_s √(1 − r^{2η}) z, r = e^{−h}."""
    r, h = math.exp(t.lam - s.lam), s.lam - t.lam
    mean = s.sigma / t.sigma * r**eta * x_t + s.alpha * -math.expm1(-(1 + eta) * h) * D
    return mean if z is None or s.t == 0 else mean + s.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * z


def mean_over_step(now: Tensor, others: list[tuple[float, Tensor]], H: float = 0.0, curvature: float = 1.0) -> Tensor:
    """The weighted mean over the step, v in [0, 1], of the polynomial through `now` at v = 0 and `others` at their v.

    The weight of v is ∝ e^{−H(1−v)}, with moments E[v^i] = 1F1(1; i + 2; −H) / ((i + 1) 1F1(1; 2; −H)), from i = 2 on
    times `curvature`. A single difference uses E[v] ≈ 1/2, as in DPM-Solver++(2M) and in UniPC with B₂(h).
    """
    if not others:
        return now
    v = np.array([position for position, _ in others])
    powers = np.arange(1, len(v) + 1)
    hyp1f1 = scipy.special.hyp1f1
    exact = hyp1f1(1, powers + 2, -H) / ((powers + 1) * hyp1f1(1, 2, -H))
    exact[1:] *= curvature
    weights = np.linalg.solve(v ** powers[:, None], exact if len(v) > 1 else np.array([0.5]))
    return now + sum(float(w) * (value - now) for w, (_, value) in zip(weights, others, strict=True))


def extrapolated(
    now: Point, s: Time, others: Past, eta: float = 0.0, z: Tensor | None = None, curvature: float = 1.0
) -> Tensor:
    """x_s by `exponential`, where D is the mean of the polynomial in lam through the x0 of `now` and of `others`."""
    start, h = now.t.lam, s.lam - now.t.lam
    values = [((p.t.lam - start) / h, p.estimate.x0) for p in others if math.isfinite(h) and math.isfinite(p.t.lam)]
    D = mean_over_step(now.estimate.x0, values, (1 + eta) * h, curvature)
    return exponential(now.x, D, now.t, s, eta, z)


@dataclass(eq=False)
class Multistep(Sampler):
    """Base class of the solvers that approximate x0 in a step by a polynomial in lam through `order` estimates.

    Below 8 steps, the order is 1 in the last step, which ends at sigma = 0, 2 in the one before, … (as in diffusers).
    """

    grid: Grid = grids.log_snr
    order: Annotated[int, Ge(1), Le(MEMORY)] = 2

    def order_at(self, t: Time) -> int:
        return min(self.order, t.left) if self.steps < 8 and t.left else self.order


@dataclass(eq=False)
class DPMSolver(Multistep):
    """DPM-Solver++ of order 1, 2 (2M, Algorithm 2) or 3 (3M), and their SDE forms. One evaluation per step.

    D is the mean of the polynomial in lam through the last `order` estimates of x0. Order 1 is DDIM. eta 0 solves the
    ODE, 1 the SDE. At order 3, the second difference has the factor 1/2 below 40 steps (15 with noise), as in the
    reference code: smaller errors with few steps.
    """

    eta: Annotated[float, Ge(0)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        z = streams.normal_like(x_t) if self.eta else None
        curvature = 0.5 if self.steps < (15 if self.eta else 40) else 1.0
        return extrapolated(now, s, past[: self.order_at(t) - 1], self.eta, z, curvature), now


@dataclass(eq=False)
class DPMSingle(Sampler):
    """DPM-Solver++(2S) with r = 1/2 (Algorithm 1): D is the x0 half-way in lam. Two evaluations per step.

    A step that ends at sigma = 0, or starts in pure noise, is of first order and takes one evaluation.

    With η, the step goes on to √(sigma_s² − ς²), and noise ς z is added, as in `DDIM`. η = 1 is k-diffusion's
    dpmpp_2s_ancestral, of second order in distribution: an exact step of the ODE would keep the law of x.
    """

    grid: Grid = grids.log_snr
    eta: Annotated[float, Ge(0), Le(1)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        noise_variance = fresh_variance(t, s, self.eta)
        sigma = math.sqrt(s.sigma**2 - noise_variance)
        if sigma == 0 or math.isinf(t.level):
            x_s = s.alpha * now.estimate.x0 + sigma * now.estimate.eps
        else:
            end = s._replace(sigma=sigma, lam=math.log(s.alpha / sigma))
            middle = denoise.time((t.lam + end.lam) / 2)
            estimate = denoise(first_order_step(now.estimate, middle), middle)
            x_s = exponential(x_t, estimate.x0, t, end)
        if noise_variance:
            x_s = x_s + math.sqrt(noise_variance) * streams.normal_like(x_t)
        return x_s, now


@dataclass(eq=False)
class UniPC(Multistep):
    """UniPC-p with B₂(h) = e^h − 1 (Algorithm 1): predicts x_s, then corrects it with the estimate made at x_s.

    That estimate is used again in the next prediction. `order` is p, of the predictor; the corrector's is one higher.
    """

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        if past and math.isfinite(past[0].t.lam):
            others = [now, *past[1 : self.order_at(past[0].t)]]
            now = now._replace(x=extrapolated(past[0], t, others))
        return extrapolated(now, s, past[: self.order_at(t) - 1]), now
