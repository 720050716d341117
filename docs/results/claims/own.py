"""Choices that only this ledger needs: three published changes to the training, and the sabotage that must fail."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffusion.process.denoiser import Denoiser
from diffusion.process.objective import Simple, TrainingBatch
from diffusion.process.prediction import Prediction
from diffusion.process.sampler import Evaluator, Past, Point, Sampler, Stepped, Time
from diffusion.process.schedule import Schedule
from diffusion.randomness import Streams


class Shuffled(Simple):
    """The sabotage: in each batch, a quarter of the images are trained on the targets of one another."""

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        n = len(batch.target) // 4
        target = torch.cat([batch.target[:n].roll(1, dims=0), batch.target[n:]])
        return super().term(denoiser, batch._replace(target=target))


class Contrastive(Simple):
    """‖y − y_θ‖² − λ‖y' − y_θ‖², where y' is the target of another image of the batch (arXiv 2506.05350)."""

    def __init__(self, share: float = 0.05, **parts: Any):
        super().__init__(**parts)
        self.share = share  # λ

    def term(self, denoiser: Denoiser, batch: TrainingBatch) -> Tensor:
        other = super().term(denoiser, batch._replace(target=batch.target.roll(1, dims=0)))
        return super().term(denoiser, batch) - self.share * other


class Dispersive(Simple):
    """L_simple + λ log mean_ij exp(−‖z_i − z_j‖²/(d τ)), z of size d, amid the U-Net (arXiv 2506.09027)."""

    def __init__(self, share: float = 0.5, temperature: float = 0.5, **parts: Any):
        super().__init__(**parts)
        self.share, self.temperature = share, temperature  # λ, τ

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams, **conditions: Any) -> dict[str, Tensor]:
        kept: list[Tensor] = []
        middle: Any = denoiser.network.middle
        hook = middle[0].register_forward_hook(lambda module, inputs, output: kept.append(output))
        result = super().forward(denoiser, x0, streams, **conditions)
        hook.remove()
        z = kept[0].flatten(1)
        apart = torch.pdist(z).square() / z.shape[1] / self.temperature
        every = torch.cat([apart, apart, apart.new_zeros(len(z))])
        return {**result, "loss": result["loss"] + self.share * every.neg().exp().mean().log()}


class Equilibrium(Prediction):
    """y = c(t)·(eps − x0), of a network that does not know t, for `schedule=flow` (arXiv 2510.02300).

    c = λ above t = 1 − a, and falls to 0 linearly at t = 0: the gradient of a landscape with the images in its valleys.
    """

    def __init__(self, size: float = 4.0, a: float = 0.8):
        self.size, self.a = size, a  # λ

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        c = self.size * (t / (1 - self.a)).clamp(max=1)
        return -c, c

    def inputs(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


@dataclass(eq=False)
class Descent(Sampler):
    """Gradient descent on that landscape: x ← x − η y_θ(x), with η·steps as in the paper (0.003 · 250)."""

    size: float = 4.0  # λ of the prediction

    def step(self, denoise: Evaluator, x_t: Tensor, t: Time, s: Time, past: Past, streams: Streams) -> Stepped:
        start = denoise.times(torch.ones(1))[0]  # where y = λ·(eps − x0): the network does not see the time
        estimate = denoise(x_t, start)
        y = self.size * (estimate.eps - estimate.x0)
        return x_t - 0.75 / self.steps * y, Point(t, x_t, estimate)
