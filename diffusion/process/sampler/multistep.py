"""Exponential integrators and multistep solvers, which need few steps because they reuse earlier estimates.

With lam = log(alpha/sigma), the reverse SDE with noise factor η (0: the probability-flow ODE) has the exact solution
    x_s = (sigma_s/sigma_t) e^{−ηh} x_t + alpha_s ∫ (1 + η) e^{−(1+η)(lam_s − lam)} x0(lam) dlam
          + sigma_s √(1 − e^{−2ηh}) z
with h = lam_s − lam_t (DPM-Solver++, Proposition 4.1 and section 5; η = 1 is their SDE form). All solvers here except
Adams–Bashforth call `exponential` and differ in D, the mean of x0 over the step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter
from typing import Annotated

import numpy as np
import scipy  # its submodules are imported on first use
from annotated_types import Ge, Le
from torch import Tensor

from diffusion.process import grid as grids
from diffusion.process.sampler.loop import MEMORY, Evaluator, Grid, Past, Point, Sampler, Stepped, Time
from diffusion.process.sampler.posterior import first_order_step
from diffusion.randomness import Streams


def exponential(x_t: Tensor, D: Tensor, t: Time, s: Time, eta: float = 0.0, z: Tensor | None = None) -> Tensor:
    """x_s = (sigma_s/sigma_t) r^η x_t + alpha_s (1 − r^{1+η}) D + sigma_s √(1 − r^{2η}) z, r = e^{−h}.

    Exact if x0 = D throughout the step. A step that ends at t = 0 adds no noise.
    """
    r, h = math.exp(t.lam - s.lam), s.lam - t.lam
    mean = s.sigma / t.sigma * r**eta * x_t + s.alpha * -math.expm1(-(1 + eta) * h) * D
    return mean if z is None or s.t == 0 else mean + s.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * z


def mean_over_step(now: Tensor, others: list[tuple[float, Tensor]], H: float = 0.0, curvature: float = 1.0) -> Tensor:
    """The weighted mean over the step, v in [0, 1], of the polynomial through `now` at v = 0 and `others` at their v.

    The weight of v is ∝ e^{−H(1−v)}, with moments E[v^i] = 1F1(1; i + 2; −H) / ((i + 1) 1F1(1; 2; −H)).
    A single difference uses E[v] ≈ 1/2, as in DPM-Solver++(2M) and in UniPC with B₂(h); its order is 2 either way.
    `curvature` is a factor of E[v²] and of the higher moments.
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


def positions(axis: Callable[[Time], float], t: Time, s: Time, past: Past) -> list[tuple[float, Point]]:
    """The earlier points, each with its v = (axis − axis_t)/(axis_s − axis_t). Infinite points are left out.

    If an end of the step is infinite, the list is empty. The axis is `Time.lam`, in which x0 is smooth, or
    `Time.level`, in which the ODE is d(x/alpha)/d(sigma/alpha) = eps.
    """
    start, length = axis(t), axis(s) - axis(t)
    if not math.isfinite(length):
        return []
    return [((axis(p.t) - start) / length, p) for p in past if math.isfinite(axis(p.t))]


@dataclass(eq=False)
class Multistep(Sampler):
    """Base class of the solvers that approximate x0 during a step by a polynomial in lam through several estimates.

    Args:
        order: the number of estimates used, 1 to 3.
        lower_order_final: reduce the order at the end, as in diffusers: order 1 in the last step, which ends at sigma =
            0, at most 2 in the step before it, and so on. None: only below 8 steps, where this reduces the errors.
    """

    grid: Grid = grids.log_snr
    order: Annotated[int, Ge(1), Le(MEMORY)] = 2
    lower_order_final: bool | None = None

    def order_of(self, denoise: Evaluator, later: int = 0) -> int:
        """The order of the current step, or of the step that comes `later` steps after it (before it if negative)."""
        lower = self.steps < 8 if self.lower_order_final is None else self.lower_order_final
        return min(self.order, denoise.steps_left - later) if lower and denoise.steps_left else self.order


@dataclass(eq=False)
class DPMSolver(Multistep):
    """DPM-Solver++ of order 1, 2 (2M, Algorithm 2) or 3 (3M), and their SDE forms. One evaluation per step.

    D is the mean of the polynomial in lam through the last `order` estimates of x0. Order 1 is DDIM. The order is lower
    in the first steps, which have fewer earlier estimates, and in the step to sigma = 0.

    Args:
        eta: η; 0 solves the ODE, 1 the SDE.
        curvature: at order 3, a factor of the second difference. 1 is exact for a quadratic; 1/2, as in the reference
            code, reduces the order to 2 but has smaller errors with few steps. None: 1/2 below 40 steps (15 with
            noise), else 1.
    """

    eta: Annotated[float, Ge(0)] = 0.0
    curvature: Annotated[float | None, Ge(0), Le(1)] = None

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        others = [(v, p.estimate.x0) for v, p in positions(attrgetter("lam"), t, s, past[: self.order_of(denoise) - 1])]
        few = 15 if self.eta else 40
        curvature = (0.5 if self.steps < few else 1.0) if self.curvature is None else self.curvature
        D = mean_over_step(now.estimate.x0, others, (1 + self.eta) * (s.lam - t.lam), curvature)
        return exponential(x_t, D, t, s, self.eta, streams.normal_like(x_t) if self.eta else None), now


@dataclass(eq=False)
class DPMSolver2S(Sampler):
    """DPM-Solver++(2S) (Algorithm 1, r = 1/2) and its SDE form. Two evaluations per step.

    D is the estimate of x0 at the midpoint in lam. The SDE form solves the first half of the step twice with the same
    noise, once with x0 at t and once with D, so the noise of the two halves adds up to that of the whole step. A step
    with infinite lam at one of its ends is of first order, with one evaluation.

    Args:
        eta: η; 0 solves the ODE, 1 the SDE.
    """

    grid: Grid = grids.log_snr
    eta: Annotated[float, Ge(0)] = 0.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        z = streams.normal_like(x_t) if self.eta else None
        if not math.isfinite(s.lam - t.lam):
            return exponential(x_t, now.estimate.x0, t, s, self.eta, z), now
        middle = denoise.time((t.lam + s.lam) / 2)
        D = denoise(exponential(x_t, now.estimate.x0, t, middle, self.eta, z), middle).x0
        half = exponential(x_t, D, t, middle, self.eta, z)
        return exponential(half, D, middle, s, self.eta, streams.normal_like(x_t) if self.eta else None), now


@dataclass(eq=False)
class UniPC(Multistep):
    """UniPC-p with B₂(h) = e^h − 1 (Algorithm 1): predicts x_s, then corrects it with the estimate made at x_s.

    That estimate is used again in the next prediction, so there is one evaluation per step.
    `order` is p, the order of the predictor; the order of the corrector is one higher.
    """

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        estimate = denoise(x_t, t)
        if past and math.isfinite(past[0].t.lam):
            predicted = Point(t, x_t, estimate)
            x_t = self.solve(past[0], t, [predicted, *past[1 : self.order_of(denoise, -1)]])
        now = Point(t, x_t, estimate)
        return self.solve(now, s, past[: self.order_of(denoise) - 1]), now

    @staticmethod
    def solve(now: Point, s: Time, others: Past) -> Tensor:
        """x_s from `now`, with the polynomial of x0 through `now` and `others`."""
        values = [(v, p.estimate.x0) for v, p in positions(attrgetter("lam"), now.t, s, others)]
        return exponential(now.x, mean_over_step(now.estimate.x0, values, s.lam - now.t.lam), now.t, s)


@dataclass(eq=False)
class AdamsBashforth(Sampler):
    """ρAB-DEIS (Zhang & Chen, DEIS): the variable-step Adams–Bashforth method in sigma/alpha, k-diffusion's LMS.

    eps is replaced by the mean of the polynomial in sigma/alpha through the last `order` estimates of eps. One
    evaluation per step. The step to sigma = 0 needs no special case. A step from near alpha = 0 is of first order.

    Args:
        order: the number of estimates used, 1 to 4.
    """

    grid: Grid = grids.karras
    order: Annotated[int, Ge(1), Le(MEMORY + 1)] = 2

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        if math.isinf(t.level):
            return first_order_step(now.estimate, s), now
        others = [(v, p.estimate.eps) for v, p in positions(attrgetter("level"), t, s, past[: self.order - 1])]
        eps = mean_over_step(now.estimate.eps, others)
        return s.alpha / t.alpha * x_t + (s.sigma - s.alpha * t.sigma / t.alpha) * eps, now
