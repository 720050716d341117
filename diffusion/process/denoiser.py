"""From a network to an estimate of the image and the noise.

`Denoise` is any callable (x_t (B, C, H, W), t (B,)) -> Estimate with a `.schedule`. A trained network, its EMA copy,
a thresholded denoiser and a closed-form oracle all satisfy it: extend by wrapping.
"""

from collections.abc import Callable
from typing import NamedTuple, Protocol

from torch import Tensor, nn

from diffusion.process.prediction import Prediction
from diffusion.process.schedule import Schedule


class Estimate(NamedTuple):
    """x0 and eps, (B, C, H, W) each, with x_t = alpha_t x0 + sigma_t eps; `spread`: a learned variance's output."""

    x0: Tensor
    eps: Tensor
    spread: Tensor | None = None


class Denoise(Protocol):
    """(x_t (B, C, H, W), t (B,)) -> Estimate."""

    schedule: Schedule

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate: ...


def expand(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient (), (B,) or with the shape of x (B, ...), in the dtype of x and ready to multiply it.

    Coefficients are computed in float64 and rounded once, here.
    """
    shape = coefficient.shape if coefficient.dim() == x.dim() else (-1, *[1] * (x.dim() - 1))
    return coefficient.to(x.dtype).reshape(shape)


def diffuse(schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha_t x0 + sigma_t eps: a draw of q(x_t | x0) in one step (DDPM, eq. 4). (B, C, H, W)."""
    alpha_t, sigma_t = schedule(t)
    return expand(alpha_t, x0) * x0 + expand(sigma_t, x0) * eps


class Denoiser(nn.Module):
    """network ∘ prediction: y = network(c_in·x_t, label), then x0 and eps by the 2×2 solve of `prediction`."""

    def __init__(self, network: nn.Module, schedule: Schedule, prediction: Prediction):
        super().__init__()
        prediction.check(schedule)
        self.network = network
        self.schedule = schedule
        self.prediction = prediction

    def output(self, x_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor | None]:
        """The network's y (B, C, H, W) and, when it has 2C outputs, the spread; both in the dtype of x_t.

        The network is given its own precision; what is outside of it keeps that of x_t.
        """
        c_in, label = self.prediction.inputs(self.schedule, t)
        own = next((weight.dtype for weight in self.network.parameters()), x_t.dtype)
        out = self.network((expand(c_in, x_t) * x_t).to(own), label.to(x_t.dtype)).to(x_t.dtype)
        channels = x_t.shape[1]
        return out[:, :channels], out[:, channels:] if out.shape[1] == 2 * channels else None

    def estimate(self, x_t: Tensor, t: Tensor, y: Tensor, spread: Tensor | None = None) -> Estimate:
        """What the network's y says of the image and the noise."""
        (p, q), (u, w) = self.prediction.solve(self.schedule, t)
        x0 = expand(p, x_t) * x_t + expand(q, x_t) * y
        eps = expand(u, x_t) * x_t + expand(w, x_t) * y
        return Estimate(x0, eps, spread)

    def forward(self, x_t: Tensor, t: Tensor) -> Estimate:
        return self.estimate(x_t, t, *self.output(x_t, t))


class Thresholded:
    """A denoiser whose x0 is passed through `threshold`, eps following so that x_t = alpha_t x0 + sigma_t eps holds."""

    def __init__(self, denoise: Denoise, threshold: Callable[[Tensor], Tensor]):
        self.denoise = denoise
        self.schedule = denoise.schedule
        self.threshold = threshold

    def __call__(self, x_t: Tensor, t: Tensor) -> Estimate:
        estimate = self.denoise(x_t, t)
        alpha_t, sigma_t = self.schedule(t)
        x0 = self.threshold(estimate.x0)
        eps = (x_t - expand(alpha_t, x_t) * x0) / expand(sigma_t, x_t)
        return estimate._replace(x0=x0, eps=eps)


def clip(x0: Tensor, limit: float = 1.0) -> Tensor:
    """x0 clamped to [−limit, limit], the range of the data (DDPM's reference code)."""
    return x0.clamp(-limit, limit)


def dynamic(x0: Tensor, quantile: float = 0.995) -> Tensor:
    """x0 clamped to [−s, s] and divided by s, s each image's quantile of |x0|, at least 1 (Imagen, section 2.3)."""
    s = x0.abs().flatten(1).quantile(quantile, dim=1).clamp(min=1).reshape(-1, *[1] * (x0.dim() - 1))
    return x0.clamp(-s, s) / s
