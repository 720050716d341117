"""Consistency tuning: turn a trained denoiser into a one- or two-step sampler (ECT, Geng et al. 2024).

A consistency function f maps every point of a probability-flow path to the image at its end (Song et al. 2023). Here
f(x_t, t) is the denoiser's estimate of x0, trained to match that at a lower noise level, which at r = 0 is the image:
    loss = d(f(x_t, t), stopgrad f(x_r, r))/(t − r),    x_t and x_r from the same image and the same noise.
With r = 0 throughout, this is diffusion training; as r rises towards t, f becomes the consistency function. Here t and
r are noise levels sigma/alpha; in the code, `t` and `r` are times, and `level` and `lower` their noise levels.
"""

from collections.abc import Callable
from typing import Annotated, Any

import torch
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser, diffuse, expand
from diffusion.process.noise import Noise, independent
from diffusion.process.objective import Objective, weighted
from diffusion.process.prediction import X0
from diffusion.process.timesteps import LogNormal, Timesteps
from diffusion.randomness import Streams


def pseudo_huber(x: Tensor, y: Tensor, c: Annotated[float, Ge(0)] = 0.00054) -> Tensor:
    """(B,) √(e² + c²) − c, where e² is the mean over pixels of (x − y)² (Song & Dhariwal 2023, section 3.3).

    Their c = 0.00054 √D is for sums over the D pixels, so it is 0.00054 here. c = 0, the default of ECT's code, is the
    root mean square error.
    """
    square = (x - y).square().flatten(1).mean(dim=1).clamp(min=1e-24)  # the slope of √ is infinite at 0
    return square / (torch.sqrt(square + c**2) + c)


class ConsistencyTuning(Objective):
    """d(f(x_t, t), stopgrad f(x_r, r))/(t − r), where r rises towards t in stages during training (ECT).

    The run is split evenly into stages a = 1 … `stages`, where r = t·max(0, 1 − n(t)/q^a), n(t) = 1 + k sigmoid(−b t).
    Both estimates use the same dropout masks. (The authors' code multiplies by 1/t² + 1/σ_d² instead of 1/(t − r).)
    `timesteps` None is log(sigma/alpha) ~ N(−1.1, 2²), as in the paper for CIFAR-10.
    """

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        noise: Noise = independent,
        distance: Callable[[Tensor, Tensor], Tensor] = pseudo_huber,
        stages: Annotated[int, Ge(1)] = 8,
        q: Annotated[float, Ge(1)] = 2.0,
        k: Annotated[float, Ge(0)] = 8.0,
        b: Annotated[float, Ge(0)] = 1.0,
    ):
        super().__init__(LogNormal(mean=-1.1, std=2.0, reweight=False) if timesteps is None else timesteps, noise)
        self.distance, self.stages = distance, stages
        self.q, self.k, self.b = q, k, b
        # a; computed from the step of the run, so checkpoints do not contain it
        self.stage = nn.Buffer(torch.ones((), dtype=torch.long), persistent=False)

    def begin(self, step: int, total: int) -> None:
        self.stage.fill_(1 + min(step * self.stages // total, self.stages - 1))

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        schedule = denoiser.schedule
        if isinstance(denoiser.prediction, X0):  # its estimate does not approach x_t as the noise vanishes
            raise UserError("objective: consistency needs another prediction than x0, such as v, edm, velocity or eps")
        t, importance = self.timesteps(schedule, streams)
        eps: Tensor = self.noise(x0, streams)
        level = torch.exp(-schedule.log_snr(t) / 2)
        n = 1 + self.k * torch.sigmoid(-self.b * level)
        lower = level * (1 - n / self.q**self.stage).clamp(min=0)
        noisy = lower > 0
        r = torch.where(noisy, schedule.time(-2 * lower.log()).clamp(0, 1), t)
        seed = int(torch.randint(2**62, ()))  # of the dropout masks, which are the same for both estimates
        torch.manual_seed(seed)
        with torch.no_grad():
            target = denoiser(diffuse(schedule, x0, eps, r), r, **conditions).x0
            target = torch.where(expand(noisy, x0).bool(), target, x0)
        torch.manual_seed(seed)
        estimate = denoiser(diffuse(schedule, x0, eps, t), t, **conditions).x0
        term = self.distance(estimate, target) / (level - lower).to(x0.dtype)
        return weighted(term, importance, t)
