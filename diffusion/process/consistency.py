"""Consistency tuning: a trained denoiser becomes a sampler of one or two steps (ECT, Geng et al. 2024).

A consistency function f takes every point of a path of the probability flow to the image where the path ends (Song et
al. 2023). Here f(x_t, t) is the denoiser's estimate of x0. It is trained to equal the estimate at a lower noise level,
    loss = d(f(x_t, t), stopgrad f(x_r, r))/(t − r),    x_t and x_r of one image and one noise,
where at r = 0 the estimate is the image itself. With r = 0 throughout, that is diffusion training, whose f is a mean
over all images that x_t may come from. As r rises towards t, f turns into the consistency function.

In this module t and r of a formula are noise levels sigma/alpha, as in the paper (EDM's terms), and exist on every
schedule. In the code `t` and `r` are times, and their noise levels have the name `level`.
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

    Their c of 0.00054 √D is for sums over the D pixels, so it is 0.00054 here.

    Args:
        c: e below which the distance is quadratic; it is linear above.
    """
    square = squared(x, y)
    return square / (torch.sqrt(square + c**2) + c)


def squared(x: Tensor, y: Tensor) -> Tensor:
    """(B,) the mean over pixels of (x − y)²."""
    return (x - y).square().flatten(1).mean(dim=1)


class Consistency(Objective):
    """d(f(x_t, t), stopgrad f(x_r, r))/(t − r), where r rises towards t in stages of the training (ECT).

    In stage a = 1 … `stages`, equal shares of the run, r = t·max(0, 1 − n(t)/q^a), n(t) = 1 + k sigmoid(−b t). "mse" is
    the mean squared difference of the two estimates. Both are made with the same dropout.

    Args:
        timesteps: the distribution of t; None: log(sigma/alpha) ~ N(−1.1, 2²), as in the paper for CIFAR-10.
        noise: the noise of each image: (x0, streams) -> eps; see the module `noise`.
        distance: d: (f(x_t, t), f(x_r, r)) -> (B,).
        stages: the number of stages; (t − r)/t ends at q^−stages at high noise.
        q: q; 1: r = 0 throughout, which is diffusion training.
        k: k, by which the step from t to r is longer at low noise.
        b: b, the reciprocal of the noise level up to which it is longer.

    Raises UserError when it is first called, for a prediction whose x0 does not become x_t where there is no noise.
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
        self.stage: Tensor  # a; a run's steps determine it, so that checkpoints need not hold it
        self.register_buffer("stage", torch.ones((), dtype=torch.long), persistent=False)

    def begin(self, step: int, total: int) -> None:
        self.stage.fill_(1 + min(step * self.stages // total, self.stages - 1))

    def lower(self, level: Tensor) -> Tensor:
        """r (B,) of the noise levels t (B,) at this stage."""
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
        with torch.no_grad(), rewinding(x0.device):  # before f(x_t, t), which then draws the same dropout
            target = denoiser(diffuse(schedule, x0, eps, r), r, **conditions).x0
            target = torch.where(expand(noisy, x0).bool(), target, x0)
        estimate = denoiser(diffuse(schedule, x0, eps, t), t, **conditions).x0
        term = self.distance(estimate, target) / (level - lower).to(x0.dtype)
        share = importance.to(term.dtype)
        mse = squared(estimate.detach(), target)
        return {"loss": share * term, "term": term, "importance": share, "mse": mse, "t": t}


def check(denoiser: Denoiser) -> None:
    """Raise UserError unless an error of y makes a much smaller one of x0 where there is hardly any noise."""
    schedule = denoiser.schedule
    log_snr = torch.full((1,), -2 * math.log(LOW), dtype=torch.float64)
    t = schedule.time(log_snr.to(next(schedule.buffers(), log_snr)))
    (_, q), _ = denoiser.prediction.solve(schedule, t)
    if float(q.abs()) > 0.1:
        raise UserError(
            f"objective=consistency: with {type(denoiser.prediction).__name__} the estimate of x0 does not become x_t "
            "where there is no noise, so no step to there can be short; use a model of prediction=v, edm, velocity or "
            "eps"
        )
