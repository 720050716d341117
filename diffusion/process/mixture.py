"""Mixtures of Gaussians, whose best denoiser is known: x0 ~ Σ_k w_k N(m_k, s_k² I), where x0 is flattened to D values.

With v_k = alpha² s_k² + sigma² and g_k = alpha s_k²/v_k, the density of x_t and that of x0 given x_t are mixtures, too:
    p_t(x)      = Σ_k w_k N(x; alpha m_k, v_k I)
    p(x0 | x_t) = Σ_k r_k N(x0; m_k + g_k (x_t − alpha m_k), s_k² sigma²/v_k I),  r_k the share of k in p_t(x_t)
The denoiser with the least squared error is E[x0 | x_t], and its eps is −sigma ∇ log p_t(x_t).
"""

import math
from collections.abc import Sequence
from functools import reduce
from itertools import product
from typing import Annotated, Any

import numpy as np
import scipy.integrate
import torch
from annotated_types import Ge, Gt
from torch import Tensor, nn

from diffusion.process.denoiser import Estimate, expand, outer, slope
from diffusion.process.schedule import ExactTables, Schedule
from diffusion.randomness import generator_for

Count = Annotated[int, Ge(1)]
Width = Annotated[float, Gt(0)]
FINE = 400  # components of a curve
ERROR = 1e-10  # of a step along the probability-flow ODE


class Mixture(ExactTables):
    """means (K, D); width, s of all components; groups (K,), their classes; weights (K,), by default all alike."""

    def __init__(self, means: Tensor, width: float | Tensor, groups: Tensor, weights: Tensor | None = None):
        super().__init__()
        weights = torch.ones(len(means)) if weights is None else weights
        self.classes = 1 + int(groups.max())  # their number
        tables = means, torch.as_tensor(width).expand(len(means)), groups, weights / weights.sum()
        self.means, self.widths, self.groups, self.weights = (
            nn.Buffer(table.double(), persistent=False) for table in tables
        )

    def sample(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """n independent points, float64 (n, D), and their classes, int64 (n,)."""
        k = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return self.means[k] + self.widths[k, None] * noise, self.groups[k].long()

    def exact(self, schedule: Schedule) -> nn.Module:
        """The best denoiser."""
        return Exact(self, schedule)

    def in_images(self, channels: int, *size: int) -> "Mixture":
        """The mixture of images whose means have the d coordinates as factors of d smooth patterns (grey, for D > d).

        The patterns are orthogonal cosines with the mean square 0.1: few values of images are outside of [−1, 1].
        """
        sides = [torch.outer(torch.arange(n).double(), torch.arange(n) + 0.5) * (math.pi / n) for n in size]
        chosen = sorted(product(*map(range, size)), key=sum)[1 : 1 + self.means.shape[1]]  # not the constant
        factors = ([side[i].cos() for side, i in zip(sides, each, strict=True)] for each in chosen)
        waves = torch.stack([reduce(outer, each) for each in factors])
        waves *= (0.1 / waves.square().mean(tuple(range(1, waves.ndim)), keepdim=True)).sqrt()
        means = torch.einsum("kd,d...->k...", self.means, waves).flatten(1).repeat(1, channels)
        return Mixture(means, self.widths, self.groups, self.weights)


class Exact(nn.Module):
    """The best denoiser of a mixture on a schedule: (x_t (B, C, *size), t (B,), classes (B,) or None) -> Estimate.

    The mixture takes the place of a network. Given `classes`, only their components count; the number of classes means
    no class, as for a network. Given `end`, it is the exact flow map, as of `denoiser.Denoiser`. All is computed in
    float64 (on MPS in float32).
    """

    picture = 0  # channels of a condition

    def __init__(self, mixture: Mixture, schedule: Schedule):
        super().__init__()
        self.network: Any = mixture
        self.schedule: Any = schedule

    def _joint(self, x_t: Tensor, t: Tensor, classes: Tensor | None) -> tuple[Tensor, ...]:
        """x_t (B, D); alpha, sigma (B, 1); v_k, g_k and log w_k N(x_t; alpha m_k, v_k I), each (B, K)."""
        means, widths, groups = self.network.means, self.network.widths, self.network.groups
        x, (alpha, sigma) = x_t.flatten(1).to(means), (c.to(means)[:, None] for c in self.schedule(t.to(means)))
        v = alpha**2 * widths**2 + sigma**2
        squares = (x**2).sum(1, keepdim=True) - 2 * alpha * x @ means.T + alpha**2 * (means**2).sum(1)
        log_joint = self.network.weights.log() - (squares / v + x.shape[1] * (2 * math.pi * v).log()) / 2
        if classes is not None:
            others = (groups != classes[:, None]) & (classes[:, None] < self.network.classes)
            log_joint = log_joint.masked_fill(others, -torch.inf)
        return x, alpha, sigma, v, alpha * widths**2 / v, log_joint

    def forward(self, x_t: Tensor, t: Tensor, classes: Tensor | None = None, end: Tensor | None = None) -> Estimate:
        if end is not None:
            return self.mapped(x_t, t, end, classes)
        x, alpha, sigma, _, gain, log_joint = self._joint(x_t, t, classes)
        r = log_joint.softmax(1)
        x0 = (r * gain).sum(1, keepdim=True) * x + (r * (1 - alpha * gain)) @ self.network.means
        return Estimate(*(each.reshape(x_t.shape).to(x_t.dtype) for each in (x0, (x - alpha * x0) / sigma)))

    def mapped(self, x_t: Tensor, t: Tensor, end: Tensor, classes: Tensor | None = None) -> Estimate:
        """The estimates of the flow map to the flow time `end` (B,), by SciPy's Runge–Kutta method of order 8."""
        u = self.schedule.flow_time(t.to(self.network.means))
        first = x_t.to(u) / expand(sum(self.schedule(t.to(u))), x_t.to(u))

        root, way = u.sqrt(), end.to(u).clamp(min=1e-12).sqrt() - u.sqrt()

        def rate(k: float, state: np.ndarray) -> np.ndarray:
            """dy/dk at the flow time (root + k way)²."""
            y_k, at = torch.from_numpy(state).to(u).view_as(first), root + k * way
            return (expand(2 * at * way, first) * slope(self, y_k, at**2, classes=classes)).flatten().cpu().numpy()

        path = scipy.integrate.solve_ivp(rate, (0, 1), first.flatten().cpu(), "DOP853", rtol=ERROR, atol=ERROR)
        y = torch.from_numpy(path.y[:, -1]).to(u).view_as(first)
        v = (y - first) / expand(end.to(u) - u, y)
        return Estimate(*(each.to(x_t.dtype) for each in (first - expand(u, y) * v, first + expand(1 - u, y) * v)))

    def log_density(self, x_t: Tensor, t: Tensor, classes: Tensor | None = None) -> Tensor:
        """log p_t(x_t) in nats, (B,); at t = 0 that of the data. With classes, it is that of x_t and the class."""
        return self._joint(x_t, t, classes)[-1].logsumexp(1)

    def posterior(self, x_t: Tensor, t: Tensor, classes: Tensor | None = None) -> Mixture:
        """p(x0 | x_t) of a single x_t (1, C, *size)."""
        x, alpha, sigma, v, gain, log_joint = self._joint(x_t, t, classes)
        means = self.network.means + gain.T * (x - alpha * self.network.means)
        widths = self.network.widths * sigma[0] / v[0].sqrt()
        return Mixture(means, widths, self.network.groups, log_joint[0].softmax(0))


def curves(points: Sequence[Tensor], width: float) -> Mixture:
    """The mixture along curves (n, 2), each a class, scaled so that their largest coordinate is 0.9."""
    means, groups = torch.cat([*points]), torch.arange(len(points)).repeat_interleave(len(points[0]))
    return Mixture(means * (0.9 / means.abs().max()), width, groups)


def arc(turns: float, start: float | Tensor = 0.0, radius: float | Tensor = 1.0) -> Tensor:
    """Points (FINE, 2) of an arc from the angle `start` on, in turns; the radius may change along it, (FINE,)."""
    angle = 2 * math.pi * (start + turns * (torch.arange(FINE, dtype=torch.float64) + 0.5) / FINE)
    return torch.stack([radius * angle.cos(), radius * angle.sin()], dim=1)


def moons(width: Width = 0.05) -> Mixture:
    """Two half circles that reach into each other."""
    centre = torch.tensor([0.5, 0.25], dtype=torch.float64)
    return curves([arc(0.5) - centre, centre - arc(0.5)], width)


def rings(n: Count = 3, width: Width = 0.03) -> Mixture:
    """n circles around one centre, with equally many points, so inner ones are denser."""
    return curves([arc(1, radius=k) for k in range(1, n + 1)], width)


def checkerboard(side: Count = 4, width: Width = 0.03) -> Mixture:
    """The dark squares of a board of side × side squares, each of 10 × 10 components; its rows are classes."""
    row, column = torch.meshgrid(*[torch.arange(10 * side)] * 2, indexing="ij")
    dark = (row // 10 + column // 10) % 2 == 0
    places = torch.stack([column[dark], row[dark]], dim=1).double() - (10 * side - 1) / 2
    return Mixture(places * (0.18 / side), width, row[dark] // 10)


def gaussians(n: Count = 8, dimensions: Count = 2, width: Width = 0.08, seed: int = 0) -> Mixture:
    """n Gaussians at random places of [−0.9, 0.9]^dimensions, each a class, with weights that differ up to sixfold."""
    draws = torch.rand(n, dimensions + 1, generator=generator_for(seed, "mixture"), dtype=torch.float64)
    return Mixture(1.8 * draws[:, 1:] - 0.9, width, torch.arange(n), 0.2 + draws[:, 0])
