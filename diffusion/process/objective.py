"""Training objectives: (denoiser, x0, streams, **conditions) -> a dict of tensors (B,) per example, such as "loss"."""

from collections.abc import Callable
from typing import Annotated, Any, NamedTuple

import torch
from annotated_types import Ge
from torch import Tensor, nn

from diffusion.errors import UserError
from diffusion.process.denoiser import Denoiser, diffuse, expand
from diffusion.process.floor import Atoms, floor
from diffusion.process.likelihood import bound_term
from diffusion.process.noise import Noise, independent
from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule
from diffusion.process.timesteps import FromFloor, Timesteps, UniformTable, table_steps
from diffusion.process.variance import Variance, fixed_large, fixed_small, learned_range
from diffusion.process.weighting import unit
from diffusion.randomness import Streams

Weighting = Callable[[Schedule, Prediction, Tensor], Tensor]
Distance = Callable[[Tensor, Tensor], Tensor]


def squared(y: Tensor, target: Tensor) -> Tensor:
    """(y − target)², elementwise."""
    return (y - target).square()


def share_of(known: Tensor) -> Tensor:
    """(B,) the share of values that are known, by which a mean over all becomes one over those; at least one is."""
    return known.flatten(1).float().mean(dim=1).clamp(min=1 / known[0].numel())


def weighted(term: Tensor, importance: Tensor, t: Tensor) -> dict[str, Tensor]:
    """The result of an objective from the losses `term` (B,) at t (B,) and their `importance` (B,)."""
    importance = importance.to(term.dtype)
    return {"loss": importance * term, "term": term, "importance": importance, "t": t}


class TrainingBatch(NamedTuple):
    """The values of one training step: x0, x_t at times t, the network's output y and its target, and the spread."""

    x0: Tensor
    x_t: Tensor
    t: Tensor
    y: Tensor
    target: Tensor
    spread: Tensor | None


class Objective(nn.Module):
    """Base class: draws t and eps, diffuses x0 and runs the network. Subclasses define `term`, the loss at t.

    Returns "loss" = importance·term, to minimise in the batch mean; "term"; "importance"; and "t". Norms are means over
    pixels, so the loss of an eps prediction starts near 1. Conditions, such as `classes` (B,), are passed to the
    network as keyword arguments. `timesteps` None is uniform on the rows of a table; `noise` is (x0, streams) -> eps.
    Where `known` (B, C, *size) is false, x0 is not known: the network sees noise, and its output is not in the mean.
    """

    ends = 0  # labels of the network for the end of a flow map

    def __init__(self, timesteps: Timesteps | None = None, noise: Noise = independent):
        super().__init__()
        self.timesteps = UniformTable() if timesteps is None else timesteps
        self.noise = noise

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        """(B,) the loss of each example at its time batch.t."""
        raise NotImplementedError

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        known = conditions.pop("known", None)
        t, importance = self.timesteps(denoiser.schedule, streams)
        eps = self.noise(x0, streams)
        x_t = diffuse(denoiser.schedule, x0, eps, t)
        a, b = denoiser.prediction.weights(denoiser.schedule, t)
        target = expand(a, x0) * x0 + expand(b, x0) * eps
        y, spread = denoiser.output(x_t, t, **conditions)
        if known is not None:
            y = torch.where(known, y, target)
        term = self.term(denoiser, TrainingBatch(x0, x_t, t, y, target, spread))
        return weighted(term if known is None else term / share_of(known), importance, t)

    def prepare(self, denoiser: Denoiser, atoms: Atoms | None) -> None:
        """Called before training with the training set, for times that depend on it; None: more than it is seen."""
        if isinstance(self.timesteps, FromFloor):
            raise UserError(
                "timesteps: only squared errors without a condition, augmentation, crops or paired noise have a floor"
            )

    def begin(self, step: int, total: int) -> None:
        """Called before each training step, numbered from 0, of `total`: an objective may change during a run."""

    def update(self, t: Tensor, term: Tensor) -> None:
        """Pass the losses `term` (B,) at t (B,), gathered from all devices, to `timesteps`, which may adapt to them."""
        self.timesteps.update(t, term)


class Simple(Objective):
    """L_simple = E w(t)‖y − y_θ(x_t, t)‖², where y is the target of the prediction (DDPM, eq. 14; memoir, section 5).

    Another `distance` (y, target) -> elementwise error may replace ‖·‖², such as torch's huber_loss with
    reduction="none", if the weight is `unit`: the others convert squared errors.
    """

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        weighting: Weighting = unit,
        distance: Distance = squared,
        noise: Noise = independent,
    ):
        super().__init__(timesteps, noise)
        self.weighting, self.distance = weighting, distance
        weight, measure = (getattr(each, "func", each) for each in (weighting, distance))  # of a partial
        if measure is not squared and weight is not unit and weight.__module__ == unit.__module__:
            raise UserError(f"objective: the weighting {weight.__name__} is for squared errors; use the weighting unit")

    def of_x0(self, denoiser: Denoiser, t: Tensor) -> Tensor:
        """(B,) the factor from the squared error of x0, per dimension, to the loss at t (B,)."""
        (_, q), _ = denoiser.prediction.solve(denoiser.schedule, t)
        return self.weighting(denoiser.schedule, denoiser.prediction, t) / q**2

    def prepare(self, denoiser: Denoiser, atoms: Atoms | None) -> None:
        times, noise = self.timesteps, getattr(self.noise, "func", self.noise)  # of a partial
        known = type(self) is Simple and self.distance is squared and noise is independent
        if isinstance(times, FromFloor) and known and atoms is not None:
            t = times.middles(denoiser.schedule)
            times.floor.copy_(floor(atoms, denoiser.schedule.level(t)) * self.of_x0(denoiser, t))
        else:
            super().prepare(denoiser, atoms)

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        weight = self.weighting(denoiser.schedule, denoiser.prediction, batch.t)
        error = self.distance(batch.y, batch.target).flatten(1).mean(dim=1)
        return weight.to(error.dtype) * error


class VariationalBound(Objective):
    """L_vlb: T times the term of the variational bound at one row of the table, in bits per dimension (DDPM, eq. 5).

    Its expectation over uniform rows is the bound without L_T, which has no parameters. It assumes independent noise.
    """

    def __init__(self, timesteps: Timesteps | None = None, variance: Variance = fixed_small):
        super().__init__(timesteps)
        self.variance = variance

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        steps = table_steps(denoiser.schedule)
        estimate = denoiser.estimate(batch.x_t, batch.t, batch.y, batch.spread)
        s = (batch.t - 1 / steps).clamp(min=0)
        return steps * bound_term(denoiser.schedule, self.variance, estimate, batch.x0, batch.t, s)


class Hybrid(Simple):
    """L_hybrid = L_simple + λ L_vlb (Improved DDPM, eq. 16). L_vlb has a detached mean: it trains only the variance."""

    def __init__(
        self,
        timesteps: Timesteps | None = None,
        weighting: Weighting = unit,
        variance: Variance = learned_range,
        vlb_weight: Annotated[float, Ge(0)] = 0.001,
    ):
        super().__init__(timesteps, weighting)
        if getattr(variance, "func", variance) in (fixed_small, fixed_large):
            raise UserError("objective: L_vlb trains only a learned variance; use learned_range, or L_simple alone")
        self.bound, self.vlb_weight = VariationalBound(variance=variance), vlb_weight

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        bound = self.bound.term(denoiser, batch._replace(y=batch.y.detach()))
        return super().term(denoiser, batch) + self.vlb_weight * bound


class Uncertainty(nn.Module):
    """Any objective with a learned weight for each noise level: term/exp(u) + u (EDM2, Karras et al. 2024, eq. 21).

    u = Σ_i w_i f_i/√channels, with fixed random Fourier features f of log(sigma/alpha)/4 and learned weights w.
    Training drives exp(u) to the mean loss of the noise level, so all levels contribute equally. w starts at 0 and is
    free; in the authors' code it starts at random and is normalised, which fixes the magnitude of u at 1.

    The loss of a level may have two terms: a flow map's `residual` is measured at other times t', of the same
    distribution. With l and r the means of both at a level, and the importance k, the loss is
        E[k(t) (term/exp(u(t)) + u(t)) + k(t') residual/exp(u(t'))] = E[k(t) ((l + r)/exp(u) + u)],
    which is minimal at exp(u) = l + r: so u is added once. ("residual" already has its importance.)
    """

    def __init__(self, objective: Objective, channels: Annotated[int, Ge(1)] = 128, seed: int = 0):
        super().__init__()
        self.objective = objective
        self.prepare, self.begin, self.update = objective.prepare, objective.begin, objective.update
        self.ends = objective.ends
        generator = torch.Generator().manual_seed(seed)
        self.frequencies = nn.Buffer(2 * torch.pi * torch.randn(channels, generator=generator))
        self.phases = nn.Buffer(2 * torch.pi * torch.rand(channels, generator=generator))
        self.weight = nn.Parameter(torch.zeros(1, channels))

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        result = self.objective(denoiser, x0, streams, **conditions)
        u = self.log_loss(denoiser.schedule, result["t"])
        loss = result["importance"] * (result["term"] / u.exp() + u)
        if "residual" in result:
            loss = loss + result["residual"] / self.log_loss(denoiser.schedule, result["residual_t"]).exp()
        return {**result, "loss": loss}

    def log_loss(self, schedule: Schedule, t: Tensor) -> Tensor:
        """(B,) u at t (B,): the logarithm of the mean loss of its noise level, once it is learned."""
        noise = (-schedule.log_snr(t) / 8).clamp(-10, 10).to(self.frequencies)
        features = 2**0.5 * torch.cos(torch.outer(noise, self.frequencies) + self.phases)
        # no product of matrices, which autocast would round
        return (features * self.weight).sum(dim=1) / self.weight.shape[1] ** 0.5
