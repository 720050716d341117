"""Single-step solvers for the probability-flow ODE: Euler, Heun, the midpoint rule and an adaptive Runge–Kutta method.

The axis: for any c ≥ 0 let y = x/(alpha + c sigma) and u = sigma/(alpha + c sigma). Then y = (1 − c u) x0 + u eps and
    dy/du = eps − c x0
for every schedule. c = 0 is EDM's axis (x/alpha, sigma/alpha). c = 1 is the straight line of a flow, with u in [0, 1]
and no singular end. Euler's step is alpha_s x0 + sigma_s eps on every axis.
"""

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar

import scipy  # its submodules are imported on first use
import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import grid as grids
from diffusion.process.denoiser import Estimate, expand
from diffusion.process.sampler.loop import Evaluator, Grid, Past, Point, Sampler, Stepped, Time
from diffusion.process.sampler.posterior import first_order_step
from diffusion.randomness import Streams


def step_on_axis(x_t: Tensor, estimate: Estimate, t: Time, s: Time, c: float) -> Tensor:
    """x_s = (alpha_s + c sigma_s)(y_t + (u_s − u_t) (eps − c x0)): a step from t to s with the slope of `estimate`."""
    scale_t, scale_s = t.alpha + c * t.sigma, s.alpha + c * s.sigma
    rise = s.sigma - scale_s * t.sigma / scale_t  # scale_s (u_s − u_t)
    return scale_s / scale_t * x_t + rise * (estimate.eps - c * estimate.x0)


@dataclass(eq=False)
class Euler(Sampler):
    """Euler's method with EDM's churn (EDM, Algorithm 2, without its second-order correction). One evaluation per step.

    Before the step, churn adds fresh noise that raises sigma/alpha by the factor 1 + γ, γ = min(churn/N, √2 − 1), but
    not beyond the end of the schedule. On a table, the new time lies between rows.

    Args:
        churn: S_churn, the total amount of fresh noise over all N steps; 0 is deterministic.
        churn_low: S_tmin, the lowest sigma/alpha at which noise is added.
        churn_high: S_tmax, the highest sigma/alpha at which noise is added.
        churn_noise: S_noise, the standard deviation of the fresh noise.
    """

    grid: Grid = grids.karras
    churn: Annotated[float, Ge(0)] = 0.0
    churn_low: Annotated[float, Ge(0)] = 0.0
    churn_high: Annotated[float, Ge(0)] = math.inf
    churn_noise: Annotated[float, Ge(0)] = 1.0

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        if self.churn and math.isfinite(t.level) and self.churn_low <= t.level <= self.churn_high:
            gamma = min(self.churn / self.steps, math.sqrt(2) - 1)
            t_hat = denoise.time(t.lam - math.log1p(gamma))
            scale = t_hat.alpha / t.alpha
            added = math.sqrt(max(t_hat.sigma**2 - (scale * t.sigma) ** 2, 0.0))
            x_t, t = scale * x_t + self.churn_noise * added * streams.normal_like(x_t), t_hat
        now = Point(t, x_t, denoise(x_t, t))
        return self.advance(denoise, now, s), now

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        """x_s from the point at t. Higher-order methods override this and evaluate the denoiser again."""
        return first_order_step(now.estimate, s)


@dataclass(eq=False)
class Heun(Euler):
    """Heun's second-order method (EDM, Algorithm 2): the average of the slopes at t and at Euler's x_s.

    Two evaluations per step, but one in a step that ends at sigma = 0 or starts at the singular end of the axis.

    Args:
        c: the axis: 0 is EDM's, 1 is the straight line of a flow.
    """

    c: Annotated[float, Ge(0)] = 0.0

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        x_s = first_order_step(now.estimate, s)
        if s.sigma == 0 or (self.c == 0 and math.isinf(now.t.level)):
            return x_s
        estimate_s = denoise(x_s, s)
        mean = Estimate((now.estimate.x0 + estimate_s.x0) / 2, (now.estimate.eps + estimate_s.eps) / 2)
        return step_on_axis(now.x, mean, now.t, s, self.c)


@dataclass(eq=False)
class Midpoint(Euler):
    """The midpoint rule on the straight line of a flow: the slope at u = (u_t + u_s)/2. Two evaluations per step."""

    grid: Grid = grids.uniform

    def advance(self, denoise: Evaluator, now: Point, s: Time) -> Tensor:
        t = now.t
        u = (t.sigma / (t.alpha + t.sigma) + s.sigma / (s.alpha + s.sigma)) / 2
        middle = denoise.time(math.log((1 - u) / u))
        return step_on_axis(now.x, denoise(first_order_step(now.estimate, middle), middle), t, s, c=1.0)


@dataclass(eq=False)
class ProbabilityFlow(Sampler):
    """Solve the probability-flow ODE by adaptive Dormand–Prince 5(4), then denoise once (Score SDE, section 4.3).

    Each interval of the grid is solved to the tolerance, except the last, which ends at sigma = 0 and is one
    first-order step. The axis is the straight line (c = 1), on which no schedule has a singular end. Each image has its
    own step sizes. The whole batch is evaluated until the last image is finished.

    Args:
        rtol: the largest error of one step relative to the values of the image, root mean square over pixels.
        atol: the largest absolute error of one step, root mean square over pixels.
    """

    adaptive: ClassVar[bool] = True
    grid: Grid = grids.log_snr
    rtol: Annotated[float, Gt(0)] = 1e-5
    atol: Annotated[float, Ge(0)] = 1e-5

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        now = Point(t, x_t, denoise(x_t, t))
        if s.sigma == 0:
            return first_order_step(now.estimate, s), now
        start, end = (time.sigma / (time.alpha + time.sigma) for time in (t, s))
        u = torch.full((len(x_t),), start, dtype=denoise.dtype, device=x_t.device)
        y = x_t / (t.alpha + t.sigma)
        h = (end - u) / 10
        slopes = [now.estimate.eps - now.estimate.x0]
        tableau = scipy.integrate.RK45
        while (u > end).any():
            h = torch.maximum(h, end - u)  # both are negative: do not step beyond the end
            for row, c in zip(tableau.A[1:], tableau.C[1:], strict=True):
                slopes.append(self.slope(denoise, y + expand(h, y) * combine(row, slopes), u + float(c) * h))
            y_new = y + expand(h, y) * combine(tableau.B, slopes)
            slopes.append(self.slope(denoise, y_new, u + h))
            tolerance = self.atol + self.rtol * torch.maximum(y.abs(), y_new.abs())
            ratio = (expand(h, y) * combine(tableau.E, slopes) / tolerance).flatten(1).square().mean(dim=1).sqrt()
            accepted = ratio < 1  # false for NaN
            y = torch.where(expand(accepted, y).bool(), y_new, y)
            slopes = [torch.where(expand(accepted, y).bool(), slopes[-1], slopes[0])]  # FSAL: first same as last
            u = torch.where(accepted, u + h, u)
            u = torch.where(u - end < 1e-12, end, u)
            h = h * (0.9 * ratio**-0.2).nan_to_num(0.2).clamp(0.2, 10)
            if (h.abs() < 1e-12).logical_and(u > end).any():
                raise UserError(
                    f"sampler: the probability flow cannot reach rtol = {self.rtol:g} between t = {t.t:g} and {s.t:g}; "
                    "raise rtol and atol, or check that the network's output is finite"
                )
        return y * (s.alpha + s.sigma), now

    @staticmethod
    def slope(denoise: Evaluator, y: Tensor, u: Tensor) -> Tensor:
        """eps − x0 at (y, u), for u (B,) > 0."""
        schedule = denoise.denoise.schedule
        t = schedule.time(2 * torch.log((1 - u) / u)).clamp(0, 1)
        alpha, sigma = schedule(t)
        estimate = denoise.at_each(expand(alpha + sigma, y) * y, t)
        return estimate.eps - estimate.x0


def combine(row: list[float], slopes: list[Tensor]) -> Tensor:
    """The sum of the slopes, weighted by a row of the Butcher tableau. The row may be padded with zeros."""
    return sum((float(w) * k for w, k in zip(row, slopes, strict=False)), torch.zeros_like(slopes[0]))
