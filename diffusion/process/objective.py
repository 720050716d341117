"""Training objectives: (denoiser, x0, streams) -> a dict of per-example tensors (B,), with "loss"."""

from collections.abc import Callable

from torch import Tensor, nn

from diffusion.process.denoiser import Denoise, Denoiser, expand
from diffusion.process.schedule import Schedule
from diffusion.process.timesteps import uniform_table
from diffusion.randomness import Streams

Timesteps = Callable[[Schedule, Streams], tuple[Tensor, Tensor]]


def diffuse(schedule: Schedule, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """x_t = alpha_t x0 + sigma_t eps: a draw of q(x_t | x0) in one step (DDPM, eq. 4). (B, C, H, W)."""
    alpha_t, sigma_t = schedule(t)
    return expand(alpha_t, x0) * x0 + expand(sigma_t, x0) * eps


def eps_error(denoise: Denoise, x0: Tensor, eps: Tensor, t: Tensor) -> Tensor:
    """(B,) mean over pixels of (eps_θ(x_t, t) − eps)²: the memoir's MSE, for any prediction."""
    estimate = denoise(diffuse(denoise.schedule, x0, eps, t), t)
    return (estimate.eps - eps).square().flatten(1).mean(dim=1)


class Simple(nn.Module):
    """L_simple = E‖y − y_θ(x_t, t)‖², the target y as the prediction has it (DDPM, eq. 14; memoir, section 5).

    The norm is a mean over pixels, so that the loss of eps starts near 1.
    """

    def __init__(self, timesteps: Timesteps = uniform_table):
        super().__init__()
        self.timesteps = timesteps

    def forward(self, denoiser: Denoiser, x0: Tensor, streams: Streams) -> dict[str, Tensor]:
        t, importance = self.timesteps(denoiser.schedule, streams)
        eps = streams.normal_like(x0)
        a, b = denoiser.prediction.weights(denoiser.schedule, t)
        y, _ = denoiser.output(diffuse(denoiser.schedule, x0, eps, t), t)
        target = expand(a, x0) * x0 + expand(b, x0) * eps
        error = (y - target).square().flatten(1).mean(dim=1)
        return {"loss": importance.to(error.dtype) * error, "mse": error, "t": t}
