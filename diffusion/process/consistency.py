"""Consistency tuning: turn a trained denoiser into a one- or two-step sampler (ECT, Geng et al. 2024).

A consistency function f maps every point of a probability-flow path to the image at the end of the path (Song et al.
2023). Here f(x_t, t) is the denoiser's estimate of x0. It is trained to match the estimate at a lower noise level,
    loss = d(f(x_t, t), stopgrad f(x_r, r))/(t − r),    x_t and x_r from the same image and the same noise,
where the estimate at r = 0 is the image itself. With r = 0 throughout, this is diffusion training; as r rises towards
t, f becomes the consistency function. In these formulas, t and r are noise levels sigma/alpha, as in the paper. In the
code, `t` and `r` are times, and `level` and `lower` are their noise levels.
"""

import math
from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge, Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser, diffuse, expand
from diffusion.process.noise import Noise, independent
from diffusion.process.objective import Objective
from diffusion.process.timesteps import LogNormal, Timesteps
from diffusion.randomness import Streams, rewinding

Distance = Callable[[Tensor, Tensor], Tensor]
LOW = 1e-3  # a noise level at which x_t is nearly the image


def pseudo_huber(x: Tensor, y: Tensor, c: Annotated[float, Gt(0)] = 0.00054) -> Tensor:
    """(B,) √(e² + c²) − c, where e² is the mean over pixels of (x − y)² (Song & Dhariwal 2023, section 3.3).

    Their c = 0.00054 √D is for sums over the D pixels, so it is 0.00054 here.

    Args:
        c: the error e below which the distance is quadratic; above c it is linear.
    """
    square = squared(x, y)
    return square / (torch.sqrt(square + c**2) + c)


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(B,) the mean over pixels of (x − y)²."""
    return (x - y).square().flatten(1).mean(dim=1)


class Consistency(Objective):
    """d(f(x_t, t), stopgrad f(x_r, r))/(t − r), where r rises towards t in stages during training (ECT).

    The run is split evenly into stages a = 1 … `stages`, where r = t·max(0, 1 − n(t)/q^a), n(t) = 1 + k sigmoid(−b t).
    Both estimates use the same dropout masks.

    Args:
        timesteps: the distribution of t; None: log(sigma/alpha) ~ N(−1.1, 2²), as in the paper for CIFAR-10.
        distance: d: (f(x_t, t), f(x_r, r)) -> (B,).
        stages: the number of stages; in the last one, (t − r)/t is q^−stages at high noise.
        q: q; 1: r = 0 throughout, which is diffusion training.
        k: k, which makes the step from t to r longer at low noise.
        b: b, the reciprocal of the noise level below which the step is longer.

    Raises UserError on the first call if the prediction's estimate of x0 does not approach x_t as the noise vanishes.
    """

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        noise: Noise = independent,
        distance: Distance = pseudo_huber,
        stages: Annotated[int, Ge(1)] = 8,
        q: Annotated[float, Ge(1)] = 2.0,
        k: Annotated[float, Ge(0)] = 8.0,
        b: Annotated[float, Ge(0)] = 1.0,
    ):
        super().__init__(LogNormal(mean=-1.1, std=2.0, reweight=False) if timesteps is None else timesteps, noise)
        self.distance = distance
        self.stages = stages
        self.q, self.k, self.b = q, k, b
        self.checked = False
        self.stage: Tensor  # a; computed from the step of the run, so checkpoints do not contain it
        self.register_buffer("stage", torch.ones((), dtype=torch.long), persistent=False)

    def begin(self, step: int, total: int) -> None:
        """See `Objective.begin`."""
        self.stage.fill_(1 + min(step * self.stages // total, self.stages - 1))

    def lower(self, level: Tensor) -> Tensor:
        """The noise levels r (B,) for the noise levels t (B,) in the current stage."""
        n = 1 + self.k * torch.sigmoid(-self.b * level)
        return level * (1 - n / self.q**self.stage).clamp(min=0)

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        schedule = denoiser.schedule
        if not self.checked:
            check(denoiser)
            self.checked = True
        t, importance = self.timesteps(schedule, streams)
        eps: Tensor = self.noise(x0, streams)
        level = torch.exp(-schedule.log_snr(t) / 2)
        lower = self.lower(level)
        noisy = lower > 0
        r = torch.where(noisy, schedule.time(-2 * lower.log()).clamp(0, 1), t)
        with torch.no_grad(), rewinding(x0.device):  # before f(x_t, t), which then draws the same dropout masks
            target = denoiser(diffuse(schedule, x0, eps, r), r, **conditions).x0
            target = torch.where(expand(noisy, x0).bool(), target, x0)
        estimate = denoiser(diffuse(schedule, x0, eps, t), t, **conditions).x0
        term = self.distance(estimate, target) / (level - lower).to(x0.dtype)
        share = importance.to(term.dtype)
        return {"loss": share * term, "term": term, "importance": share, "t": t}


def check(denoiser: Denoiser) -> None:
    """Raise UserError unless, at a very low noise level, an error of y causes a much smaller error of x0."""
    schedule = denoiser.schedule
    log_snr = torch.full((1,), -2 * math.log(LOW), dtype=torch.float64)
    t = schedule.time(log_snr.to(next(schedule.buffers(), log_snr)))
    (_, q), _ = denoiser.prediction.solve(schedule, t)
    if float(q.abs()) > 0.1:
        raise UserError(
            f"objective: with the prediction {type(denoiser.prediction).__name__}, the estimate of x0 does not "
            "approach x_t as the noise vanishes, which consistency requires; use v, edm, velocity or eps"
        )
