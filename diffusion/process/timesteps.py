"""How training times are drawn. A draw is a callable (schedule, streams) -> t (B,), importance (B,).

A distribution of times is its quantile function t(u) of a uniform u, which is independent for every example, or spread
evenly over the batch (`stratified`: VDM's low-discrepancy sampler, Kingma et al., appendix I.1).
`importance` is what the loss at t is multiplied by so that its expectation is the one under uniform times:
    E_u[|dt/du| f(t(u))] = ∫ f(t) dt.
With `reweight` off it is 1, and the distribution is itself a weighting of the loss, as EDM and SD3 mean it.
"""

from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams, real_dtype


class Timesteps(Protocol):
    """(schedule, streams) -> t (B,), importance (B,); `update(t, losses)` for a draw that learns from the losses."""

    def __call__(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]: ...

    def update(self, t: Tensor, losses: Tensor) -> None: ...


@dataclass(kw_only=True)
class Quantile:
    """The contract: `quantile(schedule, u)`, one formula, smooth in u."""

    stratified: bool = False
    reweight: bool = True

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        """t(u), monotone, for u in [0, 1)."""
        raise NotImplementedError

    def __call__(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
        u = streams.stratified() if self.stratified else streams.uniform()
        if not self.reweight:
            return self.quantile(schedule, u), torch.ones_like(u)
        t, slope = torch.func.jvp(lambda u: self.quantile(schedule, u), (u,), (torch.ones_like(u),))[:2]
        return t, slope.abs()

    def update(self, t: Tensor, losses: Tensor) -> None:
        """A fixed distribution learns nothing from the losses."""


@dataclass
class UniformTable(Quantile):
    """t uniform on the rows {1/T, …, 1} of a table (DDPM, Algorithm 1); importance 1."""

    reweight: bool = field(default=False, init=False)

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        steps = rows(schedule, "timesteps=uniform_table")
        return (1 + torch.floor(u * steps)) / steps


@dataclass
class Uniform(Quantile):
    """t uniform on [first, 1] (Song et al., eq. 7, with their small first time)."""

    first: float = 1e-5

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        return self.first + (1 - self.first) * u


@dataclass
class LogNormal(Quantile):
    """log(sigma/alpha) ~ N(mean, std²), up to the schedule's largest (Karras et al., table 1)."""

    mean: float = -1.2
    std: float = 1.2

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        largest = (-schedule.log_snr(torch.ones_like(u)) / 2 - self.mean) / self.std
        normal = torch.special.ndtri(_inside(u) * torch.special.ndtr(largest))
        return schedule.time(-2 * (self.mean + self.std * normal))


@dataclass
class LogitNormal(Quantile):
    """logit(t) ~ N(mean, std²) (SD3, eq. 19)."""

    mean: float = 0.0
    std: float = 1.0

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        return torch.sigmoid(self.mean + self.std * torch.special.ndtri(_inside(u)))


@dataclass
class Mode(Quantile):
    """t(u) = 1 − u − s·(cos²(πu/2) − 1 + u): times near the middle for s > 0 (SD3, eq. 20).

    Args:
        scale: s, within [−1, 2/(π − 2)], where t(u) is monotone.
    """

    scale: float = 1.29

    def __post_init__(self) -> None:
        largest = 2 / (torch.pi - 2)
        if not -1 <= self.scale <= largest:
            raise UserError(f"timesteps: Mode has scale = {self.scale:g}; it must lie in [−1, {largest:.3f}]")

    def quantile(self, schedule: Schedule, u: Tensor) -> Tensor:
        u = _inside(u)
        return 1 - u - self.scale * (torch.cos(torch.pi * u / 2) ** 2 - 1 + u)


class LossSecondMoment(nn.Module):
    """Rows of a table drawn with p_i ∝ √E[L_i²], from the last losses of each (Improved DDPM, section 3.3).

    Uniform until every row has its `history` of losses. The losses are a buffer, so that checkpoints carry them; they
    come in through `update` alone, so that devices can gather theirs first and stay equal.

    Args:
        steps: T. uniform: the probability with which the draw ignores the losses, so that no row is forgotten.
    """

    def __init__(self, steps: int, history: int = 10, uniform: float = 0.001):
        super().__init__()
        self.uniform = uniform
        self.losses: Tensor
        self.register_buffer("losses", torch.full((steps, history), torch.nan))

    def probabilities(self) -> Tensor:
        """(T,) p_i."""
        losses = self.losses.to(real_dtype(self.losses.device))
        p = losses.square().mean(dim=1).sqrt()
        p = torch.where(losses.isfinite().all(), p / p.sum(), 1 / len(p))
        return (1 - self.uniform) * p + self.uniform / len(p)

    def forward(self, schedule: Schedule, streams: Streams) -> tuple[Tensor, Tensor]:
        steps = rows(schedule, "timesteps=loss_second_moment")
        if steps != len(self.losses):
            raise UserError(
                f"timesteps: loss_second_moment has steps = {len(self.losses)}, but the schedule has T = {steps}; "
                f"use objective.timesteps.steps={steps}"
            )
        p = self.probabilities()
        i = torch.searchsorted(p.cumsum(0), streams.uniform(), right=True).clamp(max=steps - 1)
        return (i + 1).to(p) / steps, 1 / (steps * p[i])

    def update(self, t: Tensor, losses: Tensor) -> None:
        """Record the losses (B,) at t (B,), before importance; the same on every device."""
        steps, history = self.losses.shape
        i = (t * steps).round().long() - 1
        new = torch.zeros(steps, dtype=torch.long, device=i.device).index_add_(0, i, torch.ones_like(i))  # of each row
        later = (i[:, None] == i).triu(1).sum(dim=1)  # losses of the same row that follow
        # Rows move to the left by as many as come in. What falls out of a row falls into an extra column. Nothing here
        # waits for the device, as a loop over the rows would.
        moved = self.losses.gather(1, (new[:, None] + torch.arange(history, device=i.device)).clamp(max=history - 1))
        moved = torch.cat([moved[:, :1], moved], dim=1)
        moved[i, (history - later).clamp(min=0)] = losses.detach().to(moved)
        self.losses.copy_(moved[:, 1:])


def rows(schedule: Schedule, name: str) -> int:
    """T of a table; a UserError for `name` where the schedule is continuous."""
    steps: int | None = getattr(schedule, "steps", None)
    if steps is None:
        raise UserError(
            f"{name} needs a table schedule (such as schedule=linear); "
            "on a continuous one use timesteps@objective.timesteps=uniform (for the bound with weighting=vlb)"
        )
    return steps


def _inside(u: Tensor) -> Tensor:
    """u away from 0, where quantiles are infinite (uniform draws have 2^-53 steps)."""
    return u.clamp(min=1e-16)
