"""What the network predicts: a linear combination of x0 and eps.

The target at time t is y = a·x0 + b·eps. Together with x_t = alpha_t x0 + sigma_t eps this is a 2×2 system. With
det = alpha_t·b − sigma_t·a, the same two formulas invert every prediction (`denoiser.Denoiser`):
    x0 = (b·x_t − sigma_t·y) / det,    eps = (alpha_t·y − a·x_t) / det.
"""

from typing import Annotated

import torch
from annotated_types import Gt
from torch import Tensor

from diffusion.errors import UserError
from diffusion.process import schedule as schedules
from diffusion.process.schedule import Schedule


class Prediction:
    """Base class. Subclasses define `weights`, the coefficients of the target, and may override `inputs`."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """a, b (B,) of the target y = a·x0 + b·eps."""
        raise NotImplementedError

    def inputs(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """c_in (B,), the factor of x_t, and label (B,), the network's time input.

        c_in = 1/max(1, √(alpha_t² + sigma_t²)). The label is 1000·t − 1: for T = 1000, DDPM's integer index 0 … 999.
        """
        return 1 / torch.hypot(*schedule(t)).clamp(min=1), 1000 * t - 1

    def solve(self, schedule: Schedule, t: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
        """(p, q) and (u, w), each (B,), such that x0 = p·x_t + q·y and eps = u·x_t + w·y."""
        alpha_t, sigma_t = schedule(t)
        a, b = self.weights(schedule, t)
        det = alpha_t * b - sigma_t * a
        return (b / det, -sigma_t / det), (-a / det, alpha_t / det)

    def widened(self, deviation: Tensor) -> "Prediction":
        """The prediction for data to which independent noise of this `deviation` (B,) is added; by default the same."""
        return self

    def of_output(self, other: "Prediction", schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        """(f, g), each (B,), such that y = f·y' + g·x_t, where y' is the target of the `other` prediction."""
        (alpha_t, sigma_t), (a, b), (a_, b_) = schedule(t), self.weights(schedule, t), other.weights(schedule, t)
        det = alpha_t * b_ - sigma_t * a_
        return (alpha_t * b - sigma_t * a) / det, (a * b_ - a_ * b) / det

    def check(self, schedule: Schedule) -> None:
        """Raise UserError if x_t and y do not determine x0 at t = 1, or y has a finite deviation above 10 at an end."""
        name, ends = type(self).__name__, torch.tensor([1.0, 0.0], dtype=torch.float64)
        (alpha, sigma), (a, b) = schedule.on_cpu()(ends), self.weights(schedule.on_cpu(), ends)
        if (alpha * b - sigma * a)[0].abs() < 1e-6:
            raise UserError(
                f"prediction: {name} cannot recover x0 at t = 1, where this schedule has alpha = {alpha[0]:.2g} (zero "
                "terminal SNR); use v, x0 or velocity, or another schedule"
            )
        if (largest := torch.hypot(a, b).nan_to_num(0, 0).max()) > 10:  # for data of unit variance
            raise UserError(
                f"prediction: on this schedule the target of {name} has a standard deviation of {largest:.3g}, too "
                "large; use edm, or another schedule"
            )


class Eps(Prediction):
    """y = eps: the network predicts the noise (DDPM, eq. 14). Singular where alpha_t = 0."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.zeros_like(t), torch.ones_like(t)


class X0(Prediction):
    """y = x0: the network predicts the image (Salimans & Ho, section 4)."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return torch.ones_like(t), torch.zeros_like(t)


class V(Prediction):
    """y = alpha_t eps − sigma_t x0 (Salimans & Ho, appendix D)."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = schedule(t)
        return -sigma_t, alpha_t


class Velocity(Prediction):
    """y = dx_t/dt = alpha'_t x0 + sigma'_t eps; eps − x0 on Flow() (Lipman et al., eq. 23; SD3, eq. 4)."""

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        return schedule.derivatives(t)


class EDM(Prediction):
    """y = F, where x0 = c_skip x + c_out F(c_in x, c_noise) for x = x_t/alpha_t with noise level σ = sigma_t/alpha_t.

    c_skip = σ_d²/(σ² + σ_d²), c_out = σ σ_d/√(σ² + σ_d²), c_in = 1/√(σ² + σ_d²), c_noise = log(σ)/4 (Karras et al.,
    table 1). With n = √(sigma_t² + alpha_t² σ_d²):  a = sigma_t/(n σ_d),  b = −alpha_t σ_d/n.
    """

    def __init__(self, sigma_data: Annotated[float, Gt(0)] = 0.5):
        self.sigma_data = sigma_data

    def widened(self, deviation: Tensor) -> "EDM":
        return EDM(torch.hypot(deviation.new_tensor(self.sigma_data), deviation))  # type: ignore[arg-type]  # (B,)

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = schedule(t)
        n = torch.hypot(sigma_t, alpha_t * self.sigma_data)
        return sigma_t / (n * self.sigma_data), -alpha_t * self.sigma_data / n

    def inputs(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        alpha_t, sigma_t = schedule(t)
        return 1 / torch.hypot(sigma_t, alpha_t * self.sigma_data), (-schedule.log_snr(t) / 8).clamp(-10, 10)


class ScaledPrediction(Prediction):
    """y of images whose values are multiplied by a scale: what `of` predicts for them on the unscaled schedule."""

    def __init__(self, of: Prediction, scale: Annotated[float, Gt(0)]):
        self.of, self.scale = of, scale

    def weights(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        a, b = self.of.weights(schedule.base, t)  # type: ignore[arg-type]
        return self.scale * a, b

    def inputs(self, schedule: Schedule, t: Tensor) -> tuple[Tensor, Tensor]:
        c_in, label = self.of.inputs(schedule.base, t)  # type: ignore[arg-type]
        return self.scale * c_in, label

    def widened(self, deviation: Tensor) -> "ScaledPrediction":
        return ScaledPrediction(self.of.widened(self.scale * deviation), self.scale)

    def check(self, schedule: Schedule) -> None:
        self.of.check(schedule.base)  # type: ignore[arg-type]


def scaled(schedule: Schedule, prediction: Prediction, scale: float) -> tuple[Schedule, Prediction]:
    """The schedule and the prediction for images whose values are multiplied by `scale` in the process."""
    return (
        (schedule, prediction)
        if scale == 1
        else (schedules.ScaledSchedule(schedule, scale), ScaledPrediction(prediction, scale))
    )
