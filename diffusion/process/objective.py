"""Training objectives: (denoiser, x0, streams) -> a dict of per-example tensors (B,), with "loss"."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from diffusion.process.denoiser import Denoise, Denoiser, diffuse, expand
from diffusion.process.likelihood import bound_term
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule
from diffusion.process.timesteps import Timesteps, UniformTable, rows
from diffusion.process.variance import Variance, fixed_small, learned_range
from diffusion.process.weighting import unit
from diffusion.randomness import Streams

__all__ = ["Hybrid", "Objective", "Simple", "Uncertainty", "VariationalBound", "diffuse", "eps_error"]

Weighting = Callable[[Schedule, Prediction, Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


def eps_error(denoise: Denoise, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """(B,) mean over pixels of (eps_θ(x_t, t) − eps)²: the memoir's MSE, for any prediction."""
    estimate = denoise(diffuse(denoise.schedule, x0, eps, t), t)
    return (estimate.eps - eps).square().flatten(1).mean(dim=1)


def squared(y: Tensor, target: Tensor) -> Tensor:
    """(y − target)², elementwise."""
    return (y - target).square()


class Trial(NamedTuple):
    """What a training step knows: x0 and x_t at t, the network's y with its target, and the spread."""

    x0: Tensor
    x_t: Tensor
    t: Tensor
    y: Tensor
    target: Tensor
    spread: Tensor | None


class Objective(nn.Module):
    """The step that all share: draw t and eps, diffuse, predict; `term` says what the loss at this t is.

    Returns "loss" = importance·term, to be averaged; "term", "importance", "t", and "mse", the mean squared error of
    the prediction. Norms are means over pixels, so that the loss of eps starts near 1.
    """

    def __init__(self, timesteps: Timesteps | None = None):
        super().__init__()
        self.timesteps = UniformTable() if timesteps is None else timesteps

    def term(self, denoiser: Denoiser, trial: Trial) -> Tensor:
        """(B,) the loss at trial.t."""
        raise NotImplementedError

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams) -> dict[str, Tensor]:
        schedule = denoiser.schedule
        t, importance = self.timesteps(schedule, streams)
        eps = streams.normal_like(x0)
        x_t = diffuse(schedule, x0, eps, t)
        a, b = denoiser.prediction.weights(schedule, t)
        target = expand(a, x0) * x0 + expand(b, x0) * eps
        y, spread = denoiser.output(x_t, t)
        term = self.term(denoiser, Trial(x0, x_t, t, y, target, spread))
        importance = importance.to(term.dtype)
        mse = squared(y.detach(), target).flatten(1).mean(dim=1)
        return {"loss": importance * term, "term": term, "importance": importance, "mse": mse, "t": t}

    def update(self, t: Tensor, term: Tensor) -> None:
        """Tell the draw of times the losses at t (B,), gathered from all devices: some learn from them."""
        self.timesteps.update(t, term)


class Simple(Objective):
    """L_simple = E w(t)‖y − y_θ(x_t, t)‖², the target y as the prediction has it (DDPM, eq. 14; memoir, section 5).

    Args:
        weighting: (schedule, prediction, t) -> (B,), see `weighting`.
        distance: elementwise, in place of the square: torch's huber_loss or l1_loss with reduction="none".
    """

    def __init__(self, timesteps: Timesteps | None = None, weighting: Weighting = unit, distance: Distance = squared):
        super().__init__(timesteps)
        self.weighting = weighting
        self.distance = distance

    def term(self, denoiser: Denoiser, trial: Trial) -> Tensor:
        weight = self.weighting(denoiser.schedule, denoiser.prediction, trial.t)
        error = self.distance(trial.y, trial.target).flatten(1).mean(dim=1)
        return weight.to(error.dtype) * error


class VariationalBound(Objective):
    """L_vlb: T times the bound's term at a row of the table, in bits per dimension (DDPM, eq. 5).

    Its expectation over uniform rows is the bound without L_T, which has nothing to learn.
    """

    def __init__(self, timesteps: Timesteps | None = None, variance: Variance = fixed_small):
        super().__init__(timesteps)
        self.variance = variance

    def term(self, denoiser: Denoiser, trial: Trial) -> Tensor:
        steps = rows(denoiser.schedule, "the variational bound")
        estimate = denoiser.estimate(trial.x_t, trial.t, trial.y, trial.spread)
        s = (trial.t - 1 / steps).clamp(min=0)
        return steps * bound_term(denoiser.schedule, self.variance, estimate, trial.x0, trial.t, s)


class Hybrid(Simple):
    """L_hybrid = L_simple + λ L_vlb; the mean in L_vlb is detached: it teaches the variance (Improved DDPM, eq. 16)."""

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        weighting: Weighting = unit,
        distance: Distance = squared,
        variance: Variance = learned_range,
        vlb_weight: float = 0.001,
    ):
        super().__init__(timesteps, weighting, distance)
        self.bound = VariationalBound(variance=variance)
        self.vlb_weight = vlb_weight

    def term(self, denoiser: Denoiser, trial: Trial) -> Tensor:
        bound = self.bound.term(denoiser, trial._replace(y=trial.y.detach()))
        return super().term(denoiser, trial) + self.vlb_weight * bound


class Uncertainty(nn.Module):
    """Any objective with a learned weight of the noise level: term/exp(u) + u (EDM2, Karras et al. 2024, eq. 21).

    u is linear in fixed random Fourier features of log(sigma/alpha)/4, and settles where exp(u) is the mean loss of the
    level, so that all levels count alike. Its weights must be given to the optimizer; sampling does not need them.
    """

    def __init__(self, objective: Objective, channels: int = 128, seed: int = 0):
        super().__init__()
        self.objective = objective
        generator = torch.Generator().manual_seed(seed)
        self.frequencies: Tensor
        self.phases: Tensor
        self.register_buffer("frequencies", 2 * torch.pi * torch.randn(channels, generator=generator))
        self.register_buffer("phases", 2 * torch.pi * torch.rand(channels, generator=generator))
        self.linear = nn.Linear(channels, 1, bias=False)
        nn.init.zeros_(self.linear.weight)

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams) -> dict[str, Tensor]:
        result = self.objective(denoiser, x0, streams)
        noise = (-denoiser.schedule.log_snr(result["t"]) / 8).clamp(-10, 10).to(self.frequencies)
        features = 2**0.5 * torch.cos(torch.outer(noise, self.frequencies) + self.phases)
        u = (features * self.linear.weight).sum(dim=1)  # not `linear` itself, which autocast would round to bfloat16
        return {**result, "loss": result["importance"] * (result["term"] / u.exp() + u)}

    def update(self, t: Tensor, term: Tensor) -> None:
        """See `Objective.update`."""
        self.objective.update(t, term)
