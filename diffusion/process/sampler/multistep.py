"""Exponential integrators and multistep solvers: few steps, because they remember.

With lam = log(alpha/sigma) the reverse SDE of noise level η (0: the probability-flow ODE) has the exact solution
    x_s = (sigma_s/sigma_t) e^{−ηh} x_t + alpha_s ∫ (1 + η) e^{−(1+η)(lam_s − lam)} x0(lam) dlam
          + sigma_s √(1 − e^{−2ηh}) z
with h = lam_s − lam_t (DPM-Solver++, Proposition 4.1 and section 5; η = 1 is their SDE form). Every solver here but
Adams–Bashforth is `exponential` with its own mean D of x0 over the step.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from scipy.special import hyp1f1
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.sampler.loop import MEMORY, Evaluator, Point, Sampler, Time
from diffusion.process.sampler.posterior import straight
from diffusion.randomness import Streams


def exponential(x_t: Tensor, D: Tensor, t: Time, s: Time, eta: float = 0.0, z: Tensor | None = None) -> Tensor:
    """x_s = (sigma_s/sigma_t) r^η x_t + alpha_s (1 − r^{1+η}) D + sigma_s √(1 − r^{2η}) z, r = e^{−h}.

    Exact when x0 = D throughout; no noise in a step that ends at t = 0.
    """
    r, h = math.exp(t.lam - s.lam), s.lam - t.lam
    mean = s.sigma / t.sigma * r**eta * x_t + s.alpha * -math.expm1(-(1 + eta) * h) * D
    return mean if z is None or s.t == 0 else mean + s.sigma * math.sqrt(-math.expm1(-2 * eta * h)) * z


def mean_over_step(now: Tensor, others: list[tuple[float, Tensor]], H: float = 0.0) -> Tensor:
    """The mean over the step, v from 0 to 1, of the polynomial through `now` at v = 0 and `others` at their v.

    The weight of v is ∝ e^{−H(1−v)}, with moments E[v^i] = 1F1(1; i + 2; −H) / ((i + 1) 1F1(1; 2; −H)). A single
    difference gets E[v] ≈ 1/2, as in DPM-Solver++(2M) and UniPC's B(h); its order is 2 either way.
    """
    if not others:
        return now
    v = np.array([position for position, _ in others])
    powers = np.arange(1, len(v) + 1)
    exact = hyp1f1(1, powers + 2, -H) / ((powers + 1) * hyp1f1(1, 2, -H))
    weights = np.linalg.solve(v ** powers[:, None], exact if len(v) > 1 else np.array([0.5]))
    return now + sum(float(w) * (value - now) for w, (_, value) in zip(weights, others, strict=True))


def positions(axis: Callable[[Time], float], t: Time, s: Time, past: list[Point]) -> list[tuple[float, Point]]:
    """The earlier points at their v = (axis − axis_t)/(axis_s − axis_t); none where an end is infinite.

    The axis is `Time.lam`, on which x0 is smooth, or `Time.level`, on which the ODE is d(x/alpha)/d(sigma/alpha) = eps.
    """
    start, length = axis(t), axis(s) - axis(t)
    if not math.isfinite(length):
        return []
    return [((axis(p.t) - start) / length, p) for p in past if math.isfinite(axis(p.t))]


def looks_back(name: str, order: int) -> None:
    if not 1 <= order <= MEMORY:
        raise UserError(f"sampler: order = {order} of {name}; choose an order from 1 to {MEMORY}")


@dataclass(eq=False)
class DPMSolver(Sampler):
    """DPM-Solver++ of `order` 1, 2 (2M, Algorithm 2) or 3 (3M), and their SDE forms. One evaluation a step.

    D is the mean of the polynomial through the last `order` estimates of x0 over lam. Order 1 is DDIM. The steps
    before there is a past, and the one to sigma = 0, are of lower order.

    Args:
        order: estimates used, 1 to 3; eta: 0 for the ODE, 1 for the SDE.
    """

    order: int = 2
    eta: float = 0.0

    def __post_init__(self) -> None:
        looks_back("DPM-Solver++", self.order)

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        others = [(v, p.estimate.x0) for v, p in positions(attrgetter("lam"), t, s, past[: self.order - 1])]
        D = mean_over_step(now.estimate.x0, others, (1 + self.eta) * (s.lam - t.lam))
        return exponential(x_t, D, t, s, self.eta, streams.normal_like(x_t) if self.eta else None), now


@dataclass(eq=False)
class DPMSolver2S(Sampler):
    """DPM-Solver++(2S) (Algorithm 1, r = 1/2) and its SDE form: D is x0 at the middle of lam. Two evaluations a step.

    The SDE form solves the first half twice with the same noise, with x0 at t and then with D, so that the noise of
    the halves composes to that of the whole. A step with an infinite end of lam is of first order.
    """

    eta: float = 0.0

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        z = streams.normal_like(x_t) if self.eta else None
        if not math.isfinite(s.lam - t.lam):
            return exponential(x_t, now.estimate.x0, t, s, self.eta, z), now
        middle = denoise.time((t.lam + s.lam) / 2)
        D = denoise(exponential(x_t, now.estimate.x0, t, middle, self.eta, z), middle).x0
        half = exponential(x_t, D, t, middle, self.eta, z)
        return exponential(half, D, middle, s, self.eta, streams.normal_like(x_t) if self.eta else None), now


@dataclass(eq=False)
class UniPC(Sampler):
    """UniPC-p with B₂(h) = e^h − 1 (Algorithm 1): predict x_s, and correct it with the estimate made there.

    The estimate at the predicted x_s serves the correction and the next prediction: one evaluation a step.

    Args:
        order: p, 1 to 3, of the predictor; the corrector's is one higher.
    """

    order: int = 2

    def __post_init__(self) -> None:
        looks_back("UniPC", self.order)

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        estimate = denoise(x_t, t)
        if past and math.isfinite(past[0].t.lam):
            there = Point(t, x_t, estimate)
            x_t = self.solve(past[0], t, [there, *past[1 : self.order]])
        now = Point(t, x_t, estimate)
        return self.solve(now, s, past[: self.order - 1]), now

    @staticmethod
    def solve(now: Point, s: Time, others: list[Point]) -> Tensor:
        """x_s from `now`, with the polynomial of x0 through it and the others."""
        values = [(v, p.estimate.x0) for v, p in positions(attrgetter("lam"), now.t, s, others)]
        return exponential(now.x, mean_over_step(now.estimate.x0, values, s.lam - now.t.lam), now.t, s)


@dataclass(eq=False)
class AdamsBashforth(Sampler):
    """ρAB-DEIS (Zhang & Chen, DEIS), the variable-step Adams–Bashforth method on sigma/alpha; k-diffusion's LMS.

    The mean of eps is that of the polynomial through the last `order` estimates of eps over sigma/alpha. One
    evaluation a step. The step to sigma = 0 needs no special case; one from near alpha = 0 is of first order.

    Args:
        order: estimates used, 1 to 3.
    """

    order: int = 2

    def __post_init__(self) -> None:
        looks_back("Adams–Bashforth", self.order)

    def step(
        self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: list[Point], streams: Streams
    ) -> tuple[Tensor, Point]:
        now = Point(t, x_t, denoise(x_t, t))
        if math.isinf(t.level):
            return straight(now.estimate, s), now
        others = [(v, p.estimate.eps) for v, p in positions(attrgetter("level"), t, s, past[: self.order - 1])]
        eps = mean_over_step(now.estimate.eps, others)
        return s.alpha / t.alpha * x_t + (s.sigma - s.alpha * t.sigma / t.alpha) * eps, now
