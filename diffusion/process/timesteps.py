"""Distributions of the training times: callables (schedule, streams) -> t (B,), importance (B,).

A distribution is defined by its quantile function t(u), where u is uniform. The loss at t is multiplied by
`importance`, which makes its expectation equal to that under uniform times:
    E_u[|dt/du| f(t(u))] = ∫ f(t) dt.
"""

from dataclasses import dataclass, field
from typing import Annotated

import torch
from annotated_types import Ge, Gt, Le, Lt
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.grid import even_times
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype

Fraction = Annotated[float, Ge(0), Le(1)]


@dataclass(kw_only=True)
class Quantile:
    """Base class. Subclasses define one formula, `quantile(schedule, u)`, differentiable in u.

    Stratified u of a batch are evenly spread over [0, 1) instead of independent (VDM, appendix I.1). With `reweight`
    False the importance is 1: the distribution itself weights the loss, as in EDM and SD3.
    """

    stratified: bool = False
    reweight: bool = True

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        """t(u) for u in (0, 1), monotone."""
        raise NotImplementedError

    def __call__(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
        u = streams.stratified() if self.stratified else streams.uniform()
        u = u.clamp(min=1e-16)  # draws are multiples of 2^-53, so 0 can occur, where some quantiles are infinite
        if not self.reweight:
            return self.quantile(schedule, u), torch.ones_like(u)
        t, slope = torch.func.jvp(lambda u: self.quantile(schedule, u), (u,), (torch.ones_like(u),))[:2]
        return t, slope.abs()

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Does nothing: a fixed distribution does not depend on the losses."""


@dataclass
class UniformTable(Quantile):
    """t uniform on the rows {1/T, …, 1} of a table, with importance 1 (DDPM, Algorithm 1)."""

    reweight: bool = field(default=False, init=False)

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        steps = table_steps(schedule)
        return (1 + torch.floor(u * steps)) / steps


@dataclass
class Uniform(Quantile):
    """t uniform on [`first`, 1] (Song et al., eq. 7); at t = 0 some targets and weights are singular."""

    first: Annotated[float, Ge(0), Lt(1)] = 1e-5

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        return self.first + (1 - self.first) * u


@dataclass
class LogNormal(Quantile):
    """log(sigma/alpha) ~ N(mean, std²), truncated at the schedule's largest (Karras et al., table 1)."""

    mean: float = -1.2
    std: Annotated[float, Gt(0)] = 1.2

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        largest = (-schedule.log_snr(torch.ones_like(u)) / 2 - self.mean) / self.std
        normal = torch.special.ndtri(u * torch.special.ndtr(largest))
        return schedule.time(-2 * (self.mean + self.std * normal))


@dataclass
class Laplace(Quantile):
    """log-SNR ~ Laplace(mean, scale), truncated at the schedule's noisiest end (Hang et al. 2024, section 2.3)."""

    mean: float = 0.0
    scale: Annotated[float, Gt(0)] = 0.5

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        least = (schedule.log_snr(torch.ones_like(u)) - self.mean) / self.scale  # at t = 1; then P(log-SNR > least)
        left = torch.where(least > 0, torch.exp(-least.abs()) / 2, 1 - torch.exp(-least.abs()) / 2)
        v = u * left
        tail = torch.where(v < 0.5, -torch.log(2 * v), torch.log((2 * (1 - v)).clamp(min=1e-16)))
        return schedule.time(self.mean + self.scale * tail)


@dataclass
class LogitNormal(Quantile):
    """logit(t) ~ N(mean, std²) (SD3, eq. 19)."""

    mean: float = 0.0
    std: Annotated[float, Gt(0)] = 1.0

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(u))


class LossSecondMoment(nn.Module):
    """Rows of a table with probability p_i ∝ √E[L_i²], estimated from the last losses (Improved DDPM, section 3.3).

    It is uniform until each of the T = `steps` rows has `history` losses, and then with the probability `uniform`.
    """

    def __init__(self, steps: Annotated[int, Ge(2)], history: Annotated[int, Ge(1)] = 10, uniform: Fraction = 0.001):
        super().__init__()
        self.uniform = uniform
        self.losses = nn.Buffer(torch.full((steps, history), torch.nan))

    def importance(self, losses: Tensor) -> Tensor:
        """(T,) what p_i is proportional to, for losses (T, history)."""
        return losses.square().mean(dim=1).sqrt()

    def probabilities(self) -> Tensor:
        """(T,) p_i."""
        losses = self.losses.to(real_dtype(self.losses.device))
        p = self.importance(losses)
        p = torch.where(losses.isfinite().all() & (p.sum() > 0), p / p.sum(), 1 / len(p))
        return (1 - self.uniform) * p + self.uniform / len(p)

    def forward(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
        steps = table_steps(schedule)
        if steps != len(self.losses):
            raise UserError(f"timesteps: losses are kept for {len(self.losses)} rows, but the schedule has {steps}")
        p = self.probabilities()
        i = torch.searchsorted(p.cumsum(0), streams.uniform(), right=True).clamp(max=steps - 1)
        return (i + 1).to(p) / steps, 1 / (steps * p[i])

    def row(self, t: Tensor) -> Tensor:
        """The row, from 0, whose losses those at t (B,) are."""
        return (t * len(self.losses)).round().long() - 1

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Record the losses (B,) at t (B,), without importance. They must be the same on every device."""
        steps, history = self.losses.shape
        i = self.row(t)
        new = torch.zeros(steps, dtype=torch.long, device=i.device).index_add_(0, i, torch.ones_like(i))  # per row
        later = (i[:, None] == i).triu(1).sum(dim=1)  # losses of the same row that come later in the batch
        # Each row shifts left by its number of new losses, without waiting for the device. An extra first column
        # receives the new losses that do not fit into a row's history.
        moved = self.losses.gather(1, (new[:, None] + torch.arange(history, device=i.device)).clamp(max=history - 1))
        moved = torch.cat([moved[:, :1], moved], dim=1)
        moved[i, (history - later).clamp(min=0)] = losses.detach().to(moved)
        self.losses.copy_(moved[:, 1:])


class FromFloor(LossSecondMoment):
    """Times where the loss is furthest above its floor (`process.floor`): p_i ∝ E[L_i] − floor_i.

    An idea of arXiv 2506.13763, in a simpler form. There are `bins` of evenly spread times, within which t is uniform.
    The distribution itself weights the loss. It is even until each bin has `history` losses, and then with the
    probability `uniform`. `Objective.prepare` sets `floor`, (bins,), the loss of the training set's best denoiser at
    the `middles`, before the run. That denoiser is told the labels that the network is told, and none where label
    dropout leaves them out.
    """

    def __init__(self, bins: Annotated[int, Ge(2)] = 20, history: Annotated[int, Ge(1)] = 64, uniform: Fraction = 0.1):
        super().__init__(bins, history, uniform)
        self.floor = nn.Buffer(torch.full((bins,), torch.nan))
        self.edges = nn.Buffer(torch.linspace(0, 1, bins + 1))

    def middles(self, schedule: Schedule) -> Tensor:
        """The times in the middle of each bin (bins,), whose edges are those of this schedule from now on."""
        u = torch.linspace(0, 1, 2 * len(self.floor) + 1, dtype=torch.float64)
        t = torch.cat([u[:1], even_times(schedule, u[1:])])
        self.edges.copy_(t[::2])
        return t[1::2].contiguous()

    def importance(self, losses: Tensor) -> Tensor:
        return (losses.mean(dim=1) - self.floor).clamp(min=0)

    def forward(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
        p = self.probabilities()
        u, ends, edges = streams.uniform(), p.cumsum(0), self.edges.to(p)
        i = torch.searchsorted(ends, u, right=True).clamp(max=len(p) - 1)
        within = 1 - ((ends[i] - u) / p[i]).clamp(0, 1)
        t = torch.lerp(edges[i], edges[i + 1], within).clamp(min=1e-5)
        return t if schedule.steps is None else (t * schedule.steps).ceil() / schedule.steps, torch.ones_like(t)

    def row(self, t: Tensor) -> Tensor:
        return torch.searchsorted(self.edges[1:-1].to(t), t)


Timesteps = Quantile | LossSecondMoment


def table_steps(schedule: Schedule) -> int:
    """T of a table. Raises UserError if the schedule is continuous."""
    if schedule.steps is None:
        raise UserError(
            f"schedule: {type(schedule).__name__} is continuous; use a table, such as linear, or the timesteps uniform"
        )
    return schedule.steps
